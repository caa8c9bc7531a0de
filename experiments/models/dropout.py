"""Dropout, put into any model."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from losslab.errors import BadInput
from losslab.experiments.models.activations import KINDS
from losslab.experiments.models.heads import CosineLinear

#: What a last layer may be.
LAST = (nn.Linear, nn.modules.conv._ConvNd, CosineLinear)


def apply(
    model: nn.Module,
    *,
    p: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    place: Literal["hidden", "last"] = "hidden",
) -> nn.Module:
    """Set a share `p` of numbers to 0 in training, others times 1 / (1 - p) (Srivastava 2014).

    - `hidden`: behind every activation layer. A batch norm further on then sees another variance in
      training than in evaluation (Li et al., CVPR 2019).
    - `last`: only before the last layer, where no batch norm follows, as they advise.

    Numbers are dropped one by one, in maps too. With dropout a model trains by the plain engine.
    Raises `BadInput` where a model has no activation layer, or no last one.

    >>> apply(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)), p=0.1)[1]
    Sequential(
      (0): ReLU()
      (1): Dropout(p=0.1, inplace=False)
    )
    """
    kinds = KINDS if place == "hidden" else LAST
    places = [
        (parent, name)
        for parent in list(model.modules())
        for name, child in parent._modules.items()
        if isinstance(child, kinds)
    ]
    if not places:
        what = "activation layer" if place == "hidden" else "last layer"
        raise BadInput(f"place: {place} needs a model with {'an' * (place == 'hidden')} {what}")
    for parent, name in places if place == "hidden" else places[-1:]:
        layer = parent._modules[name]
        assert layer is not None
        order = [layer, nn.Dropout(p)] if place == "hidden" else [nn.Dropout(p), layer]
        parent._modules[name] = nn.Sequential(*order)
    return model
