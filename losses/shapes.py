"""What a batch must look like: shapes, dtypes and ranges of logits and targets."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from losslab.errors import BadInput
from losslab.losses.closed_form import is_plain

if TYPE_CHECKING:
    from losslab.losses.base import Loss


def check_shapes(loss: "Loss", logits: Tensor, targets: Tensor) -> None:
    """Raise `BadInput` if shapes or dtypes do not fit the loss; looks at no values."""
    if not logits.is_floating_point():
        raise BadInput(f"{_owner(loss)} expects floating-point logits, got {logits.dtype}")
    if loss.link == "softmax":
        _check_softmax(loss, logits, targets)
        return
    if logits.shape != targets.shape:
        what = "logits" if loss.link == "sigmoid" else "predictions"
        raise BadInput(
            f"{_owner(loss)} expects targets of the shape of the {what}; {_given(logits, targets)}"
        )
    if loss.link == "sigmoid":
        columns = logits.shape[1] if logits.ndim > 1 else 1
        if loss.class_weights is not None:
            _check_length(loss, "class_weights", loss.class_weights, columns)
        if loss.class_counts is not None and loss.class_counts.shape[-1] > 2:
            _check_length(loss, "class_counts", loss.class_counts, columns)


def kept_elements(loss: "Loss", logits: Tensor, targets: Tensor) -> Tensor | None:
    """Mask of the elements that count, or None for all; looks at values only where it may.

    Raises `BadInput` for a target outside its range, on plain CPU tensors.
    """
    if loss.link == "identity":
        return None
    ignored = loss.ignore_index
    if not is_plain(logits, targets):
        return None if ignored is None else targets != ignored
    if targets.numel() == 0:
        return None
    largest = 1 if loss.link == "sigmoid" else logits.shape[1] - 1
    low, high = (bound.item() for bound in torch.aminmax(targets))
    in_range = low >= 0 and high <= largest  # false for nan
    if ignored is None or (in_range and not low <= ignored <= high):
        kept = None
    else:
        kept = targets != ignored
    if not in_range:
        wrong = ~((targets >= 0) & (targets <= largest))
        wrong = wrong if kept is None else wrong & kept
        if wrong.any():
            kind = "targets" if loss.link == "sigmoid" else "class indices"
            raise BadInput(
                f"{_owner(loss)} expects {kind} from 0 to {largest} "
                f"or ignore_index={ignored}, got {targets[wrong][0].item()}"
            )
    return kept


def _check_softmax(loss: "Loss", logits: Tensor, targets: Tensor) -> None:
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise BadInput(f"{_owner(loss)} expects integer class indices, got {targets.dtype} targets")
    if logits.ndim < 2 or targets.shape != logits.shape[:1] + logits.shape[2:]:
        raise BadInput(
            f"{_owner(loss)} expects logits (N, C, ...) and targets (N, ...); "
            f"{_given(logits, targets)}"
        )
    if logits.shape[1] < 2:
        raise BadInput(
            f"{_owner(loss)} needs at least two classes in dimension 1; {_given(logits, targets)} "
            f"(one logit per example: use link='sigmoid')"
        )
    for name in ("class_counts", "class_weights"):
        _check_length(loss, name, getattr(loss, name), logits.shape[1])


def _check_length(loss: "Loss", name: str, vector: Tensor | None, classes: int) -> None:
    if vector is not None and vector.shape[-1] != classes:
        raise BadInput(
            f"{type(loss).__name__}: {name} has {vector.shape[-1]} entries, "
            f"but the logits have {classes} classes"
        )


def _owner(loss: "Loss") -> str:
    return f"{type(loss).__name__}(link={loss.link!r})"


def _given(logits: Tensor, targets: Tensor) -> str:
    return f"got logits {tuple(logits.shape)} and targets {tuple(targets.shape)}"
