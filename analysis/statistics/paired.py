"""Two arms over the same replicates: the difference, its interval, and Holm over several arms."""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from losslab.analysis.statistics.intervals import RESAMPLES, bootstrap_interval, t_interval
from losslab.analysis.statistics.samples import (
    NAN,
    Values,
    check_confidence,
    exact_differences,
    matched,
    rounding_noise,
)
from losslab.errors import BadInput


@dataclass(frozen=True)
class PairedDifference:
    """A paired difference (of means unless said otherwise) with its interval and test.

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


def paired_difference(
    values: Values, baseline: Values, confidence: float = 0.95
) -> PairedDifference:
    """Mean of values − baseline over common replicates, with t interval and paired t-test.

    d_i = values_i − baseline_i; interval d̄ ± t_{(1+c)/2, n−1} · s_d / √n; p of Student's t with
    n − 1 degrees of freedom (Student 1908). Series are matched by the index, arrays by position; a
    replicate that only one side has, or that is not finite on one side, is dropped and counted.
    Differences that are all zero give p = 1; other differences without any variance give no p. An
    index with duplicates, or arrays of different lengths, are `BadInput`.

    >>> a = pd.Series({0: 0.9, 1: 0.8, 2: 0.7})
    >>> b = pd.Series({0: 0.8, 1: 0.75, 2: 0.55, 7: 0.1})
    >>> result = paired_difference(a, b)
    >>> round(result.difference, 3), result.n, result.dropped, round(result.p, 4)
    (0.1, 3, 1, 0.0742)
    """
    check_confidence(confidence)
    whole, dropped = matched(values, baseline)
    differences = whole[0] - whole[1]
    low, high, p, reason = t_interval(
        differences, confidence, noise=rounding_noise(whole), noun="pair"
    )
    mean = float(differences.mean()) if len(differences) else NAN
    return PairedDifference(mean, low, high, (high - low) / 2, p, len(differences), dropped, reason)


def paired_bootstrap(
    values: Values,
    baseline: Values,
    statistic: str = "mean",
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Mean, median or IQM of the paired differences with its percentile bootstrap interval.

    Pairs are resampled, never the two sides apart (Efron and Tibshirani 1993, ch. 8). No test comes
    with it: `p` is NaN, see `paired_permutation`. Fewer than 10 pairs are `BadInput`. `seed` as in
    `bootstrap_interval`; pairing as in `paired_difference`.

    >>> a, b = np.arange(12) / 10 + 0.5, np.arange(12) / 10
    >>> round(paired_bootstrap(a, b).difference, 3)
    0.5
    """
    whole, dropped = matched(values, baseline)
    estimate = bootstrap_interval(
        exact_differences(whole), statistic, confidence=confidence, resamples=resamples, seed=seed
    )
    interval = (estimate.low, estimate.high, estimate.half_width)
    return PairedDifference(estimate.mean, *interval, NAN, estimate.n, dropped, estimate.reason)


def corrected_resampled_t(
    values: Values,
    baseline: Values,
    *,
    train_size: float,
    test_size: float,
    confidence: float = 0.95,
) -> PairedDifference:
    """Paired t-test over resampled splits, corrected for their overlap (Nadeau and Bengio 2003).

    t = d̄ / √((1/J + n_test/n_train) · s_d²) with J − 1 degrees of freedom, over J random train/test
    splits of one data set. Also used for r times repeated k-fold cross-validation, with J = r·k and
    n_test/n_train = 1/(k − 1) (Bouckaert and Frank 2004). Sizes may be counts or shares.
    It is for splits that are drawn again: over run seeds with one fixed test split use
    `paired_difference`. Sizes that are not positive are `BadInput`.

    >>> a, b = np.array([0.90, 0.88, 0.91, 0.89]), np.array([0.87, 0.88, 0.88, 0.87])
    >>> result = corrected_resampled_t(a, b, train_size=900, test_size=100)
    >>> round(result.difference, 3), round(result.p, 4)
    (0.02, 0.1)
    """
    check_confidence(confidence)
    if not (train_size > 0 and test_size > 0 and np.isfinite(train_size + test_size)):
        raise BadInput(f"sizes must be positive, got train {train_size} and test {test_size}")
    plain = paired_difference(values, baseline, confidence)
    if plain.n < 2 or not plain.half_width > 0:
        return plain
    # the uncorrected standard error is s/√J; the corrected one is wider by √(1 + J·n_test/n_train)
    wider = float(np.sqrt(1 + plain.n * test_size / train_size))
    half = plain.half_width * wider
    error = plain.half_width / stats.t.ppf((1 + confidence) / 2, plain.n - 1) * wider
    p = float(2 * stats.t.sf(abs(plain.difference) / error, plain.n - 1))
    low, high = plain.difference - half, plain.difference + half
    return PairedDifference(plain.difference, low, high, half, p, plain.n, plain.dropped, "")


def holm(p_values: pd.Series | np.ndarray | list) -> pd.Series:
    """Holm's step-down correction (Holm 1979, Scand. J. Statist. 6); undefined p stay undefined.

    The i-th smallest of m p-values becomes max_{j ≤ i} min(1, (m − j + 1) p_(j)). NaN entries are
    not tests that were made, and do not count in m.

    >>> holm(pd.Series({"a": 0.01, "b": 0.04, "c": float("nan"), "d": 0.03})).round(3).to_list()
    [0.03, 0.06, nan, 0.06]
    """
    p_values = pd.Series(p_values, dtype=float)
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
