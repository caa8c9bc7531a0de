"""Paired tests without a distribution: permutation of signs and Wilcoxon's signed ranks."""

from dataclasses import dataclass
from math import ceil, log2

import numpy as np
from scipy import stats

from losslab.analysis.statistics.samples import (
    NAN,
    Values,
    check_level,
    exact_differences,
    matched,
)
from losslab.randomness import generator

_ENUMERATED = 16  # pairs: all 65,536 sign patterns are tried up to here


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of paired differences.

    `estimate` is what is tested (the mean difference, or the Hodges-Lehmann shift), `p` two-sided,
    `smallest_p` the smallest p that this many pairs can give, `method` how p was computed. `n`
    pairs went in, `dropped` were incomplete, `ties` of the n were equal. `reason` says what limits
    the test, first of all that it cannot reach the level.
    """

    estimate: float
    statistic: float
    p: float
    smallest_p: float
    method: str
    n: int
    dropped: int
    ties: int
    reason: str


def paired_permutation(
    values: Values,
    baseline: Values,
    *,
    level: float = 0.05,
    resamples: int = 99_999,
    seed: int = 0,
) -> PairedTest:
    """Sign-flip permutation test of the mean paired difference (Fisher 1935, sec. 21).

    Under the null each d_i has its sign by a fair coin; p is the share of the 2ⁿ sign patterns with
    |mean| at least as large as observed. All are enumerated up to 16 pairs; beyond, `resamples`
    random ones give p = (b + 1) / (B + 1) (Phipson and Smyth 2010), from `seed`. Pairing as in
    `paired_difference`. m pairs that differ cannot give p below 2/2ᵐ: where that exceeds `level`,
    `reason` says so. The test assumes differences symmetric about zero under the null.

    >>> test = paired_permutation(np.array([5.0, 6, 7, 8, 9]), np.array([4.0, 4, 6, 5, 7]))
    >>> test.p, test.reason
    (0.0625, '5 unequal pairs cannot give p below 0.0625, so never 0.05; 6 can')
    """
    differences, dropped, ties = _signed(values, baseline, level)
    n = len(differences)
    if n == ties:
        return _nothing_to_test(n, dropped, ties)
    exact, mean = n <= _ENUMERATED, float(differences.mean())
    result = stats.permutation_test(
        # a zero changes no sum, and scipy refuses one pair alone
        (np.append(differences, 0.0) if n == 1 else differences,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2 ** max(n, 2) if exact else resamples,
        batch=2**12,
        rng=generator(seed, "permutation"),
    )
    smallest = smallest_p(n - ties) if exact else max(smallest_p(n - ties), 2 / (resamples + 1))
    method = "exact" if exact else f"{resamples} random sign patterns"
    p = min(1.0, float(result.pvalue))
    reason = _reach(n - ties, smallest, level)
    return PairedTest(mean, mean, p, smallest, method, n, dropped, ties, reason)


def wilcoxon(values: Values, baseline: Values, *, level: float = 0.05) -> PairedTest:
    """Wilcoxon's signed-rank test of paired differences (Wilcoxon 1945).

    `statistic` is min(W⁺, W⁻) over the ranks of |d_i|, ties given their mean rank; equal pairs are
    left out, as Wilcoxon did, and counted. p is exact up to 16 unequal pairs, and up to 50 without
    ties; beyond it is the normal approximation with the variance corrected for ties (`method` says
    which). `estimate` is the Hodges-Lehmann shift, the median of (d_i + d_j)/2 over i ≤ j. Pairing
    as in `paired_difference`, `reason` as in `paired_permutation`.

    >>> test = wilcoxon(np.array([5.0, 6, 7, 8, 9, 4]), np.array([4.0, 4, 4, 4, 4, 4]))
    >>> test.statistic, test.p, test.ties
    (0.0, 0.0625, 1)
    """
    differences, dropped, ties = _signed(values, baseline, level)
    n = len(differences)
    if n == ties:
        return _nothing_to_test(n, dropped, ties)
    unequal = differences[differences != 0]
    method, words = _wilcoxon_method(unequal)
    result = stats.wilcoxon(unequal, method=method)
    pairwise = (differences[:, None] + differences) / 2
    shift = float(np.median(pairwise[np.triu_indices(n)]))
    # above 50 pairs the smallest p is far below any level, whatever the approximation
    smallest = smallest_p(len(unequal))
    reason = _reach(len(unequal), smallest, level)
    statistic, p = float(result.statistic), min(1.0, float(result.pvalue))
    return PairedTest(shift, statistic, p, smallest, words, n, dropped, ties, reason)


def smallest_p(pairs: int) -> float:
    """The smallest two-sided p of a sign-flip or signed-rank test of `pairs` unequal pairs: 2/2ⁿ.

    >>> [smallest_p(n) for n in (0, 4, 5, 6)]
    [1.0, 0.125, 0.0625, 0.03125]
    """
    return min(1.0, 2.0 ** (1 - pairs))


def _signed(values: Values, baseline: Values, level: float) -> tuple[np.ndarray, int, int]:
    check_level(level)
    pairs, dropped = matched(values, baseline)
    differences = exact_differences(pairs)
    return differences, dropped, int((differences == 0).sum())


def _wilcoxon_method(unequal: np.ndarray) -> tuple:
    tied = len(np.unique(np.abs(unequal))) < len(unequal)
    if len(unequal) <= _ENUMERATED and tied:
        # scipy's own exact distribution holds for distinct ranks only
        return stats.PermutationMethod(n_resamples=2 ** len(unequal)), "exact"
    if tied or len(unequal) > 50:
        return "asymptotic", "normal approximation"
    return "exact", "exact"


def _reach(unequal: int, smallest: float, level: float) -> str:
    if smallest <= level:
        return ""
    if smallest > smallest_p(unequal):
        return f"so few random sign patterns cannot give p below {smallest:.3g}: raise resamples"
    pairs = "1 unequal pair" if unequal == 1 else f"{unequal} unequal pairs"
    enough = ceil(1 - log2(level))
    return f"{pairs} cannot give p below {smallest:.4g}, so never {level:g}; {enough} can"


def _nothing_to_test(n: int, dropped: int, ties: int) -> PairedTest:
    if n == 0:
        return PairedTest(NAN, NAN, NAN, 1.0, "none", n, dropped, ties, "no pairs")
    return PairedTest(0.0, 0.0, 1.0, 1.0, "exact", n, dropped, ties, "every pair is equal")
