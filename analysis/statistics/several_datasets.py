"""Several arms over several datasets: average ranks, Friedman, Nemenyi, critical differences.

Scores are a frame with one row per dataset and one column per arm, each entry one number (a mean
over seeds, say): the dataset is the replicate (Demšar 2006, JMLR 7). Datasets that lack an arm are
dropped and counted.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from losslab.analysis.statistics.exact_tests import wilcoxon
from losslab.analysis.statistics.paired import holm
from losslab.analysis.statistics.samples import (
    NAN,
    check_level,
    rounding_noise,
    without_rounding,
)
from losslab.errors import BadInput


@dataclass(frozen=True)
class Friedman:
    """Friedman's test that all arms rank alike, with Iman and Davenport's F.

    `chi2` has `arms` − 1 degrees of freedom and the p-value `p`; `f` has (arms − 1) and
    (arms − 1)(datasets − 1) and the p-value `p_f`. `reason` says what limits them.
    """

    chi2: float
    p: float
    f: float
    p_f: float
    arms: int
    datasets: int
    dropped: int
    reason: str


@dataclass(frozen=True)
class RankComparison:
    """Which arms differ over several datasets: what a critical-difference diagram draws.

    `ranks` are the average ranks, the best arm first. `p` holds the pairwise p-values adjusted for
    all pairs, and `different` the decisions at `level`; both are square frames over the arms in
    that order. `groups` are the maximal sets of arms no two of which differ, the bars of the
    diagram: two arms share a bar exactly where `different` is false. `critical_difference` is NaN
    where the decisions do not come from one.
    """

    ranks: pd.Series
    p: pd.DataFrame
    different: pd.DataFrame
    groups: list[tuple[str, ...]]
    critical_difference: float
    level: float
    datasets: int
    dropped: int


def average_ranks(scores: pd.DataFrame, *, higher_is_better: bool = True) -> pd.Series:
    """Mean rank of every arm over the datasets, 1 the best, ties given their mean rank.

    The best arm first. `BadInput` with fewer than two arms, duplicate names, or no complete
    dataset.

    >>> average_ranks(pd.DataFrame({"a": [0.9, 0.8], "b": [0.7, 0.8]})).to_dict()
    {'a': 1.25, 'b': 1.75}
    """
    ranks = _rank(_complete(scores)[0], higher_is_better).mean()
    return ranks.sort_values(kind="stable").rename("average_rank")


def friedman(
    scores: pd.DataFrame, *, higher_is_better: bool = True, correct_ties: bool = True
) -> Friedman:
    """Friedman's (1937) test over N datasets and k arms, and Iman and Davenport's (1980) F.

    χ² = 12N / (k(k+1)) · [Σ R_j² − k(k+1)²/4] with average ranks R_j, divided by
    1 − Σ(t³ − t) / (N(k³ − k)) over groups of t ties, as scipy does; `correct_ties=False` leaves
    the division out, as Demšar (2006) prints it. F = (N − 1)χ² / (N(k − 1) − χ²). `BadInput` with
    fewer than three arms (two are compared by `wilcoxon`) or two datasets.

    >>> scores = pd.DataFrame({"a": [1, 2, 3, 4], "b": [0, 1, 2, 5], "c": [-1, 0, 1, 2]})
    >>> result = friedman(scores)
    >>> round(result.chi2, 3), round(result.f, 3), result.datasets
    (6.5, 13.0, 4)
    """
    complete, dropped = _complete(scores)
    datasets, arms = complete.shape
    if arms < 3:
        raise BadInput("Friedman's test needs three arms or more; compare two with `wilcoxon`")
    if datasets < 2:
        raise BadInput(f"Friedman's test needs two complete datasets or more, got {datasets}")
    ranks = _rank(complete, higher_is_better)
    spread = float((ranks.mean() ** 2).sum()) - arms * (arms + 1) ** 2 / 4
    if spread < 1e-12:
        return Friedman(0.0, 1.0, 0.0, 1.0, arms, datasets, dropped, "all arms rank alike")
    chi2 = 12 * datasets / (arms * (arms + 1)) * spread
    if correct_ties:
        chi2 = float(stats.friedmanchisquare(*ranks.to_numpy().T).statistic)
    p = float(stats.chi2.sf(chi2, arms - 1))
    rest = datasets * (arms - 1) - chi2
    if rest <= 1e-9 * datasets * arms:
        reason = "every dataset ranks the arms alike: F is infinite"
        return Friedman(chi2, p, float("inf"), NAN, arms, datasets, dropped, reason)
    f = (datasets - 1) * chi2 / rest
    p_f = float(stats.f.sf(f, arms - 1, (arms - 1) * (datasets - 1)))
    small = datasets <= 10 or arms <= 5
    reason = "few datasets or arms: p of χ² is rough, read p of F" if small else ""
    return Friedman(chi2, p, f, p_f, arms, datasets, dropped, reason)


def nemenyi(
    scores: pd.DataFrame, *, level: float = 0.05, higher_is_better: bool = True
) -> RankComparison:
    """Nemenyi's (1963) test of all pairs of arms by their average ranks (Demšar 2006, sec. 3.2.2).

    Two arms differ where their average ranks differ by CD = q_α √(k(k+1) / 6N) at least; q_α is the
    quantile of the studentized range with k groups and infinite degrees of freedom, over √2. The
    p-values are of the same distribution, so they are adjusted for all pairs. Ranks of two arms
    depend on the other arms in the frame; `pairwise_wilcoxon` does not. Errors as in
    `average_ranks`.

    >>> scores = pd.DataFrame([[3.0, 2.0, 1.0]] * 14, columns=["a", "b", "c"])
    >>> result = nemenyi(scores)
    >>> round(result.critical_difference, 3), result.groups
    (0.886, [('a',), ('b',), ('c',)])
    """
    check_level(level)
    complete, dropped = _complete(scores)
    ranks = average_ranks(complete, higher_is_better=higher_is_better)
    datasets, arms = complete.shape
    error = np.sqrt(arms * (arms + 1) / (6 * datasets))
    gaps = np.abs(np.subtract.outer(ranks.to_numpy(), ranks.to_numpy()))
    critical = float(stats.studentized_range.ppf(1 - level, arms, np.inf) / np.sqrt(2) * error)
    p = np.clip(stats.studentized_range.sf(gaps / error * np.sqrt(2), arms, np.inf), 0, 1)
    np.fill_diagonal(p, 1.0)
    # ranks are sums of halves over N: a gap that equals CD on paper may miss it by an ulp
    different = gaps >= critical * (1 - 1e-12)
    return _comparison(ranks, p, different, critical, level, datasets, dropped)


def pairwise_wilcoxon(
    scores: pd.DataFrame, *, level: float = 0.05, higher_is_better: bool = True
) -> RankComparison:
    """Wilcoxon's signed-rank test of every pair of arms over the datasets, Holm-corrected.

    What Benavoli et al. (2016, JMLR 17) advise instead of Nemenyi: whether two arms differ does not
    depend on the other arms' scores. Two arms differ where the corrected p is at most `level`. It
    needs enough datasets: with 5, no pair can differ, whatever the scores. Errors as in
    `average_ranks`.

    >>> scores = pd.DataFrame([[3.0 + i, 2.0, 1.0] for i in range(9)], columns=["a", "b", "c"])
    >>> pairwise_wilcoxon(scores).different.loc["a"].to_dict()
    {'a': False, 'b': True, 'c': True}
    """
    check_level(level)
    complete, dropped = _complete(scores)
    ranks = average_ranks(complete, higher_is_better=higher_is_better)
    pairs = list(combinations(range(len(ranks)), 2))
    columns = [complete[arm].to_numpy() for arm in ranks.index]
    raw = [wilcoxon(columns[i], columns[j]).p for i, j in pairs]
    p = np.ones((len(ranks), len(ranks)))
    for (i, j), corrected in zip(pairs, holm(pd.Series(raw)), strict=True):
        p[i, j] = p[j, i] = corrected
    return _comparison(ranks, p, p <= level, NAN, level, len(complete), dropped)


def ranks_against_control(
    scores: pd.DataFrame, control: str, *, higher_is_better: bool = True
) -> pd.DataFrame:
    """Every arm's average rank against the control's, Holm-corrected (Demšar 2006, sec. 3.2.2).

    z = (R_control − R_i) / √(k(k+1) / 6N), two-sided normal p. One row per other arm: `rank, z, p,
    p_holm`; z is positive where the arm ranks better than the control. `BadInput` where the control
    is not an arm.

    >>> scores = pd.DataFrame([[1.0, 2.0, 3.0]] * 12, columns=["ce", "focal", "ldam"])
    >>> ranks_against_control(scores, "ce")["z"].round(2).to_dict()
    {'ldam': 4.9, 'focal': 2.45}
    """
    if control not in scores.columns:
        raise BadInput(f"the control {control!r} has no scores; there are: {list(scores)}")
    complete, _ = _complete(scores)
    ranks = average_ranks(complete, higher_is_better=higher_is_better)
    arms = len(ranks)
    others = ranks.drop(control)
    z = (ranks[control] - others) / np.sqrt(arms * (arms + 1) / (6 * len(complete)))
    table = pd.DataFrame({"rank": others, "z": z, "p": 2 * stats.norm.sf(z.abs())})
    table.index.name = "arm"
    return table.assign(p_holm=holm(table["p"]))


def _complete(scores: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    scores = pd.DataFrame(scores)  # an array is taken too, its arms numbered
    if scores.shape[1] < 2 or not scores.columns.is_unique:
        raise BadInput("scores need one column per arm, two arms at least, each name once")
    whole = scores[np.isfinite(scores.astype(float)).all(axis=1)].astype(float)
    if whole.empty:
        raise BadInput("no dataset has a score of every arm: leave out arms or complete the runs")
    return whole, len(scores) - len(whole)


def _rank(complete: pd.DataFrame, higher_is_better: bool) -> pd.DataFrame:
    sign = -1 if higher_is_better else 1
    rows = [without_rounding(sign * row, rounding_noise(row)) for row in complete.to_numpy()]
    return pd.DataFrame(stats.rankdata(rows, axis=1), complete.index, complete.columns)


def _comparison(
    ranks: pd.Series,
    p: np.ndarray,
    different: np.ndarray,
    critical: float,
    level: float,
    datasets: int,
    dropped: int,
) -> RankComparison:
    arms = ranks.index
    decided = pd.DataFrame(different, arms, arms)
    groups = [tuple(arms[i] for i in group) for group in _cliques(~different)]
    adjusted = pd.DataFrame(p, arms, arms)
    return RankComparison(ranks, adjusted, decided, groups, critical, level, datasets, dropped)


def _cliques(alike: np.ndarray) -> list[list[int]]:
    """Maximal sets of mutually alike positions, in order (Bron and Kerbosch 1973)."""
    found = []

    def grow(members: list[int], candidates: set[int], excluded: set[int]) -> None:
        if not candidates and not excluded:
            found.append(sorted(members))
        for position in sorted(candidates):
            near = set(np.flatnonzero(alike[position]).tolist()) - {position}
            grow([*members, position], candidates & near, excluded & near)
            candidates = candidates - {position}
            excluded = excluded | {position}

    grow([], set(range(len(alike))), set())
    return sorted(found)
