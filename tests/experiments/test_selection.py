"""Selection rules on hand-built records, with the expected choices written out."""

import pytest

from losslab.experiments.selection import Candidate, best_trials, select
from losslab.experiments.spaces import Choices, Range

RECORDS = [
    {"trial": 0, "state": "complete", "value": 0.60},
    {"trial": 1, "state": "pruned", "value": 0.99},
    {"trial": 2, "state": "complete", "value": 0.75},
    {"trial": 3, "state": "diverged", "value": None},
    {"trial": 4, "state": "complete", "value": 0.75},
    {"trial": 5, "state": "complete", "value": 0.40},
]


@pytest.mark.parametrize(
    ("count", "maximize", "trials"),
    [
        (1, True, [2]),  # a tie: the earlier trial
        (3, True, [2, 4, 0]),
        (9, True, [2, 4, 0, 5]),  # never a pruned or a diverged one
        (2, False, [5, 0]),
        (4, False, [5, 0, 2, 4]),
    ],
)
def test_the_best_complete_trials(count, maximize, trials):
    for records in (RECORDS, RECORDS[::-1]):
        assert [r["trial"] for r in best_trials(records, count, maximize)] == trials


def _candidate(trial, *values):
    return Candidate(trial, {"loss.gamma": float(trial)}, values)


GAMMA = {"loss.gamma": Range(low=-100, high=100)}


def test_the_best_mean_over_seeds_wins_not_the_best_trial():
    candidates = [_candidate(4, 0.9, 0.3), _candidate(2, 0.8, 0.6)]  # means 0.6 and 0.7
    chosen = select(candidates, GAMMA, {}, maximize=True)
    assert chosen["trial"] == 2
    assert chosen["params"] == {"loss.gamma": 2.0}
    assert chosen["value"] == pytest.approx(0.7)
    assert chosen["flags"] == []
    assert [c["trial"] for c in chosen["candidates"]] == [4, 2]
    assert [c["mean"] for c in chosen["candidates"]] == pytest.approx([0.6, 0.7])
    assert select(candidates, GAMMA, {}, maximize=False)["trial"] == 4


def test_on_equal_means_the_better_trial_of_the_search_wins():
    candidates = [_candidate(7, 0.75, 0.25), _candidate(1, 0.5, 0.5)]
    assert select(candidates, GAMMA, {}, maximize=True)["trial"] == 7
    assert select(candidates, GAMMA, {}, maximize=False)["trial"] == 7


def test_a_candidate_that_diverged_on_one_seed_cannot_win():
    candidates = [_candidate(3, 0.9, None), _candidate(1, 0.2, 0.1)]
    chosen = select(candidates, GAMMA, {}, maximize=True)
    assert (chosen["trial"], chosen["value"]) == (1, pytest.approx(0.15))
    assert chosen["candidates"][0]["mean"] is None


@pytest.mark.parametrize("candidates", [[], [_candidate(3, 0.9, None)]])
def test_where_everything_diverged_the_defaults_are_used_and_flagged(candidates):
    # the default lies at the edge, but it was not chosen
    chosen = select(candidates, GAMMA, {"loss.gamma": 100.0}, maximize=True)
    assert chosen["trial"] is None
    assert chosen["value"] is None
    assert chosen["params"] == {"loss.gamma": 100.0}
    assert chosen["flags"] == ["every candidate diverged: the defaults are used"]


@pytest.mark.parametrize(
    ("space", "value", "flagged"),
    [
        (Range(low=0, high=5), 0.24, True),
        (Range(low=0, high=5), 0.26, False),
        (Range(low=0, high=5), 4.76, True),
        (Range(low=0, high=5), 5.0, True),
        # 1e-5 to 1e-1 spans four decades: the outer 5 % are a fifth of a decade, a factor 1.585
        (Range(low=1e-5, high=1e-1, scale="log"), 1.58e-5, True),
        (Range(low=1e-5, high=1e-1, scale="log"), 1.59e-5, False),
        (Range(low=1e-5, high=1e-1, scale="log"), 0.0632, True),
        (Range(low=1e-5, high=1e-1, scale="log"), 0.0630, False),
        (Range(low=1e-5, high=1e-1, scale="log"), 1e-5, True),
        (Range(low=1, high=10, integer=True), 1, True),
        (Range(low=1, high=10, integer=True), 2, False),
        (Choices(choices=[1, 2]), 1, False),
    ],
)
def test_a_value_in_the_outer_5_percent_of_its_range_is_flagged(space, value, flagged):
    candidate = Candidate(0, {"training.x": value}, (1.0,))
    flags = select([candidate], {"training.x": space}, {}, maximize=True)["flags"]
    assert len(flags) == flagged
    if flagged:
        assert flags[0].startswith(f"training.x = {value:.4g} is in the outer 5 % of its range (")
