"""Losses of dense detectors whose targets are qualities (IoU) instead of classes."""

from typing import ClassVar

import torch
from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.closed_form import focal
from losslab.losses.identity import Identity


class QualityFocal(Loss):
    """Quality focal loss, L = |y - sigmoid(x)|^beta BCE(x, y) (Li et al. 2020, eq. 2).

    The target y in [0, 1] is a quality, such as the IoU of the predicted box, and 0 for negatives;
    L is least where sigmoid(x) = y, and 0 there for beta > 0. It is no mixture: at y = 0.6,
    x = 0.7, beta 2 it is 0.0032, where the mixture of focal losses is 0.2237. For targets 0 and 1
    it is the focal loss without alpha; beta 0 is cross-entropy. Sigmoid only; the paper reduces
    with `positives`, by their number; ours sums up the targets. Other arguments, shapes, errors:
    see `Loss`.

    >>> import torch
    >>> QualityFocal(reduction="none")(torch.zeros(3), torch.tensor([0.0, 0.5, 1.0])) / 0.6931472
    tensor([0.2500, 0.0000, 0.2500])
    """

    links = ("sigmoid",)
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "beta": Hyperparameter(
            2.0,
            low=0.0,
            high=4.0,
            meaning="focusing: how far elements that are close to their target are weighted down",
            paper="Li et al. 2020, eq. 2; best at 2",
            minimum=0.0,
        )
    }
    formula = "L = -|y - p|^beta (y log p + (1 - y) log(1 - p)),  p = sigmoid(x)"
    citation = (
        "Li, Wang, Wu, Chen, Hu, Li, Tang, Yang, Generalized Focal Loss: Learning Qualified and "
        "Distributed Bounding Boxes for Dense Object Detection, NeurIPS 2020, eq. 2"
    )
    soft_targets = "a quality: least where sigmoid(x) = y, and 0 there for beta > 0"
    second_order = True
    identities = (
        Identity("beta 0 is cross-entropy", {"beta": 0}, "ce"),
        Identity(
            "on hard targets twice the focal loss at alpha 1/2",
            {"beta": 1.5},
            "focal",
            {"gamma": 1.5, "alpha": 0.5},
            factor=2.0,
        ),
    )
    beta: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """|y - sigmoid(x)|^beta BCE(x, y)."""
        # Not sigmoid(x) - y: this form keeps its accuracy at hard targets.
        gap = (1 - targets) * torch.sigmoid(logits) - targets * torch.sigmoid(-logits)
        beta = self.beta.to(logits.dtype)
        # Below 1e-18 the gap counts as 0, where the slope of the power is infinite for beta < 1.
        off = gap.abs() > 1e-18
        distance = torch.where(off, gap, 1).abs()
        power = torch.where(off, torch.exp(beta * distance.log()), (beta == 0).to(logits.dtype))
        # Beyond these bounds beta times the loss, in the backward pass, could overflow.
        return power * focal(logits.clamp(-1e37, 1e37), targets)


class Varifocal(Loss):
    """Varifocal loss: q BCE(x, q) for positives, alpha p^gamma (-log(1 - p)) for negatives.

    (Zhang et al. 2021, eq. 2.) A positive is any target q > 0, a quality such as the IoU with its
    box; its loss is least where p = sigmoid(x) = q. Alpha weights the negatives only, unlike focal
    loss's. Soft targets therefore are no mixture. Sigmoid only; the paper reduces with
    `positives`, by their number; ours sums up the targets. `weight_sum` divides by the sum of q
    and alpha. Other arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> Varifocal(reduction="none")(torch.zeros(3), torch.tensor([0.0, 0.5, 1.0])) / 0.6931472
    tensor([0.1875, 0.5000, 1.0000])
    """

    upcasts = True
    links = ("sigmoid",)
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "alpha": Hyperparameter(
            0.75,
            low=0.1,
            high=2.0,
            meaning="weight of the negatives; the positives weigh what their quality is",
            paper="Zhang et al. 2021, eq. 2; best at 0.75",
            scale="log",
            minimum=0.0,
        ),
        "gamma": Hyperparameter(
            2.0,
            low=0.0,
            high=4.0,
            meaning="focusing: how far well-classified negatives are weighted down",
            paper="Zhang et al. 2021, eq. 2; best at 2",
            minimum=0.0,
        ),
    }
    formula = (
        "L = -q (q log p + (1 - q) log(1 - p)) for q > 0, -alpha p^gamma log(1 - p) for q = 0,  "
        "p = sigmoid(x)"
    )
    citation = (
        "Zhang, Wang, Dayoub, Sünderhauf, VarifocalNet: An IoU-aware Dense Object Detector, "
        "CVPR 2021, eq. 2"
    )
    soft_targets = "a quality: q BCE(x, q) for q > 0, least where sigmoid(x) = q"
    second_order = True
    identities = (
        Identity(
            "on hard targets cross-entropy for alpha 1, gamma 0", {"alpha": 1, "gamma": 0}, "ce"
        ),
    )
    alpha: Tensor
    gamma: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """q BCE(x, q), or alpha p^gamma (-log(1 - p)) where q is 0."""
        positive = targets * focal(logits, targets)
        negative = self.alpha.to(targets.dtype) * focal(-logits, None, self.gamma)
        return torch.where(targets > 0, positive, negative)

    def element_weights(self, targets: Tensor) -> Tensor | None:
        """q for positives, alpha for negatives."""
        return torch.where(targets > 0, targets, self.alpha.to(targets.dtype))
