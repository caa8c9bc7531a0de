"""Metrics of scores: ranking (any monotone score) and probabilities. See docs/metrics.md."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np

Direction = Literal["maximize", "minimize"]
#: What a metric reads: ranking, probability, decision; a task may have metrics of another kind.
Kind = str
F = TypeVar("F", bound=Callable[..., Any])
ECE_BINS = 15


def marked(direction: Direction, kind: Kind, shares: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Say of a metric function which way is better and what it reads.

    `ranking` and `probability` metrics are called with probabilities, `decision` metrics with
    predicted classes. A function that is not marked is called with probabilities. `shares` names
    the intermediate results (`ranked`, `confusion`, `train_class_counts`) that a built-in metric
    takes besides.

    >>> @marked("minimize", "decision")
    ... def error_rate(targets, predicted): return float(np.mean(targets != predicted))
    >>> error_rate.direction
    'minimize'
    """

    def mark(function: F) -> F:
        vars(function).update(direction=direction, kind=kind, shares=shares)
        return function

    return mark


@marked("maximize", "ranking", shares=("ranked",))
def average_precision(
    targets: np.ndarray, probabilities: np.ndarray, *, ranked: "Ranked | None" = None
) -> float:
    """Average precision: sum over thresholds of (R_k - R_(k-1)) · P_k.

    Of class 1 for two classes, else the mean over the classes that have targets, each against the
    rest; equals `sklearn.metrics.average_precision_score`. NaN where all targets are one class.

    >>> round(average_precision(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.5, 0.8])), 4)
    0.8333
    """
    return (ranked or Ranked(targets, probabilities)).macro(_average_precision)


@marked("maximize", "ranking", shares=("ranked",))
def roc_auc(
    targets: np.ndarray, probabilities: np.ndarray, *, ranked: "Ranked | None" = None
) -> float:
    """Area under the ROC curve: P(positive above negative) + P(tie) / 2.

    Of class 1 for two classes, else the mean over the classes that have targets, each against the
    rest; equals `sklearn.metrics.roc_auc_score`. NaN where all targets are one class.

    >>> roc_auc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.5, 0.8]))
    0.75
    """
    return (ranked or Ranked(targets, probabilities)).macro(_roc_auc)


@marked("minimize", "probability")
def log_loss(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of -log p(target), probabilities clipped to [eps, 1 - eps] of their type.

    Equals `sklearn.metrics.log_loss`; in nats. For two classes p(0) is 1 - p(1).

    >>> round(log_loss(np.array([0, 1]), np.array([0.5, 0.25])), 4)
    1.0397
    """
    values = np.asarray(probabilities)
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    if values.ndim == 1:
        chosen = np.where(np.asarray(targets) == 1, values, 1 - values)
    else:
        chosen = values[np.arange(len(values)), targets]
    eps = np.finfo(values.dtype).eps
    return float(-np.log(np.clip(chosen, eps, 1 - eps).astype(np.float64)).mean())


@marked("minimize", "probability")
def ece(targets: np.ndarray, probabilities: np.ndarray, *, bins: int = ECE_BINS) -> float:
    """Expected calibration error: sum over bins of (n_b / N) · |mean outcome - mean confidence|.

    Guo et al. 2017, eq. 3, `bins` bins of equal width, ((b-1)/bins, b/bins]. For two classes the
    confidence is p(class 1) and the outcome whether the target is 1; for more the confidence is
    the largest probability and the outcome whether that class is the target.

    >>> round(ece(np.array([0, 1, 1, 1]), np.array([0.9, 0.9, 0.9, 0.9])), 4)
    0.15
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim == 1:
        confidence, outcome = values, np.asarray(targets) == 1
    else:
        confidence, outcome = values.max(axis=1), values.argmax(axis=1) == targets
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    index = np.searchsorted(edges, confidence, side="left")
    gaps = np.bincount(index, weights=outcome - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


@marked("minimize", "probability")
def brier(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Brier score: mean (p(1) - y)^2 for two classes, mean of sum_c (p_c - y_c)^2 for more.

    Equals `sklearn.metrics.brier_score_loss` with its default `scale_by_half="auto"`, so two
    classes give values in [0, 1] and more give values in [0, 2].

    >>> round(brier(np.array([0, 1]), np.array([0.2, 0.6])), 4)
    0.1
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim == 1:
        return float(((values - (np.asarray(targets) == 1)) ** 2).mean())
    # sum (p_c - y_c)^2 = sum p_c^2 - 2 p_target + 1, without building the one-hot matrix.
    own = values[np.arange(len(values)), targets]
    return float((np.einsum("nk,nk->n", values, values) - 2 * own + 1).mean())


class Ranked:
    """Sorted scores of every class, made when first asked for and shared by the metrics.

    Positives and negatives are sorted apart: sorting values is several times faster than sorting
    indices, and average precision and ROC AUC need no more than ranks of positives.
    """

    def __init__(self, targets: np.ndarray, probabilities: np.ndarray):
        self._targets = np.asarray(targets)
        self._scores = np.asarray(probabilities)
        self._curves: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def curve(self, c: int) -> tuple[np.ndarray, np.ndarray]:
        """Ascending scores of class `c`'s positives and of its negatives."""
        if c not in self._curves:
            scores = self._scores if self._scores.ndim == 1 else self._scores[:, c]
            own = self._targets == c
            self._curves[c] = (np.sort(scores[own]), np.sort(scores[~own]))
        return self._curves[c]

    def macro(self, value: Callable[[np.ndarray, np.ndarray], float]) -> float:
        """Class 1's value for two classes, else the mean over classes that have targets."""
        present = np.unique(self._targets)
        if len(present) < 2:
            return float("nan")
        classes = [1] if self._scores.ndim == 1 else present.tolist()
        return float(np.mean([value(*self.curve(c)) for c in classes]))


def _average_precision(positives: np.ndarray, negatives: np.ndarray) -> float:
    thresholds, counts = np.unique(positives, return_counts=True)
    true = np.cumsum(counts[::-1])[::-1]  # positives at or above each threshold
    false = len(negatives) - np.searchsorted(negatives, thresholds, side="left")
    return float((counts * (true / (true + false))).sum() / len(positives))


def _roc_auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    below = np.searchsorted(negatives, positives, side="left")
    at_most = np.searchsorted(negatives, positives, side="right")
    # Whole numbers up to here, so that nothing is lost to rounding.
    return float(below.sum() + at_most.sum()) / (2 * len(positives) * len(negatives))
