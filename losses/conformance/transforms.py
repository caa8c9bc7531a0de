"""Checks of transforms: vmap against a loop, torch.compile against eager."""

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from losslab.losses.conformance.outcomes import Failure, Skip
from losslab.losses.conformance.subject import Subject, between, seeded, value_and_gradient

STACK = 3
STEPS = 2


def stacked(subject: Subject) -> str:
    """vmap over hyper-parameters, state, logits and targets is the loop over them."""
    _only_own(subject)
    losses = [subject.make(**_values(subject, index)) for index in range(STACK)]
    buffers = [dict(loss.named_buffers()) for loss in losses]
    stack = {name: torch.stack([each[name] for each in buffers]) for name in buffers[0]}

    def call(values: dict[str, Tensor], logits: Tensor, targets: Tensor) -> Tensor:
        return functional_call(losses[0], values, (logits, targets)).sum()

    for step in range(STEPS):
        batches = [subject.batch(seed=40 + 10 * step + index) for index in range(STACK)]
        logits, targets = (torch.stack(parts) for parts in zip(*batches, strict=True))
        expected = [
            value_and_gradient(loss, *batch) for loss, batch in zip(losses, batches, strict=True)
        ]
        before = {name: value.clone() for name, value in stack.items()}
        with seeded():
            found = vmap(call, randomness="different")(stack, logits, targets)
            slopes = vmap(grad(call, argnums=1), randomness="different")(before, logits, targets)
        for index, (value, gradient) in enumerate(expected):
            _close(f"value in slot {index}, step {step + 1}", found[index], value.sum())
            _close(f"gradient in slot {index}, step {step + 1}", slopes[index], gradient)
            for name, state in losses[index].state_dict().items():
                _close(f"state {name} in slot {index}, step {step + 1}", stack[name][index], state)
    names = ", ".join([*subject.declared, *losses[0].state_dict()])
    return f"over {names}" if names else "over logits and targets"


def compiled(subject: Subject, backend: str = "aot_eager") -> str:
    """torch.compile(fullgraph=True) traces the loss, and gives what eager gives."""
    _only_own(subject)
    logits, targets = subject.batch(seed=60, dtype=torch.float32)
    expected = value_and_gradient(subject.make(), logits, targets)
    torch._dynamo.reset()
    loss: Any = torch.compile(subject.make(), fullgraph=True, backend=backend)
    try:
        found = value_and_gradient(loss, logits, targets)
    except Exception as error:
        if isinstance(error, Failure):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise Failure(f"cannot be traced: {' '.join(lines[:3])[:200]}") from error
    for what, a, b in zip(("value", "gradient"), found, expected, strict=True):
        _close(f"compiled {what}", a, b, 1e-4)
    return f"backend {backend}"


def inductor(subject: Subject) -> str:
    """The real compiler gives what eager gives."""
    return compiled(subject, "inductor")


def _values(subject: Subject, index: int) -> dict[str, float]:
    fraction = 0.15 + 0.7 * index / (STACK - 1)
    return {name: between(entry, fraction) for name, entry in subject.declared.items()}


def _only_own(subject: Subject) -> None:
    if not subject.own:
        raise Skip("only losslab's own kind promises it; others are looped over")


def _close(what: str, found: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    scale = max(expected.abs().max().item(), 1e-9)
    error = (found.to(expected.dtype) - expected).abs().max().item() / scale
    if not error <= tolerance:
        raise Failure(f"{what} is off by {error:.3g} of the largest entry")
