"""Checks of numerics: extreme logits, half precision, the whole declared search space."""

import torch

from losslab.losses.conformance.outcomes import Failure, Skip
from losslab.losses.conformance.subject import Subject, value_and_gradient

EXTREMES = (0.0, 1.0, -1.0, 9.0, -9.0, 17.0, -17.0, 40.0, -40.0, 120.0, -120.0, 1e4, -1e4)


def extreme_logits(subject: Subject) -> str:
    """Value and gradient are finite up to ±1e4, over the whole declared search space."""
    return _finite_everywhere(subject, torch.float32) + " in float32"


def extreme_bfloat16(subject: Subject) -> str:
    """The same in bfloat16."""
    return _in_half(subject, torch.bfloat16)


def extreme_float16(subject: Subject) -> str:
    """The same in float16."""
    return _in_half(subject, torch.float16)


def half_agrees(subject: Subject) -> str:
    """Half precision gives float32's value at the same logits, and a gradient of its own dtype."""
    if not subject.own:
        raise Skip("only losslab's own kind promises to compute in float32")
    worst = 0.0
    for dtype in (torch.float16, torch.bfloat16):
        logits, targets = subject.batch(seed=8, dtype=dtype)
        value, gradient = value_and_gradient(subject.make(), logits, targets)
        exact, slope = value_and_gradient(subject.make(), logits.float(), targets)
        if value.dtype != torch.float32 or gradient.dtype != dtype:
            raise Failure(
                f"{dtype} logits gave a {value.dtype} value and a {gradient.dtype} gradient"
            )
        error = ((value - exact).abs().max() / exact.abs().max().clamp(min=1e-6)).item()
        slopes = ((gradient.float() - slope).abs().max() / slope.abs().max().clamp(min=1e-6)).item()
        if not (error <= 1e-5 and slopes <= 2e-2):
            raise Failure(f"{dtype}: value off by {error:.2g}, gradient by {slopes:.2g}")
        worst = max(worst, error)
    return f"value to {worst:.0e}"


def non_contiguous(subject: Subject) -> str:
    """Transposed and strided tensors give what their contiguous copies give."""
    logits, targets = subject.batch(seed=9)
    strided = torch.stack([logits, logits], dim=-1)[..., 0]
    expected = value_and_gradient(subject.make(), logits, targets)
    turned = strided.transpose(0, -1).contiguous().transpose(0, -1) if logits.ndim > 1 else strided
    for other in (strided, turned):
        found = _without_copying(subject, other, targets)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    return ""


def _without_copying(subject: Subject, logits: torch.Tensor, targets: torch.Tensor) -> tuple:
    x = logits.detach().requires_grad_()
    value = subject.make()(x, targets)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def _in_half(subject: Subject, dtype: torch.dtype) -> str:
    if subject.own:
        return _finite_everywhere(subject, dtype)
    try:
        return _finite_everywhere(subject, dtype)
    except Exception as error:  # worth knowing, but the runner trains in float32
        raise Skip(f"not promised in half precision: {error}") from error


def _finite_everywhere(subject: Subject, dtype: torch.dtype) -> str:
    points = subject.spaces()
    for values in points:
        for logits, targets in _extreme_batches(subject, dtype):
            loss = subject.make(**values)
            try:
                value, gradient = value_and_gradient(loss, logits, targets)
            except RuntimeError as error:
                if "not implemented for" in str(error) and not subject.own:
                    raise Skip(str(error).splitlines()[0]) from error
                raise
            for what, found in (("value", value), ("gradient", gradient)):
                if not found.isfinite().all():
                    bad = found[~found.isfinite()].view(-1)[0].item()
                    told = ", ".join(f"{k}={v:g}" for k, v in values.items()) or "defaults"
                    raise Failure(f"{what} is {bad} at {_where(subject, dtype, values, told)}")
    return f"{len(points)} points of the search space"


def _where(subject: Subject, dtype: torch.dtype, values: dict, told: str) -> str:
    """The first single extreme at which it happens, for a message one can act on."""
    for logits, targets in _extreme_batches(subject, dtype, alone=True):
        found = value_and_gradient(subject.make(**values), logits, targets)
        if not all(part.isfinite().all() for part in found):
            rows = logits.reshape(-1)[:4].tolist(), targets.reshape(-1)[:1].tolist()
            return f"{told}, logits {rows[0]}, target {rows[1][0]:g}"
    return f"{told}, a batch of logits from {min(EXTREMES):g} to {max(EXTREMES):g}"


def _extreme_batches(subject: Subject, dtype: torch.dtype, alone: bool = False) -> list[tuple]:
    """Batches in which every extreme meets every target; `alone`: one extreme a batch."""
    values = torch.tensor(EXTREMES, dtype=torch.float64)
    logits, targets = subject.batch(seed=10, size=2 * len(EXTREMES))
    if subject.link == "identity":
        spread = logits.clone()
        spread[: len(EXTREMES), 0] = values
        spread[len(EXTREMES) :, 2] = values
        batches = [(spread, targets), (targets.clone(), targets)]
    elif subject.link == "softmax":
        spread = torch.zeros_like(logits)
        spread[: len(EXTREMES), 0] = values.reshape(-1, *[1] * (logits.ndim - 2))
        spread[len(EXTREMES) :, 1] = values.reshape(-1, *[1] * (logits.ndim - 2))
        batches = [(spread, targets), (spread, torch.zeros_like(targets))]
    else:
        repeated = values.repeat(-(-logits.numel() // len(EXTREMES)))[: logits.numel()]
        spread = repeated.reshape(logits.shape)
        batches = [(spread, y) for y in (targets, 1 - targets, targets * 0, targets * 0 + 1)]
    if alone:
        batches = [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(len(x))]
    return [(x.to(dtype), y.to(dtype) if y.is_floating_point() else y) for x, y in batches]
