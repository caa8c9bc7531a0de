"""`mean_interval` and `paired_difference` for many columns at once.

A table of a hundred metrics and thirty rows asks for thousands of intervals; one call of scipy
each would take most of a report's time. The numbers and reasons are those of the functions for
one sample.
"""

import numpy as np
import pandas as pd
from scipy import stats

from losslab.analysis.statistics.intervals import Estimate
from losslab.analysis.statistics.paired import PairedDifference
from losslab.analysis.statistics.samples import check_confidence, rounding_noise
from losslab.errors import BadInput


def mean_intervals(values: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """`mean_interval` of every column: one row per column, the fields of `Estimate`.

    >>> table = mean_intervals(pd.DataFrame({"ce": [4.0, 5.0, 6.0], "focal": [1.0, 1.0, None]}))
    >>> table[["mean", "half_width", "n"]].round(3).values.tolist()
    [[5.0, 2.484, 3.0], [1.0, 0.0, 2.0]]
    """
    check_confidence(confidence)
    matrix = values.to_numpy(float)
    matrix = np.where(np.isfinite(matrix), matrix, np.nan)
    noise = np.array([rounding_noise(column[np.isfinite(column)]) for column in matrix.T])
    table = _intervals(matrix, noise, confidence, "value", values.columns)
    table["dropped"] = len(matrix) - table["n"]
    return table[list(Estimate.__dataclass_fields__)]


def paired_differences(
    values: pd.DataFrame, baseline: pd.DataFrame, confidence: float = 0.95
) -> pd.DataFrame:
    """`paired_difference` of every column to the same column of `baseline`, paired by row.

    One row per column, the fields of `PairedDifference`. A row that is finite on one side only is
    `dropped`; one that is finite on neither is no pair and is not counted. `BadInput` where the two
    frames differ in index or columns.

    >>> a, b = pd.DataFrame({"x": [0.9, 0.8, 0.7]}), pd.DataFrame({"x": [0.8, 0.75, 0.55]})
    >>> paired_differences(a, b)[["difference", "p", "n"]].round(4).values.tolist()
    [[0.1, 0.0742, 3.0]]
    """
    check_confidence(confidence)
    if not (values.index.equals(baseline.index) and values.columns.equals(baseline.columns)):
        raise BadInput("both frames need the same index (replicates) and columns")
    sides = np.array([values.to_numpy(float), baseline.to_numpy(float)])
    known = np.isfinite(sides)
    both = known.all(axis=0)
    sides = np.where(both, sides, np.nan)
    columns = range(sides.shape[2])
    noise = np.array([rounding_noise(sides[:, both[:, j], j]) for j in columns])
    table = _intervals(sides[0] - sides[1], noise, confidence, "pair", values.columns)
    table["dropped"] = (known.any(axis=0) & ~both).sum(axis=0)
    table = table.rename(columns={"mean": "difference"})
    return table[list(PairedDifference.__dataclass_fields__)]


def _intervals(
    matrix: np.ndarray, noise: np.ndarray, confidence: float, noun: str, names: pd.Index
) -> pd.DataFrame:
    """As `intervals.t_interval`, for every column of a matrix with NaN where there is no value."""
    n = np.isfinite(matrix).sum(axis=0)
    some, two = n > 0, n > 1
    filled = np.where(np.isfinite(matrix), matrix, 0.0)
    mean = np.where(some, filled.sum(axis=0) / np.maximum(n, 1), np.nan)
    squares = np.where(np.isfinite(matrix), matrix - mean, 0.0) ** 2
    error = np.sqrt(squares.sum(axis=0) / np.maximum(n - 1, 1) / np.maximum(n, 1))
    spread = np.zeros(len(n))
    if some.any():
        spread[some] = np.nanmax(matrix[:, some], axis=0) - np.nanmin(matrix[:, some], axis=0)
    same = two & (spread <= noise)
    varied = two & ~same
    degrees = np.maximum(n - 1, 1)
    half = np.where(two, 0.0, np.nan)
    half[varied] = (stats.t.ppf((1 + confidence) / 2, degrees) * error)[varied]
    p = np.full(len(n), np.nan)
    p[varied] = 2 * stats.t.sf(np.abs(mean[varied]) / error[varied], degrees[varied])
    equal = same & (np.abs(mean) <= noise) & (noun == "pair")
    p[equal] = 1.0
    reasons = np.select(
        [n == 0, n == 1, equal, same],
        [
            f"no {noun}s",
            f"one {noun}: no interval",
            "every pair is equal",
            [f"all {count} {noun}s are the same: zero variance" for count in n],
        ],
        default="",
    )
    return pd.DataFrame(
        {"mean": mean, "low": mean - half, "high": mean + half, "half_width": half, "p": p, "n": n},
        index=names,
    ).assign(reason=reasons.astype(object))
