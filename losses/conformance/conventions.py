"""Checks of conventions: reductions, ignoring, order of examples, empty and one-sided batches."""

import torch
from torch import Tensor

from losslab.losses.base import Loss
from losslab.losses.conformance.outcomes import Failure, Skip
from losslab.losses.conformance.subject import Subject, seeded, value_and_gradient
from losslab.losses.sets import SetLoss

IGNORED = -100


def reductions(subject: Subject) -> str:
    """Every reduction is the sum of the unreduced values over its divisor."""
    if not subject.own:
        return _foreign_reductions(subject)
    known = subject.says.reductions
    if "none" not in known:
        raise Skip(f"reduces by {', '.join(known)} only")
    logits, targets = subject.batch(seed=11)
    if subject.link != "identity":
        targets.view(-1)[3] = IGNORED
    values = _value(subject, logits, targets, "none")
    divisors = _divisors(subject, values, targets)
    for reduction in known:
        if reduction in divisors:
            expected = values.sum().item() / divisors[reduction]
            found = _value(subject, logits, targets, reduction).item()
            if not abs(found - expected) <= 1e-9 * max(abs(expected), 1e-6):
                raise Failure(
                    f"{reduction} is {found:.8g}; the sum of the values, {values.sum():.8g}, over "
                    f"{divisors[reduction]:g} is {expected:.8g} (ratio {found / expected:.6g})"
                )
    return ", ".join(name for name in known if name in divisors)


def doubled_batch(subject: Subject) -> str:
    """A batch twice has the same mean, or twice the sum, where examples do not interact."""
    if subject.says.samples:
        raise Skip("draws elements by position")
    if subject.says.selected is not Loss.selected:
        raise Skip("what is selected is rounded to whole elements")
    logits, targets = subject.batch(seed=12)
    twice = torch.cat([logits, logits]), torch.cat([targets, targets])
    once_value, once = value_and_gradient(subject.make(), logits, targets)
    value, gradient = value_and_gradient(subject.make(), *twice)
    if value.ndim:
        raise Skip("not reduced by default")
    other, _ = subject.batch(seed=13)
    mixed, _ = torch.cat([logits, other]), None
    _, beside = value_and_gradient(subject.make(), mixed, twice[1])
    if not (_parallel(gradient[: len(once)], once) and _parallel(beside[: len(once)], once)):
        raise Skip("examples interact")
    ratio = (value / once_value).item()
    if min(abs(ratio - 1), abs(ratio - 2)) > 1e-5:
        raise Failure(
            f"the same batch twice gives {ratio:.6g} times the value: neither a mean (1) nor a "
            f"sum (2)"
        )
    return "a mean" if abs(ratio - 1) < 0.5 else "a sum"


def ignoring(subject: Subject) -> str:
    """An ignored element has no effect, whatever its logit: ignoring is deleting."""
    if subject.link == "identity":
        raise Skip("predictions without targets are left out by the caller")
    if not subject.own:
        raise Skip("the runner deletes ignored elements before the call")
    logits, targets = subject.batch(seed=14)
    gone = [1, 4]
    keep = torch.ones(len(targets), dtype=torch.bool)
    keep[gone] = False
    dirty, marked = logits.clone(), targets.clone()
    dirty[1], dirty[4] = torch.nan, torch.inf
    marked[gone] = IGNORED
    value, gradient = value_and_gradient(subject.make(), dirty, marked)
    if not (gradient[~keep] == 0).all():
        raise Failure(f"gradient {gradient[~keep].abs().max():.3g} at an ignored element")
    if subject.says.samples:
        return "gradient only: it draws by position"
    expected, slopes = value_and_gradient(subject.make(), logits[keep], targets[keep])
    _close("value", value, expected, "with the elements deleted")
    _close("gradient", gradient[keep], slopes, "with the elements deleted")
    return ""


def permutation(subject: Subject) -> str:
    """The order of the examples does not matter."""
    if subject.says.samples:
        raise Skip("draws elements by position")
    logits, targets = subject.batch(seed=15)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
    value, gradient = value_and_gradient(subject.make(), logits, targets)
    found, moved = value_and_gradient(subject.make(), logits[order], targets[order])
    if value.ndim:
        value, found = value.sum(), found.sum()
    _close("value", found, value, "in another order")
    _close("gradient", moved, gradient[order], "in another order")
    return ""


def positions(subject: Subject) -> str:
    """(N, C, L) is (N L, C): classes and positions are not mixed up."""
    batches = _looks_at_batches(subject)
    if subject.layout != "(N, C, L)" or batches or "none" not in subject.says.reductions:
        raise Skip("asked of softmax losses with one value per target")
    logits, targets = subject.batch(seed=47)
    values = _value(subject, logits, targets, "none")
    rows = logits.movedim(1, 2).reshape(-1, logits.shape[1])
    flat = _value(subject, rows, targets.reshape(-1), "none").reshape(targets.shape)
    _close("values of (N, C, L)", values, flat, "as those of (N L, C)")
    return ""


def _looks_at_batches(subject: Subject) -> bool:
    hooks = ("observe", "selected", "batch_weights", "reduced")
    return any(getattr(subject.says, hook) is not getattr(Loss, hook) for hook in hooks)


