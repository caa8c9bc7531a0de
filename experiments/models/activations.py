"""Activations: the five that are compared, the ranges of their slopes, and putting one in.

With L layers the gradient of the first one's weights has L - 1 slopes of activations as factors,
each at most the greatest of `SLOPES`: 1/4 for sigmoid, so 8 sigmoids lose a factor of at least
4^7 unless the weights make up for it.
"""

from typing import Literal

from torch import nn

from losslab.errors import BadInput

Activation = Literal["relu", "leaky_relu", "gelu", "tanh", "sigmoid"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
#: Least and greatest slope of each (limits included). GELU's are at -sqrt 2 and sqrt 2, where its
#: second derivative (2 - x^2) phi(x) is 0: Phi(s) + s phi(s).
SLOPES = {
    "relu": (0.0, 1.0),
    "leaky_relu": (0.01, 1.0),
    "gelu": (-0.12890415, 1.12890415),
    "tanh": (0.0, 1.0),
    "sigmoid": (0.0, 0.25),
}
#: What counts as an activation: torch's layers that act on every number by itself.
KINDS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU),
    *(nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign, nn.Tanh, nn.Sigmoid, nn.LogSigmoid),
    *(nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink),
)


def apply(model: nn.Module, *, function: Activation = "relu") -> nn.Module:
    """Put `function` in the place of every activation layer of a model.

    `relu`, `leaky_relu` (slope 0.01 below 0), `gelu`, `tanh` or `sigmoid`. Every layer that is an
    activation by itself is replaced, gates too; what a model computes by functions is out of reach.
    Raises `BadInput` where there is none.

    >>> apply(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), function="tanh")
    Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): Tanh()
    )
    """
    places = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if isinstance(child, KINDS)
    ]
    if not places:
        raise BadInput("function: this model has no activation layer to replace")
    for parent, name in places:
        parent._modules[name] = ACTIVATIONS[function]()
    return model
