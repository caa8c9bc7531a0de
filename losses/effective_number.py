"""Class-balanced cross-entropy and focal loss, weighted by the effective number of examples."""

from typing import ClassVar

import torch
from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.closed_form import focal, softmax_focal
from losslab.losses.identity import Identity
from losslab.losses.weighting import over_classes

_CITATION = (
    "Cui, Jia, Lin, Song, Belongie, Class-Balanced Loss Based on Effective Number of Samples, "
    "CVPR 2019"
)
#: Shared with LDAM, whose deferred re-weighting takes these weights.
ONE_MINUS_BETA = Hyperparameter(
    1e-4,
    low=1e-5,
    high=1e-1,
    meaning="1 - beta; small tends to weights 1 / n_j, 1 is no weights",
    paper="Cui et al. 2019: beta in 0.9, 0.99, 0.999, 0.9999; 0.9999 best on CIFAR-10",
    scale="log",
    minimum=1e-12,
    maximum=1.0,
)


def effective_number_weights(counts: Tensor, one_minus_beta: Tensor | float) -> Tensor:
    """Class weights w_j proportional to (1 - beta) / (1 - beta^n_j) with mean 1, in float64.

    Cui et al. 2019, section 4; (1 - beta^n) / (1 - beta) is the effective number of n examples.
    `counts` (C,) >= 0, `one_minus_beta` in (0, 1] a number or 0-dimensional tensor. A class
    without examples is weighted as if it had one, and the mean is taken over the other classes.

    >>> effective_number_weights(torch.tensor([2, 1]), 0.5)  # 1 / 1.5 to 1
    tensor([0.8000, 1.2000], dtype=torch.float64)
    >>> effective_number_weights(torch.tensor([90, 10]), 1e-9)
    tensor([0.2000, 1.8000], dtype=torch.float64)
    """
    rate = torch.as_tensor(one_minus_beta, dtype=torch.float64, device=counts.device)
    examples = counts.clamp(min=1).to(torch.float64)
    # 1 - beta^n itself would keep no digit of a small 1 - beta.
    raw = rate / -torch.expm1(examples * torch.log1p(-rate))
    present = counts > 0
    return raw * (present.sum() / torch.where(present, raw, 0).sum())


class EffectiveNumberLoss(Loss):
    """Base of the class-balanced losses: where the weights go under each link.

    Not `ClassBalancedLoss`, which is the base of losses with `alpha` and `a`.
    """

    upcasts = True
    second_order = True
    soft_targets = (
        "two class counts: a mixture; more: the row's weight is the mean of its classes' weights, "
        "each counted as far as its target is 1"
    )
    one_minus_beta: Tensor

    @classmethod
    def needs_class_counts(cls, link: str, values: dict[str, float]) -> bool:
        """True: the weights are made of them.

        >>> EffectiveNumberLoss.needs_class_counts("sigmoid", {})
        True
        """
        return True

    def focusing(self) -> Tensor | None:
        """Gamma of the focal loss that is weighted; None for cross-entropy."""
        return None

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The weighted loss under sigmoid; the plain one under softmax, weighted by the base."""
        gamma = self.focusing()
        if self.link == "softmax":
            return softmax_focal(logits, targets, gamma)
        weights = self._class_weights()
        if weights.shape[-1] == 2:
            total = weights.sum()
            return total.to(targets.dtype) * focal(logits, targets, gamma, weights[1] / total)
        return _row_weights(weights, targets) * focal(logits, targets, gamma)

    def element_weights(self, targets: Tensor) -> Tensor | None:
        """The weight of every element under sigmoid."""
        if self.link == "softmax":
            return None
        weights = self._class_weights()
        if weights.shape[-1] == 2:
            negative, positive = weights.to(targets.dtype)
            return targets * positive + (1 - targets) * negative
        return _row_weights(weights, targets)

    def class_weighting(self) -> Tensor | None:
        """The effective number's class weights under softmax."""
        return self._class_weights() if self.link == "softmax" else None

    def _class_weights(self) -> Tensor:
        assert self.class_counts is not None
        return effective_number_weights(self.class_counts, self.one_minus_beta)