def empty_batch(subject: Subject) -> str:
    """A batch without elements, and one with all ignored, gives 0 with gradient 0."""
    if not subject.own:
        raise Skip("the runner gives no empty batch")
    logits, targets = subject.batch(seed=16)
    batches = [("no elements", logits[:0], targets[:0])]
    if subject.link != "identity":
        batches.append(("all ignored", logits, torch.full_like(targets, IGNORED)))
    for what, x, y in batches:
        value, gradient = value_and_gradient(subject.make(), x, y)
        if value.item() != 0 or not (gradient == 0).all():
            raise Failure(f"{what}: value {value.item():g}, gradient up to {_largest(gradient):g}")
    return ""


def one_sided_batches(subject: Subject) -> str:
    """A batch of negatives only (the first class), or of positives only, is finite."""
    if subject.link == "identity":
        raise Skip("regression has no classes")
    logits, targets = subject.batch(seed=17)
    for what, y in (("all negative", targets * 0), ("all positive", targets * 0 + 1)):
        value, gradient = value_and_gradient(subject.make(), logits, y)
        if not (value.isfinite().all() and gradient.isfinite().all()):
            raise Failure(f"{what}: value {value.sum().item():g}, gradient {_largest(gradient):g}")
    return ""


def one_example(subject: Subject) -> str:
    """A batch of a single example is finite."""
    logits, targets = subject.batch(seed=18)
    value, gradient = value_and_gradient(subject.make(), logits[:1], targets[:1])
    if not (value.isfinite().all() and gradient.isfinite().all()):
        raise Failure(f"value {value.sum().item():g}, gradient {_largest(gradient):g}")
    return ""


def class_weights(subject: Subject) -> str:
    """Class weights of 1 change nothing, and twice the weights are twice the sum."""
    if not subject.own or subject.link == "identity" or subject.layout == "(N,)":
        raise Skip("no classes in a dimension of their own")
    logits, targets = subject.batch(seed=19)
    plain = _value(subject, logits, targets, "sum") if "sum" in subject.says.reductions else None
    if plain is None:
        raise Skip("no reduction by sum")
    classes = 4
    ones, twos = (
        _value(subject, logits, targets, "sum", class_weights=[w] * classes) for w in (1.0, 2.0)
    )
    _close("value", ones, plain, "with class weights of 1")
    if issubclass(subject.says, SetLoss):
        return "weights of 1 only: a set may normalise them"
    _close("value", twos, 2 * plain, "with class weights of 2")
    if _looks_at_batches(subject) or "none" not in subject.says.reductions:
        return "even weights"
    uneven = [0.5, 1.0, 2.0, 4.0]
    values = _value(subject, logits, targets, "none")
    factor = torch.tensor(uneven, dtype=values.dtype)
    shaped = factor.reshape(-1, *[1] * (values.ndim - 2))
    factor = factor[targets] if subject.link == "softmax" else shaped
    found = _value(subject, logits, targets, "sum", class_weights=uneven)
    _close("value", found, (factor * values).sum(), f"with class weights {uneven}")
    return ""


def _foreign_reductions(subject: Subject) -> str:
    """A `reduction` argument means what it means in torch."""
    logits, targets = subject.batch(seed=11)
    try:
        values = subject.make(reduction="none")(logits, targets)
        others = {name: subject.make(reduction=name)(logits, targets) for name in ("mean", "sum")}
    except Exception as error:
        raise Skip("has no reduction none, mean and sum") from error
    if values.ndim == 0 or any(other.ndim for other in others.values()):
        raise Skip("its reductions are not torch's")
    if getattr(subject.make(), "weight", None) is None:
        _close("mean", others["mean"], values.mean(), "as the mean of reduction none")
    ratio = (others["sum"] / values.sum()).item()
    # Nobody trains with a sum by accident: told, not judged.
    return "mean, sum" if abs(ratio - 1) < 1e-6 else f"mean; its sum is {ratio:.3g} times the sum"


def _divisors(subject: Subject, values: Tensor, targets: Tensor) -> dict[str, float]:
    """What each reduction divides the sum by."""
    if issubclass(subject.says, SetLoss):
        return {"sum": 1.0}  # which sets count is the loss's own business
    kept = targets != IGNORED if subject.link != "identity" else torch.ones_like(targets).bool()
    divisors = {"sum": 1.0, "mean": float(kept.sum())}
    if subject.says.selected is not Loss.selected:
        divisors["mean"] = float((values != 0).sum())
        return divisors
    if subject.link == "sigmoid":
        divisors["positives"] = max(1.0, targets[kept].sum().item())
    elif subject.link == "softmax":
        divisors["positives"] = max(1.0, float((targets[kept] != 0).sum()))
    return divisors


def _value(
    subject: Subject, logits: Tensor, targets: Tensor, reduction: str, **arguments: object
) -> Tensor:
    with seeded():
        return subject.make(reduction=reduction, **arguments)(logits, targets).detach()


def _parallel(a: Tensor, b: Tensor) -> bool:
    """Whether a is a positive multiple of b."""
    factor = (a * b).sum() / (b * b).sum().clamp(min=1e-300)
    return bool(factor > 0) and bool((a - factor * b).abs().max() <= 1e-7 * a.abs().max())


def _close(what: str, found: Tensor, expected: Tensor, where: str) -> None:
    scale = expected.abs().max().clamp(min=1e-9) if expected.numel() else torch.ones(())
    error = ((found - expected).abs().max() / scale).item() if expected.numel() else 0.0
    if not error <= 1e-6:
        raise Failure(
            f"{what} {where}: {_shown(found)} instead of {_shown(expected)} (off by {error:.2g})"
        )


def _shown(tensor: Tensor) -> str:
    return f"{tensor.item():.8g}" if tensor.numel() == 1 else f"up to {_largest(tensor):.6g}"


def _largest(tensor: Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0
