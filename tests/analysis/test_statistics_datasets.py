from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from losslab.analysis.statistics import (
    average_ranks,
    friedman,
    nemenyi,
    pairwise_wilcoxon,
    ranks_against_control,
)
from losslab.errors import BadInput

# The ranks in table 6 of Demšar (2006): four variants of C4.5 on 14 UCI data sets
DEMSAR = pd.DataFrame(
    [
        [4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5],
        [3, 2, 4, 1], [2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5, 2.5, 2.5, 2.5], [4, 2.5, 1, 2.5],
        [3, 2, 4, 1], [4, 1, 2, 3], [3, 1, 4, 2],
    ],
    columns=["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"],
)  # fmt: skip
# Hollander and Wolfe (1973), table 7.1: 22 players rounding first base by three methods, in seconds
ROUNDING = pd.DataFrame(
    [
        [5.40, 5.50, 5.55], [5.85, 5.70, 5.75], [5.20, 5.60, 5.50], [5.55, 5.50, 5.40],
        [5.90, 5.85, 5.70], [5.45, 5.55, 5.60], [5.40, 5.40, 5.35], [5.45, 5.50, 5.35],
        [5.25, 5.15, 5.00], [5.85, 5.80, 5.70], [5.25, 5.20, 5.10], [5.65, 5.55, 5.45],
        [5.60, 5.35, 5.45], [5.05, 5.00, 4.95], [5.50, 5.50, 5.40], [5.45, 5.55, 5.50],
        [5.55, 5.55, 5.35], [5.45, 5.50, 5.55], [5.50, 5.45, 5.25], [5.65, 5.60, 5.40],
        [5.70, 5.65, 5.55], [6.30, 6.30, 6.25],
    ],
    columns=["round out", "narrow angle", "wide angle"],
)  # fmt: skip
# the two-tailed Nemenyi test, table 5(a) of Demšar (2006), k = 2 ... 10
Q_05 = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
Q_10 = [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]


