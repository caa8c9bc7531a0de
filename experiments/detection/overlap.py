"""Overlap of boxes with boxes, in NumPy and float64."""

import numpy as np


def intersections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Areas of the intersections of boxes (n, 4) with boxes (m, 4): (n, m), float64.

    >>> intersections(np.array([[0, 0, 2, 2]]), np.array([[1, 1, 3, 3], [5, 5, 6, 6]])).tolist()
    [[1.0, 0.0]]
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    width = np.minimum(a[:, None, 2], b[None, :, 2])
    width -= np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3])
    height -= np.maximum(a[:, None, 1], b[None, :, 1])
    np.maximum(width, 0, out=width)
    np.maximum(height, 0, out=height)
    return width * height


def areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of boxes (n, 4), float64."""
    b = np.asarray(boxes, dtype=np.float64)
    return (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) with boxes (m, 4): (n, m), float64.

    All boxes have an area; one without gives nan where the union is empty too.

    >>> iou(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 1]])).tolist()
    [[0.5]]
    """
    common = intersections(first, second)
    return common / (areas(first)[:, None] + areas(second)[None, :] - common)
