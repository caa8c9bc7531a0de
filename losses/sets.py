"""Losses with one value per set of elements: an image, a class, the labels of an example, a box."""

from typing import ClassVar

import torch
from torch import Tensor

from losslab.errors import BadInput
from losslab.losses.base import Loss


class SetLoss(Loss):
    """Base of losses whose value belongs to a set of elements and not to one of them.

    A subclass writes `setwise`; `mean` is the mean over the sets that count, `sum` their sum,
    `none` one value per set.

    >>> class SquaredError(SetLoss):
    ...     links = ("sigmoid",)
    ...     def setwise(self, logits, targets, kept):
    ...         return torch.where(kept, torch.sigmoid(logits) - targets, 0).square().sum(-1), None
    >>> SquaredError(reduction="none")(torch.zeros(2, 3), torch.tensor([[0, 1, 1], [0, -100, 1]]))
    tensor([0.7500, 0.5000])
    """

    reductions: ClassVar[tuple[str, ...]] = ("none", "mean", "sum")

    def setwise(
        self, logits: Tensor, targets: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """One value per set, and a mask of the sets that count (None for all).

        Shapes as for `elementwise`; ignored elements come with logit 0 and target 0 and are False
        in `kept`, a mask of the shape of `targets`: leave them out of every sum.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define setwise")

    def reduced(
        self, logits: Tensor, targets: Tensor, kept: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """From clean logits and targets to the loss."""
        self._watch(logits, targets, kept)
        mask = torch.ones_like(targets, dtype=torch.bool) if kept is None else kept
        values, counted = self.setwise(logits, targets, mask)
        if counted is not None:
            if counted.shape != values.shape:
                raise BadInput(
                    f"{type(self).__name__}.setwise returned values {tuple(values.shape)} and a "
                    f"mask {tuple(counted.shape)}; expected one shape"
                )
            values = torch.where(counted, values, 0)
        values = values.to(dtype)
        if self.reduction == "none":
            return values
        if self.reduction == "sum":
            return values.sum()
        number = values.numel() if counted is None else counted.sum()
        return values.sum() / torch.as_tensor(number, device=values.device).clamp(min=1).to(dtype)
