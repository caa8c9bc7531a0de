"""A compact residual network: the backbone of detectors."""

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losslab.errors import BadInput

NormMode = Literal["train", "frozen", "group"]
Block = Literal["basic", "bottleneck"]
EXPANSION = {"basic": 1, "bottleneck": 4}
# GroupNorm's channels a group; Wu and He, ECCV 2018, table 3, find 2 to 64 alike on a wide network.
GROUP = 8


class FrozenBatchNorm(nn.Module):
    """Batch norm that neither learns nor follows the batch: a fixed scale and shift per channel.

    Weight, bias, running mean and variance are buffers of the names that `nn.BatchNorm2d` gives
    them, so that a state of one can be loaded; as it is made it does nothing but divide by
    sqrt(1 + eps). Evaluation mode of an `nn.BatchNorm2d` is not enough for this: its weight and
    bias would still train.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, channels, H, W), scaled and shifted."""
        return F.batch_norm(
            features,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            False,
            0,
            self.eps,
        )


def norm_of(mode: NormMode) -> Callable[[int], nn.Module]:
    """The norm of a mode, as a function of the number of channels.

    `train` is batch norm with statistics of the batch in training, `frozen` a fixed scale and
    shift, `group` GroupNorm with 8 channels a group, which a batch's size does not matter to.
    """
    if mode == "group":
        return lambda channels: nn.GroupNorm(channels // GROUP, channels)
    return FrozenBatchNorm if mode == "frozen" else nn.BatchNorm2d


class Residual(nn.Module):
    """One block of He et al. (CVPR 2016, section 3.3): two 3 × 3 convolutions, or a bottleneck.

    A bottleneck is 1 × 1, 3 × 3 with the stride (as torchvision has it), and 1 × 1 to four times
    `width` channels. Where the shape changes, the shortcut is a 1 × 1 convolution.
    """

    def __init__(
        self, inputs: int, width: int, stride: int, block: Block, norm: Callable[[int], nn.Module]
    ):
        super().__init__()
        outputs = width * EXPANSION[block]
        if block == "basic":
            plan = [(inputs, width, 3, stride), (width, width, 3, 1)]
        else:
            plan = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        layers: list[nn.Module] = []
        for fan_in, fan_out, kernel, step in plan:
            layers += [_convolution(fan_in, fan_out, kernel, step), norm(fan_out), nn.ReLU()]
        self.branch = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_convolution(inputs, outputs, 1, stride), norm(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """relu(branch + shortcut)."""
        return F.relu(self.branch(features) + self.shortcut(features))


class ResNet(nn.Module):
    """Images (B, channels, H, W) to one feature map a stage, of strides 4, 8, 16 ...

    `blocks`: how many blocks each stage has; ResNet-18 is [2, 2, 2, 2] of `basic` at width 64,
    ResNet-50 [3, 4, 6, 3] of `bottleneck`. Stage i has width · 2^i channels (times 4 for
    bottlenecks). The stem is a 3 × 3 convolution of stride 2 and a 3 × 3 maximum of stride 2; the
    7 × 7 one of the paper is for images of 224 pixels. Initial weights: He et al., ICCV 2015.
    """

    def __init__(
        self,
        inputs: int = 3,
        *,
        width: int = 16,
        blocks: Sequence[int] = (1, 1, 1, 1),
        block: Block = "basic",
        norm: NormMode = "train",
    ):
        super().__init__()
        if problems := backbone_problems(width, blocks, norm):
            raise BadInput(problems)
        make = norm_of(norm)
        self.stem = nn.Sequential(
            _convolution(inputs, width, 3, 2), make(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.stages = nn.ModuleList()
        self.channels = [width * 2**i * EXPANSION[block] for i in range(len(blocks))]
        self.strides = [4 * 2**i for i in range(len(blocks))]
        channels = width
        for i, number in enumerate(blocks):
            stage: list[nn.Module] = []
            for j in range(number):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(Residual(channels, width * 2**i, stride, block, make))
                channels = self.channels[i]
            self.stages.append(nn.Sequential(*stage))

    def forward(self, images: Tensor) -> list[Tensor]:
        """The feature maps, finest first."""
        features = self.stem(images)
        maps = []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps


def backbone_problems(width: int, blocks: Sequence[int], norm: str) -> list[str]:
    """The mistakes in a backbone's settings, one line each."""
    problems = []
    if width < 1:
        problems.append(f"width: must be at least 1, got {width}")
    if norm == "group" and width % GROUP:
        problems.append(f"width: norm group needs a multiple of {GROUP}, got {width}")
    if not blocks or any(number < 1 for number in blocks):
        problems.append(f"blocks: give one or more stages of at least 1 block, got {list(blocks)}")
    return problems


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    """Without a bias, since a norm follows."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(cast(Tensor, layer.weight), mode="fan_out", nonlinearity="relu")
    return layer
