"""Intervals and tests over run seeds, in words that say what was left out and why.

Every function takes values indexed by replicate (the run seed's index) and matches pairs by that
index. A missing or undefined value is never filled in: it is left out, counted, and named.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from losslab.errors import BadInput

NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    `low`, `high` and `half_width` are NaN where no interval exists, and `reason` says why. `n`
    values went in, `dropped` were undefined.
    """

    mean: float
    low: float
    high: float
    half_width: float
    n: int
    dropped: int
    reason: str


@dataclass(frozen=True)
class PairedDifference:
    """A mean paired difference with its interval and test.

    `p` is two-sided. `n` pairs went in; `dropped` replicates were missing or undefined on one side
    at least. NaN where something cannot be computed, with the `reason`.
    """

    difference: float
    low: float
    high: float
    half_width: float
    p: float
    n: int
    dropped: int
    reason: str


def mean_interval(values: pd.Series | np.ndarray | list, confidence: float = 0.95) -> Estimate:
    """Mean with Student's t interval: mean ± t_{(1+c)/2, n−1} · s / √n.

    s is the sample standard deviation (n − 1 in the denominator). NaN and infinite values are left
    out and counted. One value has no interval; equal values have one of width zero, and the reason
    says so.

    >>> estimate = mean_interval([4.0, 5.0, 6.0])
    >>> f"{estimate.mean} ± {estimate.half_width:.3f} (n = {estimate.n})"
    '5.0 ± 2.484 (n = 3)'
    """
    _check_confidence(confidence)
    given = np.asarray(values, dtype=float).ravel()
    kept = given[np.isfinite(given)]
    dropped = len(given) - len(kept)
    low, high, _, reason = _t_interval(kept, confidence, scale=_magnitude(kept))
    mean = float(kept.mean()) if len(kept) else NAN
    return Estimate(mean, low, high, (high - low) / 2, len(kept), dropped, reason)


def paired_difference(
    values: pd.Series, baseline: pd.Series, confidence: float = 0.95
) -> PairedDifference:
    """Mean of values − baseline over common replicates, with t interval and paired t-test.

    d_i = values_i − baseline_i; interval d̄ ± t_{(1+c)/2, n−1} · s_d / √n; p of Student's t with
    n − 1 degrees of freedom. Pairs are matched by the index; a replicate that only one side has,
    or that is not finite on one side, is dropped and counted. Differences that are all zero give
    p = 1; other differences without any variance give no p. An index with duplicates is `BadInput`.

    >>> a = pd.Series({0: 0.9, 1: 0.8, 2: 0.7})
    >>> b = pd.Series({0: 0.8, 1: 0.75, 2: 0.55, 7: 0.1})
    >>> result = paired_difference(a, b)
    >>> round(result.difference, 3), result.n, result.dropped, round(result.p, 4)
    (0.1, 3, 1, 0.0742)
    """
    _check_confidence(confidence)
    for side in (values, baseline):
        if not side.index.is_unique:
            raise BadInput("values must have one entry per replicate; the index has duplicates")
    replicates = values.index.union(baseline.index)
    both = np.array([side.reindex(replicates).to_numpy(float) for side in (values, baseline)])
    whole = both[:, np.isfinite(both).all(axis=0)]
    differences = whole[0] - whole[1]
    low, high, p, reason = _t_interval(
        differences, confidence, scale=_magnitude(whole), noun="pair"
    )
    mean = float(differences.mean()) if len(differences) else NAN
    dropped = both.shape[1] - whole.shape[1]
    return PairedDifference(mean, low, high, (high - low) / 2, p, len(differences), dropped, reason)


def holm(p_values: pd.Series) -> pd.Series:
    """Holm's step-down correction (Holm 1979, Scand. J. Statist. 6); undefined p stay undefined.

    The i-th smallest of m p-values becomes max_{j ≤ i} min(1, (m − j + 1) p_(j)). NaN entries are
    not tests that were made, and do not count in m.

    >>> holm(pd.Series({"a": 0.01, "b": 0.04, "c": float("nan"), "d": 0.03})).round(3).to_list()
    [0.03, 0.06, nan, 0.06]
    """
    corrected = pd.Series(NAN, index=p_values.index, dtype=float)
    defined = p_values.notna()
    # not statsmodels' multipletests: it collects garbage in every call, half a second with torch
    # and mlflow loaded, and a report corrects once per metric
    ascending = np.sort(p_values[defined].to_numpy(float))
    stepped = ascending * np.arange(len(ascending), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(stepped), 1.0)
    corrected[defined] = adjusted[np.argsort(np.argsort(p_values[defined].to_numpy(float)))]
    return corrected


def compare_to_baseline(
    values: pd.DataFrame, baseline: str, confidence: float = 0.95
) -> pd.DataFrame:
    """Every column of `values` against the column `baseline`, paired over the rows.

    `values` has one row per replicate and one column per arm, NaN where a run is missing. Gives one
    row per other arm with the fields of `PairedDifference` and `p_holm`, corrected over the arms.
    """
    if baseline not in values.columns:
        raise BadInput(f"the baseline {baseline!r} has no values; there are: {list(values)}")
    reference = values[baseline].dropna()
    rows = {
        arm: asdict(paired_difference(values[arm].dropna(), reference, confidence))
        for arm in values.columns
        if arm != baseline
    }
    columns = list(PairedDifference.__dataclass_fields__)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table.index.name = "arm"
    table["p_holm"] = holm(table["p"].astype(float))
    return table


def _t_interval(
    values: np.ndarray, confidence: float, *, scale: float, noun: str = "value"
) -> tuple[float, float, float, str]:
    """Low, high, two-sided p of mean = 0, and a reason where any of them is special."""
    n = len(values)
    if n == 0:
        return NAN, NAN, NAN, f"no {noun}s"
    if n == 1:
        return NAN, NAN, NAN, f"one {noun}: no interval"
    mean = float(values.mean())
    # rounding alone makes equal values differ by a few ulp of their magnitude; a t statistic out
    # of that would be noise with a tiny p
    noise = 8 * np.finfo(float).eps * scale
    if np.ptp(values) <= noise:
        if noun == "pair" and abs(mean) <= noise:
            return mean, mean, 1.0, "every pair is equal"
        return mean, mean, NAN, f"all {n} {noun}s are the same: zero variance"
    result = stats.ttest_1samp(values, 0.0)
    interval = result.confidence_interval(confidence)
    return float(interval.low), float(interval.high), float(result.pvalue), ""


def _magnitude(values: np.ndarray) -> float:
    return float(np.abs(values).max()) if values.size else 0.0


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise BadInput(f"confidence must lie between 0 and 1, got {confidence}")
