"""Boxes of many images in a few arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Annotations:
    """The boxes of n images, one after the other.

    `offsets` int64 (n + 1,): image i has the boxes from `offsets[i]` up to `offsets[i + 1]`.
    `boxes` float32 (m, 4): x1, y1, x2, y2 in pixels of the stored image, continuous coordinates
    (the first pixel spans 0 to 1), x2 > x1 and y2 > y1. `labels` int64 (m,): classes from 0 on,
    none for background. `crowd` bool (m,): regions that are neither object nor background.
    `areas` float32 (m,): in original pixels, for COCO's size ranges.

    >>> two = Annotations.of_images([[[0, 0, 4, 2]], []], [[1], []])
    >>> len(two), two.of(0)[0].tolist(), two.of(1)[0].shape
    (2, [[0.0, 0.0, 4.0, 2.0]], (0, 4))
    """

    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray

    def __post_init__(self) -> None:
        boxes = len(self.boxes)
        lengths = {len(self.labels), len(self.crowd), len(self.areas), int(self.offsets[-1])}
        if lengths != {boxes} or self.boxes.shape != (boxes, 4):
            raise ValueError(f"annotations of {boxes} boxes have parts of lengths {lengths}")

    @classmethod
    def of_images(
        cls,
        boxes: Sequence[Sequence[Sequence[float]] | np.ndarray],
        labels: Sequence[Sequence[int] | np.ndarray],
        crowd: Sequence[Sequence[bool] | np.ndarray] | None = None,
        areas: Sequence[Sequence[float] | np.ndarray] | None = None,
    ) -> "Annotations":
        """From one sequence for each image; no crowd and the boxes' own areas if not given."""
        counts = [len(of_image) for of_image in boxes]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        parts = [np.asarray(of_image, dtype=np.float32).reshape(-1, 4) for of_image in boxes]
        flat = np.concatenate(parts) if parts else np.empty((0, 4), np.float32)

        def joined(of_images: Sequence[Sequence | np.ndarray], kind: type) -> np.ndarray:
            rows: list[np.ndarray] = [np.asarray(of_image, dtype=kind) for of_image in of_images]
            return np.concatenate(rows) if rows else np.empty(0, kind)

        return cls(
            offsets,
            flat,
            joined(labels, np.int64),
            np.zeros(len(flat), dtype=bool) if crowd is None else joined(crowd, np.bool_),
            box_areas(flat) if areas is None else joined(areas, np.float32),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """How many boxes each image has, crowd included (int64, (n,))."""
        return np.diff(self.offsets)

    @property
    def images(self) -> np.ndarray:
        """The image of every box (int64, (m,))."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.counts)

    def of(self, image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes, labels and crowd flags of one image (views, not copies)."""
        own = slice(int(self.offsets[image]), int(self.offsets[image + 1]))
        return self.boxes[own], self.labels[own], self.crowd[own]

    def take(self, images: Sequence[int] | np.ndarray) -> "Annotations":
        """The annotations of some images (indices), in the order given."""
        images = np.asarray(images, dtype=np.int64)
        counts = self.counts[images]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        # Row k of the result is row k - (start of its image there) + (start of its image here).
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[images] - offsets[:-1], counts)
        return Annotations(
            offsets, self.boxes[rows], self.labels[rows], self.crowd[rows], self.areas[rows]
        )

    def keep(self, mask: np.ndarray) -> "Annotations":
        """The same images with some of their boxes: those where `mask` (bool, (m,)) is true."""
        kept = np.bincount(self.images[mask], minlength=len(self))
        offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        return Annotations(
            offsets, self.boxes[mask], self.labels[mask], self.crowd[mask], self.areas[mask]
        )

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All arrays, in the order of the fields."""
        return self.offsets, self.boxes, self.labels, self.crowd, self.areas


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Width times height of boxes (m, 4), in the type of `boxes`."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
