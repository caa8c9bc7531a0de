"""Mask files: class indices read from PNG, scaled without mixing classes."""

from pathlib import Path

import numpy as np
from PIL import Image

from losslab.datasets.base import IGNORE
from losslab.datasets.detection.images import Unreadable, stored_size

INDEXED = ("1", "L", "P", "I", "I;16", "I;16B")  # Pillow's modes of one whole number a pixel


def read_mask(file: Path) -> np.ndarray:
    """The class indices of a mask, int64 (height, width); of a palette image its indices.

    Raises `Unreadable` where the file is no image, or one of colours.
    """
    try:
        with Image.open(file) as image:
            if image.mode not in INDEXED:
                raise Unreadable(
                    "mask of colours",
                    f"its pixels are {image.mode}, not class indices; save it as grey levels or "
                    f"with a palette",
                )
            return np.asarray(image).astype(np.int64)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        text = str(error).replace(str(file), file.name) or type(error).__name__
        raise Unreadable("broken mask", text) from error


def fit_mask(mask: np.ndarray, scale: float, canvas: tuple[int, int]) -> np.ndarray:
    """The mask (h, w) scaled as `images.fit` scales its picture, int16 (*canvas); the rest is -1.

    Each stored pixel has the class of the original pixel under its centre.

    >>> fit_mask(np.array([[1, 2], [3, 4]]), 2.0, (4, 5)).tolist()[1:3]
    [[1, 1, 2, 2, -1], [3, 3, 4, 4, -1]]
    """
    height, width = mask.shape
    sides = zip(stored_size(width, height, scale), canvas, strict=True)
    rows, columns = (min(pair) for pair in sides)
    at = [
        np.minimum(((np.arange(count) + 0.5) / scale).astype(np.int64), side - 1)
        for count, side in ((rows, height), (columns, width))
    ]
    stored = np.full(canvas, IGNORE, dtype=np.int16)
    stored[:rows, :columns] = mask[np.ix_(*at)]
    return stored
