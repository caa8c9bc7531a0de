import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from losslab.analysis.statistics import (
    compare_to_baseline,
    holm,
    mean_interval,
    paired_difference,
)
from losslab.errors import BadInput


def test_mean_interval_equals_statsmodels():
    values = np.random.default_rng(0).normal(0.8, 0.02, 7)
    low, high = DescrStatsW(values).tconfint_mean(alpha=0.1)
    estimate = mean_interval(values, confidence=0.9)
    assert estimate.low == pytest.approx(low, rel=1e-12)
    assert estimate.high == pytest.approx(high, rel=1e-12)
    assert estimate.half_width == pytest.approx((high - low) / 2, rel=1e-12)


def test_sleep_data_of_student_1908():
    # the paired example of Student's own paper: 10 patients, hours of extra sleep, two drugs;
    # mean difference 1.58, s = 1.2300, t = 4.0621, p = .00283, 95 % interval (0.7001, 2.4599)
    drug_1 = pd.Series([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    drug_2 = pd.Series([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    result = paired_difference(drug_2, drug_1)
    assert result.difference == pytest.approx(1.58)
    assert result.p == pytest.approx(0.002833, abs=5e-7)
    assert (result.low, result.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert (result.n, result.dropped, result.reason) == (10, 0, "")


def test_paired_difference_equals_scipy_on_shuffled_pairs():
    rng = np.random.default_rng(1)
    a, b = pd.Series(rng.normal(size=9)), pd.Series(rng.normal(size=9))
    expected = stats.ttest_rel(a, b)
    result = paired_difference(a.sample(frac=1, random_state=3), b)
    interval = expected.confidence_interval(0.95)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high), rel=1e-12)


def test_missing_seeds_and_nan_are_dropped_and_counted():
    a = pd.Series({0: 1.0, 1: 2.0, 2: np.nan, 4: 5.0})
    b = pd.Series({0: 0.5, 1: 1.0, 2: 1.0, 3: 9.0, 4: np.inf})
    result = paired_difference(a, b)
    assert result.difference == pytest.approx(0.75)
    assert (result.n, result.dropped) == (2, 3)


@pytest.mark.parametrize(
    ("values", "n", "reason"),
    [([], 0, "no values"), ([0.9], 1, "one value: no interval"), ([np.nan], 0, "no values")],
)
def test_no_interval_says_why(values, n, reason):
    estimate = mean_interval(values)
    assert np.isnan(estimate.half_width)
    assert (estimate.n, estimate.reason) == (n, reason)


def test_equal_values_have_no_noise_interval():
    # 0.1 + 0.2 and 0.3 differ in the last bit: no t statistic may come out of that
    estimate = mean_interval([0.3, 0.1 + 0.2, 0.3])
    assert estimate.half_width == 0
    assert "zero variance" in estimate.reason


def test_differences_without_variance():
    a = pd.Series([0.8, 0.7, 0.6])
    same = paired_difference(a, a)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    shifted = paired_difference(a + 0.1, a)
    assert shifted.difference == pytest.approx(0.1)
    assert np.isnan(shifted.p)
    assert "zero variance" in shifted.reason
    one = paired_difference(a[:1], a)
    assert np.isnan(one.p)
    assert (one.n, one.dropped, one.reason) == (1, 2, "one pair: no interval")


def test_small_but_real_differences_are_tested():
    rng = np.random.default_rng(0)
    b = pd.Series(rng.normal(0.8, 0.02, 10))
    a = b + rng.normal(1e-9, 1e-10, 10)
    assert paired_difference(a, b).p < 1e-6


def test_holm_by_hand_and_by_statsmodels():
    # m = 3: .01*3, then .03*2, then max(.04*1, .06)
    p = pd.Series({"a": 0.01, "b": 0.04, "c": np.nan, "d": 0.03})
    corrected = holm(p)
    assert corrected.drop("c").to_list() == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(corrected["c"])
    many = pd.Series(np.random.default_rng(0).uniform(size=8))
    np.testing.assert_allclose(holm(many), multipletests(many, method="holm")[1])
    assert holm(pd.Series(dtype=float)).empty


def test_compare_to_baseline_leaves_out_untested_arms_from_holm():
    rng = np.random.default_rng(2)
    base = rng.normal(size=6)
    values = pd.DataFrame({"ce": base, "a": base + rng.normal(1, 0.3, 6), "b": np.nan})
    table = compare_to_baseline(values, "ce")
    assert list(table.index) == ["a", "b"]
    assert table.loc["a", "p_holm"] == table.loc["a", "p"]
    assert table.loc["b", "n"] == 0
    assert np.isnan(table.loc["b", "p_holm"])


def test_bad_input():
    with pytest.raises(BadInput, match="duplicates"):
        paired_difference(pd.Series([1.0, 2.0], index=[0, 0]), pd.Series([1.0]))
    with pytest.raises(BadInput, match="confidence"):
        mean_interval([1.0, 2.0], confidence=95)
    with pytest.raises(BadInput, match="baseline"):
        compare_to_baseline(pd.DataFrame({"a": [1.0]}), "ce")


@pytest.mark.slow
def test_intervals_cover_the_true_difference_at_the_stated_rate():
    rng = np.random.default_rng(20)
    studies, seeds, true = 4000, 5, 0.01
    common = rng.normal(0, 0.05, (studies, seeds))
    a = common + true + rng.normal(0, 0.01, (studies, seeds))
    b = common + rng.normal(0, 0.01, (studies, seeds))
    results = [paired_difference(pd.Series(x), pd.Series(y)) for x, y in zip(a, b, strict=True)]
    covered = np.mean([r.low <= true <= r.high for r in results])
    # the standard error at 4,000 studies is .0034
    assert covered == pytest.approx(0.95, abs=0.011)
    null = [
        paired_difference(pd.Series(x - true), pd.Series(y)).p for x, y in zip(a, b, strict=True)
    ]
    assert np.mean(np.array(null) < 0.05) == pytest.approx(0.05, abs=0.011)
