"""What a tuning budget buys: the expected best of k trials, and what is left of it on new seeds."""

import numpy as np
import pandas as pd
from scipy import special, stats

from losslab.analysis.statistics.intervals import mean_interval
from losslab.analysis.statistics.samples import (
    NAN,
    Values,
    check_confidence,
    finite,
)
from losslab.errors import BadInput


def expected_best(
    values: Values,
    budgets: np.ndarray | list | range | None = None,
    *,
    replacement: bool = True,
    higher_is_better: bool = True,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Expected validation score of the best of k random trials (Dodge et al. 2019, sec. 3.1).

    From the N sorted trial values v_(1) ≤ … ≤ v_(N): E = Σ v_(i) w_i, with replacement
    w_i = (i/N)^k − ((i−1)/N)^k (Dodge), without w_i = C(i−1, k−1) / C(N, k) (unbiased: Tang et al.
    2020). Losses (`higher_is_better=False`) are mirrored. It holds for independent draws of one
    search space: random search, not the later trials of an adaptive sampler.

    `budgets` are k = 1 … N unless given (above 100 trials, some 100 of them, evenly in log k). One
    row each: `k, expected, sd` (of the best of k, plug-in), `band_low, band_high` (expected ± sd,
    clipped to the observed range: Dodge's shade, which is no confidence interval), `low, high` and
    `reason`. The interval is the estimate without replacement ± t · its jackknife error, with
    N/k − 1 degrees of freedom, since N trials hold about N/k bests of k; for k > N/2 there is none.
    (Bootstrap intervals cover far too rarely here: no resample is better than the best seen.)

    `BadInput` for k outside 1 … N and for values that are not finite: a trial that diverged belongs
    in the list, at chance level, or its arm looks better than it is.

    >>> expected_best([0.1, 0.2, 0.6], [1, 2], replacement=False)["expected"].round(3).tolist()
    [0.3, 0.467]
    """
    check_confidence(confidence)
    given, undefined = finite(values)
    if undefined or not len(given):
        raise BadInput(f"{undefined} of {np.size(values)} trials have no value; give chance level")
    trials, ks = len(given), _budgets(budgets, len(given))
    sign = 1 if higher_is_better else -1
    ascending = np.sort(sign * given)
    weights = _weights(ks, trials, replacement)
    expected = weights @ ascending
    centred = ascending - ascending.mean()
    sd = np.sqrt(np.maximum(weights @ centred**2 - (weights @ centred) ** 2, 0.0))
    bands = np.clip([expected - sd, expected + sd], ascending[0], ascending[-1])
    edges = _jackknife_interval(ascending, ks, confidence)
    # mirrored, the lower edge is the upper one
    (band_low, band_high), (low, high) = (np.sort(sign * pair, axis=0) for pair in (bands, edges))
    table = pd.DataFrame({"k": ks, "expected": sign * expected, "sd": sd})
    table = table.assign(band_low=band_low, band_high=band_high, low=low, high=high)
    few = f"no interval: {trials} trials hold fewer than two bests of "
    return table.assign(reason=[f"{few}{k}" if 2 * k > trials else "" for k in ks])


def shrinkage(
    search: pd.Series,
    confirmed: pd.DataFrame,
    *,
    higher_is_better: bool = True,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """What search promised of each arm, and what fresh seeds kept: the winner's curse, in numbers.

    `search` holds the selected value of every arm, indexed by arm; `confirmed` has one row per
    replicate and one column per arm, best of the *same* metric on the same kind of split, or the
    shift between splits is counted too (Cawley and Talbot 2010, JMLR 11). One row per arm:
    `search, confirmed, shrinkage` (search − confirmed, positive where search was too optimistic),
    `low, high` (t interval of the confirmed mean, carried over: the search's value is taken as it
    is), `n, dropped, search_rank, confirmed_rank` (1 the best) and `reason`. `BadInput` where the
    two do not name the same arms.

    >>> fresh = pd.DataFrame({"ce": [0.80, 0.82, 0.81], "focal": [0.83, 0.82, 0.84]})
    >>> table = shrinkage(pd.Series({"ce": 0.86, "focal": 0.84}), fresh)
    >>> table["shrinkage"].round(3).to_dict(), table["confirmed_rank"].to_dict()
    ({'ce': 0.05, 'focal': 0.01}, {'ce': 2.0, 'focal': 1.0})
    """
    unmatched = set(search.index) ^ set(confirmed.columns)
    if unmatched or not search.index.is_unique or not confirmed.columns.is_unique:
        names = ", ".join(sorted(map(str, unmatched))) or "duplicates"
        raise BadInput(f"search and confirmation must name the same arms, each once: {names}")
    estimates = [mean_interval(confirmed[arm], confidence) for arm in search.index]
    sign = 1 if higher_is_better else -1
    table = pd.DataFrame({"search": search.astype(float)})
    table["confirmed"] = [estimate.mean for estimate in estimates]
    table["shrinkage"] = sign * (table["search"] - table["confirmed"])
    half = np.array([estimate.half_width for estimate in estimates])
    table["low"], table["high"] = table["shrinkage"] - half, table["shrinkage"] + half
    table["n"] = [estimate.n for estimate in estimates]
    table["dropped"] = [estimate.dropped for estimate in estimates]
    for side in ("search", "confirmed"):
        table[f"{side}_rank"] = (sign * table[side]).rank(ascending=False)
    table["reason"] = [estimate.reason for estimate in estimates]
    table.index.name = "arm"
    return table


def _budgets(budgets: np.ndarray | list | range | None, trials: int) -> np.ndarray:
    if budgets is None:
        steps = np.geomspace(1, trials, 130).round() if trials > 100 else range(1, trials + 1)
        return np.unique(np.asarray(steps, dtype=int))
    ks = np.asarray(budgets)
    if ks.ndim != 1 or not len(ks) or (ks != ks.astype(int)).any():
        raise BadInput("budgets must be a list of whole numbers of trials")
    if ks.min() < 1 or ks.max() > trials:
        raise BadInput(f"budgets must lie between 1 and the {trials} trials there are, got {ks}")
    return ks.astype(int)


def _weights(ks: np.ndarray, trials: int, replacement: bool) -> np.ndarray:
    """Probability that the i-th smallest of `trials` values is the best of k; one row per k."""
    i, k = np.arange(1, trials + 1), ks[:, None]
    if replacement:
        return (i / trials) ** k - ((i - 1) / trials) ** k
    # in logs, since the binomials overflow; C(i−1, k−1) is zero for i < k
    log_share = _log_binomial(np.maximum(i, k) - 1, k - 1) - _log_binomial(trials, k)
    return np.where(i >= k, np.exp(log_share), 0.0)


def _log_binomial(n: np.ndarray | int, k: np.ndarray) -> np.ndarray:
    return special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)


def _jackknife_interval(ascending: np.ndarray, ks: np.ndarray, confidence: float) -> np.ndarray:
    """Lower and upper edge for every budget; NaN where N/k < 2."""
    trials, edges = len(ascending), np.full((2, len(ks)), NAN)
    some = 2 * ks <= trials
    if not some.any():
        return edges
    k = ks[some]
    weights = _weights(k, trials - 1, replacement=False)
    # without trial i, those below keep their place and those above move down by one
    below = np.cumsum(weights * ascending[:-1], axis=1)
    above = np.cumsum((weights * ascending[1:])[:, ::-1], axis=1)[:, ::-1]
    left_out = np.pad(below, ((0, 0), (1, 0))) + np.pad(above, ((0, 0), (0, 1)))
    error = np.sqrt(left_out.var(axis=1) * (trials - 1))
    expected = _weights(k, trials, replacement=False) @ ascending
    half = stats.t.ppf((1 + confidence) / 2, trials / k - 1) * error
    edges[:, some] = expected - half, expected + half
    return edges
