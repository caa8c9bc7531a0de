"""Smooth L1, authentic smooth L1 and balanced L1: regression losses per coordinate."""

from typing import ClassVar

import torch
from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss


class SmoothL1(Loss):
    """Smooth L1 (Huber over beta), L = d^2 / (2 beta) for d < beta, else d - beta / 2.

    Girshick, Fast R-CNN, ICCV 2015, eq. 3, d = |prediction - target| and beta = 1; Detectron
    takes 1/9 for region proposals. `beta` >= 0; 0 is L1. Predictions and targets have one shape,
    and so have the values; reductions none, mean (over coordinates) and sum. nan stays nan.

    >>> import torch
    >>> SmoothL1(link="identity", reduction="none")(torch.tensor([0.5, 3.0]), torch.zeros(2))
    tensor([0.1250, 2.5000])
    """

    links = ("identity",)
    reductions = ("none", "mean", "sum")
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "beta": Hyperparameter(
            1.0,
            low=0.01,
            high=10.0,
            meaning="error from which on the slope is constant; in units of the targets",
            paper="Girshick 2015, eq. 3",
            scale="log",
            minimum=0.0,
        )
    }
    formula = "L = d^2 / (2 beta) if d < beta else d - beta / 2,  d = |prediction - target|"
    citation = "Girshick, Fast R-CNN, ICCV 2015, eq. 3"
    second_order = True
    beta: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """d^2 / (2 beta) up to beta, linear from there on."""
        distance, beta = (logits - targets).abs(), self.beta.to(logits.dtype)
        inner = torch.minimum(distance, beta)
        # The clamp serves beta 0, where `inner` is 0 too.
        ratio = inner / beta.clamp(min=torch.finfo(beta.dtype).tiny)
        return inner * ratio / 2 + (distance - inner)


#: Of ASL1, with and without harmonised gradients.
MU = Hyperparameter(
    0.02,
    low=1e-3,
    high=0.2,
    meaning="error below which the loss is quadratic; in units of the targets",
    paper="Li et al. 2019, section GHM-R Loss",
    scale="log",
    minimum=1e-6,
)


def asl1(difference: Tensor, mu: Tensor) -> Tensor:
    """sqrt(d^2 + mu^2) - mu, without its cancellation near 0 and the overflow of d^2."""
    return difference * (difference / (torch.hypot(difference, mu) + mu))


class AuthenticSmoothL1(Loss):
    """ASL1: L = sqrt(d^2 + mu^2) - mu, d = prediction - target; smooth everywhere.

    Li, Liu, Wang, Gradient Harmonized Single-stage Detector, AAAI 2019, section GHM-R Loss, which
    weighs it by gradient density (`ghm_r`). Quadratic below `mu`, slope below 1 beyond. Shapes,
    reductions, nan: see `SmoothL1`.

    >>> import torch
    >>> AuthenticSmoothL1(link="identity", mu=0.04)(torch.tensor([0.03]), torch.zeros(1))  # .05-.04
    tensor(0.0100)
    """

    links = ("identity",)
    reductions = ("none", "mean", "sum")
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "mu": MU,
    }
    formula = "L = sqrt(d^2 + mu^2) - mu,  d = prediction - target"
    citation = (
        "Li, Liu, Wang, Gradient Harmonized Single-stage Detector, AAAI 2019, arXiv:1811.05181, "
        "section GHM-R Loss"
    )
    second_order = True
    mu: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """sqrt(d^2 + mu^2) - mu."""
        return asl1(logits - targets, self.mu.to(logits.dtype))


class BalancedL1(Loss):
    """Balanced L1: the slope by d is alpha log(1 + b d / beta) for d < beta, else gamma.

    Pang et al., Libra R-CNN, CVPR 2019, section 3.3, d = |prediction - target|; b = exp(gamma /
    alpha) - 1 makes the slope continuous, alpha log(1 + b) = gamma. Their beta is 1, at which
    L = alpha/b (b d + 1) log(b d + 1) - alpha d, else gamma d + gamma/b - alpha. For another
    `beta` the loss is beta L(d / beta), whose slope is the one above; the authors' code, with
    log(b d / beta + 1) but b d + 1, has a slope that jumps there. Smaller `alpha` raises the
    slope of small errors, `gamma` that of large ones. Shapes, reductions, nan: see `SmoothL1`.

    >>> import torch
    >>> import math
    >>> loss = BalancedL1(link="identity", reduction="none", alpha=1, gamma=math.log(2))  # b = 1
    >>> loss(torch.tensor([1.0, 2.0]), torch.zeros(2))  # 2 log 2 - 1, and log 2 more
    tensor([0.3863, 1.0794])
    """

    links = ("identity",)
    reductions = ("none", "mean", "sum")
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "alpha": Hyperparameter(
            0.5,
            low=0.2,
            high=1.0,
            meaning="the smaller, the larger the slope of small errors",
            paper="Pang et al. 2019, section 3.3",
            minimum=0.05,
        ),
        "gamma": Hyperparameter(
            1.5,
            low=1.0,
            high=2.0,
            meaning="slope of errors above beta",
            paper="Pang et al. 2019, section 3.3",
            minimum=0.05,
            maximum=4.0,  # exp(gamma / alpha) must stay within float32
        ),
        "beta": Hyperparameter(
            1.0,
            low=0.1,
            high=10.0,
            meaning="error from which on the slope is constant; in units of the targets",
            paper="Pang et al. 2019, section 3.3",
            scale="log",
            minimum=1e-6,
        ),
    }
    formula = (
        "dL/dd = alpha log(1 + b d / beta) if d < beta else gamma,  d = |prediction - target|,\n"
        "b = exp(gamma / alpha) - 1"
    )
    citation = (
        "Pang, Chen, Shi, Feng, Ouyang, Lin, Libra R-CNN: Towards Balanced Learning for Object "
        "Detection, CVPR 2019, section 3.3"
    )
    second_order = True
    alpha: Tensor
    gamma: Tensor
    beta: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """alpha beta / b ((1 + u) log(1 + u) - u), u = b d / beta, up to beta; linear beyond."""
        alpha, gamma, beta = (h.to(logits.dtype) for h in (self.alpha, self.gamma, self.beta))
        b = torch.expm1(self.gamma / self.alpha).to(logits.dtype)
        distance = (logits - targets).abs()
        inner = torch.minimum(distance, beta)
        u = b * (inner / beta)
        curve = alpha * beta * (((1 + u) * torch.log1p(u) - u) / b)
        return curve + gamma * (distance - inner)
