"""A compact residual network: the backbone of detectors."""

from collections.abc import Callable, Sequence
from typing import Literal, cast

from torch import Tensor, nn

from losslab.errors import BadInput
from losslab.experiments.models.batch_norm import FrozenBatchNorm

NormMode = Literal["train", "frozen", "group"]
Block = Literal["basic", "bottleneck"]
EXPANSION = {"basic": 1, "bottleneck": 4}
# GroupNorm's channels a group; Wu and He, ECCV 2018, table 3, find 2 to 64 alike on a wide network.
GROUP = 8


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
    `width` channels. Where the shape changes, the shortcut is a 1 × 1 convolution. Without
    `shortcuts` it is the same branch alone, a block of a plain network. `dilation` is that of the
    3 × 3 convolutions.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        block: Block,
        norm: Callable[[int], nn.Module],
        shortcuts: bool = True,
        dilation: int = 1,
    ):
        super().__init__()
        outputs = width * EXPANSION[block]
        if block == "basic":
            plan = [(inputs, width, 3, stride), (width, width, 3, 1)]
        else:
            plan = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        layers: list[nn.Module] = []
        for fan_in, fan_out, kernel, step in plan:
            convolution = _convolution(fan_in, fan_out, kernel, step, dilation)
            layers += [convolution, norm(fan_out), nn.ReLU()]
        self.branch = nn.Sequential(*layers[:-1])
        self.activation = nn.ReLU()
        self.shortcut: nn.Module | None = nn.Identity() if shortcuts else None
        if shortcuts and (stride != 1 or inputs != outputs):
            self.shortcut = nn.Sequential(_convolution(inputs, outputs, 1, stride), norm(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """activation(branch + shortcut), or activation(branch); as it is built, a ReLU."""
        branch: Tensor = self.branch(features)
        if self.shortcut is not None:
            branch = branch + self.shortcut(features)
        found: Tensor = self.activation(branch)
        return found


class ResNet(nn.Module):
    """Images (B, channels, H, W) to one feature map a stage, of strides 4, 8, 16 ...

    `blocks`: how many blocks each stage has; ResNet-18 is [2, 2, 2, 2] of `basic` at width 64,
    ResNet-50 [3, 4, 6, 3] of `bottleneck`. Stage i has width · 2^i channels (times 4 for
    bottlenecks). The stem is a 3 × 3 convolution of stride 2 and a 3 × 3 maximum of stride 2; the
    7 × 7 one of the paper is for images of 224 pixels. Initial weights: He et al., ICCV 2015.

    With `output_stride`, stages that would go beyond that stride keep the size of their maps, and
    their 3 × 3 convolutions are dilated by as much (Yu and Koltun, ICLR 2016), all of them, as in
    PSPNet's code.
    """

    def __init__(
        self,
        inputs: int = 3,
        *,
        width: int = 16,
        blocks: Sequence[int] = (1, 1, 1, 1),
        block: Block = "basic",
        norm: NormMode = "train",
        output_stride: int | None = None,
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
        whole = [4 * 2**i for i in range(len(blocks))]
        self.strides = [min(stride, output_stride or stride) for stride in whole]
        channels = width
        for i, number in enumerate(blocks):
            stage: list[nn.Module] = []
            dilation = whole[i] // self.strides[i]
            for j in range(number):
                stride = self.strides[i] // self.strides[i - 1] if i > 0 and j == 0 else 1
                inner = width * 2**i
                stage.append(Residual(channels, inner, stride, block, make, dilation=dilation))
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


def small_stem(inputs: int, width: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    """The first layer for small images: a 3 × 3 convolution of stride 1, norm, ReLU."""
    return nn.Sequential(_convolution(inputs, width, 3, 1), norm(width), nn.ReLU())


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int, dilation: int = 1
) -> nn.Conv2d:
    """Without a bias, since a norm follows."""
    padding = kernel // 2 * dilation
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    nn.init.kaiming_normal_(cast(Tensor, layer.weight), mode="fan_out", nonlinearity="relu")
    return layer
