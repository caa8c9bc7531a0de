"""Scaling of the inputs, fitted on the training split and kept with the weights."""

from typing import Literal

import torch
from torch import Tensor, nn


class Scaling(nn.Module):
    """(features - shift) * factor, with both as buffers of the features' shape."""

    shift: Tensor
    factor: Tensor

    def __init__(self, shift: Tensor, factor: Tensor):
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("factor", factor)

    def forward(self, features: Tensor) -> Tensor:
        """The scaled features."""
        return (features - self.shift) * self.factor


def apply(
    model: nn.Module,
    *,
    method: Literal["none", "min_max", "standardise", "both"] = "standardise",
    features: Tensor,
) -> nn.Module:
    """Scale what goes into a model, each feature by itself (of images: each channel).

    - `none`: as it is.
    - `min_max`: to [0, 1] on the training split; other splits may lie outside.
    - `standardise`: to mean 0 and variance 1 on the training split.
    - `both`: to [0, 1], and that standardised. Both are affine maps, so this is `standardise` but
      for rounding; it is here since it is often recommended.

    A feature that never changes is shifted, not scaled.

    >>> rows = torch.tensor([[0.0, 5.0], [10.0, 5.0]])
    >>> apply(nn.Identity(), method="min_max", features=rows)(rows)
    tensor([[0., 0.],
            [1., 0.]])
    """
    if method == "none":
        return model
    # Of rows (n, d) and anchors (n, anchors, d) the last dimension, of images the channels.
    kept = 1 if features.ndim == 4 else features.ndim - 1
    others = [dimension for dimension in range(features.ndim) if dimension != kept]
    values = features.double().cpu()
    low, high = values.amin(others, keepdim=True), values.amax(others, keepdim=True)
    moved, factor = low, _inverse(high - low)
    if method in ("standardise", "both"):
        inner = (values - moved) * factor if method == "both" else values
        mean = inner.mean(others, keepdim=True)
        spread = _inverse(inner.std(others, correction=0, keepdim=True))
        if method == "both":
            # ((x - low) f - mean) s = (x - (low + mean / f)) f s
            moved, factor = moved + mean / factor, factor * spread
        else:
            moved, factor = mean, spread
    moved = moved.to(features.dtype).squeeze(0)
    return nn.Sequential(Scaling(moved, factor.to(features.dtype).squeeze(0)), model)


def _inverse(spread: Tensor) -> Tensor:
    return torch.where(spread > 0, 1 / spread, 1.0)
