"""Performance profiles: the share of runs that score above each threshold."""

import numpy as np
import pandas as pd

from losslab.analysis.statistics.samples import as_tasks, check_bootstrap, check_confidence
from losslab.errors import BadInput
from losslab.randomness import generator


def performance_profile(
    scores: np.ndarray | pd.DataFrame | list,
    thresholds: np.ndarray | list | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Run-score distribution with pointwise bands (Agarwal et al. 2021, sec. 4.2).

    F(τ) = mean over tasks of the share of runs with score > τ. `scores` as in `bootstrap_interval`,
    normalised over tasks where there are several; `thresholds` are 101 even steps over their range
    unless given. Columns `threshold, share, low, high`: the band is the stratified percentile
    bootstrap at each threshold by itself, from `seed`. A profile that lies above another everywhere
    is stochastically dominant. Fewer than 10 runs in a task are `BadInput`.

    >>> profile = performance_profile(np.arange(10) / 10, [0.0, 0.45, 0.9])
    >>> profile["share"].tolist()
    [0.9, 0.5, 0.0]
    """
    check_confidence(confidence)
    tasks, _ = as_tasks(scores)
    check_bootstrap(min(len(task) for task in tasks), "runs in each task")
    if thresholds is None:
        pooled = np.concatenate(tasks)
        thresholds = np.linspace(pooled.min(), pooled.max(), 101)
    tau = np.asarray(thresholds, dtype=float)
    if tau.ndim != 1 or not np.isfinite(tau).all():
        raise BadInput("thresholds must be a list of finite numbers")
    rng = generator(seed, "profile")
    shares, resampled = np.zeros(len(tau)), np.zeros((resamples, len(tau)))
    for task in tasks:
        above = task[:, None] > tau
        shares += above.mean(axis=0) / len(tasks)
        # how often each run is drawn: the same resample for all thresholds
        drawn = rng.multinomial(len(task), np.full(len(task), 1 / len(task)), size=resamples)
        resampled += drawn @ above / (len(task) * len(tasks))
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return pd.DataFrame({"threshold": tau, "share": shares, "low": low, "high": high})
