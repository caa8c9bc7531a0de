"""Asymmetric losses: positives and negatives focused differently, easy negatives dropped."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.closed_form import softmax_focal
from losslab.losses.identity import Identity

_CITATION = (
    "Ridnik, Ben-Baruch, Zamir, Noy, Friedman, Protter, Zelnik-Manor, Asymmetric Loss for "
    "Multi-Label Classification, ICCV 2021"
)
_GAMMA_NEG = Hyperparameter(
    4.0,
    low=0.0,
    high=8.0,
    meaning="focusing of the negatives",
    paper="Ridnik et al. 2021, eq. 7; 4 in the authors' code",
    minimum=0.0,
)
_GAMMA_POS = Hyperparameter(
    0.0,
    low=0.0,
    high=2.0,
    meaning="focusing of the positives, meant to be at most gamma_neg",
    paper="Ridnik et al. 2021, eq. 7; 0 in the authors' train.py, 1 as default of their class",
    minimum=0.0,
)


class AsymmetricLoss(Loss):
    """ASL: (1 - p)^gamma_pos (-log p) for positives, p_m^gamma_neg (-log(1 - p_m)) for negatives.

    Ridnik et al. 2021, eq. 5 and 7, p_m = max(p - clip, 0): negatives below the probability `clip`
    have neither loss nor gradient. Sigmoid only; gammas >= 0, `clip` in [0, 1), and 0 for all
    three is binary cross-entropy. Soft targets mix both losses (the authors' code mixes the
    probabilities instead; hard targets agree). The defaults are those of the authors' `train.py`,
    save that the focusing weights are differentiated as in the paper; with `detach_weight=True`
    they are constants, which changes the gradient alone (`disable_torch_grad_focal_loss` in the
    authors' code, on in `train.py`). The authors reduce with `sum`. Other arguments, shapes,
    errors: see `Loss`; `BadInput` if `detach_weight` is not a bool.

    >>> loss = AsymmetricLoss(gamma_pos=1, gamma_neg=2, clip=0.2, reduction="none")
    >>> loss(torch.zeros(2), torch.tensor([1, 0]))  # .5 log 2, .3^2 (-log .7)
    tensor([0.3466, 0.0321])
    >>> loss(torch.tensor([-2.0]), torch.tensor([0]))  # p = .119
    tensor([0.])
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "gamma_neg": _GAMMA_NEG,
        "gamma_pos": _GAMMA_POS,
        "clip": Hyperparameter(
            0.05,
            low=0.0,
            high=0.2,
            meaning="probability margin m, taken off the probability of the negatives",
            paper="Ridnik et al. 2021, eq. 5: 0.05",
            minimum=0.0,
            maximum=0.99,
        ),
    }
    links = ("sigmoid",)
    structural = ("detach_weight",)
    formula = (
        "L(1) = -(1 - p)^gamma_pos log p\n"
        "L(0) = -p_m^gamma_neg log(1 - p_m),  p_m = max(p - clip, 0)"
    )
    citation = _CITATION + ", eq. 5 and 7"
    soft_targets = "mixture"
    second_order = True
    identities = (
        Identity("zeros are cross-entropy", {"gamma_neg": 0, "gamma_pos": 0, "clip": 0}, "ce"),
        Identity(
            "equal gammas without clip are twice the focal loss at alpha 1/2",
            {"gamma_neg": 1.5, "gamma_pos": 1.5, "clip": 0, "detach_weight": False},
            "focal",
            {"gamma": 1.5, "alpha": 0.5},
            factor=2.0,
        ),
    )
    gamma_neg: Tensor
    gamma_pos: Tensor
    clip: Tensor

    def __init__(self, *, detach_weight: bool = False, **arguments: Any):
        super().__init__(**arguments)
        if not isinstance(detach_weight, bool):
            raise BadInput(
                f"{type(self).__name__}: detach_weight must be true or false, got {detach_weight!r}"
            )
        self.detach_weight = detach_weight

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The asymmetric loss of both sides, mixed by the targets."""
        largest = torch.finfo(logits.dtype).max
        x = logits.clamp(-largest, largest)
        clip, gamma_neg, gamma_pos = (
            h.to(x.dtype) for h in (self.clip, self.gamma_neg, self.gamma_pos)
        )
        p, q = torch.sigmoid(x), torch.sigmoid(-x)
        log_p, log_q = F.logsigmoid(x), F.logsigmoid(-x)
        # From q where p is near 1: sigmoid's slope p (1 - p) is 0 once p has rounded to 1.
        p_m = torch.where(x > 0, (1 - clip) - q, p - clip)
        counted, clips = p_m > 0, clip > 0
        # Without clip p_m is p, whose logarithms are at hand and exact however small p or q is.
        log_p_m = torch.where(clips, torch.where(counted, p_m, 1).log(), log_p)
        log_rest = torch.where(clips, (q + torch.where(clips, clip, 1)).log(), log_q)
        weight_on, weight_off = torch.exp(gamma_pos * log_q), torch.exp(gamma_neg * log_p_m)
        if self.detach_weight:
            weight_on, weight_off = weight_on.detach(), weight_off.detach()
        off = torch.where(counted | ~clips, weight_off * -log_rest, 0)
        return targets * weight_on * -log_p + (1 - targets) * off


class AsymmetricSingleLabel(Loss):
    """ASL for one class out of C: target and other classes focused differently, with smoothing.

    L = -(1 - eps + eps / C) (1 - P_t)^gamma_pos log P_t - eps / C sum_{j != t} P_j^gamma_neg log
    P_j, the authors' `ASLSingleLabel` (Ridnik et al. 2021, code), with their defaults. Softmax
    only; gammas >= 0, and 0 for both is label smoothing. The other classes enter through the
    smoothing alone: without it `gamma_neg` would have no effect and the loss were the focal loss,
    so `eps` in (0, 1] must be at least 0.001. Class weights multiply the whole loss of the
    elements whose target is that class. Other arguments, shapes, errors: see `Loss`.

    >>> loss = AsymmetricSingleLabel(link="softmax", gamma_pos=1, gamma_neg=1, eps=0.2)
    >>> loss(torch.zeros(1, 2), torch.tensor([0]))  # (.9 + .1) * .5 log 2
    tensor(0.3466)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "gamma_neg": _GAMMA_NEG,
        "gamma_pos": _GAMMA_POS,
        "eps": Hyperparameter(
            0.1,
            low=0.02,
            high=0.3,
            meaning="share of the target that is spread evenly over all classes",
            paper="0.1 in the authors' code",
            minimum=1e-3,
            maximum=1.0,
        ),
    }
    links = ("softmax",)
    formula = (
        "L = -(1 - eps + eps / C) (1 - P_t)^gamma_pos log P_t\n"
        "    - eps / C sum_{j != t} P_j^gamma_neg log P_j"
    )
    citation = _CITATION + ", ASLSingleLabel of the authors' code"
    soft_targets = "hard"
    second_order = True
    identities = (
        Identity(
            "gammas 0 are label smoothing",
            {"gamma_neg": 0, "gamma_pos": 0, "eps": 0.2},
            "label_smoothing",
            {"eps": 0.2},
        ),
    )
    gamma_neg: Tensor
    gamma_pos: Tensor
    eps: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The focal loss of the target and what the smoothing gives to the other classes."""
        gamma_neg, eps = self.gamma_neg.to(logits.dtype), self.eps.to(logits.dtype)
        share = eps / logits.shape[1]
        # An infinite logit would make nan of exp(-inf) * inf; a quarter leaves room for sums.
        largest = torch.finfo(logits.dtype).max / 4
        log_p = torch.log_softmax(logits.clamp(-largest, largest), 1)
        terms = share * torch.exp(gamma_neg * log_p) * -log_p
        others = terms.scatter(1, targets.unsqueeze(1), 0.0).sum(1)
        target = softmax_focal(logits, targets, self.gamma_pos)
        return (1 - eps + share) * target + others
