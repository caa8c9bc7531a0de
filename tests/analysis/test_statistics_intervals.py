import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from losslab.analysis.statistics import (
    bootstrap_interval,
    iqm,
    mean_interval,
    performance_profile,
    summarise,
)
from losslab.errors import BadInput

numbers = st.floats(-100, 100).map(lambda x: round(x, 3))


def naive_bootstrap(matrix, statistic, resamples=4000):
    """Stratified by task, one resample at a time."""
    rng = np.random.default_rng(99)
    n = len(matrix)
    found = [
        statistic(np.column_stack([column[rng.integers(0, n, n)] for column in matrix.T]))
        for _ in range(resamples)
    ]
    return np.percentile(found, [2.5, 97.5])


REFERENCES = {
    "mean": np.mean,
    "median": lambda scores: np.median(scores.mean(axis=0)),
    "iqm": lambda scores: np.sort(scores.ravel())[9:-9].mean(),  # a quarter of 36 at either end
}


@pytest.mark.parametrize("statistic", REFERENCES)
def test_stratified_bootstrap_equals_a_naive_loop(statistic):
    matrix = np.random.default_rng(0).normal([0, 1, 5], [1, 2, 0.5], (12, 3))
    result = bootstrap_interval(matrix, statistic, seed=3)
    assert result.mean == pytest.approx(REFERENCES[statistic](matrix), rel=1e-12)
    low, high = naive_bootstrap(matrix, REFERENCES[statistic])
    # two Monte-Carlo quantiles of 4,000 and 10,000 draws agree to a few per cent of the width
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.04 * (high - low))


def test_tasks_are_not_mixed():
    # two tasks worlds apart: resampling across them would give a spread of 50
    matrix = np.column_stack([np.arange(12.0), 100 + np.arange(12.0)])
    result = bootstrap_interval(matrix)
    assert result.mean == pytest.approx(55.5)
    assert result.half_width < 2


def test_median_and_iqm_of_one_sample():
    values = [3.0, 9.0, 1.0, 2.0, 5.0, 4.0, 8.0, 7.0, 6.0, 1000.0]
    assert bootstrap_interval(values, "median").mean == 5.5
    # sorted 1 ... 9, 1000: two off either end
    assert iqm(values) == bootstrap_interval(values, "iqm").mean == pytest.approx(5.5)


def test_iqm_of_a_matrix_pools_runs_and_leaves_gaps_out():
    matrix = np.array([[0.0, 1.0], [2.0, np.nan], [3.0, 4.0]])
    # 0 1 2 3 4: one off either end
    assert iqm(matrix) == iqm(pd.DataFrame(matrix)) == pytest.approx(2.0)


def test_the_seed_works_and_the_global_generator_does_not_matter():
    values = np.random.default_rng(1).normal(size=15)
    first = bootstrap_interval(values, "iqm", seed=5)
    np.random.default_rng(0).normal(size=3)
    np.random.seed(0)  # noqa: NPY002 - what must have no effect
    assert bootstrap_interval(values, "iqm", seed=5) == first
    assert bootstrap_interval(values, "iqm", seed=6) != first


def test_percentile_bootstrap_is_refused_below_ten():
    with pytest.raises(BadInput, match="at least 10 runs in each task, got 9: use the t interval"):
        bootstrap_interval(np.arange(9.0))
    gaps = np.arange(20.0).reshape(10, 2)
    gaps[0, 1] = np.nan
    with pytest.raises(BadInput, match="got 9"):
        bootstrap_interval(gaps)
    with pytest.raises(BadInput, match="got 9"):
        performance_profile(np.arange(9.0))


def test_ten_runs_with_a_gap_beside_them_count_what_was_dropped():
    result = bootstrap_interval([*np.arange(10.0), np.nan, np.inf])
    assert (result.n, result.dropped, result.mean) == (10, 2, 4.5)


def test_equal_values_have_width_zero_and_say_so():
    result = bootstrap_interval([0.3, 0.1 + 0.2] * 6)
    assert result.half_width == 0
    assert "zero variance" in result.reason


