"""RetinaNet in small: backbone, feature pyramid, and two subnets that all levels share."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from losslab.errors import BadInput
from losslab.experiments.detection.anchors import AnchorSettings, grid_of
from losslab.experiments.models.fpn import FPN
from losslab.experiments.models.resnet import NormMode, ResNet, backbone_problems


def build(
    input_shape: Sequence[int],
    outputs: int,
    *,
    width: int = 16,
    blocks: list[int] | None = None,
    block: Literal["basic", "bottleneck"] = "basic",
    norm: Literal["train", "frozen", "group"] = "train",
    channels: int = 32,
    head_depth: int = 2,
    head_std: float = 0.03,
    strides: list[int] | None = None,
    scales: int = 3,
    aspects: list[float] | None = None,
    anchor_size: float = 2.0,
    channels_last: bool = True,
) -> "RetinaNet":
    """The detector of Lin et al. 2017, section 4, for images (3, height, width).

    `outputs` is the number of classes, background not included.

    - `width`, `blocks`, `block`, `norm`: the backbone, see `resnet.ResNet`; blocks [1, 1, 1].
    - `channels`: width of the pyramid and of both subnets (256 in the paper).
    - `head_depth`: 3 × 3 convolutions in each subnet before its last one (4 in the paper).
    - `head_std`: standard deviation of the subnets' initial weights. The paper's 0.01 is for 256
      channels; by default 0.03 for 32, which a signal comes through as well.
    - `strides`, `scales`, `aspects`, `anchor_size`: see `anchors.AnchorSettings`; strides 8 to 32,
      each twice the one before. Those beyond the backbone's are extra pyramid levels.
    - `channels_last`: memory format of images and weights; same results but for rounding.

    Raises `BadInput` with every mistake.
    """
    blocks = [1, 1, 1] if blocks is None else blocks
    settings, problems = checked_anchors(
        input_shape, outputs, width, blocks, norm, channels, head_depth,
        strides, scales, aspects, anchor_size,
    )  # fmt: skip
    if problems:
        raise BadInput(problems)
    backbone = ResNet(input_shape[0], width=width, blocks=blocks, block=block, norm=norm)
    model = RetinaNet(backbone, settings, outputs, channels, head_depth, head_std)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def checked_anchors(
    input_shape: Sequence[int],
    outputs: int,
    width: int,
    blocks: list[int],
    norm: NormMode,
    channels: int,
    head_depth: int,
    strides: list[int] | None,
    scales: int,
    aspects: list[float] | None,
    anchor_size: float,
) -> tuple[AnchorSettings, list[str]]:
    """The anchors of a detector's options, and what is wrong with the options."""
    settings = AnchorSettings(
        tuple([8, 16, 32] if strides is None else strides),
        scales,
        tuple([0.5, 1.0, 2.0] if aspects is None else aspects),
        anchor_size,
    )
    problems = backbone_problems(width, blocks, norm)
    problems += _problems(input_shape, outputs, channels, head_depth)
    return settings, problems + _stride_problems(settings.strides, len(blocks))


