"""The Tversky loss and its focal form."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.identity import Identity
from losslab.losses.regions import SMOOTH, SOFT_TARGETS, RegionLoss

_FN_WEIGHT = Hyperparameter(
    0.7,
    low=0.5,
    high=0.95,
    meaning="weight of the false negatives; the false positives get 1 - fn_weight",
    paper="Salehi et al. 2017, best at alpha = .3, beta = .7",
    minimum=0.0,
    maximum=1.0,
)


class Tversky(RegionLoss):
    """Tversky loss, L = 1 - (TP + smooth) / (TP + (1-b) FP + b FN + smooth), b = fn_weight.

    Salehi, Erdogmus, Gholipour, MLMI 2017: their beta weighs the false negatives and is
    `fn_weight`, their alpha the false positives; they take alpha + beta = 1 throughout, so that
    one parameter is searched, and best is (.3, .7). 1/2 is Dice, above it recall counts more.
    TP = sum p y, FP = sum p (1-y), FN = sum (1-p) y; `smooth` is not in the paper. Sets, absent
    classes, class weights: see `RegionLoss`; other arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> Tversky()(torch.zeros(3), torch.tensor([0, 0, 1]))  # (.3 + .7 * .5) / (.5 + .3 + .35)
    tensor(0.5652)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "fn_weight": _FN_WEIGHT,
        "smooth": SMOOTH,
    }
    formula = "L = 1 - (TP + smooth) / (TP + (1 - fn_weight) FP + fn_weight FN + smooth)"
    citation = (
        "Salehi, Erdogmus, Gholipour, Tversky Loss Function for Image Segmentation Using 3D Fully "
        "Convolutional Deep Networks, MLMI 2017"
    )
    soft_targets = SOFT_TARGETS
    second_order = True
    identities: ClassVar[tuple[Identity, ...]] = (
        Identity(
            "equal weights are Dice with power 1, at twice the smooth",
            {"fn_weight": 0.5, "smooth": 0.1},
            "dice",
            {"power": 1, "smooth": 0.2},
        ),
    )
    fn_weight: Tensor
    smooth: Tensor

    def region(
        self,
        hits: Tensor,
        alarms: Tensor,
        misses: Tensor,
        pooled: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """1 - Tversky index."""
        dtype = hits.dtype
        fp_weight, fn_weight = (1 - self.fn_weight).to(dtype), self.fn_weight.to(dtype)
        wrong = pooled(fp_weight * alarms + fn_weight * misses)
        return wrong / (pooled(hits) + wrong + self.smooth.to(dtype))


class FocalTversky(Tversky):
    """Focal Tversky loss, L = (1 - TI)^exponent with TI the Tversky index of every set.

    Abraham, Khan, ISBI 2019: exponent 1/gamma with gamma = 4/3; their alpha = .7 weighs the false
    negatives and is `fn_weight` here, although the Tversky paper calls that beta. The power is
    taken of every class (set), as in the paper, and not of their mean. Above 1 the exponent
    favours the classes that are badly segmented; below 1 it keeps a slope where they are nearly
    right. There the slope by 1 - TI is infinite at TI = 1, by the logits it is 0: value and
    gradient are 0 where 1 - TI is below 1e-19 (1e-154 in float64). The rest is as for `Tversky`.

    >>> import torch
    >>> FocalTversky(exponent=2)(torch.zeros(3), torch.tensor([0, 0, 1]))  # .5652 squared
    tensor(0.3195)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "exponent": Hyperparameter(
            0.75,
            low=0.5,
            high=2.0,
            meaning="1/gamma: power of 1 - TI; above 1 badly segmented classes count more",
            paper="Abraham and Khan 2019, gamma = 4/3",
            minimum=0.25,
        ),
        "fn_weight": _FN_WEIGHT,
        "smooth": SMOOTH,
    }
    formula = "L = (1 - (TP + smooth) / (TP + (1 - fn_weight) FP + fn_weight FN + smooth))^exponent"
    citation = (
        "Abraham, Khan, A Novel Focal Tversky Loss Function with Improved Attention U-Net for "
        "Lesion Segmentation, ISBI 2019"
    )
    identities: ClassVar[tuple[Identity, ...]] = (
        Identity(
            "exponent 1 is Tversky",
            {"exponent": 1, "fn_weight": 0.6, "smooth": 0.1},
            "tversky",
            {"fn_weight": 0.6, "smooth": 0.1},
        ),
    )
    exponent: Tensor

    def region(
        self,
        hits: Tensor,
        alarms: Tensor,
        misses: Tensor,
        pooled: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """(1 - Tversky index)^exponent."""
        wrong = super().region(hits, alarms, misses, pooled)
        # The root of the smallest number: 1 / wrong^2, in the second derivative, stays finite.
        perfect = wrong <= torch.finfo(wrong.dtype).tiny ** 0.5
        log_wrong = torch.where(perfect, 1, wrong).log()
        return torch.where(perfect, 0, torch.exp(self.exponent.to(wrong.dtype) * log_wrong))
