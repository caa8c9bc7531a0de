from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from losslab.analysis.statistics import (
    corrected_resampled_t,
    holm,
    paired_bootstrap,
    paired_difference,
    paired_permutation,
    pairs_needed,
    probability_of_outperforming,
    smallest_p,
    wilcoxon,
)
from losslab.errors import BadInput

# Darwin's cross- and self-fertilised maize, 15 pairs, in eighths of an inch: Fisher (1935, sec. 17
# and 21) and Wilcoxon (1945) both test these differences
DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48.0])
differences = st.lists(st.integers(-8, 8), min_size=1, max_size=8)


def test_fishers_permutation_of_darwins_maize():
    # "5.267 per cent": 863 of the 32,768 sign patterns on either side
    result = paired_permutation(DARWIN, np.zeros(15))
    assert result.p == pytest.approx(2 * 863 / 2**15, rel=1e-12)
    assert (result.estimate, result.method, result.reason) == (pytest.approx(314 / 15), "exact", "")


def test_wilcoxons_test_of_darwins_maize():
    result = wilcoxon(DARWIN, np.zeros(15))
    # the ranks of −48 and −67 are 10 and 14
    assert result.statistic == 24
    assert result.p == pytest.approx(0.041259765625, rel=1e-12)
    walsh = [(a + b) / 2 for i, a in enumerate(DARWIN) for b in DARWIN[i:]]
    assert result.estimate == np.median(walsh)


@given(differences)
def test_exact_tests_equal_enumeration_with_ties_and_zeros(values):
    d = np.array(values, dtype=float)
    signs = np.array(list(product([-1, 1], repeat=len(d))))
    permutation = paired_permutation(d, np.zeros(len(d)))
    extreme = np.abs(signs @ np.abs(d)) >= abs(d.sum()) - 1e-9
    assert permutation.p == pytest.approx(extreme.mean(), rel=1e-9)

    ranked = d[d != 0]
    result = wilcoxon(d, np.zeros(len(d)))
    if len(ranked) == 0:
        assert (result.p, result.reason) == (1, "every pair is equal")
        return
    ranks = stats.rankdata(np.abs(ranked))
    spread = np.abs(np.array(list(product([-1, 1], repeat=len(ranked)))) @ ranks)
    expected = (spread >= abs(np.sign(ranked) @ ranks) - 1e-9).mean()
    assert result.p == pytest.approx(expected, rel=1e-9)
    assert result.ties == permutation.ties == len(d) - len(ranked)
    assert min(result.p, permutation.p) >= smallest_p(len(ranked)) - 1e-12


@given(differences)
def test_swapping_the_arms_changes_the_sign_alone(values):
    d, zero = np.array(values, dtype=float), np.zeros(len(values))
    for test in (paired_permutation, wilcoxon):
        one, other = test(d, zero), test(zero, d)
        assert one.p == pytest.approx(other.p)
        assert one.estimate == pytest.approx(-other.estimate)
    one, other = (probability_of_outperforming(*pair) for pair in ((d, zero), (zero, d)))
    assert one.probability + other.probability == pytest.approx(1)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
    assert one == probability_of_outperforming(-d, zero, higher_is_better=False)


def test_too_few_pairs_for_the_level_are_named():
    values = np.arange(1.0, 6)
    for test in (paired_permutation, wilcoxon):
        result = test(values, np.zeros(5))
        assert result.p == result.smallest_p == 0.0625
        words = "5 unequal pairs cannot give p below 0.0625, so never 0.05; 6 can"
        assert result.reason == words
        assert test(np.arange(1.0, 7), np.zeros(6)).reason == ""
        # Holm over four arms asks for .0125 first, and an equal pair does not help
        stricter = test(np.append(np.arange(1.0, 7), 0), np.zeros(7), level=0.0125)
        assert "6 unequal pairs cannot give p below 0.03125, so never 0.0125; 8 can" in (
            stricter.reason
        )


def test_many_pairs_are_permuted_at_random_by_the_seed():
    rng = np.random.default_rng(2)
    d = rng.normal(0.3, 1, 30)
    first = paired_permutation(d, np.zeros(30), resamples=20_000, seed=1)
    assert first == paired_permutation(d, np.zeros(30), resamples=20_000, seed=1)
    second = paired_permutation(d, np.zeros(30), resamples=20_000, seed=2)
    assert first.p != second.p
    # for 30 normal differences the t-test is the permutation test's limit
    assert first.p == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.02)
    few = paired_permutation(np.arange(1.0, 31), np.zeros(30), resamples=19, seed=1)
    assert few.p == few.smallest_p == 0.1
    assert "raise resamples" in few.reason


