"""Features of boxes: RoIAlign over a feature pyramid."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def pool_boxes(
    levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, size: int, smallest: float
) -> Tensor:
    """Features (B, N, C, size, size) of boxes (B, N, 4) in images, each from one pyramid level.

    RoIAlign (He et al., Mask R-CNN, ICCV 2017) with 2 × 2 samples a bin and no rounding anywhere;
    beyond the border the nearest value counts. `levels` (B, C, H, W) at `strides`, finest first. A
    box whose area is s² is read from level round(log2(s / smallest)) (Lin et al., FPN, CVPR 2017,
    eq. 1, with the finest level's size in place of ImageNet's). Gradients go to the levels and not
    to the boxes.
    """
    boxes = boxes.detach()
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
    wanted = torch.log2(sides.prod(-1).sqrt() / smallest).round()
    level_of = wanted.clamp(0, len(levels) - 1).long()
    pooled = torch.stack(
        [_pool(level, boxes / stride, size) for level, stride in zip(levels, strides, strict=True)]
    )  # every box at every level: the maps are small, and picking is simpler than sorting
    images, places = torch.meshgrid(
        torch.arange(boxes.shape[0], device=boxes.device),
        torch.arange(boxes.shape[1], device=boxes.device),
        indexing="ij",
    )
    return pooled[level_of, images, places]


def _pool(level: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Features (B, N, C, size, size) of boxes in the map's own pixels."""
    rows, columns = level.shape[-2:]
    steps = (torch.arange(2 * size, device=boxes.device, dtype=boxes.dtype) + 0.5) / (2 * size)
    corner, extent = boxes[..., None, :2], (boxes[..., 2:] - boxes[..., :2])[..., None, :]
    points = corner + steps[:, None] * extent  # (B, N, 2 size, 2): x and y of the samples
    x = 2 * points[..., 0] / columns - 1
    y = 2 * points[..., 1] / rows - 1
    batch, number, width = x.shape
    grid = torch.stack(
        [x[:, :, None, :].expand(-1, -1, width, -1), y[:, :, :, None].expand(-1, -1, -1, width)], -1
    )
    sampled = F.grid_sample(
        level, grid.reshape(batch, number * width, width, 2).to(level),
        padding_mode="border", align_corners=False,
    )  # fmt: skip
    by_box = sampled.reshape(batch, -1, number, width, width).transpose(1, 2)
    return F.avg_pool2d(by_box.flatten(0, 1), 2).unflatten(0, (batch, number))
