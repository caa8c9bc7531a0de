"""How often one arm beats another: P(A > B), over pairs."""

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from losslab.analysis.statistics.samples import (
    NAN,
    Values,
    check_confidence,
    check_level,
    exact_differences,
    matched,
)
from losslab.errors import BadInput

MEANINGFUL = 0.75  # gamma, Bouthillier et al.'s recommendation


@dataclass(frozen=True)
class Outperforming:
    """P(A > B) with its interval and verdict.

    `wins`, `losses` and `ties` add up to `n` pairs; `dropped` pairs were incomplete. `needed` is
    the number of pairs from which a verdict is given. `reason` qualifies the verdict.
    """

    probability: float
    low: float
    high: float
    verdict: str
    wins: int
    losses: int
    ties: int
    n: int
    dropped: int
    needed: int
    reason: str


def probability_of_outperforming(
    values: Values,
    baseline: Values,
    *,
    higher_is_better: bool = True,
    meaningful: float = MEANINGFUL,
    confidence: float = 0.95,
) -> Outperforming:
    """P(A > B) over pairs, with Bouthillier et al.'s (2021) three-way verdict.

    P = (wins + ties/2) / n with Wilson's (1927) score interval (Bouthillier et al. bootstrap the
    pairs, which gives an interval without width when one side wins every pair). The verdict is
    `not significant` where low ≤ ½, else `significant, not meaningful` where high ≤ γ
    (`meaningful`), else `significant and meaningful`; below `pairs_needed` pairs (29 at their γ of
    0.75, and never fewer) it is `undecided`. Pairing as in `paired_difference`. γ outside (½, 1) is
    `BadInput`.

    >>> b = np.zeros(40)
    >>> result = probability_of_outperforming(np.where(np.arange(40) < 34, 1.0, -1.0), b)
    >>> result.probability, round(result.low, 3), round(result.high, 3), result.verdict
    (0.85, 0.709, 0.929, 'significant and meaningful')
    """
    check_confidence(confidence)
    needed = max(pairs_needed(meaningful), pairs_needed())
    pairs, dropped = matched(values, baseline)
    signs = np.sign(exact_differences(pairs)) * (1 if higher_is_better else -1)
    n = len(signs)
    wins, losses = int((signs > 0).sum()), int((signs < 0).sum())
    ties = n - wins - losses
    if n == 0:
        return Outperforming(NAN, NAN, NAN, "undecided", 0, 0, 0, 0, dropped, needed, "no pairs")
    count = wins + ties / 2
    low, high = proportion_confint(count, n, alpha=1 - confidence, method="wilson")
    verdict, reason = _verdict(n, needed, low, high, meaningful)
    counts = (wins, losses, ties, n, dropped, needed)
    return Outperforming(count / n, float(low), float(high), verdict, *counts, reason)


def pairs_needed(meaningful: float = MEANINGFUL, level: float = 0.05, miss: float = 0.05) -> int:
    """Pairs for a verdict on P(A > B): Noether's (1987) sample size, as Bouthillier et al. use it.

    n ≥ ((Φ⁻¹(1 − α) − Φ⁻¹(β)) / (√6 (½ − γ)))², rounded up, with α = `level`, β = `miss` and
    γ = `meaningful`. `BadInput` where γ lies outside (½, 1) or a rate outside (0, 1).

    >>> pairs_needed(), pairs_needed(miss=0.2), pairs_needed(0.6)
    (29, 17, 181)
    """
    if not 0.5 < meaningful < 1:
        raise BadInput(f"a meaningful P(A > B) lies between 0.5 and 1, got {meaningful}")
    check_level(level)
    check_level(miss)
    quantiles = stats.norm.ppf(1 - level) - stats.norm.ppf(miss)
    return ceil((quantiles / (sqrt(6) * (0.5 - meaningful))) ** 2)


def _verdict(n: int, needed: int, low: float, high: float, meaningful: float) -> tuple[str, str]:
    if n < needed:
        return "undecided", f"{n} pairs, a verdict needs {needed}"
    if low <= 0.5:
        wins = "the baseline wins: the whole interval lies below 1/2"
        return "not significant", wins if high < 0.5 else ""
    small = high <= meaningful
    return ("significant, not meaningful" if small else "significant and meaningful"), ""
