"""Greedy non-maximum suppression on the CPU."""

import numpy as np


def suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    groups: np.ndarray | None = None,
    limit: int | None = None,
) -> np.ndarray:
    """Indices (int64) of the boxes that greedy suppression keeps, the highest score first.

    In the order of their scores, a box is kept unless its IoU with one that was kept before is
    above `threshold`; only boxes of the same of `groups` (n,), say classes, suppress one another.
    `limit` ends after so many kept boxes. Ties in the score go to the box that comes first.
    `boxes` (n, 4), `scores` (n,); IoU is computed in the boxes' precision.

    One vectorised pass over what is left for every kept box; those that are left are looked at
    block by block, since with a limit most are never reached.

    >>> boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 3.9], [8, 8, 9, 9]], dtype=np.float32)
    >>> suppress(boxes, np.array([0.5, 0.9, 0.1]), 0.5).tolist()
    [1, 2]
    """
    order = np.argsort(-scores, kind="stable")
    limit = len(order) if limit is None else limit
    block = len(order) if limit >= len(order) else max(_BLOCK, 4 * limit)
    kept = np.empty(0, dtype=np.int64)
    for begin in range(0, len(order), max(block, 1)):
        part = order[begin : begin + block]
        table = _Table(boxes, groups, part)
        alive = ~_reached(boxes, groups, kept, table, threshold)
        found = _greedy(table, alive, threshold, limit - len(kept))
        kept = np.concatenate([kept, part[found]])
        if len(kept) >= limit:
            break
    return kept


# Boxes that are looked at together at least; passes over fewer cost the same.
_BLOCK = 1024


class _Table:
    """Columns of boxes, contiguous, with areas and groups."""

    def __init__(self, boxes: np.ndarray, groups: np.ndarray | None, rows: np.ndarray):
        self.left, self.top, self.right, self.bottom = np.ascontiguousarray(boxes[rows].T)
        self.area = (self.right - self.left) * (self.bottom - self.top)
        self.group = None if groups is None else np.asarray(groups)[rows]

    def close_to(self, other: "_Table", i: int, begin: int, threshold: float) -> np.ndarray:
        """Which boxes from `begin` on overlap box i of `other` by more than the threshold."""
        s = slice(begin, None)
        width = np.minimum(self.right[s], other.right[i])
        width -= np.maximum(self.left[s], other.left[i])
        height = np.minimum(self.bottom[s], other.bottom[i])
        height -= np.maximum(self.top[s], other.top[i])
        np.maximum(width, 0, out=width)
        np.maximum(height, 0, out=height)
        width *= height
        # common / union > threshold, without a division
        close = width > threshold * (self.area[s] + other.area[i] - width)
        if self.group is not None and other.group is not None:
            close &= self.group[s] == other.group[i]
        return close


def _reached(
    boxes: np.ndarray,
    groups: np.ndarray | None,
    kept: np.ndarray,
    table: _Table,
    threshold: float,
) -> np.ndarray:
    """Which boxes of a block are suppressed by boxes that earlier blocks kept."""
    gone = np.zeros(len(table.area), dtype=bool)
    earlier = _Table(boxes, groups, kept)
    for i in range(len(kept)):
        gone |= table.close_to(earlier, i, 0, threshold)
    return gone


def _greedy(table: _Table, alive: np.ndarray, threshold: float, limit: int) -> np.ndarray:
    found: list[int] = []
    i = 0
    while len(found) < limit:
        ahead = int(alive[i:].argmax()) if i < len(alive) else 0
        if i >= len(alive) or not alive[i + ahead]:
            break
        i += ahead
        found.append(i)
        alive[i + 1 :] &= ~table.close_to(table, i, i + 1, threshold)
        i += 1
    return np.array(found, dtype=np.int64)