def random_scores(datasets, arms, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.normal(np.linspace(0, 2, arms), 1, (datasets, arms))
    return pd.DataFrame(scores, columns=list("abcdefgh")[:arms])


def test_demsars_example():
    ranks = average_ranks(DEMSAR, higher_is_better=False)
    published = {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}
    assert ranks.to_dict() == pytest.approx(published, abs=5e-4)
    assert ranks.index[0] == "C4.5+m+cf"
    result = friedman(DEMSAR, higher_is_better=False, correct_ties=False)
    assert result.chi2 == pytest.approx(9.28, abs=0.005)
    assert result.f == pytest.approx(3.69, abs=0.005)
    # his critical value F(3, 39) at .05 is 2.85
    assert result.p_f == pytest.approx(stats.f.sf(3.69, 3, 39), abs=2e-4)
    assert nemenyi(DEMSAR).critical_difference == pytest.approx(1.25, abs=0.005)
    at_10 = nemenyi(DEMSAR, level=0.1, higher_is_better=False)
    assert at_10.critical_difference == pytest.approx(1.12, abs=0.005)
    # at .10 C4.5 is worse than both variants with m, and the data cannot place C4.5+cf
    assert at_10.groups == [("C4.5+m+cf", "C4.5+m", "C4.5+cf"), ("C4.5+cf", "C4.5")]


def test_demsars_comparison_to_a_control():
    table = ranks_against_control(DEMSAR, "C4.5", higher_is_better=False)
    published = {"C4.5+m+cf": 0.016, "C4.5+m": 0.019, "C4.5+cf": 0.607}
    assert table["p"].to_dict() == pytest.approx(published, abs=1.5e-3)
    np.testing.assert_allclose(table["p_holm"], multipletests(table["p"], method="holm")[1])


def test_friedman_with_ties_of_hollander_and_wolfe():
    # R's friedman.test: chi-squared = 11.143, df = 2, p = .003805
    result = friedman(ROUNDING, higher_is_better=False)
    assert result.chi2 == pytest.approx(11.143, abs=5e-4)
    assert result.p == pytest.approx(0.003805, abs=5e-7)
    assert (result.arms, result.datasets, result.dropped) == (3, 22, 0)


@pytest.mark.parametrize(("level", "table"), [(0.05, Q_05), (0.1, Q_10)])
def test_critical_values_of_nemenyi(level, table):
    for arms, q in enumerate(table, start=2):
        scores = pd.DataFrame(np.arange(arms * 10.0).reshape(10, arms))
        error = np.sqrt(arms * (arms + 1) / 60)
        critical = nemenyi(scores, level=level).critical_difference
        # the table is rounded, some entries down
        assert critical / error == pytest.approx(q, abs=1.1e-3)


def test_nemenyi_p_values():
    # scikit-posthocs 0.17, posthoc_nemenyi_friedman, on Demšar's ranks
    p = nemenyi(DEMSAR, higher_is_better=False).p
    assert p.loc["C4.5", "C4.5+m+cf"] == pytest.approx(0.0741848, abs=1e-6)
    assert p.loc["C4.5", "C4.5+m"] == pytest.approx(0.0886727, abs=1e-6)
    assert p.loc["C4.5+cf", "C4.5+m+cf"] == pytest.approx(0.2266969, abs=1e-6)
    assert (np.diag(p) == 1).all()


@given(st.integers(2, 30), st.integers(2, 7), st.integers(0, 10_000))
def test_groups_say_what_the_decision_matrix_says(datasets, arms, seed):
    scores = random_scores(datasets, arms, seed)
    for result in (nemenyi(scores), pairwise_wilcoxon(scores)):
        assert (result.different == result.different.T).all(axis=None)
        for one, other in combinations(result.ranks.index, 2):
            together = any(one in group and other in group for group in result.groups)
            assert together != result.different.loc[one, other]
        groups = [set(group) for group in result.groups]
        assert not any(one < other for one in groups for other in groups)
    gaps = np.abs(np.subtract.outer(*[nemenyi(scores).ranks.to_numpy()] * 2))
    nemenyis = nemenyi(scores)
    np.testing.assert_array_equal(nemenyis.different, gaps >= nemenyis.critical_difference - 1e-9)
    np.testing.assert_array_equal(nemenyis.different, nemenyis.p <= 0.05 + 1e-9)


def test_pairwise_wilcoxon_is_scipy_and_statsmodels():
    scores = random_scores(12, 4)
    result = pairwise_wilcoxon(scores)
    pairs = list(combinations(scores.columns, 2))
    raw = [stats.wilcoxon(scores[a], scores[b], method="exact").pvalue for a, b in pairs]
    for (a, b), p in zip(pairs, multipletests(raw, method="holm")[1], strict=True):
        assert result.p.loc[a, b] == result.p.loc[b, a] == pytest.approx(p)
    assert np.isnan(result.critical_difference)


def test_groups_of_a_matrix_that_no_bar_over_neighbours_could_draw():
    # a beats b by a little everywhere; c is anywhere: alike to both, though it ranks between them
    rng = np.random.default_rng(1)
    b = rng.normal(size=12)
    scores = pd.DataFrame({"a": b + rng.uniform(0.01, 0.02, 12), "b": b})
    scores["c"] = b + np.resize([1.0, -1.0], 12) * rng.uniform(1, 2, 12)
    result = pairwise_wilcoxon(scores)
    assert [set(group) for group in result.groups] == [{"a", "c"}, {"b", "c"}]


def test_higher_or_lower_is_better():
    scores = random_scores(9, 4)
    up, down = average_ranks(scores), average_ranks(-scores, higher_is_better=False)
    pd.testing.assert_series_equal(up, down)
    assert up.index[0] == "d"
    assert friedman(scores).chi2 == pytest.approx(friedman(scores, higher_is_better=False).chi2)


def test_rounding_does_not_rank():
    ranks = average_ranks(pd.DataFrame({"a": [0.1 + 0.2], "b": [0.3], "c": [0.1]}))
    assert ranks.to_dict() == {"a": 1.5, "b": 1.5, "c": 3.0}


def test_incomplete_datasets_are_dropped_and_counted():
    scores = random_scores(8, 3)
    scores.iloc[2, 1] = np.nan
    assert friedman(scores).dropped == nemenyi(scores).dropped == 1
    assert friedman(scores).chi2 == friedman(scores.drop(index=2)).chi2


def test_limits_of_friedman_are_told():
    alike = friedman(pd.DataFrame(np.ones((5, 3))))
    assert (alike.chi2, alike.p, alike.p_f, alike.reason) == (0, 1, 1, "all arms rank alike")
    unanimous = friedman(pd.DataFrame([[3.0, 2.0, 1.0]] * 4))
    assert (unanimous.chi2, unanimous.f) == (pytest.approx(8), np.inf)
    assert "every dataset ranks" in unanimous.reason
    assert "read p of F" in friedman(random_scores(8, 3)).reason
    assert friedman(random_scores(20, 7)).reason == ""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: friedman(random_scores(5, 2)), "three arms"),
        (lambda: friedman(random_scores(1, 3)), "two complete datasets"),
        (lambda: average_ranks(pd.DataFrame({"a": [1.0]})), "two arms at least"),
        (lambda: nemenyi(pd.DataFrame(np.ones((3, 2)), columns=["a", "a"])), "each name once"),
        (lambda: nemenyi(pd.DataFrame({"a": [1.0], "b": [np.nan]})), "no dataset has a score"),
        (lambda: nemenyi(random_scores(5, 3), level=5), "significance level"),
        (lambda: ranks_against_control(random_scores(5, 3), "ce"), "'ce' has no scores"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()


@pytest.mark.slow
def test_iman_davenport_keeps_its_level_at_few_datasets():
    rng = np.random.default_rng(8)
    p = [friedman(pd.DataFrame(rng.normal(size=(8, 4)))).p_f for _ in range(1500)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.017)


def test_an_array_is_taken_with_numbered_arms():
    scores = DEMSAR.to_numpy()
    assert friedman(scores).chi2 == friedman(DEMSAR).chi2
    assert average_ranks(scores).index[0] in range(4)
