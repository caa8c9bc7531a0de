"""Whole simulated studies: intervals cover at their rate, and false wins are as rare as they say.

Bounds are exact binomial ones: a protocol that errs at the stated rate is outside them with
probability 1 in 1,000 for each rate, and the study seeds are fixed, so a run repeats.
"""

from dataclasses import replace

import pytest
from scipy import stats

from losslab.analysis.error_rates import error_rates, expected_power, simulated_differences
from losslab.experiments.responses import ANCHORS, DIGITS
from losslab.experiments.simulation import two_arms

pytestmark = pytest.mark.slow

STUDIES = 200


def bounds(rate, n=STUDIES):
    """The rates that `n` studies may show where the true one is `rate`."""
    low, high = stats.binom.interval(0.999, n, rate)
    return low / n, high / n


def stated(rate, true, n=STUDIES):
    low, high = bounds(true, n)
    return low <= rate <= high


@pytest.fixture(scope="module", params=[("digits", 4), ("digits", 16), ("anchors", 16)])
def single(request):
    """The same loss twice, each with one search."""
    name, trials = request.param
    response = {"digits": DIGITS, "anchors": ANCHORS}[name]
    designs = [(1, 5), (1, 10), (1, 30)]
    return simulated_differences(two_arms(trials, 30), response, STUDIES, designs)


def test_intervals_of_one_search_cover_the_difference_of_the_configurations(single):
    # Where both searches select the defaults, the arms are one thing and nothing is compared.
    rates = error_rates(single[single["of_configurations"] != 0])
    for seeds in (5, 10, 30):
        rate, studies = rates.loc[(1, seeds), ["covers_configurations", "studies"]]
        assert studies > STUDIES / 2
        assert stated(rate, 0.95, int(studies)), seeds


def test_one_search_says_little_of_the_losses(single):
    """The more seeds, the surer a false win: what a search found is taken for the loss."""
    wins = error_rates(single)["decided"].loc[1]
    assert wins.is_monotonic_increasing
    assert wins[30] > bounds(0.05)[1]


def test_confirmation_does_not_know_what_selection_has_seen(single):
    """A selected configuration scores on test what it is truly worth, on average."""
    errors = single[single["seeds"] == 5]["level_error"]
    assert abs(errors.mean()) < 4 * stats.sem(errors)


@pytest.mark.parametrize(
    ("response", "trials"), [(DIGITS, 8), (ANCHORS, 4)], ids=["digits", "anchors"]
)
def test_over_repeats_the_same_loss_wins_no_more_often_than_stated(response, trials):
    designs = [(5, 2), (10, 2)]
    found = simulated_differences(two_arms(trials, 2, 10), response, STUDIES, designs)
    rates = error_rates(found)
    for design in designs:
        # Now and then a search ends far off, and of differences with long tails t covers more.
        assert rates.loc[design, "covers_losses"] >= bounds(0.95)[0], design
        assert rates.loc[design, "decided"] <= bounds(0.05)[1], design
        assert abs(rates.loc[design, "error"]) < 4 * rates.loc[design, "error_se"], design


def test_a_better_loss_is_found_as_often_as_the_power_says():
    ahead = replace(DIGITS, advantage={"focal": 0.004})
    focal = {"loss": {"name": "focal", "gamma": 2.0, "alpha": 0.25}}
    designs = [(5, 1), (10, 1)]
    found = simulated_differences(two_arms(16, 1, 10, focal), ahead, STUDIES, designs)
    rates, expected = error_rates(found), expected_power(found, ahead)
    for design in designs:
        power = expected.loc[design, "power"]
        assert 0.15 < power < 0.9
        assert stated(rates.loc[design, "decided"], power), design
        assert stated(rates.loc[design, "covers_losses"], 0.95), design
        assert abs(rates.loc[design, "error"]) < 4 * rates.loc[design, "error_se"], design
        half = stats.t.ppf(0.975, design[0] - 1) * expected.loc[design, "sd"] / design[0] ** 0.5
        assert rates.loc[design, "half_width"] == pytest.approx(half, rel=0.15)
