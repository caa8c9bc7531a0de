"""A small convolutional network."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from losslab.errors import BadInput
from losslab.experiments.models.heads import last_layer


def build(
    input_shape: Sequence[int],
    outputs: int,
    *,
    channels: list[int] | None = None,
    head: Literal["linear", "cosine"] = "linear",
) -> nn.Module:
    """3 × 3 convolutions of the `channels` (default 16, 32), each but the first with stride 2.

    Global average pooling and one last layer follow: linear, or `head: cosine` for losses of
    cosines. Needs image features (channels, height,
    width); `BadInput` otherwise.
    """
    channels = [16, 32] if channels is None else channels
    if not channels or any(width < 1 for width in channels):
        raise BadInput(f"channels: give at least one width, all at least 1, got {channels}")
    if len(input_shape) != 3:
        raise BadInput(
            f"name: cnn needs images (channels, height, width), and this dataset's examples have "
            f"the shape {tuple(input_shape)}; use mlp, or as_images: true where a dataset has it"
        )
    layers: list[nn.Module] = []
    width = input_shape[0]
    for index, units in enumerate(channels):
        layers += [nn.Conv2d(width, units, 3, stride=min(index, 1) + 1, padding=1), nn.ReLU()]
        width = units
    last = last_layer(head, width, outputs)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
