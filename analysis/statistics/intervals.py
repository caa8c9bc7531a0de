"""A location of one sample, or of runs over several tasks, with its interval."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from losslab.analysis.statistics.samples import (
    BOOTSTRAP_MINIMUM,
    NAN,
    Values,
    as_tasks,
    check_bootstrap,
    check_confidence,
    finite,
    rounding_noise,
)
from losslab.errors import BadInput
from losslab.randomness import generator

RESAMPLES = 10_000
T_PRIMARY_BELOW = 20  # values; from here on the bootstrap covers as stated and assumes less
_BATCH = 1_000_000  # resampled numbers held in memory at once


@dataclass(frozen=True)
class Estimate:
    """A location (mean, median, IQM) with its interval.

    `low`, `high` and `half_width` are NaN where no interval exists, and `reason` says why. `n`
    values went in, `dropped` were undefined. `mean` is the location itself, whichever it is.
    """

    mean: float
    low: float
    high: float
    half_width: float
    n: int
    dropped: int
    reason: str


def mean_interval(values: Values, confidence: float = 0.95) -> Estimate:
    """Mean with Student's t interval: mean ± t_{(1+c)/2, n−1} · s / √n (Student 1908).

    s is the sample standard deviation (n − 1 in the denominator). NaN and infinite values are left
    out and counted. One value has no interval; equal values have one of width zero, and the reason
    says so.

    >>> estimate = mean_interval([4.0, 5.0, 6.0])
    >>> f"{estimate.mean} ± {estimate.half_width:.3f} (n = {estimate.n})"
    '5.0 ± 2.484 (n = 3)'
    """
    check_confidence(confidence)
    kept, dropped = finite(values)
    low, high, _, reason = t_interval(kept, confidence, noise=rounding_noise(kept))
    mean = float(kept.mean()) if len(kept) else NAN
    return Estimate(mean, low, high, (high - low) / 2, len(kept), dropped, reason)


def iqm(scores: np.ndarray | pd.DataFrame | list) -> float:
    """Interquartile mean: the mean of the middle half of all runs (Agarwal et al. 2021, sec. 4.3).

    The 25 % trimmed mean, `scipy.stats.trim_mean(x, 0.25)`: ⌊n/4⌋ values are cut at either end. A
    matrix (runs, tasks) is pooled first, as in rliable. Values that are not finite are left out.

    >>> iqm([0.0, 1.0, 2.0, 3.0, 100.0])
    2.0
    """
    return float(_iqm(*as_tasks(scores)[0]))


def bootstrap_interval(
    scores: np.ndarray | pd.DataFrame | list,
    statistic: str = "mean",
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean, median or IQM with its stratified percentile bootstrap interval (Agarwal et al. 2021).

    `scores` has shape (runs,), or (runs, tasks) with NaN where a run is missing. Runs are resampled
    with replacement within each task; the interval spans the (1−c)/2 and (1+c)/2 quantiles of the
    statistic over the resamples. `mean` is the mean over tasks of the tasks' means; `median` the
    median of the runs, for a matrix the median over tasks of their means; `iqm` pools all runs.

    The same `seed` gives the same interval, whatever was drawn before. Fewer than 10 runs in a task
    are `BadInput`: the interval would be too narrow, and more tasks do not mend that.

    >>> estimate = bootstrap_interval([float(i) for i in range(12)], "iqm", seed=1)
    >>> estimate.mean, estimate.n, estimate.low < 5.5 < estimate.high
    (5.5, 12, True)
    """
    check_confidence(confidence)
    tasks, dropped = as_tasks(scores)
    locate = _statistic(statistic, one_task=np.ndim(scores) == 1)
    check_bootstrap(min(len(task) for task in tasks), "runs in each task")
    location, n = float(locate(*tasks)), sum(len(task) for task in tasks)
    if all(np.ptp(task) <= rounding_noise(task) for task in tasks):
        reason = f"all {n} values are the same: zero variance"
        return Estimate(location, location, location, 0.0, n, dropped, reason)
    result = stats.bootstrap(
        tasks,
        locate,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _BATCH // n),
        confidence_level=confidence,
        method="percentile",
        rng=generator(seed, "bootstrap"),
    )
    low, high = map(float, result.confidence_interval)
    return Estimate(location, low, high, (high - low) / 2, n, dropped, "")


