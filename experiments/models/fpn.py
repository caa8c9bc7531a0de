"""A feature pyramid network: maps of one width at every stride."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class FPN(nn.Module):
    """Backbone maps to pyramid levels of `width` channels (Lin et al., CVPR 2017).

    A 1 × 1 convolution of each backbone map, plus the coarser level enlarged by nearest
    neighbours, smoothed by a 3 × 3 convolution. `extra` coarser levels follow as in RetinaNet (Lin
    et al. 2017, section 4): a 3 × 3 convolution of stride 2 on the last backbone map, then ReLU
    and another one on each level after it. `channels`: of the backbone maps, finest first; each
    map has half the rows and columns (rounded up) of the one before.
    """

    def __init__(self, channels: Sequence[int], width: int, extra: int = 0):
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(given, width, 1) for given in channels])
        self.smooth = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in channels])
        fans = [channels[-1], *[width] * (extra - 1)][:extra]
        self.extra = nn.ModuleList([nn.Conv2d(fan, width, 3, 2, padding=1) for fan in fans])
        self.activation = nn.ReLU()
        for layer in [*self.lateral, *self.smooth, *self.extra]:
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The levels, finest first."""
        merged: list[Tensor] = []
        above: Tensor | None = None
        for lateral, features in zip(reversed(self.lateral), reversed(maps), strict=True):
            level = lateral(features)
            if above is not None:
                # To the size of the finer map: an odd number of rows is not twice the coarser.
                level = level + F.interpolate(above, size=level.shape[-2:], mode="nearest-exact")
            merged.append(level)
            above = level
        levels = [
            smooth(level) for smooth, level in zip(self.smooth, reversed(merged), strict=True)
        ]
        features = maps[-1]
        for index, layer in enumerate(self.extra):
            features = layer(self.activation(features) if index else features)
            levels.append(features)
        return levels
