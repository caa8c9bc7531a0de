"""Boxes as offsets from anchors, and back."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Largest log of a size ratio that is decoded (Detectron's BBOX_XFORM_CLIP): what a network gives
# early in training must not overflow.
LARGEST_LOG = math.log(1000 / 16)
WEIGHTS = (1.0, 1.0, 1.0, 1.0)


def encode(anchors: Tensor, boxes: Tensor, weights: Sequence[float] = WEIGHTS) -> Tensor:
    """Offsets (..., 4) of boxes from anchors, both (..., 4) and with an area.

    dx = wx (x - xa) / wa, dy likewise, dw = ww log(w / wa), dh likewise, with centres x, y and
    sizes w, h (Girshick et al., R-CNN, CVPR 2014, appendix C, eq. 6 to 9); `weights` wx, wy, ww,
    wh, 1 in RetinaNet.

    >>> encode(torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2]))
    tensor([0.5000, 0.0000, 0.0000, 0.0000])
    """
    anchor_centre, anchor_size = _centre_and_size(anchors)
    centre, size = _centre_and_size(boxes)
    shift = (centre - anchor_centre) / anchor_size
    return torch.cat([shift, (size / anchor_size).log()], -1) * boxes.new_tensor(weights)


def decode(anchors: Tensor, offsets: Tensor, weights: Sequence[float] = WEIGHTS) -> Tensor:
    """Boxes (..., 4) of offsets (..., 4) from anchors; the inverse of `encode`.

    Logarithms of size ratios above log(1000/16) are taken as that.

    >>> decode(torch.tensor([0.0, 0, 2, 2]), torch.tensor([0.5, 0, 0, 0]))
    tensor([1., 0., 3., 2.])
    """
    anchor_centre, anchor_size = _centre_and_size(anchors)
    plain = offsets / offsets.new_tensor(weights)
    centre = anchor_centre + plain[..., :2] * anchor_size
    half = anchor_size * plain[..., 2:].clamp(max=LARGEST_LOG).exp() / 2
    return torch.cat([centre - half, centre + half], -1)


def clip(boxes: Tensor, heights: Tensor | float, widths: Tensor | float) -> Tensor:
    """Boxes (..., 4) cut off at the image; `heights` and `widths` broadcast to (...).

    >>> clip(torch.tensor([[-1.0, 2, 9, 20]]), 10, 8)
    tensor([[ 0.,  2.,  8., 10.]])
    """
    limits = torch.stack(
        [torch.as_tensor(side, dtype=boxes.dtype, device=boxes.device) for side in
         (widths, heights, widths, heights)], -1
    )  # fmt: skip
    return torch.minimum(boxes.clamp(min=0), limits)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low
