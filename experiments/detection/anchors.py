"""Anchors: the boxes that a dense detector classifies, in the order of its outputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from losslab.errors import BadInput


@dataclass(frozen=True)
class AnchorSettings:
    """Which anchors there are, as RetinaNet has them (Lin et al. 2017, section 4, "Anchors").

    A level of stride s has at every cell an anchor for each of `scales` sizes size · s · 2^(k /
    scales), k = 0 ... scales - 1, and each of `aspects`, height over width at equal area. The
    paper's: strides 8 to 128, size 4 (so 32 to 512 pixels), 3 scales, aspects 1:2, 1:1, 2:1.

    >>> AnchorSettings(strides=(8,)).per_cell
    9
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    scales: int = 3
    aspects: tuple[float, ...] = (0.5, 1.0, 2.0)
    size: float = 4.0

    def __post_init__(self) -> None:
        problems = []
        if not self.strides or list(self.strides) != sorted(set(self.strides)):
            problems.append(f"strides: give one or more, ascending, got {list(self.strides)}")
        if any(stride < 1 for stride in self.strides):
            problems.append(f"strides: must be at least 1, got {list(self.strides)}")
        if self.scales < 1:
            problems.append(f"scales: must be at least 1, got {self.scales}")
        if not self.aspects or any(aspect <= 0 for aspect in self.aspects):
            problems.append(f"aspects: give one or more, all above 0, got {list(self.aspects)}")
        if self.size <= 0:
            problems.append(f"size: must be above 0, got {self.size}")
        if problems:
            raise BadInput(problems)

    @property
    def per_cell(self) -> int:
        """How many anchors a cell of a feature map has."""
        return self.scales * len(self.aspects)

    def shapes(self, stride: int) -> np.ndarray:
        """Widths and heights of the anchors of one cell, (per_cell, 2): by scale, then aspect.

        >>> AnchorSettings(scales=1, aspects=(4.0,)).shapes(8).tolist()
        [[16.0, 64.0]]
        """
        sizes = self.size * stride * 2.0 ** (np.arange(self.scales) / self.scales)
        root = np.sqrt(np.asarray(self.aspects, dtype=np.float64))
        shapes = np.stack([sizes[:, None] / root, sizes[:, None] * root], axis=-1)
        return shapes.reshape(-1, 2)


@dataclass(frozen=True)
class Anchors:
    """The anchors of one image size, in the order (level, y, x, anchor of the cell).

    `boxes` is float32 (A, 4) and may reach beyond the image; `grids` has each level's rows and
    columns.
    """

    settings: AnchorSettings
    height: int
    width: int
    boxes: np.ndarray
    grids: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def per_level(self) -> tuple[int, ...]:
        """How many anchors each level has."""
        return tuple(rows * columns * self.settings.per_cell for rows, columns in self.grids)


def grid_of(settings: AnchorSettings, height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each level: what convolutions of stride 2 and padding 1 leave.

    >>> grid_of(AnchorSettings(strides=(8, 16)), 100, 64)
    ((13, 8), (7, 4))
    """
    return tuple((-(-height // stride), -(-width // stride)) for stride in settings.strides)


def make_anchors(settings: AnchorSettings, height: int, width: int) -> Anchors:
    """The anchors of images of `height` × `width` pixels.

    The cell in row i and column j of a level of stride s has its centre at ((j + 1/2) s,
    (i + 1/2) s), so that the anchors of a mirrored image are the mirrored anchors; Detectron and
    torchvision differ from this by less than one stride.

    >>> anchors = make_anchors(AnchorSettings(strides=(8,), scales=1, aspects=(1.0,)), 8, 16)
    >>> anchors.boxes.tolist()
    [[-12.0, -12.0, 20.0, 20.0], [-4.0, -12.0, 28.0, 20.0]]
    """
    grids = grid_of(settings, height, width)
    levels = [
        _level(settings.shapes(stride), stride, rows, columns)
        for stride, (rows, columns) in zip(settings.strides, grids, strict=True)
    ]
    return Anchors(settings, height, width, np.concatenate(levels).astype(np.float32), grids)


def _level(shapes: np.ndarray, stride: int, rows: int, columns: int) -> np.ndarray:
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    centres = (np.stack([x, y], axis=-1).reshape(-1, 1, 2) + 0.5) * stride
    return np.concatenate([centres - shapes / 2, centres + shapes / 2], axis=-1).reshape(-1, 4)


def flip_permutation(anchors: Anchors) -> np.ndarray:
    """Which anchor lies, mirrored left to right, on each anchor: int64 (A,).

    With x' = width - x, the target of anchor i of a mirrored image is that of anchor
    `flip_permutation(anchors)[i]` of the image. The permutation is its own inverse. Raises
    `BadInput` where a level's columns do not fill the width, since mirrored anchors then lie
    between the others.
    """
    partial = [s for s in anchors.settings.strides if anchors.width % s]
    if partial:
        raise BadInput(
            f"strides: flipped targets need an image width that every stride divides; "
            f"{anchors.width} is no multiple of {', '.join(map(str, partial))}"
        )
    place = np.arange(len(anchors), dtype=np.int64)
    parts = np.split(place, np.cumsum(anchors.per_level)[:-1])
    flipped = [
        part.reshape(rows, columns, -1)[:, ::-1].reshape(-1)
        for part, (rows, columns) in zip(parts, anchors.grids, strict=True)
    ]
    return np.concatenate(flipped)


def describe(settings: AnchorSettings, height: int, width: int) -> Sequence[dict[str, float]]:
    """Each level's stride, number of anchors and sizes in pixels, for records and tables."""
    grids = grid_of(settings, height, width)
    return [
        {
            "stride": stride,
            "anchors": rows * columns * settings.per_cell,
            "smallest": settings.size * stride,
            "largest": settings.size * stride * 2.0 ** ((settings.scales - 1) / settings.scales),
        }
        for stride, (rows, columns) in zip(settings.strides, grids, strict=True)
    ]
