"""Symmetric cross-entropy for noisy labels."""

from typing import ClassVar

import torch
from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.closed_form import focal, margin
from losslab.losses.identity import Identity

LOG_ZERO = -4.0  # what log 0 counts as in the reverse cross-entropy, A in the paper


class SymmetricCrossEntropy(Loss):
    """Symmetric cross-entropy, L = alpha (-log p_t) + beta (-A) (1 - p_t), A = -4.

    Wang et al. 2019, section 3: cross-entropy plus the reverse cross-entropy -sum_j p_j log y_j
    with A for log 0. A is fixed, since it would only scale `beta`; the authors' code clips the
    targets at 1e-4, A = -9.21, for which `beta` is to be 2.30 times as large. `alpha` here is no
    class weight. Softmax: p_t = softmax(z)_t. Sigmoid: p_t of every binary output; soft targets mix
    both losses. Other arguments, shapes, errors: see `Loss`.

    >>> loss = SymmetricCrossEntropy(alpha=1, beta=0.5)
    >>> loss(torch.zeros(1), torch.ones(1))  # log 2 + .5 * 4 / 2
    tensor(1.6931)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "alpha": Hyperparameter(
            0.1,
            low=0.01,
            high=10.0,
            meaning="weight of the cross-entropy",
            paper="Wang et al. 2019: 0.1 on CIFAR-10, 6 on CIFAR-100",
            scale="log",
            minimum=0.0,
        ),
        "beta": Hyperparameter(
            1.0,
            low=0.1,
            high=10.0,
            meaning="weight of the reverse cross-entropy",
            paper="Wang et al. 2019: 1 on CIFAR-10, 0.1 on CIFAR-100",
            scale="log",
            minimum=0.0,
        ),
    }
    formula = "L = -alpha log p_t + 4 beta (1 - p_t)"
    citation = (
        "Wang, Ma, Chen, Luo, Yi, Bailey, Symmetric Cross Entropy for Robust Learning with Noisy "
        "Labels, ICCV 2019, section 3"
    )
    soft_targets = "mixture"
    second_order = True
    identities = (
        Identity("beta 0 is cross-entropy", {"alpha": 1, "beta": 0}, "ce"),
        Identity(
            "alpha 1 is Poly-1 cross-entropy at epsilon 4 beta",
            {"alpha": 1, "beta": 0.5},
            "poly1_ce",
            {"epsilon": 2},
        ),
        Identity(
            "two-class softmax is sigmoid",
            {"alpha": 0.1, "beta": 1},
            "symmetric_ce",
            {"alpha": 0.1, "beta": 1},
            two_class=True,
        ),
    )
    alpha: Tensor
    beta: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy and reverse cross-entropy."""
        alpha, beta = self.alpha.to(logits.dtype), self.beta.to(logits.dtype)
        if self.link == "softmax":
            u = margin(logits, targets)
            return alpha * focal(u, None) - beta * LOG_ZERO * torch.sigmoid(-u)
        missing = targets * torch.sigmoid(-logits) + (1 - targets) * torch.sigmoid(logits)
        return alpha * focal(logits, targets) - beta * LOG_ZERO * missing
