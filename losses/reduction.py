"""Reductions: from one value per element to one value per batch."""

from collections.abc import Iterable

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum", "positives", "weight_sum")
TOTALS = ("mean", "sum", "positives")  # those that a sum and two counts are enough for


def reduce(
    values: Tensor,
    reduction: str,
    positive: Tensor,
    weights: Iterable[Tensor | None] = (),
    kept: Tensor | None = None,
) -> Tensor:
    """Reduce `values`, which carry their weights already and are 0 where they are ignored.

    `positive`: how far each element is a positive, bool or in [0, 1], 0 where ignored. `weights`:
    the factors that make up an element's weight, each broadcastable to `values`. `kept`: mask of
    the elements that count, None for all. `mean` divides by the number of kept elements,
    `positives` by the positives but at least by 1, `weight_sum` by the sum of the weights of the
    kept elements (their number where there are no weights). Nothing to sum gives 0.

    >>> values, positive = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    >>> kept = torch.tensor([True, True, False])
    >>> reduce(values, "mean", positive, kept=kept), reduce(values, "positives", positive)
    (tensor(1.5000), tensor(3.))
    >>> reduce(values, "weight_sum", positive, [torch.tensor([1.0, 3.0, 9.0])], kept)
    tensor(0.7500)
    """
    if reduction == "none":
        return values
    total = values.sum()
    if reduction == "sum":
        return total
    if reduction == "positives":
        return total / positive.sum().clamp(min=1).to(values.dtype)
    given = [weight for weight in weights if weight is not None]
    if reduction == "weight_sum" and given:
        each = torch.ones_like(values)
        for weight in given:
            each = each * weight
        if kept is not None:
            each = torch.where(kept, each, 0)
        divisor = each.sum()
        return total / torch.where(divisor > 0, divisor, 1)
    if kept is None:
        return total / max(1, values.numel())
    return total / kept.sum().clamp(min=1).to(values.dtype)


def divisor(reduction: str, number: int, positives: float) -> float:
    """What `reduction` divides a sum over `number` elements by, one of `TOTALS`; see `reduce`.

    >>> divisor("mean", 4, 1.5), divisor("positives", 4, 0.0), divisor("sum", 4, 1.5)
    (4, 1, 1)
    """
    return max(1, {"sum": 1, "mean": number, "positives": positives}[reduction])