def summarise(values: Values, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Mean, median and IQM of one sample with every interval that its size allows, tidy.

    One row per statistic and interval: `statistic` (mean | median | iqm), `interval` (t |
    bootstrap), `estimate, low, high, half_width, n, dropped, primary, reason`. `primary` marks the
    interval to quote: Student's t of the mean below 20 values, the bootstrap of the mean from 20
    on. Below 10 values the bootstrap rows have no interval and `reason` says so.

    >>> summarise([0.81, 0.83, 0.80, 0.84])[["statistic", "interval", "primary"]].values.tolist()[0]
    ['mean', 't', True]
    """
    kept, dropped = finite(values)
    rows = [{"statistic": "mean", "interval": "t", **asdict(mean_interval(values, confidence))}]
    for statistic in _STATISTICS:
        if len(kept) >= BOOTSTRAP_MINIMUM:
            estimate = bootstrap_interval(kept, statistic, confidence=confidence, seed=seed)
        else:
            location = float(_statistic(statistic)(kept)) if len(kept) else NAN
            reason = f"no bootstrap below {BOOTSTRAP_MINIMUM} values"
            estimate = Estimate(location, NAN, NAN, NAN, len(kept), dropped, reason)
        rows.append({"statistic": statistic, "interval": "bootstrap", **asdict(estimate)})
    table = pd.DataFrame(rows).rename(columns={"mean": "estimate"}).assign(dropped=dropped)
    primary = "t" if len(kept) < T_PRIMARY_BELOW else "bootstrap"
    table["primary"] = (table["statistic"] == "mean") & (table["interval"] == primary)
    return table[[c for c in table if c != "reason"] + ["reason"]]


def t_interval(
    values: np.ndarray, confidence: float, *, noise: float, noun: str = "value"
) -> tuple[float, float, float, str]:
    """Low, high, two-sided p of mean = 0, and a reason where any of them is special.

    Values that lie no further apart than `noise` are equal: a t statistic out of rounding would
    have a tiny p.
    """
    n = len(values)
    if n == 0:
        return NAN, NAN, NAN, f"no {noun}s"
    if n == 1:
        return NAN, NAN, NAN, f"one {noun}: no interval"
    mean = float(values.mean())
    if np.ptp(values) <= noise:
        if noun == "pair" and abs(mean) <= noise:
            return mean, mean, 1.0, "every pair is equal"
        return mean, mean, NAN, f"all {n} {noun}s are the same: zero variance"
    result = stats.ttest_1samp(values, 0.0)
    interval = result.confidence_interval(confidence)
    return float(interval.low), float(interval.high), float(result.pvalue), ""


def _task_means(tasks: tuple[np.ndarray, ...], axis: int) -> np.ndarray:
    return np.stack([task.mean(axis=axis) for task in tasks])


def _mean(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    return _task_means(tasks, axis).mean(axis=0)


def _median(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.median(tasks[0], axis=axis)


def _median_of_means(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.median(_task_means(tasks, axis), axis=0)


def _iqm(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    return stats.trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis)


_STATISTICS: dict[str, Callable] = {"mean": _mean, "median": _median, "iqm": _iqm}


def _statistic(name: str, *, one_task: bool = True) -> Callable:
    if name not in _STATISTICS:
        raise BadInput(f"unknown statistic {name!r}; there are: {', '.join(_STATISTICS)}")
    return _median_of_means if name == "median" and not one_task else _STATISTICS[name]
