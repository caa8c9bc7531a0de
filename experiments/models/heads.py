"""The last layer of a model: linear, or cosines for losses that scale and shift them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CosineLinear(nn.Module):
    """Cosines between features and class vectors, both normalised; no bias.

    Features (..., d) to logits (..., outputs) in [-1, 1], as LDAM takes them (Cao et al., NeurIPS
    2019).

    >>> CosineLinear(8, 3)(torch.ones(2, 8)).abs().max() <= 1
    tensor(True)
    """

    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, features))
        nn.init.normal_(self.weight)  # a direction drawn evenly over the sphere

    def forward(self, features: Tensor) -> Tensor:
        """The cosines."""
        return F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))

    def extra_repr(self) -> str:
        """Sizes, for `repr`."""
        return f"in_features={self.weight.shape[1]}, out_features={self.weight.shape[0]}"


def last_layer(head: str, features: int, outputs: int) -> nn.Module:
    """The last layer of a `head`: linear or cosine."""
    return CosineLinear(features, outputs) if head == "cosine" else nn.Linear(features, outputs)
