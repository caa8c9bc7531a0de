"""What segmentation datasets share: pixels as features, and classes of pixels as targets."""

import numpy as np

from losslab.datasets.base import Dataset, TaskKind


class SegmentationDataset(Dataset):
    """A dataset whose examples are images with a class for every pixel; nothing is fitted.

    Of a split, `features` is float32 (n, 3, H, W) in [-1, 1], `targets` int64 (n, H, W): the
    pixel's class, or -1 where a pixel neither trains nor counts. Class counts are of pixels.
    """

    task: TaskKind = "segmentation"


def scaled(images: np.ndarray) -> np.ndarray:
    """Pixels uint8, 0 to 255, as float32 in [-1, 1].

    >>> scaled(np.array([0, 255], dtype=np.uint8)).tolist()
    [-1.0, 1.0]
    """
    values = images.astype(np.float32)
    values /= 127.5
    values -= 1
    return values
