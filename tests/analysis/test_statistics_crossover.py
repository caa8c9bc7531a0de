"""Crossings against a brute-force search, and their interval's coverage under simulation."""

import doctest

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from losslab.analysis.statistics import crossover as module_function
from losslab.analysis.statistics.crossover import NONE, crossover
from losslab.errors import BadInput


def _brute(x, d, points=200_001):
    """The t interval of the interpolated differences at every point of a fine grid."""
    grid = np.linspace(x[0], x[-1], points)
    lines = np.array([np.interp(grid, x, row) for row in d])
    t = stats.t.ppf(0.975, len(d) - 1)
    covers = np.abs(lines.mean(axis=0)) <= t * lines.std(axis=0, ddof=1) / np.sqrt(len(d))
    at = int(np.argmin(np.abs(lines.mean(axis=0))))
    low = at - int(np.argmin(covers[: at + 1][::-1])) + 1 if not covers[: at + 1].all() else 0
    high = at + int(np.argmin(covers[at:])) - 1 if not covers[at:].all() else points - 1
    return grid[at], grid[low], grid[high]


@pytest.mark.parametrize("seed", range(8))
def test_interval_is_every_point_whose_t_interval_covers_zero(seed):
    rng = np.random.default_rng(seed)
    x = np.array([0.0, 1.0, 2.5, 4.0])
    d = (
        np.array([-1, -0.4, 0.5, 1.2])
        + 0.4 * rng.normal(size=(6, 4))
        + 0.2 * rng.normal(size=(6, 1))
    )
    result = crossover(x, pd.DataFrame(d), log=False)
    if len(result.crossings) == 1:
        expected = _brute(x, d)
        found = (result.position, result.low, result.high)
        assert found == pytest.approx(expected, abs=1e-3)
        assert (result.low_open, result.high_open) == (expected[1] == 0, expected[2] == 4)


def test_log_levels_are_levels_of_logarithms():
    d = pd.DataFrame(np.array([-1.0, 0.5, 1.0]) + 0.1 * np.arange(4)[:, None])
    log, linear = crossover([1, 10, 100], d), crossover([0, 1, 2], d, log=False)
    assert [np.log10(v) for v in (log.position, log.low, log.high)] == pytest.approx(
        [linear.position, linear.low, linear.high]
    )
    assert linear.position == pytest.approx(0.85 / 1.5)


def test_no_crossing_several_and_too_few():
    ahead = crossover([1, 2], pd.DataFrame([[1.0, 2.0], [1.5, 2.5]]))
    assert np.isnan(ahead.position)
    assert ahead.reason == NONE
    twice = crossover([1, 2, 3], pd.DataFrame([[1.0, -1.0, 1.0]] * 3), log=False)
    assert (twice.crossings, twice.reason) == ((1.5, 2.5), "2 crossings")
    one = crossover([1, 3], pd.DataFrame([[-1.0, 1.0], [np.nan, 1.0]]), log=False)
    assert (one.position, one.n, one.dropped) == (2.0, 1, 1)
    assert np.isnan(one.low)
    assert "one replicate" in one.reason
    assert crossover([1, 2], pd.DataFrame([[np.nan, 1.0]])).reason == "no complete replicate"
    touching = crossover([1, 2, 3], pd.DataFrame([[1.0, 0.0, 1.0]] * 2), log=False)
    assert touching.reason == NONE
    through = crossover([1, 2, 3], pd.DataFrame([[1.0, 0.0, -1.0]] * 2), log=False)
    assert through.crossings == (2.0,)


def test_an_end_that_is_undecided_stays_open():
    d = pd.DataFrame([[-0.5, 1.0], [0.4, 1.1], [-0.3, 0.9]])
    result = crossover([1, 10], d)
    assert (result.low, result.low_open, result.high_open) == (1.0, True, False)


@pytest.mark.parametrize("levels", [[1, 1], [2, 1], [0, 1], [1], [1, 2, 3], [1, np.inf]])
def test_mistakes(levels):
    with pytest.raises(BadInput):
        crossover(levels, pd.DataFrame([[1.0, -1.0]]))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_coverage_is_as_stated(n):
    """A true line through zero at x = 1.3, replicates correlated over levels; nominal 95 %."""
    rng, x = np.random.default_rng(n), np.array([0.0, 1.0, 2.0, 3.0])
    truth, covered, tried = 0.5 * (x - 1.3), 0, 0
    for _ in range(1000):
        d = truth + 0.15 * rng.normal(size=(n, 4)) + 0.15 * rng.normal(size=(n, 1))
        result = crossover(x, pd.DataFrame(d), log=False)
        if len(result.crossings) == 1:
            tried += 1
            covered += result.low <= 1.3 <= result.high
    assert tried > 970
    assert 0.93 <= covered / tried <= 0.97


def test_examples_in_docstrings():
    import importlib

    module = importlib.import_module("losslab.analysis.statistics.crossover")
    assert module_function is crossover
    assert doctest.testmod(module).failed == 0
