"""Initial weights, drawn anew by one rule for all layers of a model."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from losslab.errors import BadInput

Scheme = Literal[
    "xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "orthogonal", "normal"
]
#: Layers whose weights are drawn: linear ones and convolutions.
DRAWN = (nn.Linear, nn.modules.conv._ConvNd)


def apply(
    model: nn.Module,
    *,
    scheme: Scheme = "he_normal",
    std: Annotated[float, Field(gt=0)] = 0.01,
) -> nn.Module:
    """Draw the weights of all linear layers and convolutions by one rule; biases start at 0.

    - `xavier_uniform`, `xavier_normal`: variance 2 / (fan in + fan out) (Glorot, Bengio, AISTATS
      2010), made for activations of slope 1 around 0.
    - `he_uniform`, `he_normal`: variance 2 / fan in (He et al., ICCV 2015), made for ReLU.
    - `orthogonal`: rows or columns that are orthogonal, of length 1 (Saxe et al., ICLR 2014).
    - `normal`: standard deviation `std`, whatever the size of the layer.

    The last layer is drawn too; norms, and a last layer of cosines, stay as they are. Without this
    setting a model begins as its author has it: torch's own layers uniform with variance
    1 / (3 fan in). Raises `BadInput` where a model has no such layer.
    """
    layers = [module for module in model.modules() if isinstance(module, DRAWN)]
    if not layers:
        raise BadInput("scheme: this model has neither linear layers nor convolutions")
    for layer in layers:
        if scheme == "normal":
            nn.init.normal_(layer.weight, std=std)
        elif scheme == "orthogonal":
            nn.init.orthogonal_(layer.weight)
        elif scheme == "xavier_uniform":
            nn.init.xavier_uniform_(layer.weight)
        elif scheme == "xavier_normal":
            nn.init.xavier_normal_(layer.weight)
        elif scheme == "he_uniform":
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        else:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model
