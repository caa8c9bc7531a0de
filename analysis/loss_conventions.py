"""The conventions of a loss, out of what its class declares: shapes, weights, state."""

from collections.abc import Iterator, Mapping, Sequence

from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.sets import SetLoss

_SHAPES = {
    "sigmoid": "logits of any shape; targets of that shape, in [0, 1]",
    "softmax": "logits (N, C, ...); integer targets (N, ...)",
    "identity": "predictions and targets of one shape",
}
_SOFT = {
    "mixture": "mix both hard losses, y L(1) + (1 - y) L(0)",
    "hard": "none: targets are 0 or 1",
}


def conventions(
    loss: type[Loss], links: Sequence[str], built: Mapping[str, Loss]
) -> list[tuple[str, str]]:
    """Topic and text of every convention of a losslab loss under `links`.

    `built` is the loss under each link, where it can be built without arguments of its own.

    >>> from losslab.losses.cross_entropy import CrossEntropy
    >>> conventions(CrossEntropy, ["softmax"], {})[0]
    ('input, softmax', 'logits (N, C, ...); integer targets (N, ...)')
    """
    return [*_inputs(loss, links), *_sums(loss), *_training(loss, links, built)]


def _inputs(loss: type[Loss], links: Sequence[str]) -> Iterator[tuple[str, str]]:
    for link in links:
        yield f"input, {link}", _SHAPES[link]
    classes = [link for link in links if link != "identity"]
    if "sigmoid" in classes and loss.soft_targets:
        yield "soft targets", _SOFT.get(loss.soft_targets, loss.soft_targets)
    if not classes:
        return
    where = {"sigmoid": "per column (dimension 1)", "softmax": "per target class"}
    yield "class_weights", "fixed factors, " + ", ".join(f"{where[c]} ({c})" for c in classes)
    if "alpha" in loss.hyperparameters:
        yield "alpha", loss.hyperparameters["alpha"].meaning
    if "a" in loss.hyperparameters:
        yield "a", loss.hyperparameters["a"].meaning
    needs = {link: _counts(loss, link) for link in classes}
    alike = len(set(needs.values())) == 1
    told = [need if alike else f"{need} ({link})" for link, need in needs.items()]
    yield "class_counts", "; ".join(dict.fromkeys(told))
    yield (
        "ignored",
        "targets equal to ignore_index (-100; None for none) give loss 0 and gradient 0 and count "
        "in no divisor",
    )


def _sums(loss: type[Loss]) -> Iterator[tuple[str, str]]:
    yield "reductions", ", ".join(loss.reductions)
    if "mean" in loss.reductions:
        if issubclass(loss, SetLoss):
            counted = "the sets that count"
        elif loss.selected is not Loss.selected:
            counted = "the elements that are selected"
        else:
            counted = "the elements that are not ignored"
        yield "mean", f"divides by the number of {counted}"


def _training(
    loss: type[Loss], links: Sequence[str], built: Mapping[str, Loss]
) -> Iterator[tuple[str, str]]:
    state = {name: tuple(each.shape) for one in built.values() for name, each in one.named_buffers()
             if name in one.state_dict()}  # fmt: skip
    held = ", ".join(f"{name} {shape}" for name, shape in state.items())
    if built:
        yield "state", f"{held}, in the state dict" if state else "none"
    yield "random draws", "of elements, by their position" if loss.samples else "none"
    yield "schedule", _schedule(loss, links)
    if loss.head != "linear":
        yield "last layer", f"{loss.head}: normalised features and weights"
    shifted = "yes: they lack the prior, so that their argmax is balanced"
    yield "prior-shifted logits", shifted if loss.prior_shifted else "no"
    yield "second derivatives", "right" if loss.second_order else "not right"


def _schedule(loss: type[Loss], links: Sequence[str]) -> str:
    declared = {name: entry for link in links for name, entry in loss.declared(link).items()}
    defaults = {name: entry.default for name, entry in declared.items()}
    last = loss.last_change(defaults)
    if not last:
        return "none"
    return f"changes for the last time after the fraction {last:g} of the training (set_progress)"


def _counts(loss: type[Loss], link: str) -> str:
    declared = loss.declared(link)
    usual = {name: entry.default for name, entry in declared.items()}
    if loss.needs_class_counts(link, usual):
        return "needed"
    asking = [name for name, entry in declared.items() if _asks(loss, link, usual, name, entry)]
    if not asking:
        return "not needed"
    return f"needed where {' or '.join(asking)} is not {usual[asking[0]]:g}"


def _asks(
    loss: type[Loss], link: str, usual: dict[str, float], name: str, entry: Hyperparameter
) -> bool:
    return any(
        loss.needs_class_counts(link, {**usual, name: value}) for value in (entry.low, entry.high)
    )
