"""A multi-layer perceptron."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from losslab.errors import BadInput
from losslab.experiments.models.heads import last_layer

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def build(
    input_shape: Sequence[int],
    outputs: int,
    *,
    hidden: list[int] | None = None,
    activation: Literal["relu", "gelu", "tanh"] = "relu",
    head: Literal["linear", "cosine"] = "linear",
) -> nn.Module:
    """Linear layers of the `hidden` widths (default 64, 64; [] for a linear model).

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
    hidden = [64, 64] if hidden is None else hidden
    if any(width < 1 for width in hidden):
        raise BadInput(f"hidden: widths must be at least 1, got {hidden}")
    layers: list[nn.Module] = []
    width = input_shape[-1]
    if len(input_shape) == 3:
        layers.append(nn.Flatten())
        width = input_shape[0] * input_shape[1] * input_shape[2]
    for units in hidden:
        layers += [nn.Linear(width, units), ACTIVATIONS[activation]()]
        width = units
    return nn.Sequential(*layers, last_layer(head, width, outputs))
