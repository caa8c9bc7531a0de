"""Metrics of decisions, all from one confusion matrix. See docs/metrics.md."""

import numpy as np

from losslab.experiments.score_metrics import marked

MANY, FEW = 100, 20  # training rows: more than MANY, fewer than FEW (Liu et al. 2019)


def confusion(targets: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (K, K), int64: row is the target, column the predicted class.

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    pairs = np.asarray(targets, dtype=np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def recalls(matrix: np.ndarray) -> np.ndarray:
    """Recall of each class (K,): its share of right decisions; NaN for a class without targets.

    >>> recalls(np.array([[1, 1], [0, 0]])).tolist()
    [0.5, nan]
    """
    totals = matrix.sum(axis=1)
    return np.where(totals > 0, np.diagonal(matrix) / np.maximum(totals, 1), np.nan)


@marked("maximize", "decision", shares=("confusion",))
def balanced_accuracy(
    targets: np.ndarray, predicted: np.ndarray, *, confusion: np.ndarray | None = None
) -> float:
    """Mean recall over the classes that have targets.

    Equals `sklearn.metrics.balanced_accuracy_score` (without `adjusted`).

    >>> balanced_accuracy(np.array([0, 0, 1]), np.array([0, 1, 1]))
    0.75
    """
    return float(np.nanmean(recalls(_matrix(targets, predicted, confusion))))


@marked("maximize", "decision", shares=("confusion",))
def accuracy(
    targets: np.ndarray, predicted: np.ndarray, *, confusion: np.ndarray | None = None
) -> float:
    """Share of right decisions; equals `sklearn.metrics.accuracy_score`.

    >>> accuracy(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    0.75
    """
    matrix = _matrix(targets, predicted, confusion)
    return float(np.trace(matrix) / matrix.sum())


@marked("maximize", "decision", shares=("confusion",))
def macro_f1(
    targets: np.ndarray, predicted: np.ndarray, *, confusion: np.ndarray | None = None
) -> float:
    """Mean over the classes that have targets of F1 = 2 TP / (2 TP + FP + FN).

    Equals `sklearn.metrics.f1_score(..., average="macro", labels=np.unique(targets))`. Without
    `labels`, scikit-learn also counts classes that are predicted but have no targets, as 0.

    >>> round(macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1])), 4)
    0.6667
    """
    matrix = _matrix(targets, predicted, confusion)
    present = matrix.sum(axis=1) > 0
    sizes = (matrix.sum(axis=0) + matrix.sum(axis=1))[present]  # 2 TP + FP + FN
    return float(np.mean(2 * np.diagonal(matrix)[present] / sizes))


@marked("maximize", "decision")
def recall(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Recall of each class (K,), NaN for a class without targets; see `recalls`.

    >>> recall(np.array([0, 0, 1]), np.array([0, 1, 1])).tolist()
    [0.5, 1.0]
    """
    return recalls(_matrix(targets, predicted, None))


@marked("maximize", "decision", shares=("train_class_counts", "confusion"))
def accuracy_many(
    targets: np.ndarray,
    predicted: np.ndarray,
    *,
    train_class_counts: np.ndarray,
    confusion: np.ndarray | None = None,
) -> float:
    """Mean recall of the classes with more than 100 training rows (Liu et al. 2019).

    NaN where no such class has targets, and where there are only two classes.

    >>> accuracy_many(np.array([0, 1, 2]), np.array([0, 1, 1]),
    ...               train_class_counts=np.array([500, 101, 20]))
    1.0
    """
    return _shots(targets, predicted, train_class_counts, confusion, train_class_counts > MANY)


@marked("maximize", "decision", shares=("train_class_counts", "confusion"))
def accuracy_medium(
    targets: np.ndarray,
    predicted: np.ndarray,
    *,
    train_class_counts: np.ndarray,
    confusion: np.ndarray | None = None,
) -> float:
    """Mean recall of the classes with 20 to 100 training rows; see `accuracy_many`.

    >>> accuracy_medium(np.array([0, 1, 2]), np.array([0, 1, 1]),
    ...                 train_class_counts=np.array([500, 100, 20]))
    0.5
    """
    group = (train_class_counts >= FEW) & (train_class_counts <= MANY)
    return _shots(targets, predicted, train_class_counts, confusion, group)


@marked("maximize", "decision", shares=("train_class_counts", "confusion"))
def accuracy_few(
    targets: np.ndarray,
    predicted: np.ndarray,
    *,
    train_class_counts: np.ndarray,
    confusion: np.ndarray | None = None,
) -> float:
    """Mean recall of the classes with fewer than 20 training rows; see `accuracy_many`.

    >>> accuracy_few(np.array([0, 1, 2]), np.array([0, 1, 1]),
    ...              train_class_counts=np.array([500, 100, 19]))
    0.0
    """
    return _shots(targets, predicted, train_class_counts, confusion, train_class_counts < FEW)


def _matrix(
    targets: np.ndarray, predicted: np.ndarray, known: np.ndarray | None, classes: int = 0
) -> np.ndarray:
    if known is not None:
        return known
    classes = max(classes, int(max(np.max(targets), np.max(predicted))) + 1)
    return confusion(targets, predicted, classes)


def _shots(
    targets: np.ndarray,
    predicted: np.ndarray,
    counts: np.ndarray,
    known: np.ndarray | None,
    group: np.ndarray,
) -> float:
    found = recalls(_matrix(targets, predicted, known, len(counts)))[group]
    found = found[~np.isnan(found)]
    return float(found.mean()) if len(found) and len(counts) > 2 else float("nan")
