"""The Dice loss and the soft Jaccard loss."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter
from losslab.losses.identity import Identity
from losslab.losses.regions import SMOOTH, SOFT_TARGETS, RegionLoss


class Dice(RegionLoss):
    """Dice loss, L = 1 - (2 sum p y + smooth) / (sum p^r + sum y^r + smooth).

    Milletari, Navab, Ahmadi, V-Net, 3DV 2016, section 3: `power` r = 2 (default), one output,
    without `smooth`; r = 1 is the form of most libraries. Computed as sum (p-y)^2 (r = 2) or
    FP + FN (r = 1) over the denominator, without a difference that cancels. Soft targets enter
    the sums as they are; with r = 2 the loss is then least at p = y, with r = 1 it is not.
    Sets, absent classes, class weights: see `RegionLoss`; the paper has one value per volume,
    `per="sample"`. Other arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> Dice()(torch.zeros(2), torch.tensor([0, 1]))  # (.25 + .25) / (.5 + 1)
    tensor(0.3333)
    >>> Dice(power=1)(torch.zeros(2), torch.tensor([0, 1]))  # (.5 + .5) / (1 + 1)
    tensor(0.5000)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {"smooth": SMOOTH}
    structural = ("power", *RegionLoss.structural)
    formula = "L = 1 - (2 sum p y + smooth) / (sum p^r + sum y^r + smooth), r = power"
    citation = (
        "Milletari, Navab, Ahmadi, V-Net: Fully Convolutional Neural Networks for Volumetric "
        "Medical Image Segmentation, 3DV 2016, section 3"
    )
    soft_targets = SOFT_TARGETS + "; sum y^2 under power 2"
    second_order = True
    identities = (
        Identity(
            "power 1 is Tversky with equal weights, at half the smooth",
            {"power": 1, "smooth": 0.2},
            "tversky",
            {"fn_weight": 0.5, "smooth": 0.1},
        ),
    )
    smooth: Tensor

    def __init__(self, *, power: int = 2, **arguments: Any):
        super().__init__(**arguments)
        if isinstance(power, bool) or power not in (1, 2):
            raise BadInput(f"Dice: power must be 1 or 2, got {power!r}")
        self.power = power

    def region(
        self,
        hits: Tensor,
        alarms: Tensor,
        misses: Tensor,
        pooled: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """1 - Dice."""
        smooth = self.smooth.to(hits.dtype)
        if self.power == 1:
            wrong = pooled(alarms + misses)
            return wrong / (2 * pooled(hits) + wrong + smooth)
        p, y = hits + alarms, hits + misses
        return pooled((alarms - misses).square()) / (pooled(p.square() + y.square()) + smooth)


class Jaccard(RegionLoss):
    """Soft Jaccard (IoU) loss, L = 1 - (TP + smooth) / (TP + FP + FN + smooth).

    Rahman, Wang, Optimizing Intersection-Over-Union in Deep Neural Networks for Image
    Segmentation, ISVC 2016; TP = sum p y, FP = sum p (1-y), FN = sum (1-p) y, without `smooth`
    there. With D the Dice coefficient of power 1 at twice the smooth, L = 1 - D / (2 - D): it has
    the order of Dice, but is harder on mediocre overlap. Sets, absent classes, class weights: see
    `RegionLoss`; other arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> Jaccard()(torch.zeros(2), torch.tensor([0, 1]))  # 1 - .5 / 1.5
    tensor(0.6667)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {"smooth": SMOOTH}
    formula = "L = 1 - (TP + smooth) / (TP + FP + FN + smooth)"
    citation = (
        "Rahman, Wang, Optimizing Intersection-Over-Union in Deep Neural Networks for Image "
        "Segmentation, ISVC 2016"
    )
    soft_targets = SOFT_TARGETS
    second_order = True
    smooth: Tensor

    def region(
        self,
        hits: Tensor,
        alarms: Tensor,
        misses: Tensor,
        pooled: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """1 - IoU."""
        wrong = pooled(alarms + misses)
        return wrong / (pooled(hits) + wrong + self.smooth.to(hits.dtype))
