"""A pyramid scene parsing network in small (Zhao et al., CVPR 2017), for a class of every pixel."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.experiments.models.resnet import (
    Block,
    NormMode,
    ResNet,
    backbone_problems,
    norm_of,
)
from losslab.experiments.tasks.base import WithAuxiliary

Pooling = Literal["average", "max"]


def build(
    input_shape: Sequence[int],
    outputs: int,
    *,
    width: int = 8,
    blocks: list[int] | None = None,
    block: Block = "basic",
    norm: NormMode = "train",
    output_stride: int = 8,
    bins: list[int] | None = None,
    pooling: Pooling = "average",
    reduce: bool = True,
    channels: int = 32,
    auxiliary_weight: float = 0.4,
) -> "PSPNet":
    """PSPNet in small for images (channels, height, width); a logit of each class for each pixel.

    - `width`, `blocks`, `block`, `norm`: the backbone, see `resnet.ResNet`; blocks [1, 1, 1, 1].
      PSPNet-50 is width 64, blocks [3, 4, 6, 3], block bottleneck.
    - `output_stride`: pixels of the image a step of the last map, 4 or a higher power of two;
      stages beyond it are dilated instead (8 in the paper).
    - `bins`: sides of the pyramid's pooled maps (1, 2, 3, 6 in the paper and by default); an empty
      list leaves the pyramid out, which is the fully convolutional network with dilation that the
      paper starts from.
    - `pooling`: `average` or `max` of the pyramid's bins.
    - `reduce`: each pooled map is reduced by a 1 × 1 convolution to 1 / len(bins) of its channels.
    - `channels`: width of the two heads' hidden layer (512 and 256 in the paper).
    - `auxiliary_weight`: factor of the loss of a second head after the last stage but one, conv4_x
      of four (0.4 in the paper); 0 leaves the head out. The head exists in training alone: in
      evaluation mode the model neither computes it nor gives it. It is drawn last, so that all
      other initial weights are the same with it and without.

    Raises `BadInput` with every mistake.
    """
    blocks = [1, 1, 1, 1] if blocks is None else blocks
    bins = [1, 2, 3, 6] if bins is None else bins
    problems = backbone_problems(width, blocks, norm)
    if len(input_shape) != 3:
        problems.append(
            f"name: pspnet needs images (channels, height, width), and this dataset's examples "
            f"have the shape {tuple(input_shape)}"
        )
    if output_stride < 4 or output_stride & (output_stride - 1):
        problems.append(f"output_stride: must be 4, 8, 16 ..., got {output_stride}")
    if any(side < 1 for side in bins) or len(set(bins)) != len(bins):
        problems.append(f"bins: must be different whole numbers of at least 1, got {bins}")
    if channels < 1:
        problems.append(f"channels: must be at least 1, got {channels}")
    if auxiliary_weight < 0:
        problems.append(f"auxiliary_weight: must be at least 0, got {auxiliary_weight}")
    if auxiliary_weight and len(blocks) < 2:
        problems.append("auxiliary_weight: its head comes after the last stage but one; give two")
    if problems:
        raise BadInput(problems)
    backbone = ResNet(
        input_shape[0], width=width, blocks=blocks, block=block, norm=norm,
        output_stride=output_stride,
    )  # fmt: skip
    pyramid = Pyramid(backbone.channels[-1], bins, pooling, reduce, norm)
    return PSPNet(backbone, pyramid, outputs, channels, auxiliary_weight, norm)


class Pyramid(nn.Module):
    """A map beside what it is when pooled to each number of bins (section 3.2, figure 3).

    Features (B, channels, H, W) to (B, `channels` of this module, H, W). Pooled maps come back to
    H × W by bilinear interpolation.
    """

    def __init__(
        self, channels: int, bins: Sequence[int], pooling: Pooling, reduce: bool, norm: NormMode
    ):
        super().__init__()
        make = norm_of(norm)
        kind = nn.AdaptiveAvgPool2d if pooling == "average" else nn.AdaptiveMaxPool2d
        levels: list[nn.Module] = []
        self.channels = channels
        for side in bins:
            level: list[nn.Module] = [kind(side)]
            own = channels
            if reduce:
                own = max(channels // len(bins), 1)
                level += [_convolution(channels, own, 1), make(own), nn.ReLU()]
            levels.append(nn.Sequential(*level))
            self.channels += own
        self.levels = nn.ModuleList(levels)

    def forward(self, features: Tensor) -> Tensor:
        """The features, then each level's."""
        return torch.cat(
            [features, *(_resized(level(features), features.shape[2:]) for level in self.levels)], 1
        )


class PSPNet(nn.Module):
    """Images (B, channels, H, W) to logits (B, classes, H, W); see `build`.

    In training mode, and where there is an auxiliary head, it gives both heads' logits
    (`WithAuxiliary`); in evaluation mode the logits alone.
    """

    def __init__(
        self,
        backbone: ResNet,
        pyramid: Pyramid,
        classes: int,
        channels: int,
        auxiliary_weight: float,
        norm: NormMode,
    ):
        super().__init__()
        self.auxiliary_weight = auxiliary_weight
        self.backbone, self.pyramid = backbone, pyramid
        head = _head(pyramid.channels, channels, classes, norm)
        self.auxiliary: nn.Module | None = None
        if auxiliary_weight:
            self.auxiliary = _head(backbone.channels[-2], channels, classes, norm)
        # Drawn first and registered last: a prior is set on a model's last bias.
        self.head = head

    def forward(self, images: Tensor) -> Tensor | WithAuxiliary:
        """The logits of every pixel."""
        size = images.shape[2:]
        maps = self.backbone(images)
        main = _resized(self.head(self.pyramid(maps[-1])), size)
        if self.auxiliary is None or not self.training:
            return main
        return WithAuxiliary(main, _resized(self.auxiliary(maps[-2]), size), self.auxiliary_weight)


def _head(inputs: int, channels: int, classes: int, norm: NormMode) -> nn.Module:
    """A 3 × 3 convolution, norm, ReLU, and a 1 × 1 convolution to the classes."""
    last = nn.Conv2d(channels, classes, 1)
    hidden = [_convolution(inputs, channels, 3), norm_of(norm)(channels), nn.ReLU()]
    return nn.Sequential(*hidden, last)


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Without a bias, since a norm follows."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(cast(Tensor, layer.weight), mode="fan_out", nonlinearity="relu")
    return layer


def _resized(features: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear; corners are not aligned, so that a step of the map is the same everywhere."""
    return F.interpolate(features, tuple(size), mode="bilinear", align_corners=False)