class ClassBalancedCrossEntropy(EffectiveNumberLoss):
    """Class-balanced cross-entropy, L = w_t (-log p_t), w_j ~ (1 - beta) / (1 - beta^n_j), mean 1.

    Cui et al. 2019, sections 4.1 and 4.2; n_j are the `class_counts`, without which `BadInput` is
    raised, and `one_minus_beta` in (0, 1]; a class without examples is weighted as if it had one.
    Softmax: w of the target class. Sigmoid with two class counts: w of the element's class, and
    soft targets mix both weighted losses. Sigmoid with K: as in the authors' code the weight of the
    row's true class goes to all K logits of the row; several true classes give the mean of their
    weights, none gives 1. The authors reduce with `mean` under softmax and `positives` under
    sigmoid. Other arguments, shapes, errors: see `Loss`.

    >>> counts = {"class_counts": [2, 1], "one_minus_beta": 0.5}  # weights .8 and 1.2
    >>> loss = ClassBalancedCrossEntropy(**counts, reduction="none")
    >>> loss(torch.zeros(2), torch.tensor([0, 1])) / 0.6931472
    tensor([0.8000, 1.2000])
    >>> loss = ClassBalancedCrossEntropy(class_counts=[2, 2, 1], one_minus_beta=0.5)
    >>> loss(torch.zeros(1, 3), torch.tensor([[0, 0, 1]])) / 0.6931472  # 1 to .6667, times 9 / 7
    tensor(1.2857)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {"one_minus_beta": ONE_MINUS_BETA}
    formula = "L = -w_t log p_t,  w_j = (1 - beta) / (1 - beta^n_j), rescaled to mean 1"
    citation = _CITATION + ", sections 4.1 and 4.2"
    identities = (
        Identity("one_minus_beta 1 is cross-entropy", {"one_minus_beta": 1}, "ce"),
        Identity(
            "two-class softmax is sigmoid",
            {"one_minus_beta": 0.01},
            "class_balanced_ce",
            {"one_minus_beta": 0.01},
            two_class=True,
        ),
    )


class ClassBalancedFocal(EffectiveNumberLoss):
    """Class-balanced focal loss, L = w_t (1 - p_t)^gamma (-log p_t) (Cui et al. 2019, section 4.3).

    The weights, and to which elements they go: see `ClassBalancedCrossEntropy`; the paper uses the
    sigmoid form alone, with `positives`. `gamma` >= 0; 0 is class-balanced cross-entropy.

    >>> counts = {"class_counts": [2, 1], "one_minus_beta": 0.5}  # weights .8 and 1.2
    >>> loss = ClassBalancedFocal(**counts, gamma=1, reduction="none")
    >>> loss(torch.zeros(2), torch.tensor([0, 1])) / 0.6931472
    tensor([0.4000, 0.6000])
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "one_minus_beta": ONE_MINUS_BETA,
        "gamma": Hyperparameter(
            1.0,
            low=0.0,
            high=5.0,
            meaning="focusing: how far well-classified elements are weighted down",
            paper="Cui et al. 2019: 0.5, 1 or 2; 1 in the authors' code",
            minimum=0.0,
        ),
    }
    formula = (
        "L = -w_t (1 - p_t)^gamma log p_t,  w_j = (1 - beta) / (1 - beta^n_j), rescaled to mean 1"
    )
    citation = _CITATION + ", section 4.3"
    identities = (
        Identity(
            "gamma 0 is class-balanced cross-entropy",
            {"gamma": 0, "one_minus_beta": 0.01},
            "class_balanced_ce",
            {"one_minus_beta": 0.01},
        ),
        Identity(
            "one_minus_beta 1 is the focal loss",
            {"gamma": 1.5, "one_minus_beta": 1},
            "focal",
            {"gamma": 1.5, "a": 0},
            ("softmax",),
        ),
        Identity(
            "one_minus_beta 1 is twice the focal loss at alpha 1/2",
            {"gamma": 1.5, "one_minus_beta": 1},
            "focal",
            {"gamma": 1.5, "alpha": 0.5},
            ("sigmoid",),
            2.0,
        ),
        Identity(
            "two-class softmax is sigmoid",
            {"gamma": 1.5, "one_minus_beta": 0.01},
            "class_balanced_focal",
            {"gamma": 1.5, "one_minus_beta": 0.01},
            two_class=True,
        ),
    )
    gamma: Tensor

    def focusing(self) -> Tensor | None:
        """Gamma."""
        return self.gamma


def _row_weights(weights: Tensor, targets: Tensor) -> Tensor:
    """Mean weight of the true classes of every row, (N, 1, ...); 1 where there is none."""
    by_class = over_classes(weights.to(targets.dtype), targets)
    true = targets.sum(1, keepdim=True)
    mean = (targets * by_class).sum(1, keepdim=True) / torch.where(true > 0, true, 1)
    return torch.where(true > 0, mean, 1)