class RetinaNet(nn.Module):
    """Images to class logits and box offsets of every anchor; see `build`.

    Made of a backbone whose `strides` and `channels` tell of its maps. `anchor_settings` says
    which anchors the outputs belong to, in the order of `anchors.make_anchors`.
    """

    def __init__(
        self,
        backbone: ResNet,
        anchor_settings: AnchorSettings,
        classes: int,
        channels: int,
        depth: int,
        std: float,
    ):
        super().__init__()
        self.anchor_settings = anchor_settings
        self.classes = classes
        strides = anchor_settings.strides
        self._used = [i for i, stride in enumerate(backbone.strides) if stride in strides]
        self.backbone = backbone
        self.pyramid = FPN(
            [backbone.channels[i] for i in self._used], channels, len(strides) - len(self._used)
        )
        per_cell = anchor_settings.per_cell
        self.class_subnet = _subnet(channels, depth, per_cell * classes, std)
        self.box_subnet = _subnet(channels, depth, per_cell * 4, std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, A, K) and box offsets (B, A, 4) of images (B, 3, H, W).

        Images of whole numbers, 0 to 255, are scaled to [-1, 1] first.
        """
        return self.heads(self.levels(images))

    def levels(self, images: Tensor) -> list[Tensor]:
        """The pyramid's maps of images, finest first."""
        weight = next(self.parameters())
        if not images.is_floating_point():
            images = images.to(weight.dtype) / 127.5 - 1
        if weight.is_contiguous(memory_format=torch.channels_last):
            images = images.contiguous(memory_format=torch.channels_last)
        maps = self.backbone(images)
        return self.pyramid([maps[i] for i in self._used])

    def heads(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (B, A, K) and box offsets (B, A, 4) of the pyramid's maps."""
        logits = [_by_anchor(self.class_subnet(level), self.classes) for level in levels]
        offsets = [_by_anchor(self.box_subnet(level), 4) for level in levels]
        return torch.cat(logits, 1), torch.cat(offsets, 1)

    def set_prior(self, probabilities: Tensor) -> None:
        """Let every anchor start at these probabilities of the classes (K,) (section 3.3)."""
        bias = self.class_subnet[-1].bias
        assert isinstance(bias, Tensor)
        with torch.no_grad():
            bias.copy_(torch.logit(probabilities.double()).repeat(len(bias) // self.classes))

    def last_shared(self) -> list[Tensor]:
        """The weights of the last layers that both subnets share: the pyramid's, by level."""
        return [layer.weight for layer in (*self.pyramid.smooth, *self.pyramid.extra)]

    def shared(self) -> list[nn.Parameter]:
        """All that trains of what both subnets share: backbone and pyramid."""
        both = [*self.backbone.parameters(), *self.pyramid.parameters()]
        return [parameter for parameter in both if parameter.requires_grad]

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each level for images of this size."""
        return grid_of(self.anchor_settings, height, width)

    def extra_repr(self) -> str:
        """Anchors and classes, for `repr`."""
        return f"classes={self.classes}, anchors={self.anchor_settings}"


def _subnet(channels: int, depth: int, outputs: int, std: float) -> nn.Sequential:
    layers: list[Any] = []
    for _ in range(depth):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    layers.append(nn.Conv2d(channels, outputs, 3, padding=1))
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def _by_anchor(outputs: Tensor, values: int) -> Tensor:
    """(B, anchors of a cell · values, H, W) to (B, H · W · anchors of a cell, values)."""
    return outputs.permute(0, 2, 3, 1).reshape(len(outputs), -1, values)


def _problems(input_shape: Sequence[int], outputs: int, channels: int, depth: int) -> list[str]:
    problems = []
    if len(input_shape) != 3:
        problems.append(
            f"name: retinanet needs images (channels, height, width), and this dataset's examples "
            f"have the shape {tuple(input_shape)}"
        )
    if outputs < 1:
        problems.append(f"outputs: needs at least one class, got {outputs}")
    if channels < 1:
        problems.append(f"channels: must be at least 1, got {channels}")
    if depth < 0:
        problems.append(f"head_depth: must be at least 0, got {depth}")
    return problems


def _stride_problems(strides: Sequence[int], stages: int) -> list[str]:
    have = [4 * 2**i for i in range(stages)]
    chain = [strides[0] * 2**i for i in range(len(strides))]
    if not have:
        return []
    if strides[0] not in have or list(strides) != chain:
        return [
            f"strides: must begin with one of the backbone's, {have}, and double from level to "
            f"level, got {list(strides)}"
        ]
    if strides[-1] < have[-1]:
        return [
            f"blocks: {stages} stages reach stride {have[-1]}, which no level uses; the last of "
            f"strides is {strides[-1]}"
        ]
    return []
