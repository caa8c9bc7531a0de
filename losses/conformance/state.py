"""Checks of state: what a loss keeps between calls, where, and whom it affects."""

import copy
import io
import random

import numpy as np
import torch
from torch import Tensor, nn

from losslab.losses.conformance.outcomes import Failure, Skip
from losslab.losses.conformance.subject import Subject, clone, seeded, value_and_gradient


def plain_call(subject: Subject) -> str:
    """A batch of ordinary logits gives a finite value and gradient."""
    logits, targets = subject.batch(seed=38)
    value, gradient = value_and_gradient(subject.make(), logits, targets)
    for what, found in (("value", value), ("gradient", gradient)):
        if not found.isfinite().all():
            bad = found[~found.isfinite()].view(-1)[0].item()
            raise Failure(
                f"the {what} of ordinary logits is {bad}; does it take logits, and not "
                f"probabilities?"
            )
    return "" if subject.dtype == torch.float64 else "computes in float32 only: coarse tolerances"


def settings_untouched(subject: Subject) -> str:
    """Random generators, threads, default dtype and the like are as they were."""
    logits, targets = subject.batch(seed=39)
    x = logits.requires_grad_()
    loss = subject.make()
    with seeded(4711):  # a state that no loss leaves by seeding
        before = _settings(targets, x)
        loss(x, targets)
        after = _settings(targets, x)
    for what, was in before.items():
        if was != after[what]:
            _restore(before)
            hint = "; it draws numbers or seeds" if "generator" in what else ""
            raise Failure(f"a call changed {what}{hint}")
    return ""


