"""What every statistic takes: samples with gaps, and pairs matched by replicate.

A missing or undefined value is never filled in: it is left out and counted. Values that differ by
rounding alone count as equal, or a t statistic, a rank or a win would come out of noise.
"""

from typing import TypeAlias

import numpy as np
import pandas as pd

from losslab.errors import BadInput

NAN = float("nan")
BOOTSTRAP_MINIMUM = 10  # replicates; below, a percentile interval is too narrow to be shown
_ROUNDING = 8 * np.finfo(float).eps  # of a value's magnitude; a few sums and products deep

Values: TypeAlias = pd.Series | np.ndarray | list


def finite(values: Values) -> tuple[np.ndarray, int]:
    """The finite values as a flat float array, and how many were not finite.

    >>> finite([0.5, float("nan"), 1.0])
    (array([0.5, 1. ]), 1)
    """
    given = np.asarray(values, dtype=float).ravel()
    kept = given[np.isfinite(given)]
    return kept, len(given) - len(kept)


def matched(values: Values, baseline: Values) -> tuple[np.ndarray, int]:
    """Pairs as an array of two rows, finite on both sides, and how many replicates were dropped.

    Series are matched by their index, the replicate; arrays and lists by position. `BadInput` where
    an index has duplicates, a series meets an array, or two arrays differ in length.
    """
    if isinstance(values, pd.Series) != isinstance(baseline, pd.Series):
        raise BadInput("give both sides of a pair as series, matched by index, or both as arrays")
    if not isinstance(values, pd.Series) and np.shape(values) != np.shape(baseline):
        shapes = f"{np.shape(values)} and {np.shape(baseline)}"
        raise BadInput(f"arrays are paired by position and need one shape, got {shapes}")
    sides = [pd.Series(side, dtype=float) for side in (values, baseline)]
    if not all(side.index.is_unique for side in sides):
        raise BadInput("values must have one entry per replicate; the index has duplicates")
    replicates = sides[0].index.union(sides[1].index)
    both = np.array([side.reindex(replicates).to_numpy(float) for side in sides])
    whole = both[:, np.isfinite(both).all(axis=0)]
    return whole, both.shape[1] - whole.shape[1]


def exact_differences(pairs: np.ndarray) -> np.ndarray:
    """First row minus second, where magnitudes that differ by rounding alone are made equal.

    So 0.3 − (0.1 + 0.2) is zero, and 0.3 − 0.2 ties with 0.1 − 0 where differences are ranked.
    """
    differences = pairs[0] - pairs[1]
    magnitudes = without_rounding(np.append(np.abs(differences), 0.0), rounding_noise(pairs))
    return np.sign(differences) * magnitudes[:-1]


def without_rounding(values: np.ndarray, noise: float) -> np.ndarray:
    """Values no further than `noise` above the next smaller one take the smallest of their group.

    >>> without_rounding(np.array([0.1 + 0.2, 1.0, 0.3]), 1e-15).tolist()
    [0.3, 1.0, 0.3]
    """
    order = np.argsort(values)
    ascending = values[order]
    begins = np.diff(ascending, prepend=-np.inf) > noise
    grouped = np.empty_like(values)
    grouped[order] = ascending[begins][np.cumsum(begins) - 1]
    return grouped


def rounding_noise(values: np.ndarray) -> float:
    """How far values that should be equal may lie apart: a few ulp of the largest magnitude."""
    return float(np.abs(values).max() * _ROUNDING) if values.size else 0.0


def as_tasks(scores: np.ndarray | pd.DataFrame | list) -> tuple[list[np.ndarray], int]:
    """The finite runs of each task, from one sample (runs,) or a matrix (runs, tasks).

    Also gives how many entries were not finite. `BadInput` where a task has no run at all.
    """
    matrix = np.asarray(scores, dtype=float)
    if matrix.ndim not in (1, 2):
        raise BadInput(f"scores must have shape (runs,) or (runs, tasks), got {matrix.shape}")
    columns = [matrix] if matrix.ndim == 1 else list(matrix.T)
    tasks = [column[np.isfinite(column)] for column in columns]
    if not tasks or not all(len(task) for task in tasks):
        raise BadInput("every task needs at least one finite score")
    return tasks, matrix.size - sum(len(task) for task in tasks)


def check_confidence(confidence: float) -> None:
    """`BadInput` unless 0 < confidence < 1."""
    if not 0 < confidence < 1:
        raise BadInput(f"confidence must lie between 0 and 1, got {confidence}")


def check_level(level: float) -> None:
    """`BadInput` unless 0 < level < 1."""
    if not 0 < level < 1:
        raise BadInput(f"a significance level lies between 0 and 1, such as 0.05, got {level}")


def check_bootstrap(n: int, what: str = "runs") -> None:
    """`BadInput` below ten replicates, where the percentile bootstrap covers too rarely.

    Its standard error is √((n − 1)/n) of the right one and its quantiles are normal, not
    Student's: with 5 normal values a 95 % interval covers their mean 84 % of the time.
    """
    if n < BOOTSTRAP_MINIMUM:
        raise BadInput(
            f"a percentile bootstrap needs at least {BOOTSTRAP_MINIMUM} {what}, got {n}: "
            "use the t interval"
        )
