"""What losses with a class balance share: alpha under sigmoid, n_j^-a under softmax."""

from typing import ClassVar

from torch import Tensor

from losslab.losses.base import Loss
from losslab.losses.weighting import alpha_t, class_weights_from_counts


class ClassBalancedLoss(Loss):
    """Base of losses that declare `alpha` (sigmoid) and `a` (softmax).

    `elementwise` multiplies alpha_t in by itself under sigmoid, where the closed form has it;
    under softmax the base multiplies the class weights, n_j^-a with mean 1.
    """

    only_under: ClassVar[dict[str, str]] = {"alpha": "sigmoid", "a": "softmax"}
    upcasts = True
    alpha: Tensor
    a: Tensor

    def element_weights(self, targets: Tensor) -> Tensor | None:
        """alpha_t under sigmoid."""
        return alpha_t(self.alpha, targets) if self.link == "sigmoid" else None

    def class_weighting(self) -> Tensor | None:
        """n_j^-a with mean 1 under softmax where class counts were given."""
        if self.link == "sigmoid" or self.class_counts is None:
            return None
        return class_weights_from_counts(self.class_counts, self.a)
