"""The focal loss and FL*, its alternative form."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.class_balanced import ClassBalancedLoss
from losslab.losses.closed_form import focal, focal_total, softmax_focal
from losslab.losses.identity import Identity
from losslab.losses.weighting import alpha_t

_CITATION = "Lin, Goyal, Girshick, He, Dollár, Focal Loss for Dense Object Detection, ICCV 2017"
_ALPHA = Hyperparameter(
    0.25,
    low=0.05,
    high=0.95,
    meaning="weight of the positives; the negatives get 1 - alpha; falls as gamma rises",
    paper="Lin et al. 2017, eq. 5 and Table 1b",
    minimum=0.0,
    maximum=1.0,
)


class Focal(ClassBalancedLoss):
    """Focal loss, L = w_t (1 - p_t)^gamma (-log p_t) (Lin et al. 2017, eq. 5).

    `gamma` >= 0; 0 is (balanced) cross-entropy. Sigmoid: w_t = alpha for positives and 1 - alpha
    for negatives; soft targets mix both losses, y L(1) + (1-y) L(0). Softmax: p_t = softmax(z)_t,
    w_j proportional to n_j^-a with mean 1; `a` other than 0 needs `class_counts`, without which
    `BadInput` is raised. Other arguments, shapes, errors: see `Loss`; the paper reduces with
    `positives`.

    >>> import torch
    >>> Focal(reduction="none")(torch.zeros(2), torch.tensor([0, 1]))
    tensor([0.1300, 0.0433])
    >>> Focal(link="softmax", gamma=1)(torch.zeros(1, 4), torch.tensor([2]))  # .75 log 4
    tensor(1.0397)
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
        "alpha": _ALPHA,
        "a": Hyperparameter(
            0.0,
            low=0.0,
            high=1.5,
            meaning="class weights are proportional to n_j^-a; 0 is none",
            minimum=0.0,
        ),
    }
    formula = "L = w_t (1 - p_t)^gamma (-log p_t)"
    citation = _CITATION + ", eq. 4 and 5"
    soft_targets = "mixture"
    second_order = True
    identities = (
        Identity(
            "gamma 0, alpha 1/2 is half the cross-entropy",
            {"gamma": 0, "alpha": 0.5},
            "ce",
            {},
            ("sigmoid",),
            0.5,
        ),
        Identity(
            "gamma 0 is balanced cross-entropy",
            {"gamma": 0, "alpha": 0.3},
            "balanced_ce",
            {"alpha": 0.3},
            ("sigmoid",),
        ),
        Identity("gamma 0, a = 0 is cross-entropy", {"gamma": 0, "a": 0}, "ce", {}, ("softmax",)),
        Identity(
            "two-class softmax is twice the sigmoid form at alpha 1/2",
            {"gamma": 1.5, "a": 0},
            "focal",
            {"gamma": 1.5, "alpha": 0.5},
            ("softmax",),
            2.0,
            two_class=True,
        ),
    )
    gamma: Tensor

    @classmethod
    def needs_class_counts(cls, link: str, values: dict[str, float]) -> bool:
        """True under softmax with `a` other than 0.

        >>> Focal.needs_class_counts("softmax", {"gamma": 2.0, "a": 0.5})
        True
        """
        return link == "softmax" and values.get("a", 0.0) != 0

    def fused(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """The reduced loss in one pass, see `focal_total`."""
        return focal_total(
            logits, targets, self.gamma, self.alpha, self.ignore_index, self.reduction
        )

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """alpha_t (1 - p_t)^gamma (-log p_t); under softmax the base weights by class."""
        if self.link == "sigmoid":
            return focal(logits, targets, self.gamma, self.alpha)
        return softmax_focal(logits, targets, self.gamma)


class FocalStar(Loss):
    """FL*, L = -alpha_t log(sigmoid(gamma x_t + beta)) / gamma, x_t = (2y-1) x.

    Lin et al. 2017, appendix A (Table 3 there: (gamma, beta) = (2, 1) and (4, 0), alpha .25);
    dL/dx = -(2y-1) alpha_t sigmoid(-gamma x_t - beta). `gamma` > 0 is the steepness, `beta` the
    shift; sigmoid only; (1, 0) is balanced cross-entropy. Soft targets mix both losses. Other
    arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> FocalStar(gamma=4, beta=0, alpha=0.5)(torch.zeros(1), torch.ones(1))  # log 2 / 8
    tensor(0.0866)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "gamma": Hyperparameter(
            2.0,
            low=0.5,
            high=5.0,
            meaning="steepness of the loss curve",
            paper="Lin et al. 2017, appendix A",
            minimum=1e-3,
        ),
        "beta": Hyperparameter(
            1.0,
            low=-1.0,
            high=2.0,
            meaning="shift of the loss curve",
            paper="Lin et al. 2017, appendix A",
        ),
        "alpha": _ALPHA,
    }
    links = ("sigmoid",)
    formula = "L = -alpha_t log(sigmoid(gamma x_t + beta)) / gamma,  x_t = (2y - 1) x"
    citation = _CITATION + ", appendix A"
    soft_targets = "mixture"
    second_order = True
    identities = (
        Identity(
            "gamma 1, beta 0 is balanced cross-entropy",
            {"gamma": 1, "beta": 0},
            "balanced_ce",
            {"alpha": 0.25},
        ),
    )
    gamma: Tensor
    beta: Tensor
    alpha: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-alpha_t log(sigmoid(gamma x_t + beta)) / gamma."""
        gamma, beta, alpha = (h.to(logits.dtype) for h in (self.gamma, self.beta, self.alpha))
        steep = gamma * logits
        at_one, at_zero = F.logsigmoid(steep + beta), F.logsigmoid(beta - steep)
        # The side without weight is left out by `where`: it can be infinite.
        on = torch.where(targets > 0, targets * alpha * at_one, 0)
        off = torch.where(targets < 1, (1 - targets) * (1 - alpha) * at_zero, 0)
        return -(on + off) / gamma

    def element_weights(self, targets: Tensor) -> Tensor | None:
        """alpha_t."""
        return alpha_t(self.alpha, targets)
