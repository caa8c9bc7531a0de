import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from losslab.analysis.statistics import (
    mean_interval,
    paired_difference,
    seeds_and_examples_interval,
    seeds_and_examples_of_arms,
)
from losslab.errors import BadInput


def right(targets, outputs):
    return np.mean(outputs)  # outputs that are scores already


def crossed(rng, seeds, examples, seed_sd, example_sd, noise_sd):
    return (
        rng.normal(0, seed_sd, (seeds, 1))
        + rng.normal(0, example_sd, (1, examples))
        + rng.normal(0, noise_sd, (seeds, examples))
    )


def mean_squares(values):
    """Of the two-way layout: seeds, examples, residual."""
    seeds, examples = values.shape
    rows, columns = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    residual = values - rows - columns + values.mean()
    return (
        examples * rows.var(ddof=1),
        seeds * columns.var(ddof=1),
        (residual**2).sum() / ((seeds - 1) * (examples - 1)),
    )


def test_errors_of_a_mean_are_those_of_the_two_way_anova():
    values = crossed(np.random.default_rng(1), 3, 150, 0.15, 1.0, 3.0)
    by_seeds, by_examples, residual = mean_squares(values)
    result = seeds_and_examples_interval(np.zeros(150), values, right, resamples=4000)
    size = values.size
    assert result.seed_error == pytest.approx(np.sqrt(by_seeds / size), rel=1e-9)
    # by the bootstrap of 4,000 resamples, whose standard error is 1.1 %
    assert result.example_error == pytest.approx(np.sqrt(by_examples / size), rel=0.04)
    total = (by_seeds + by_examples - residual) / size
    assert total > max(by_seeds, by_examples) / size  # so that the residual shows
    # Satterthwaite's degrees of freedom tell the variance that they were made of
    parts = (by_seeds / size) ** 2 / 2 + (by_examples / size) ** 2 / 149
    assert result.degrees == pytest.approx(total**2 / parts, rel=0.15)
    half = stats.t.ppf(0.975, result.degrees) * np.sqrt(total)
    over_seeds = stats.t.ppf(0.975, 2) * np.sqrt(by_seeds / size)
    assert half < over_seeds == pytest.approx(result.high - result.mean)


def test_many_seeds_on_few_examples():
    # here the examples decide, and the interval is that of the formula
    values = crossed(np.random.default_rng(0), 12, 30, 0.1, 1.0, 2.0)
    by_seeds, by_examples, residual = mean_squares(values)
    result = seeds_and_examples_interval(np.zeros(30), values, right, resamples=4000)
    # a bootstrap variance is (n − 1)/n of the unbiased one
    total = (by_seeds + (by_examples - residual) * 29 / 30) / values.size
    half = stats.t.ppf(0.975, result.degrees) * np.sqrt(total)
    assert result.high - result.mean == pytest.approx(half, rel=0.04)


def test_the_interval_over_seeds_is_the_usual_one():
    rng = np.random.default_rng(1)
    a, b = (crossed(rng, 5, 80, 0.2, 1, 1) for _ in range(2))
    alone = seeds_and_examples_interval(np.zeros(80), a, right)
    usual = mean_interval(a.mean(axis=1))
    assert (alone.seeds_low, alone.seeds_high) == pytest.approx((usual.low, usual.high))
    both = seeds_and_examples_interval(np.zeros(80), a, right, baseline=b)
    paired = paired_difference(a.mean(axis=1), b.mean(axis=1))
    assert (both.mean, both.seeds_low, both.seeds_high) == pytest.approx(
        (paired.difference, paired.low, paired.high)
    )
    assert both.low <= both.seeds_low <= both.seeds_high <= both.high


def test_arms_share_the_resampled_examples():
    # the examples differ by far more than the arms do, in the same way for both arms
    values = crossed(np.random.default_rng(2), 4, 60, 0.01, 10, 0.01)
    result = seeds_and_examples_interval(np.zeros(60), values + 0.5, right, baseline=values)
    assert result.mean == pytest.approx(0.5)
    assert result.high - result.low < 1e-6
    assert seeds_and_examples_interval(np.zeros(60), values, right).example_error > 0.5


def test_a_metric_of_the_ranking_with_rare_positives():
    rng = np.random.default_rng(3)
    targets = (np.arange(300) < 6).astype(int)
    outputs = rng.normal(targets * 2.0, 1) + rng.normal(0, 0.3, (5, 300))
    result = seeds_and_examples_interval(
        targets, outputs, average_precision_score, strata=targets, resamples=200
    )
    values = [average_precision_score(targets, one) for one in outputs]
    assert result.mean == pytest.approx(np.mean(values))
    # six positives: the test set's chance is the larger one
    assert result.example_error > result.seed_error
    assert result.high - result.low > result.seeds_high - result.seeds_low


