"""A detector's class scores judged anchor by anchor: cheap enough for every epoch."""

import numpy as np

from losslab.experiments.detection.assignment import IGNORED
from losslab.experiments.score_metrics import average_precision


def anchor_average_precision(logits: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """Each class's average precision over anchors, for the classes that have positive anchors.

    `logits` (n, A, K) or any scores that rise with them, `labels` (n, A) as in
    `assignment.Targets`; ignored anchors do not count, and positives of other classes are
    negatives. It ranks anchors: boxes, suppression and objects without a positive anchor have no
    part in it, so it is not COCO's AP.

    >>> logits = np.array([[[3.0], [1.0], [2.0], [9.0]]])
    >>> anchor_average_precision(logits, np.array([[0, 0, -1, -2]]))  # (1 + 2/3) / 2
    {0: 0.8333333333333333}
    """
    counted = labels != IGNORED
    scores, found = logits[counted], labels[counted]
    return {
        int(c): average_precision((found == c).astype(np.int64), np.ascontiguousarray(scores[:, c]))
        for c in np.unique(found[found >= 0])
    }