def _settings(targets: Tensor, logits: Tensor) -> dict[str, object]:
    return {
        "torch's random generator": torch.get_rng_state().numpy().tobytes(),
        "NumPy's random generator": str(np.random.get_state()),  # noqa: NPY002
        "Python's random generator": random.getstate(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's anomaly mode": torch.is_anomaly_enabled(),
        "the targets' requires_grad": targets.requires_grad,
        "the logits' grad": logits.grad is None,
    }


def _restore(before: dict[str, object]) -> None:
    torch.set_default_dtype(before["torch's default dtype"])  # type: ignore[arg-type]
    torch.set_num_threads(before["torch's number of threads"])  # type: ignore[arg-type]
    torch.autograd.set_detect_anomaly(bool(before["torch's anomaly mode"]))


def grad_mode(subject: Subject) -> str:
    """Grad mode is left as it was, and the value is the same without it."""
    logits, targets = subject.batch(seed=20)
    expected, _ = value_and_gradient(subject.make(), logits, targets)
    for guard in (torch.no_grad, torch.inference_mode):
        with guard(), seeded():
            value = subject.make()(logits, targets)
            if torch.is_grad_enabled():
                raise Failure(f"a call under {guard.__name__} turned grad mode on")
        if value.requires_grad:
            raise Failure(f"a call under {guard.__name__} gave a value with a graph")
        error = (value - expected).abs().max().item()
        if not error <= 1e-9 * max(1.0, expected.abs().max().item()):
            raise Failure(f"the value under {guard.__name__} differs by {error:.3g}")
    with seeded():
        subject.make()(logits.clone().requires_grad_(), targets)
    if not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        raise Failure("a call turned grad mode off")
    return ""


def inputs_untouched(subject: Subject) -> str:
    """Logits and targets are not changed in place."""
    logits, targets = subject.batch(seed=21)
    before = logits.clone(), targets.clone()
    with seeded(), torch.no_grad():
        subject.make()(logits, targets)
    if not (torch.equal(logits, before[0]) and torch.equal(targets, before[1])):
        raise Failure("a call changed its logits or targets in place")
    return ""


def repeatable(subject: Subject) -> str:
    """The same call gives the same value, unless buffers in the state dict have changed."""
    loss = subject.make()
    logits, targets = subject.batch(seed=22)
    other = subject.batch(seed=23)
    before = _copied(loss)
    first, slope = value_and_gradient(loss, logits, targets)
    for _ in range(2):
        value_and_gradient(loss, *other)
    again, slope_again = value_and_gradient(loss, logits, targets)
    changed = [name for name, value in loss.state_dict().items() if not _equal(value, before[name])]
    if changed:
        return f"state: {', '.join(changed)}"
    _same(again, first, "after other batches, though no buffer of the state dict keeps state")
    _same(slope_again, slope, "(gradient) after other batches, though no buffer keeps state")
    return "no state"


def instances_apart(subject: Subject) -> str:
    """What one instance has seen does not reach another."""
    logits, targets = subject.batch(seed=24)
    expected, slopes = value_and_gradient(subject.make(), logits, targets)
    busy, waiting = subject.make(), subject.make()
    for seed in (25, 26, 27):
        value_and_gradient(busy, *subject.batch(seed=seed))
    for what, loss in (("built before", waiting), ("built after", subject.make())):
        value, gradient = value_and_gradient(loss, logits, targets)
        _same(value, expected, f"of an instance {what} another one was trained")
        _same(gradient, slopes, f"(gradient) of an instance {what} another one was trained")
    return ""


def evaluation_leaves_state(subject: Subject) -> str:
    """In eval mode a call leaves the state as it is."""
    loss = subject.make()
    if not _has_state(loss):
        raise Skip("no state")
    value_and_gradient(loss, *subject.batch(seed=28))
    loss.eval()
    before = _copied(loss)
    with torch.no_grad(), seeded():
        loss(*subject.batch(seed=29))
    changed = [name for name, value in loss.state_dict().items() if not _equal(value, before[name])]
    if changed:
        raise Failure(f"a batch seen in eval mode changed {', '.join(changed)}")
    return ""


def checkpoint(subject: Subject) -> str:
    """State dict, deepcopy and a saved file each carry everything that the next value needs."""
    loss = subject.make()
    for seed in (30, 31, 32):
        value_and_gradient(loss, *subject.batch(seed=seed))
    logits, targets = subject.batch(seed=33)
    try:
        copied = clone(loss)
    except Exception as error:
        raise Failure(f"cannot be copied: {type(error).__name__}: {error}") from error
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    restored = subject.make()
    restored.load_state_dict(torch.load(file, weights_only=True))
    expected, slopes = value_and_gradient(loss, logits, targets)
    for what, other in (("a copy", copied), ("a loss restored from the state dict", restored)):
        value, gradient = value_and_gradient(other, logits, targets)
        _same(value, expected, f"of {what} after three batches")
        _same(gradient, slopes, f"(gradient) of {what} after three batches")
    if not _equal_states(restored, loss):
        raise Failure("state runs apart after a restore")
    return ", ".join(loss.state_dict()) or "no state"


def successive_batches(subject: Subject) -> str:
    """Batch after batch can be trained on: no graph of an earlier one is held."""
    loss = subject.make()
    for seed in (34, 35, 36):
        logits, targets = subject.batch(seed=seed)
        with seeded():
            value = loss(logits.requires_grad_(), targets).sum()
        try:
            value.backward()
        except RuntimeError as error:
            raise Failure(f"backward fails on a later batch: {str(error)[:120]}") from error
        if not value.isfinite():
            raise Failure(f"the value of a later batch is {value.item()}")
    return ""


def moves_dtype(subject: Subject) -> str:
    """`.half()` and `.to(dtype)` leave hyper-parameters and state at full precision."""
    if not subject.own:
        raise Skip("only losslab's own kind promises it")
    loss = subject.make()
    value_and_gradient(loss, *subject.batch(seed=37))
    before = {name: buffer.clone() for name, buffer in loss.named_buffers()}
    loss.half().to(torch.bfloat16)
    for name, buffer in loss.named_buffers():
        if buffer.dtype not in (torch.float64, torch.int64, torch.bool):
            raise Failure(f"{name} became {buffer.dtype}; state is int64 or float64")
        if not _equal(buffer, before[name]):
            raise Failure(f"{name} changed in a dtype cast")
    return ""


def _has_state(loss: nn.Module) -> bool:
    return bool(loss.state_dict())


def _copied(loss: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(loss.state_dict()))


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(torch.allclose(a.double(), b.double(), equal_nan=True))


def _equal_states(a: nn.Module, b: nn.Module) -> bool:
    own, other = a.state_dict(), b.state_dict()
    return own.keys() == other.keys() and all(_equal(own[name], other[name]) for name in own)


def _same(found: Tensor, expected: Tensor, what: str) -> None:
    scale = max(expected.abs().max().item(), 1e-9)
    error = (found - expected).abs().max().item()
    if not error <= 1e-9 * scale:
        raise Failure(f"value changes by {error / scale:.3g} (relative) {what}")
