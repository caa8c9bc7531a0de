"""Curves and bins of one run's predictions: precision and recall, ROC, reliability."""

import numpy as np

from losslab.experiments.score_metrics import ECE_BINS


def precision_at(positives: np.ndarray, negatives: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Precision at each recall r, as average precision reads it: a step function.

    `positives` and `negatives` are ascending scores. P_k of the highest threshold whose recall R_k
    is at least r, so that its area over r is AP = Σ (R_k − R_(k−1)) P_k. Straight lines between the
    points would promise more than any threshold gives (Davis and Goadrich 2006).

    >>> precision_at(np.array([0.4, 0.8]), np.array([0.1, 0.5]), np.array([0.5, 0.51]))
    array([1.        , 0.66666667])
    """
    thresholds, counts = np.unique(positives, return_counts=True)
    true = np.cumsum(counts[::-1])  # positives at or above, from the highest threshold down
    false = len(negatives) - np.searchsorted(negatives, thresholds[::-1], side="left")
    needed = np.asarray(recalls) * len(positives) * (1 - 1e-12)
    place = np.minimum(np.searchsorted(true, needed, side="left"), len(true) - 1)
    return (true / (true + false))[place]


def sensitivity_at(positives: np.ndarray, negatives: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """True positive rate at each false positive rate: straight lines, as ROC AUC's area has them.

    `positives` and `negatives` are ascending scores.

    >>> sensitivity_at(np.array([0.4, 0.8]), np.array([0.1, 0.5]), np.array([0.0, 0.25, 0.5, 1.0]))
    array([0.5, 0.5, 1. , 1. ])
    """
    thresholds, counts = np.unique(positives, return_counts=True)
    # the line is level between two scores of positives: the ends at each of these are all of it
    edges = thresholds[::-1]
    false = len(negatives) - np.stack([
        np.searchsorted(negatives, edges, side="right"),
        np.searchsorted(negatives, edges, side="left"),
    ])  # fmt: skip
    true = np.cumsum(counts[::-1]) - np.stack([counts[::-1], np.zeros_like(counts)])
    x = np.concatenate([[0], false.ravel(order="F"), [len(negatives)]])
    y = np.concatenate([[0], true.ravel(order="F"), [len(positives)]])
    # of several points at one rate `interp` takes the last, the upper end of a straight rise
    return np.interp(rates, x / len(negatives), y / len(positives))


def reliability_bins(
    targets: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS
) -> np.ndarray:
    """Rows: examples, mean confidence, mean outcome of the bins ((b−1)/bins, b/bins].

    Confidence and outcome as in `ece`, which is Σ n_b/N |confidence − outcome|: of class 1 for two
    classes, of the most likely class for more. NaN in empty bins.
    """
    if probabilities.ndim == 1:
        confidence, outcome = probabilities, targets == 1
    else:
        confidence, outcome = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    index = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    count = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=w, minlength=bins) for w in (confidence, outcome)]
    means = [np.where(count > 0, total / np.maximum(count, 1), np.nan) for total in sums]
    return np.array([count.astype(float), *means])
