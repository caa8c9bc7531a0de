"""Cross-entropy weighted by class."""

from typing import ClassVar

from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.class_balanced import ClassBalancedLoss
from losslab.losses.closed_form import focal, focal_total, softmax_focal
from losslab.losses.identity import Identity


class BalancedCrossEntropy(ClassBalancedLoss):
    """Class-weighted cross-entropy, L = w_t (-log p_t).

    Sigmoid: w_t = alpha for positives and 1 - alpha for negatives (Lin et al. 2017, eq. 3), in
    [0, 1]; soft targets mix both weighted losses. Softmax: w_j proportional to n_j^-a with mean 1,
    n_j the `class_counts`, without which `BadInput` is raised. `mean` divides by the number of
    elements, `weight_sum` by the sum of the weights as torch's `cross_entropy` does. Other
    arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> BalancedCrossEntropy(reduction="none")(torch.zeros(2), torch.tensor([0, 1])) / 0.6931472
    tensor([0.2500, 0.7500])
    >>> loss = BalancedCrossEntropy(link="softmax", class_counts=[90, 10], reduction="none")
    >>> loss(torch.zeros(2, 2), torch.tensor([0, 1])) / 0.6931472
    tensor([0.2000, 1.8000])
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "alpha": Hyperparameter(
            0.75,
            low=0.05,
            high=0.95,
            meaning="weight of the positives; the negatives get 1 - alpha",
            paper="Lin et al. 2017, eq. 3; Table 1a: best at 0.75",
            minimum=0.0,
            maximum=1.0,
        ),
        "a": Hyperparameter(
            1.0,
            low=0.0,
            high=1.5,
            meaning="class weights are proportional to n_j^-a; 0 is cross-entropy, 1 balances",
            minimum=0.0,
        ),
    }

    formula = "L = -w_t log p_t"
    citation = (
        "Lin, Goyal, Girshick, He, Dollár, Focal Loss for Dense Object Detection, ICCV 2017, eq. 3"
    )
    soft_targets = "mixture"
    second_order = True
    identities = (
        Identity(
            "alpha 1/2 is half the cross-entropy", {"alpha": 0.5}, "ce", {}, ("sigmoid",), 0.5
        ),
        Identity("a = 0 is cross-entropy", {"a": 0}, "ce", {}, ("softmax",)),
    )

    @classmethod
    def needs_class_counts(cls, link: str, values: dict[str, float]) -> bool:
        """True under softmax.

        >>> BalancedCrossEntropy.needs_class_counts("softmax", {})
        True
        """
        return link == "softmax"

    def fused(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """The reduced loss in one pass, see `focal_total`."""
        return focal_total(logits, targets, None, self.alpha, self.ignore_index, self.reduction)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """alpha_t (-log p_t) under sigmoid; -log p_t under softmax, weighted by the base."""
        if self.link == "sigmoid":
            return focal(logits, targets, None, self.alpha)
        return softmax_focal(logits, targets)
