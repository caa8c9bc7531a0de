"""How generated samples meet modes, against naive counting and scipy."""

import numpy as np
import pytest
from scipy.stats import entropy

from losslab.datasets.modes import build
from losslab.experiments.adversarial.metrics import (
    RealModes,
    generation_metrics,
    high_quality,
    mode_coverage,
    mode_divergence,
)
from losslab.experiments.metrics import metric
from losslab.randomness import generator

NAMES = ("mode_coverage", "high_quality", "mode_divergence")


@pytest.fixture(scope="module")
def modes():
    test = build(0, modes=8, imbalance_ratio=20).test(0)
    return RealModes.of(test.features, test.targets)


def test_centres_and_spread_are_those_of_the_mixture(modes):
    truth = build(0, modes=8, imbalance_ratio=20)
    assert modes.centres == pytest.approx(truth.centres, abs=0.02)
    assert modes.spread == pytest.approx(0.05, rel=0.02)
    shares = modes.counts[:-1] / modes.counts.sum()
    tail = 20.0 ** (-np.arange(8) / 7)
    assert shares == pytest.approx((1 - np.exp(-4.5)) * tail / tail.sum(), abs=0.005)


def test_counting_is_that_of_a_loop(modes):
    samples = generator(0, "test").uniform(-1.6, 1.6, (500, 2))
    expected = np.zeros(9, dtype=int)
    for sample in samples:
        distances = [np.hypot(*(sample - centre)) for centre in modes.centres]
        k = int(np.argmin(distances))
        expected[k if distances[k] <= 3 * modes.spread else 8] += 1
    assert modes.count(samples).tolist() == expected.tolist()
    assert expected[:8].sum() > 20


def test_samples_that_are_not_finite_belong_to_no_mode(modes):
    counts = modes.count(np.array([[np.nan, 0.0], [np.inf, 0.0], [0.0, 0.0]]))
    assert counts.tolist() == [0] * 8 + [3]
    values = generation_metrics(modes.counts, counts, NAMES)
    assert values["mode_coverage"] == values["high_quality"] == 0
    assert 3 < values["mode_divergence"] < 6  # about -log exp(-9/2)


def test_the_mixture_itself_is_nearly_perfect(modes):
    fresh = build(0, modes=8, imbalance_ratio=20).split(0)[0].features
    values = generation_metrics(modes.counts, modes.count(fresh), NAMES)
    assert values["mode_coverage"] == 1
    assert values["high_quality"] == pytest.approx(1 - np.exp(-4.5), abs=0.005)
    assert 0 <= values["mode_divergence"] < 0.005


def test_coverage_counts_modes_from_a_quarter_of_their_part_on():
    real = np.array([700, 200, 100, 0])
    assert mode_coverage(real, np.array([970, 0, 30, 0])) == pytest.approx(2 / 3)
    assert mode_coverage(real, np.array([975, 0, 25, 0])) == pytest.approx(2 / 3)  # just a quarter
    assert mode_coverage(real, np.array([976, 0, 24, 0])) == pytest.approx(1 / 3)
    assert mode_coverage(real, np.array([0, 0, 0, 9])) == 0


def test_divergence_is_scipys_relative_entropy():
    real, made = np.array([70, 20, 10, 2]), np.array([900, 0, 50, 50])
    assert mode_divergence(real, made) == pytest.approx(entropy(made, real + 0.5))
    # a mode that is never met costs what the others get too much: little where it is rare
    lost = mode_divergence(np.array([9900, 100, 0]), np.array([100, 0, 0]))
    assert lost == pytest.approx(-np.log(0.99), abs=2e-4)
    assert high_quality(real, made) == 0.95


def test_directions_and_kind_are_told():
    assert [metric(name).direction for name in NAMES] == ["maximize", "maximize", "minimize"]
    assert {metric(name).kind for name in NAMES} == {"generation"}
