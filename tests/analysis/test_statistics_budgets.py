from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from losslab.analysis.statistics import (
    detectable_difference,
    expected_best,
    mean_interval,
    power_of_paired_t,
    sd_interval,
    seeds_needed,
    shrinkage,
)
from losslab.errors import BadInput

TRIALS = [0.71, 0.42, 0.42, 0.9, 0.55, 0.63]


@pytest.mark.parametrize("better", [max, min])
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_expected_best_equals_enumeration(better, k):
    # every ordered draw with replacement, every subset without
    for replacement, draws in ((True, product(TRIALS, repeat=k)), (False, combinations(TRIALS, k))):
        bests = np.array([better(draw) for draw in draws])
        kwargs = {"replacement": replacement, "higher_is_better": better is max}
        (row,) = expected_best(TRIALS, [k], **kwargs).to_dict("records")
        assert row["expected"] == pytest.approx(bests.mean(), rel=1e-12)
        assert row["sd"] == pytest.approx(bests.std(), abs=1e-9)
        band = np.clip([bests.mean() - bests.std(), bests.mean() + bests.std()], 0.42, 0.9)
        assert [row["band_low"], row["band_high"]] == pytest.approx(list(band), abs=1e-9)


def test_expected_best_of_one_is_the_mean_with_its_t_interval():
    values = np.random.default_rng(0).normal(size=13)
    row = expected_best(values, [1]).iloc[0]
    estimate = mean_interval(values)
    expected = [estimate.mean, estimate.low, estimate.high]
    assert row[["expected", "low", "high"]].tolist() == pytest.approx(expected)


def test_jackknife_interval_by_leaving_out_one_at_a_time():
    values = np.random.default_rng(1).gumbel(size=15)
    row = expected_best(values, [4]).iloc[0]

    def naive(sample):
        return np.mean([max(draw) for draw in combinations(sample, 4)])

    left_out = np.array([naive(np.delete(values, i)) for i in range(15)])
    error = np.sqrt(14 / 15 * ((left_out - left_out.mean()) ** 2).sum())
    interval = stats.t.interval(0.95, 15 / 4 - 1, loc=naive(values), scale=error)
    assert row[["low", "high"]].tolist() == pytest.approx(list(interval))


def test_no_interval_where_the_trials_hold_no_second_best():
    table = expected_best(np.arange(10.0))
    assert table["k"].tolist() == list(range(1, 11))
    assert table["low"].isna().tolist() == [False] * 5 + [True] * 5
    assert table["reason"].iloc[5] == "no interval: 10 trials hold fewer than two bests of 6"


def test_many_trials_neither_overflow_nor_take_every_budget():
    values = np.random.default_rng(0).uniform(size=5000)
    table = expected_best(values, replacement=False)
    assert len(table) < 140
    assert table["expected"].iloc[-1] == pytest.approx(values.max())
    # the best of k uniforms has mean k / (k + 1)
    k = table["k"][table["k"] <= 500]
    assert table["expected"][: len(k)].to_numpy() == pytest.approx(k / (k + 1), abs=0.02)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.booleans(), st.booleans())
def test_more_budget_is_never_worse(values, replacement, higher):
    table = expected_best(values, replacement=replacement, higher_is_better=higher)
    steps = np.diff(table["expected"]) * (1 if higher else -1)
    assert (steps >= -1e-9).all()
    assert table["expected"].between(min(values) - 1e-9, max(values) + 1e-9).all()
    assert (table["band_low"] <= table["band_high"]).all()
    mirrored = expected_best(
        [-v for v in values], replacement=replacement, higher_is_better=not higher
    )
    np.testing.assert_allclose(table["expected"], -mirrored["expected"], atol=1e-12)
    np.testing.assert_allclose(table["low"], -mirrored["high"], atol=1e-12)


def test_shrinkage_by_hand():
    fresh = pd.DataFrame({"ce": [0.80, 0.82, 0.81], "focal": [0.83, np.nan, 0.85], "ldam": np.nan})
    table = shrinkage(pd.Series({"ldam": 0.7, "focal": 0.83, "ce": 0.86}), fresh)
    assert table["shrinkage"].to_dict() == pytest.approx(
        {"ldam": np.nan, "focal": -0.01, "ce": 0.05}, nan_ok=True
    )
    low, high = stats.t.interval(0.95, 2, loc=0.81, scale=0.01 / np.sqrt(3))
    assert table.loc["ce", ["low", "high"]].tolist() == pytest.approx([0.86 - high, 0.86 - low])
    assert table["n"].to_dict() == {"ldam": 0, "focal": 2, "ce": 3}
    assert table.loc["ldam", "reason"] == "no values"
    # the search's winner is not the winner
    assert table.loc["ce", ["search_rank", "confirmed_rank"]].tolist() == [1, 2]