def test_wilcoxon_of_many_pairs_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40))
    assert wilcoxon(a, b).p == pytest.approx(stats.wilcoxon(a, b, method="exact").pvalue)
    rounded = np.round(rng.normal(0.4, 1, 60), 1)
    result = wilcoxon(rounded, np.zeros(60))
    expected = stats.wilcoxon(rounded[rounded != 0], method="asymptotic")
    assert (result.statistic, result.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert result.method == "normal approximation"


def test_rounding_makes_neither_wins_nor_ranks():
    a = np.array([0.1 + 0.2, 0.3, 0.7, 0.2])
    b = np.array([0.3, 0.2, 0.8, 0.2])
    # differences 0, .1, −.1 and 0 on paper, 5.5e-17, .09999999999999998, −.10000000000000009 and 0
    # in floating point
    result = probability_of_outperforming(a, b)
    assert (result.wins, result.losses, result.ties) == (1, 1, 2)
    ranks = wilcoxon(a, b)
    assert (ranks.statistic, ranks.p, ranks.ties) == (1.5, 1.0, 2)


def test_no_pairs():
    empty = pd.Series(dtype=float)
    for test in (paired_permutation, wilcoxon):
        result = test(empty, empty)
        assert np.isnan(result.p)
        assert result.reason == "no pairs"
    assert probability_of_outperforming(empty, empty).verdict == "undecided"


def test_paired_bootstrap_resamples_pairs():
    rng = np.random.default_rng(3)
    common = rng.normal(0, 10, 20)
    a, b = common + rng.normal(1, 0.1, 20), common
    result = paired_bootstrap(pd.Series(a), pd.Series(b).sample(frac=1, random_state=0))
    t = paired_difference(a, b)
    assert result.difference == pytest.approx(t.difference)
    # unpaired, the interval would be some six wide
    assert (result.low, result.high) == pytest.approx((t.low, t.high), abs=0.015)
    assert np.isnan(result.p)
    with pytest.raises(BadInput, match="at least 10"):
        paired_bootstrap(a[:9], b[:9])


def test_nadeau_bengio_by_its_formula():
    d = np.array([0.021, 0.003, -0.004, 0.015, 0.012, 0.008, 0.017, -0.001, 0.009, 0.011])
    result = corrected_resampled_t(d, np.zeros(10), train_size=9, test_size=1)
    error = np.sqrt((1 / 10 + 1 / 9) * d.var(ddof=1))
    assert result.p == pytest.approx(2 * stats.t.sf(d.mean() / error, 9), rel=1e-12)
    interval = stats.t.interval(0.95, 9, loc=d.mean(), scale=error)
    assert (result.low, result.high) == pytest.approx(interval, rel=1e-12)
    # without overlap it is the paired t-test
    plain = corrected_resampled_t(d, np.zeros(10), train_size=1e12, test_size=1)
    assert plain.p == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=1e-6)


def test_nadeau_bengio_without_variance_keeps_the_reason():
    same = corrected_resampled_t(np.ones(4), np.ones(4), train_size=9, test_size=1)
    assert (same.p, same.reason) == (1.0, "every pair is equal")
    one = corrected_resampled_t([1.0], [0.0], train_size=9, test_size=1)
    assert one.reason == "one pair: no interval"


@pytest.mark.parametrize(
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3
    ("wins", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_of_newcombe(wins, n, low, high):
    result = probability_of_outperforming(np.where(np.arange(n) < wins, 1.0, -1.0), np.zeros(n))
    assert (result.low, result.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("wins", "n", "verdict"),
    [
        (28, 28, "undecided"),
        (29, 29, "significant and meaningful"),
        (20, 29, "significant and meaningful"),
        (19, 29, "not significant"),
        (66, 100, "significant, not meaningful"),
        (67, 100, "significant and meaningful"),
    ],
)
def test_three_way_verdict(wins, n, verdict):
    result = probability_of_outperforming(np.where(np.arange(n) < wins, 1.0, -1.0), np.zeros(n))
    assert (result.verdict, result.needed) == (verdict, 29)
    # by another code than ours: significant above 1/2, meaningful where the interval passes 3/4
    interval = stats.binomtest(wins, n).proportion_ci(method="wilson")
    assert n < 29 or ("not significant" in verdict) == (interval.low <= 0.5)
    assert n < 29 or ("and meaningful" in verdict) == (interval.low > 0.5 and interval.high > 0.75)


def test_ties_count_half_and_a_losing_arm_is_told():
    values = np.array([1.0] * 5 + [0.0] * 10 + [-1.0] * 25)
    result = probability_of_outperforming(values, np.zeros(40))
    assert result.probability == 10 / 40
    assert result.verdict == "not significant"
    assert "baseline wins" in result.reason


def test_pairs_needed_of_bouthillier():
    assert (pairs_needed(), pairs_needed(miss=0.2)) == (29, 17)
    values = np.where(np.arange(100) < 90, 1.0, -1.0)
    smaller = probability_of_outperforming(values, np.zeros(100), meaningful=0.6)
    assert (smaller.verdict, smaller.needed) == ("undecided", 181)
    # 12 would do for a larger gamma; fewer than 29 are never enough
    larger = probability_of_outperforming(values[:20], np.zeros(20), meaningful=0.9)
    assert (larger.verdict, larger.needed) == ("undecided", 29)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: paired_permutation([1.0, 2.0], [1.0]), "paired by position"),
        (lambda: paired_difference(pd.Series([1.0]), [1.0]), "both sides"),
        (lambda: wilcoxon([1.0], [2.0], level=5), "significance level"),
        (lambda: probability_of_outperforming([1.0], [0.0], meaningful=0.5), "0.5 and 1"),
        (lambda: corrected_resampled_t([1.0], [0.0], train_size=0, test_size=1), "positive"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()


@pytest.mark.slow
def test_corrected_t_keeps_its_level_where_the_plain_one_does_not():
    # two classifiers alike in truth on 100 rows: each row's difference is noise, and each of 15
    # random splits judges on the same 20 % of rows that other splits judge on too
    rng = np.random.default_rng(5)
    plain, corrected = [], []
    for _ in range(1500):
        rows = rng.normal(size=100)
        d = np.array([rows[rng.permutation(100)[:20]].mean() for _ in range(15)])
        plain.append(stats.ttest_1samp(d, 0).pvalue < 0.05)
        result = corrected_resampled_t(d, np.zeros(15), train_size=80, test_size=20)
        corrected.append(result.p < 0.05)
    assert np.mean(plain) > 0.2
    assert np.mean(corrected) == pytest.approx(0.05, abs=0.025)


def test_holm_takes_a_list():
    assert holm([0.01, 0.04, 0.03]).round(3).to_list() == [0.03, 0.06, 0.06]
