"""PolyLoss: the first polynomial coefficient of cross-entropy and focal loss set free."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.class_balanced import ClassBalancedLoss
from losslab.losses.closed_form import focal, margin
from losslab.losses.identity import Identity

_CITATION = (
    "Leng, Tan, Liu, Cubuk, Shi, Cheng, Anguelov, PolyLoss: A Polynomial Expansion Perspective of "
    "Classification Loss Functions, ICLR 2022"
)


class Poly1CrossEntropy(Loss):
    """Poly-1 cross-entropy, L = -log p_t + epsilon (1 - p_t) (Leng et al. 2022).

    `epsilon` >= -1: 0 is cross-entropy, -1 takes the leading polynomial 1 - p_t off; below that
    the loss would rise with p_t near 1. At -1 the leading terms cancel: for well-classified
    elements a float32 loss keeps its absolute precision only. Sigmoid: p_t of every
    binary output; soft targets mix both losses. Softmax: p_t = softmax(z)_t. Other
    arguments, shapes, errors: see `Loss`.

    >>> Poly1CrossEntropy(epsilon=1)(torch.zeros(1), torch.ones(1))  # log 2 + .5
    tensor(1.1931)
    >>> Poly1CrossEntropy(link="softmax", epsilon=2)(torch.zeros(1, 4), torch.tensor([3]))
    tensor(2.8863)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "epsilon": Hyperparameter(
            2.0,
            low=-1.0,
            high=6.0,
            meaning="what is added to the coefficient of 1 - p_t, which is 1 in cross-entropy",
            paper="Leng et al. 2022: 2 on ImageNet",
            minimum=-1.0,
        ),
    }
    formula = "L = -log p_t + epsilon (1 - p_t)"
    citation = _CITATION + ", Poly-1"
    soft_targets = "mixture"
    second_order = True
    identities = (
        Identity("epsilon 0 is cross-entropy", {"epsilon": 0}, "ce"),
        Identity(
            "two-class softmax is sigmoid",
            {"epsilon": 2},
            "poly1_ce",
            {"epsilon": 2},
            two_class=True,
        ),
    )
    epsilon: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-log p_t + epsilon (1 - p_t)."""
        epsilon = self.epsilon.to(logits.dtype)
        if self.link == "softmax":
            u = margin(logits, targets)
            return focal(u, None) + epsilon * torch.sigmoid(-u)
        missing = targets * torch.sigmoid(-logits) + (1 - targets) * torch.sigmoid(logits)
        return focal(logits, targets) + epsilon * missing


class Poly1Focal(ClassBalancedLoss):
    """Poly-1 focal loss, L = w_t [(1 - p_t)^gamma (-log p_t) + epsilon (1 - p_t)^(gamma + 1)].

    Leng et al. 2022, with alpha on both terms as in the code of their appendix. `gamma` >= 0; 0 is
    Poly-1 cross-entropy. `epsilon` >= -1: 0 is the focal loss, -1 takes its leading polynomial off.
    Sigmoid: w_t = alpha for positives and 1 - alpha for negatives; soft targets mix both losses.
    Softmax: w_j proportional to n_j^-a with mean 1; `a` other than 0 needs `class_counts`, without
    which `BadInput` is raised. Other arguments, shapes, errors: see `Loss`.

    >>> loss = Poly1Focal(gamma=1, epsilon=2, alpha=0.25, reduction="none")
    >>> loss(torch.zeros(2), torch.tensor([0, 1]))  # log(2) / 2 + 2 / 4, times 3/4 and 1/4
    tensor([0.6349, 0.2116])
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "gamma": Hyperparameter(
            2.0,
            low=0.0,
            high=5.0,
            meaning="focusing: how far well-classified elements are weighted down",
            paper="Lin et al. 2017, eq. 4",
            minimum=0.0,
        ),
        "epsilon": Hyperparameter(
            -1.0,
            low=-1.0,
            high=6.0,
            meaning="what is added to the coefficient of the leading polynomial, 1 in focal loss",
            paper="Leng et al. 2022: -1 in detection",
            minimum=-1.0,
        ),
        "alpha": Hyperparameter(
            0.25,
            low=0.05,
            high=0.95,
            meaning="weight of the positives; the negatives get 1 - alpha; falls as gamma rises",
            paper="Lin et al. 2017, eq. 5 and Table 1b",
            minimum=0.0,
            maximum=1.0,
        ),
        "a": Hyperparameter(
            0.0,
            low=0.0,
            high=1.5,
            meaning="class weights are proportional to n_j^-a; 0 is none",
            minimum=0.0,
        ),
    }
    upcasts = False  # the polynomial term is made from the logits as they come
    formula = "L = w_t [-(1 - p_t)^gamma log p_t + epsilon (1 - p_t)^(gamma + 1)]"
    citation = _CITATION + ", Poly-1 focal loss"
    soft_targets = "mixture"
    second_order = True
    identities = (
        Identity(
            "epsilon 0 is the focal loss",
            {"gamma": 1.5, "epsilon": 0, "alpha": 0.3},
            "focal",
            {"gamma": 1.5, "alpha": 0.3},
            ("sigmoid",),
        ),
        Identity(
            "epsilon 0 is the focal loss",
            {"gamma": 1.5, "epsilon": 0, "a": 0.5},
            "focal",
            {"gamma": 1.5, "a": 0.5},
            ("softmax",),
        ),
        Identity(
            "gamma 0, alpha 1/2 is half of Poly-1 cross-entropy",
            {"gamma": 0, "epsilon": 2, "alpha": 0.5},
            "poly1_ce",
            {"epsilon": 2},
            ("sigmoid",),
            0.5,
        ),
        Identity(
            "gamma 0, a = 0 is Poly-1 cross-entropy",
            {"gamma": 0, "epsilon": 2, "a": 0},
            "poly1_ce",
            {"epsilon": 2},
            ("softmax",),
        ),
        Identity(
            "two-class softmax is twice the sigmoid form at alpha 1/2",
            {"gamma": 1.5, "epsilon": 2, "a": 0},
            "poly1_focal",
            {"gamma": 1.5, "epsilon": 2, "alpha": 0.5},
            ("softmax",),
            2.0,
            two_class=True,
        ),
    )
    gamma: Tensor
    epsilon: Tensor

    @classmethod
    def needs_class_counts(cls, link: str, values: dict[str, float]) -> bool:
        """True under softmax with `a` other than 0.

        >>> Poly1Focal.needs_class_counts("softmax", {"a": 0.5})
        True
        """
        return link == "softmax" and values.get("a", 0.0) != 0

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Focal loss and polynomial; alpha_t on both under sigmoid."""
        epsilon = self.epsilon.to(logits.dtype)
        power = (self.gamma + 1).to(logits.dtype)
        if self.link == "softmax":
            u = margin(logits, targets)
            return focal(u, None, self.gamma) + epsilon * torch.exp(power * F.logsigmoid(-u))
        on, off = (torch.exp(power * F.logsigmoid(x)) for x in (-logits, logits))
        alpha = self.alpha.to(logits.dtype)
        missing = targets * alpha * on + (1 - targets) * (1 - alpha) * off
        return focal(logits, targets, self.gamma, self.alpha) + epsilon * missing
