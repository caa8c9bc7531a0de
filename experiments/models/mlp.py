"""A multi-layer perceptron."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from losslab.errors import BadInput
from losslab.experiments.models.activations import ACTIVATIONS, Activation
from losslab.experiments.models.heads import last_layer


def build(
    input_shape: Sequence[int],
    outputs: int,
    *,
    hidden: list[int] | None = None,
    depth: int | None = None,
    width: int | None = None,
    activation: Activation = "relu",
    head: Literal["linear", "cosine"] = "linear",
) -> nn.Module:
    """Linear layers of the `hidden` widths (default 64, 64; [] for a linear model).

    `depth` hidden layers of `width` (64) units say the same in numbers that can be searched or be
    levels.

    It acts on the last dimension, so rows (n, d) and anchors (n, anchors, d) both work; images
    (n, channels, height, width) are flattened. `head: cosine` ends in cosines of normalised
    features and weights, for losses that ask for them.

    >>> build((4,), 1, hidden=[8])
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): ReLU()
      (2): Linear(in_features=8, out_features=1, bias=True)
    )
    """
    layers: list[nn.Module] = []
    size = input_shape[-1]
    if len(input_shape) == 3:
        layers.append(nn.Flatten())
        size = input_shape[0] * input_shape[1] * input_shape[2]
    for units in _widths(hidden, depth, width):
        layers += [nn.Linear(size, units), ACTIVATIONS[activation]()]
        size = units
    return nn.Sequential(*layers, last_layer(head, size, outputs))


def _widths(hidden: list[int] | None, depth: int | None, width: int | None) -> list[int]:
    """The widths of the hidden layers; `BadInput` where they are told twice or make no sense."""
    if hidden is not None and (depth is not None or width is not None):
        raise BadInput("hidden: give either the widths, or depth and width")
    if depth is not None and depth < 0:
        raise BadInput(f"depth: must be at least 0, got {depth}")
    if hidden is None:
        hidden = [64 if width is None else width] * (2 if depth is None else depth)
    if any(units < 1 for units in hidden):
        where = "hidden: widths" if width is None else "width:"
        raise BadInput(f"{where} must be at least 1, got {hidden if width is None else width}")
    return hidden
