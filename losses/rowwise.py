"""One loss on the batches of many trainings at once, each with its own hyper-parameters."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from losslab.losses.base import Loss
from losslab.losses.closed_form import compute_dtype
from losslab.losses.reduction import TOTALS


def has_rows(loss: Loss) -> bool:
    """Whether `rowwise` can compute a loss: one that is a sum of equal terms, one per element.

    >>> from losslab.losses.cross_entropy import CrossEntropy
    >>> has_rows(CrossEntropy()), has_rows(CrossEntropy(link="softmax"))
    (True, False)
    """
    plain = loss.class_weights is None and loss.reduction in TOTALS
    return plain and loss.link == "sigmoid" and type(loss).fused is not Loss.fused


def rowwise(loss: Loss, logits: Tensor, targets: Tensor, settings: Mapping[str, Tensor]) -> Tensor:
    """The reduced losses (N,) of N batches (N, ...), with hyper-parameters (N,) by name.

    What `torch.func.vmap` over the loss gives, with less overhead. Only for losses that `has_rows`
    says yes to; targets outside [0, 1] are not looked for.

    >>> from losslab.losses.focal import Focal
    >>> x, y = torch.zeros(2, 4), torch.ones(2, 4)
    >>> rowwise(Focal(alpha=1.0), x, y, {"gamma": torch.tensor([0.0, 1.0])})
    tensor([0.6931, 0.3466])
    """
    shape = (-1, *[1] * (logits.ndim - 1))
    columns = copy.copy(loss)
    columns._buffers = {
        **loss._buffers,
        **{name: values.reshape(shape) for name, values in settings.items()},
    }
    dtype = compute_dtype(logits.dtype)
    kept = None if loss.ignore_index is None else targets != loss.ignore_index
    if kept is not None:
        targets, logits = torch.where(kept, targets, 0), torch.where(kept, logits, 0)
    targets = targets.to(dtype)
    values = columns.elementwise(logits, targets)
    if kept is not None:
        values = torch.where(kept, values, 0)
    totals = values.flatten(1).sum(1)
    if loss.reduction == "sum":
        return totals
    if loss.reduction == "positives":
        return totals / targets.flatten(1).sum(1).clamp(min=1)
    number = values[0].numel() if kept is None else kept.flatten(1).sum(1).to(dtype)
    return totals / (max(number, 1) if isinstance(number, int) else number.clamp(min=1))
