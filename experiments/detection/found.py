"""What was detected in images, as arrays; read without importing torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detections:
    """What was detected in n images, ragged; within an image the highest score first.

    `offsets` int64 (n + 1,), `boxes` float32 (d, 4) in pixels of the stored image, `scores`
    float32 (d,) in [0, 1], `labels` int64 (d,): the class from 0 on.
    """

    offsets: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes, scores and labels of image i."""
        part = slice(self.offsets[i], self.offsets[i + 1])
        return self.boxes[part], self.scores[part], self.labels[part]


def join(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Detections:
    """Detections of boxes, scores and labels image by image."""
    offsets = np.concatenate([[0], np.cumsum([len(part[0]) for part in parts])]).astype(np.int64)
    boxes, scores, labels = zip(*parts, strict=True) if parts else ([], [], [])
    return Detections(
        offsets,
        np.concatenate([np.zeros((0, 4)), *boxes]).astype(np.float32),
        np.concatenate([np.zeros(0), *scores]).astype(np.float32),
        np.concatenate([np.zeros(0), *labels]).astype(np.int64),
    )
