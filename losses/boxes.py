"""Losses over boxes: IoU, GIoU, DIoU and CIoU."""

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from losslab.errors import BadInput
from losslab.losses.arguments import check_choice
from losslab.losses.sets import SetLoss

_LOWEST_IOU = 1e-6


class BoxLoss(SetLoss):
    """Base of losses of a predicted against a true box; a subclass writes `boxwise`.

    Predictions and targets (..., 4) as x1, y1, x2, y2; one value per box, (...). A box whose
    corners are inverted (x2 < x1) is the same box with its corners in order (Rezatofighi et al.
    2019, algorithm 2); the gradient goes to the coordinates that were given. A fraction over an
    area or squared length of nothing (below the square of the machine epsilon) is 0: two boxes
    without area have IoU 0, so that identical ones cost 1 and pull nowhere. nan stays nan.

    Raises `BadInput` where the last dimension is not 4.
    """

    links: ClassVar[tuple[str, ...]] = ("identity",)

    def boxwise(self, pair: "Pair") -> Tensor:
        """One value per box."""
        raise NotImplementedError(f"{type(self).__name__} does not define boxwise")

    def setwise(
        self, logits: Tensor, targets: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """One value per box; all count."""
        if logits.ndim == 0 or logits.shape[-1] != 4:
            raise BadInput(
                f"{type(self).__name__} expects boxes (..., 4) as x1, y1, x2, y2; "
                f"got {tuple(logits.shape)}"
            )
        return self.boxwise(Pair(*_corners(logits), *_corners(targets))), None


class IoU(BoxLoss):
    """IoU loss, L = -log IoU (`form` "log", the paper's) or 1 - IoU ("linear").

    Yu, Jiang, Wang, Cao, Huang, UnitBox, ACM MM 2016. Boxes that do not overlap have no gradient
    in either form; the logarithm is that of an IoU of at least 1e-6, at most 13.8. Boxes, inverted
    and degenerate ones: see `BoxLoss`; other arguments, errors: see `Loss`.

    >>> predicted, true = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])
    >>> IoU(link="identity")(predicted, true)  # log 3, since IoU = 2 / 6
    tensor(1.0986)
    >>> IoU(link="identity", form="linear")(predicted, true)
    tensor(0.6667)
    """

    structural = ("form",)
    formula = "L = -log IoU (form log) or 1 - IoU (form linear)"
    citation = "Yu, Jiang, Wang, Cao, Huang, UnitBox: An Advanced Object Detection Network, MM 2016"
    second_order = True

    def __init__(self, *, form: str = "log", **arguments: Any):
        super().__init__(**arguments)
        self.form = check_choice("IoU", "form", form, ("log", "linear"))

    def boxwise(self, pair: "Pair") -> Tensor:
        """-log IoU or 1 - IoU."""
        iou, _ = pair.iou()
        return 1 - iou if self.form == "linear" else -iou.clamp(min=_LOWEST_IOU).log()


class GIoU(BoxLoss):
    """Generalized IoU loss, L = 1 - IoU + (C - U) / C.

    Rezatofighi et al., CVPR 2019, algorithm 2: C is the area of the enclosing box, U that of the
    union. From 0 to 2, with a gradient without overlap too. Boxes, inverted and degenerate ones:
    see `BoxLoss`; other arguments, errors: see `Loss`.

    >>> predicted, true = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    >>> GIoU(link="identity")(predicted, true)  # 1 - 0 + (3 - 2) / 3
    tensor(1.3333)
    """

    formula = "L = 1 - IoU + (C - U) / C"
    citation = (
        "Rezatofighi, Tsoi, Gwak, Sadeghian, Reid, Savarese, Generalized Intersection over Union: "
        "A Metric and A Loss for Bounding Box Regression, CVPR 2019, algorithm 2"
    )
    second_order = True

    def boxwise(self, pair: "Pair") -> Tensor:
        """1 - GIoU."""
        iou, union = pair.iou()
        enclosing = _area(pair.enclosing_sides())
        return 1 - iou + _fraction(enclosing - union, enclosing)


class DIoU(BoxLoss):
    """Distance-IoU loss, L = 1 - IoU + rho^2 / c^2.

    Zheng et al., AAAI 2020, eq. 7: rho is the distance of the centres, c the diagonal of the
    enclosing box. Boxes, inverted and degenerate ones: see `BoxLoss`; other arguments, errors:
    see `Loss`.

    >>> predicted, true = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    >>> DIoU(link="identity")(predicted, true)  # 1 - 0 + 4 / 10
    tensor(1.4000)
    """

    formula = "L = 1 - IoU + rho^2 / c^2"
    citation = (
        "Zheng, Wang, Liu, Li, Ye, Ren, Distance-IoU Loss: Faster and Better Learning for Bounding "
        "Box Regression, AAAI 2020, eq. 7"
    )
    second_order = True

    def boxwise(self, pair: "Pair") -> Tensor:
        """1 - DIoU."""
        return 1 - pair.iou()[0] + pair.distance()


class CIoU(BoxLoss):
    """Complete IoU loss, L = 1 - IoU + rho^2 / c^2 + a v.

    Zheng et al., AAAI 2020, eq. 10: v = 4 / pi^2 (arctan(w'/h') - arctan(w/h))^2 compares the
    shapes, w' and h' of the true box; a = v / (1 - IoU + v) is held constant in the gradient, as in
    the authors' code, which is why second derivatives are not those of the loss. The gradient of v
    is the true one: the paper drops its 1 / (w^2 + h^2). Two things are left out that others do:
    mmdetection sets a to 0 where IoU <= 1/2, and the authors' code clamps the loss at 2. Boxes,
    inverted and degenerate ones (the angle of a point is 0): see `BoxLoss`; other arguments,
    errors: see `Loss`.

    >>> predicted, true = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    >>> CIoU(link="identity")(predicted, true)  # of one shape: DIoU
    tensor(1.4000)
    """

    formula = (
        "L = 1 - IoU + rho^2 / c^2 + a v,  v = 4 / pi^2 (arctan(w'/h') - arctan(w/h))^2,\n"
        "a = v / (1 - IoU + v), constant in the gradient"
    )
    citation = DIoU.citation.replace("eq. 7", "eq. 8 to 11")
    second_order = False

    def boxwise(self, pair: "Pair") -> Tensor:
        """1 - CIoU."""
        iou, _ = pair.iou()
        angles = _angle(pair.true_high - pair.true_low) - _angle(pair.high - pair.low)
        shape = (2 / math.pi * angles).square()
        with torch.no_grad():
            trade = _fraction(shape, 1 - iou + shape)
        return 1 - iou + pair.distance() + trade * shape


class Pair(NamedTuple):
    """Lower and upper corners, (..., 2) each, of the predicted and of the true boxes."""

    low: Tensor
    high: Tensor
    true_low: Tensor
    true_high: Tensor

    def iou(self) -> tuple[Tensor, Tensor]:
        """IoU, and the area of the union."""
        sides = torch.minimum(self.high, self.true_high) - torch.maximum(self.low, self.true_low)
        common = _area(sides.clamp(min=0))
        union = _area(self.high - self.low) + _area(self.true_high - self.true_low) - common
        return _fraction(common, union), union

    def enclosing_sides(self) -> Tensor:
        """Sides of the smallest box around both."""
        high, low = torch.maximum(self.high, self.true_high), torch.minimum(self.low, self.true_low)
        return high - low

    def distance(self) -> Tensor:
        """rho^2 / c^2: squared distance of the centres over the squared enclosing diagonal."""
        apart = (self.low + self.high - self.true_low - self.true_high) / 2
        return _fraction(apart.square().sum(-1), self.enclosing_sides().square().sum(-1))


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    first, second = boxes[..., :2], boxes[..., 2:]
    # Not minimum and maximum: where both are equal they would halve the gradient of the width away.
    inverted = first > second
    return torch.where(inverted, second, first), torch.where(inverted, first, second)


def _area(sides: Tensor) -> Tensor:
    return sides[..., 0] * sides[..., 1]


def _angle(sides: Tensor) -> Tensor:
    """arctan(w / h)."""
    width, height = sides[..., 0], sides[..., 1]
    point = sides.square().sum(-1) <= _nothing(sides)
    return torch.atan2(torch.where(point, 0, width), torch.where(point, 1, height))


def _fraction(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, 0 over a denominator of nothing; a nan is not nothing."""
    nothing = denominator <= _nothing(denominator)
    return torch.where(nothing, 0, numerator / torch.where(nothing, 1, denominator))


def _nothing(each: Tensor) -> float:
    return torch.finfo(each.dtype).eps ** 2