def test_shrinkage_of_a_loss_has_the_other_sign():
    fresh = pd.DataFrame({"a": [0.5, 0.6], "b": [0.3, 0.3]})
    table = shrinkage(pd.Series({"a": 0.4, "b": 0.35}), fresh, higher_is_better=False)
    assert table["shrinkage"].to_dict() == pytest.approx({"a": 0.15, "b": -0.05})
    assert table["search_rank"].to_dict() == {"a": 2, "b": 1}


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_nothing_shrinks_where_search_told_the_mean(values):
    table = shrinkage(pd.Series({"a": np.mean(values)}), pd.DataFrame({"a": values}))
    assert table.loc["a", "shrinkage"] == pytest.approx(0, abs=1e-12)
    assert table.loc["a", "low"] <= 1e-12


@pytest.mark.parametrize(
    # Cohen's effect sizes at .05 two-sided and power .8, as G*Power's "matched pairs" gives them
    ("effect", "pairs"),
    [(0.2, 199), (0.5, 34), (0.8, 15)],
)
def test_pairs_that_the_textbook_effects_need(effect, pairs):
    assert seeds_needed(effect, sd=1) == seeds_needed(-effect / 50, sd=0.02) == pairs


@pytest.mark.parametrize("n", [2, 5, 10, 30])
def test_power_equals_simulation_and_the_noncentral_t(n):
    effect = 0.7
    critical = stats.t.ppf(0.975, n - 1)
    noncentral = stats.nct(n - 1, effect * np.sqrt(n))
    power = power_of_paired_t(0.007, 0.01, n)
    assert power == pytest.approx(noncentral.sf(critical) + noncentral.cdf(-critical), rel=1e-6)
    samples = np.random.default_rng(n).normal(effect, 1, (20_000, n))
    found = np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05)
    assert power == pytest.approx(found, abs=0.012)


@given(st.floats(0.05, 3), st.floats(0.5, 0.95))
def test_seeds_needed_is_the_smallest_and_undoes_detectable(effect, power):
    n = seeds_needed(effect, sd=1, power=power)
    assert power_of_paired_t(effect, 1, n) >= power
    assert n == 2 or power_of_paired_t(effect, 1, n - 1) < power
    assert detectable_difference(1, n, power=power) <= effect * (1 + 1e-6)
    assert power_of_paired_t(detectable_difference(1, n, power=power), 1, n) == pytest.approx(power)


def test_huge_effects_need_two_seeds():
    assert seeds_needed(1e6, sd=1) == 2
    assert power_of_paired_t(1e6, 1, 50) == 1


def test_interval_of_a_standard_deviation():
    values = np.random.default_rng(0).normal(0, 0.02, (2000, 5))
    s, low, high = sd_interval(values[0])
    # the textbook factors for n = 5
    assert (s, low / s, high / s) == pytest.approx((values[0].std(ddof=1), 0.599, 2.874), abs=5e-4)
    covered = [low <= 0.02 <= high for _, low, high in map(sd_interval, values)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: expected_best([0.5, np.nan]), "1 of 2 trials have no value; give chance level"),
        (lambda: expected_best([]), "no value"),
        (lambda: expected_best([0.5, 0.6], [3]), "between 1 and the 2 trials"),
        (lambda: expected_best([0.5, 0.6], [0]), "between 1 and"),
        (lambda: expected_best([0.5, 0.6], [1.5]), "whole numbers"),
        (lambda: shrinkage(pd.Series({"a": 1.0}), pd.DataFrame({"b": [1.0]})), "same arms.*a, b"),
        (lambda: seeds_needed(0, 1), "smallest difference that counts|difference of zero"),
        (lambda: seeds_needed(1e-9, 1), "too small beside"),
        (lambda: seeds_needed(1, 0), "must be positive"),
        (lambda: seeds_needed(1, 1, power=0.01), "power lies between"),
        (lambda: detectable_difference(1, 1), "two pairs"),
        (lambda: sd_interval([1.0]), "two values"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()


@pytest.mark.slow
@pytest.mark.parametrize(("trials", "k"), [(20, 2), (20, 5), (20, 10), (100, 20)])
def test_interval_of_expected_best_covers(trials, k):
    rng = np.random.default_rng(trials + k)
    true = rng.beta(5, 2, (400_000, k)).max(axis=1).mean()
    hits = []
    for values in rng.beta(5, 2, (800, trials)):
        row = expected_best(values, [k]).iloc[0]
        hits.append(row["low"] <= true <= row["high"])
    assert np.mean(hits) > 0.93
