"""What losses share that are guided by the accumulated gradients of positives and negatives."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from losslab.losses.base import Loss
from losslab.losses.weighting import over_classes


class GradientBalancedLoss(Loss):
    """Base of the losses guided by g_j, gradient of the positives over that of the negatives.

    For each column j, the magnitudes of the gradients by the logits are summed up over the
    training, those of positives and those of negatives apart (a soft target shares its own out);
    g_j is their quotient. As in the authors' codes a batch is weighted by what the batches before
    it have left, and there is no decay. The gradients are those before the division by the number
    of elements and before class weights, so that a batch counts by what it holds (as in EQL v2's
    code; that of the equalised focal loss takes them after the division).
    Under `class_counts` of two classes there is one column, all elements together.

    State, float64 (K,), part of the state dict: `positive_gradient`, `negative_gradient`, and
    `quotient`, the g in force. Evaluation mode leaves it alone and uses the quotient of the last
    training batch. `class_counts` tell the number of columns; `BadInput` without them.
    """

    links = ("sigmoid",)
    #: What g is where there are no gradients of negatives yet.
    start: ClassVar[float]
    positive_gradient: Tensor
    negative_gradient: Tensor
    quotient: Tensor

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        for name, value in (
            ("positive_gradient", 0.0),
            ("negative_gradient", 0.0),
            ("quotient", self.start),
        ):
            initial = torch.full((self.columns or 1,), value, dtype=torch.float64)
            self.register_buffer(name, initial)

    @classmethod
    def needs_class_counts(cls, link: str, values: dict[str, float]) -> bool:
        """True: they tell the number of columns.

        >>> GradientBalancedLoss.needs_class_counts("sigmoid", {})
        True
        """
        return True

    def magnitude(self, logits: Tensor, targets: Tensor) -> Tensor:
        """|dL/dx| per element."""
        raise NotImplementedError(f"{type(self).__name__} does not define magnitude")

    def observe(self, logits: Tensor, targets: Tensor, kept: Tensor) -> None:
        """Put the quotient so far in force, then add this batch's gradients."""
        negative = self.negative_gradient
        known = negative > 0
        quotient = self.positive_gradient / torch.where(known, negative, 1)
        self.quotient.copy_(torch.where(known, quotient, self.start))
        size = torch.where(kept, self.magnitude(logits, targets), 0)
        self.positive_gradient.add_(self._per_column(size * targets))
        self.negative_gradient.add_(self._per_column(size * (1 - targets)))

    def spread(self, vector: Tensor, elements: Tensor) -> Tensor:
        """One value per column, shaped to broadcast over elements and in their dtype."""
        vector = vector.to(elements.dtype)
        return vector.reshape(()) if self.columns == 1 else over_classes(vector, elements)

    def _per_column(self, values: Tensor) -> Tensor:
        if self.columns == 1:
            return values.sum(dtype=torch.float64).reshape(1)
        return values.sum([0, *range(2, values.ndim)], dtype=torch.float64)