def test_the_seed_works():
    values = crossed(np.random.default_rng(4), 3, 40, 0.1, 1, 1)
    first, again, other = (
        seeds_and_examples_interval(np.zeros(40), values, right, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.example_error != other.example_error


def test_strata_keep_every_class():
    targets = np.array([1] + [0] * 30)
    outputs = np.random.default_rng(5).normal(size=(3, 31))

    def needs_a_positive(labels, scores):
        return scores[labels == 1].mean() if labels.any() else np.nan

    loose = seeds_and_examples_interval(targets, outputs, needs_a_positive)
    # a resample misses the one positive with probability (30/31)^31 = .36
    assert loose.undefined == pytest.approx(400 * (30 / 31) ** 31, abs=40)
    strict = seeds_and_examples_interval(targets, outputs, needs_a_positive, strata=targets)
    assert (strict.undefined, strict.example_error) == (0, pytest.approx(0, abs=1e-12))


def test_one_seed_has_the_examples_interval_alone():
    values = np.random.default_rng(6).normal(size=(1, 200))
    result = seeds_and_examples_interval(np.zeros(200), values, right, resamples=4000)
    usual = mean_interval(values[0])
    assert np.isnan(result.seeds_low)
    assert (result.low, result.high) == pytest.approx((usual.low, usual.high), abs=0.01)
    assert "one seed" in result.reason


def test_no_variance_at_all_says_so():
    result = seeds_and_examples_interval(np.zeros(20), np.ones((3, 20)), right)
    assert (result.low, result.high) == (1, 1)
    assert "zero variance" in result.reason


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros(4), np.zeros(4), right), "seeds, examples"),
        ((np.zeros(4), np.zeros((2, 5)), right), r"outputs \(2, 5\) and targets \(4,\)"),
        ((np.zeros(4), np.zeros((2, 4)), right, np.zeros((3, 4))), "baseline has shape"),
        ((np.zeros(4), np.zeros((2, 4)), lambda t, o: np.nan), "no value on the whole test set"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(BadInput, match=words):
        seeds_and_examples_interval(*arguments)
    with pytest.raises(BadInput, match="strata"):
        seeds_and_examples_interval(np.zeros(4), np.zeros((2, 4)), right, strata=np.zeros(3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed_sd", "example_sd", "noise_sd"), [(0.1, 1, 0.5), (0.3, 0.5, 1), (0.02, 1, 3)]
)
def test_new_seeds_and_a_new_test_set_are_covered(seed_sd, example_sd, noise_sd):
    rng = np.random.default_rng(7)
    both, over_seeds = [], []
    for _ in range(600):
        values = crossed(rng, 5, 100, seed_sd, example_sd, noise_sd)
        result = seeds_and_examples_interval(np.zeros(100), values, right, resamples=100)
        both.append(result.low <= 0 <= result.high)
        over_seeds.append(result.seeds_low <= 0 <= result.seeds_high)
    assert np.mean(both) > 0.93
    assert np.mean(over_seeds) < np.mean(both)


def test_arms_together_equal_arms_alone():
    rng = np.random.default_rng(5)
    targets = rng.integers(0, 2, 60)
    outputs = {
        arm: {seed: targets * lift + rng.normal(size=60) for seed in range(first, 4)}
        for arm, lift, first in (("ce", 1.0, 0), ("focal", 1.5, 0), ("late", 1.0, 2))
    }
    options = {"strata": targets, "resamples": 50, "seed": 3}
    means, differences = seeds_and_examples_of_arms(
        targets, outputs, average_precision_score, "ce", **options
    )
    stacked = {arm: np.stack(list(runs.values())) for arm, runs in outputs.items()}
    alone = seeds_and_examples_interval(
        targets, stacked["focal"], average_precision_score, **options
    )
    assert means["focal"] == alone
    paired = seeds_and_examples_interval(
        targets, stacked["late"], average_precision_score, stacked["ce"][2:], **options
    )
    assert differences["late"] == paired
    assert set(differences) == {"focal", "late"}
    elsewhere = {"ce": outputs["ce"], "x": {9: outputs["ce"][0]}}
    lonely = seeds_and_examples_of_arms(
        targets, elsewhere, average_precision_score, "ce", **options
    )
    assert lonely[1] == {"x": None}