@pytest.mark.parametrize(("n", "primary"), [(5, "t"), (19, "t"), (20, "bootstrap")])
def test_summary_says_which_interval_to_quote(n, primary):
    values = np.random.default_rng(n).normal(size=n)
    table = summarise(values)
    (row,) = table[table["primary"]].to_dict("records")
    assert (row["statistic"], row["interval"]) == ("mean", primary)
    assert list(table["estimate"]) == pytest.approx(
        [values.mean(), values.mean(), np.median(values), stats.trim_mean(values, 0.25)]
    )
    refused = table["reason"].str.contains("no bootstrap below 10")
    assert list(refused) == [False] + [n < 10] * 3
    assert table["low"].isna().equals(refused)


def test_summary_without_values():
    table = summarise([np.nan])
    assert table["n"].tolist() == [0] * 4
    assert table["dropped"].tolist() == [1] * 4


@given(st.lists(numbers, min_size=10, max_size=14), st.sampled_from(["mean", "median", "iqm"]))
def test_bootstrap_moves_with_the_data(values, statistic):
    plain = bootstrap_interval(values, statistic, resamples=200)
    moved = bootstrap_interval([2 * v + 7 for v in values], statistic, resamples=200)
    expected = [2 * plain.low + 7, 2 * plain.mean + 7, 2 * plain.high + 7]
    assert [moved.low, moved.mean, moved.high] == pytest.approx(expected, abs=1e-6)
    assert min(values) - 1e-9 <= plain.low <= plain.high <= max(values) + 1e-9


@given(st.lists(numbers, min_size=2, max_size=12), st.randoms())
def test_t_interval_does_not_depend_on_the_order(values, random):
    shuffled = random.sample(values, len(values))
    first, second = mean_interval(values), mean_interval(shuffled)
    assert (first.low, first.high) == pytest.approx((second.low, second.high), abs=1e-9)


def test_profile_by_hand():
    # shares above .45: five of ten and, in the second task, all
    scores = np.column_stack([np.arange(10) / 10, np.full(10, 0.9)])
    profile = performance_profile(scores, [-1.0, 0.45, 0.9])
    assert profile["share"].tolist() == pytest.approx([1.0, 0.75, 0.0])
    # the second task never varies, so the band is half of a binomial's: 5 ± 3 of 10, over 2 tasks
    assert profile.loc[1, ["low", "high"]].tolist() == pytest.approx([0.6, 0.9])
    assert profile.loc[0, ["low", "high"]].tolist() == [1.0, 1.0]


def test_profile_falls_over_the_default_thresholds():
    profile = performance_profile(np.random.default_rng(0).normal(size=(15, 4)))
    assert len(profile) == 101
    assert (np.diff(profile["share"]) <= 0).all()
    assert profile["share"].iloc[-1] == 0
    assert ((profile["low"] <= profile["share"]) & (profile["share"] <= profile["high"])).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_interval(np.arange(12.0), "mode"), "unknown statistic 'mode'"),
        (lambda: bootstrap_interval(np.zeros((2, 2, 2))), r"\(runs, tasks\)"),
        (lambda: bootstrap_interval(np.full((12, 1), np.nan)), "one finite score"),
        (lambda: bootstrap_interval(np.arange(12.0), confidence=95), "confidence"),
        (lambda: performance_profile(np.arange(12.0), [np.nan]), "thresholds"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(BadInput, match=words):
        call()


@pytest.mark.slow
def test_why_the_bootstrap_is_refused_where_the_t_interval_is_not():
    rng = np.random.default_rng(4)

    def covered(n, interval):
        hits = []
        for values in rng.normal(size=(2000, n)):
            low, high = interval(values)
            hits.append(low <= 0 <= high)
        return np.mean(hits)

    def bootstrap(values):
        result = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=999, rng=rng)
        return result.confidence_interval

    def student(values):
        estimate = mean_interval(values)
        return estimate.low, estimate.high

    # the standard error at 2,000 samples is .005 to .008
    assert covered(5, bootstrap) == pytest.approx(0.84, abs=0.025)
    assert covered(5, student) == pytest.approx(0.95, abs=0.015)
    assert covered(20, bootstrap) > 0.92
