"""A residual network for small images, and the plain network of the same layers."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from losslab.errors import BadInput
from losslab.experiments.models.heads import last_layer
from losslab.experiments.models.resnet import (
    EXPANSION,
    Block,
    NormMode,
    Residual,
    backbone_problems,
    norm_of,
    small_stem,
)


def build(
    input_shape: Sequence[int],
    outputs: int,
    *,
    shortcuts: bool = True,
    blocks: list[int] | None = None,
    width: int = 8,
    block: Block = "basic",
    norm: NormMode = "train",
    head: Literal["linear", "cosine"] = "linear",
) -> nn.Module:
    """A residual network as He et al. (CVPR 2016, section 4.2) build it for small images.

    - `shortcuts`: false leaves them out: the plain network with the same branches.
    - `blocks`: blocks of each stage (default 3, 3, 3); [n, n, n] of `basic` is ResNet-(6n + 2).
    - `width`: channels of the first stage; each further one has twice as many at half the side.
    - `block`: `basic`, or `bottleneck` with four times the channels.
    - `norm`: `train` is batch norm, `frozen` a fixed scale and shift, `group` GroupNorm.
    - `head`: `linear`, or `cosine` for losses of cosines.

    A 3 × 3 convolution, the stages, global average pooling, one last layer. Unlike the backbone of
    the detectors, nothing is downsampled before the first stage. Where a stage changes the shape,
    the shortcut is a 1 × 1 convolution with its norm. Needs image features (channels, height,
    width); `BadInput` otherwise.
    """
    blocks = [3, 3, 3] if blocks is None else blocks
    problems = backbone_problems(width, blocks, norm)
    if len(input_shape) != 3:
        problems.append(
            "name: resnet needs images (channels, height, width), and this dataset's examples have "
            f"the shape {tuple(input_shape)}; use mlp, or as_images: true where a dataset has it"
        )
    if problems:
        raise BadInput(problems)
    make = norm_of(norm)
    layers: list[nn.Module] = [small_stem(input_shape[0], width, make)]
    channels = width
    for stage, number in enumerate(blocks):
        for place in range(number):
            stride = 2 if stage > 0 and place == 0 else 1
            inner = width * 2**stage
            layers.append(Residual(channels, inner, stride, block, make, shortcuts))
            channels = inner * EXPANSION[block]
    last = last_layer(head, channels, outputs)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
