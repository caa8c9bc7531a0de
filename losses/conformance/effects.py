"""Checks of meaning: every hyper-parameter has an effect, and claimed identities hold."""

from typing import Any

import torch
from torch import Tensor, nn

from losslab.losses import LOSSES
from losslab.losses.base import Loss
from losslab.losses.conformance.outcomes import Failure, Skip
from losslab.losses.conformance.subject import (
    COUNTS,
    Subject,
    seeded,
    value_and_gradient,
)

PROGRESS = (0.0, 0.5, 1.0)  # what a schedule is asked at


def every_hyperparameter(subject: Subject) -> str:
    """Every declared hyper-parameter changes value or gradient over its declared range."""
    if not subject.values():
        raise Skip("declares none")
    told, inert = [], []
    for name, values in subject.values().items():
        change = _largest_change(subject, name, values)
        if change <= 1e-6:
            inert.append(
                f"{name} is inert: from {values[0]:g} to {values[-1]:g} value and gradient change "
                f"by {change:.1g} (relative), all else at its defaults"
            )
        told.append(f"{name} {change:.1g}")
    if inert:
        raise Failure("; ".join(inert))
    return "relative change: " + ", ".join(told)


def defaults_in_range(subject: Subject) -> str:
    """Declared defaults are valid, and ranges are ranges of valid values."""
    if not subject.own or not subject.declared:
        raise Skip("declares none")
    for name, entry in subject.declared.items():
        if not entry.low < entry.high:
            raise Failure(f"{name}: the range {entry.low:g} to {entry.high:g} is empty")
        if entry.scale == "log" and entry.low <= 0:
            raise Failure(f"{name}: a log range from {entry.low:g}")
        if not entry.low <= entry.default <= entry.high:
            raise Failure(f"{name}: the default {entry.default:g} lies outside its range")
        for value in (entry.default, entry.low, entry.high):
            if problem := entry.problem(value):
                raise Failure(f"{name} {problem}")
        if not entry.meaning:
            raise Failure(f"{name} has no meaning told")
    return ""


def documented(subject: Subject) -> str:
    """A loss of losslab's own says its formula, citation and what it makes of soft targets."""
    if not subject.kind.__module__.startswith("losslab."):
        raise Skip("asked of the built-in losses only")
    wanted = ["formula", "citation"] + ["soft_targets"] * (subject.link == "sigmoid")
    missing = [name for name in wanted if not getattr(subject.says, name)]
    if missing:
        raise Failure(f"does not say its {', '.join(missing)}")
    return ""


def identities(subject: Subject) -> str:
    """Every identity that the loss claims holds, for value and gradient."""
    claimed = [
        identity
        for identity in subject.says.identities
        if subject.link in (identity.links or subject.says.links)
        and not (identity.two_class and subject.link != "softmax")
    ]
    if not claimed:
        raise Skip("claims none here")
    shown = []
    for identity in claimed:
        if identity.two_class:
            sides = _two_class(subject, identity.values, identity.other, identity.other_values)
        else:
            sides = _same_batch(subject, identity.values, identity.other, identity.other_values)
        if sides is None:
            continue
        for what, found, expected in sides:
            wanted = identity.factor * expected
            scale = max(wanted.abs().max().item(), 1e-9)
            error = (found - wanted).abs().max().item() / scale
            if not error <= 1e-6:
                raise Failure(f"{identity.text}: {what} off by {error:.3g} (relative)")
        shown.append(identity.text)
    if not shown:
        raise Skip("claims none for this layout")
    return "; ".join(shown)


def _largest_change(subject: Subject, name: str, values: tuple[float, ...]) -> float:
    """How far values and gradients move over the range of one hyper-parameter."""
    results = [_seen(subject.make(**{name: value}), subject) for value in values]
    largest = 0.0
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            if not (a.isfinite().all() and b.isfinite().all()):
                return 1.0  # that is another check's business
            scale = max(a.abs().max().item(), b.abs().max().item(), 1e-12)
            largest = max(largest, (a - b).abs().max().item() / scale)
    return largest


def _seen(loss: nn.Module, subject: Subject) -> list[Tensor]:
    found: list[Tensor] = []
    for index, progress in enumerate(PROGRESS):
        if isinstance(loss, Loss):
            loss.set_progress(progress)
        logits, targets = subject.batch(seed=70 + index, size=24)
        # Easy and hard examples alike: some hyper-parameters matter in one place only.
        found += value_and_gradient(loss, logits * (1 + 2 * index), targets)
    return found


def _same_batch(subject: Subject, values: Any, other: str, other_values: Any) -> list | None:
    kind = LOSSES.get(other)
    if subject.link not in kind.links:
        raise Failure(f"names {other}, which does not exist under {subject.link}")
    logits, targets = subject.batch(seed=80)
    counts = COUNTS[1 if subject.layout == "(N,)" else 4]
    compared = kind(link=subject.link, class_counts=counts, **other_values)
    found = value_and_gradient(subject.make(**values), logits, targets)
    expected = value_and_gradient(compared, logits, targets)
    return list(zip(("value", "gradient"), found, expected, strict=True))


def _two_class(subject: Subject, values: Any, other: str, other_values: Any) -> list | None:
    if subject.layout != "(N, C)":
        return None
    draw = torch.Generator().manual_seed(81)
    logits = 2 * torch.randn(9, 2, generator=draw, dtype=torch.float64)
    targets = torch.randint(2, (9,), generator=draw)
    arguments = {**subject.fixed, **values, "class_counts": COUNTS[1]}
    own = subject.kind(link="softmax", **arguments)
    compared = LOSSES.create(other, link="sigmoid", class_counts=COUNTS[1], **other_values)
    found, slopes = value_and_gradient(own, logits, targets)
    with seeded():
        x = logits.clone().requires_grad_()
        value = compared(x[:, 1] - x[:, 0], targets.double())
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return [("value", found, value.detach()), ("gradient", slopes, gradient)]
