from itertools import pairwise

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from losslab.errors import BadInput
from losslab.experiments.decisions import TAUS, Decision, default_decision, prior_corrected, tuned

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:sklearn")
SCORES = {
    "balanced_accuracy": sk.balanced_accuracy_score,
    "accuracy": sk.accuracy_score,
    "macro_f1": lambda t, p: sk.f1_score(t, p, average="macro", labels=np.unique(t)),
}


def naive_threshold(targets, logits, score):
    """Try every midpoint (and 0 outside the scores) in turn."""
    distinct = np.unique(logits)
    candidates = [(a + b) / 2 for a, b in pairwise(distinct)]
    if not distinct[0] <= 0 < distinct[-1]:
        candidates.append(0.0)
    values = [score(targets, (logits > t).astype(int)) for t in candidates]
    best = [t for t, v in zip(candidates, values, strict=True) if v >= max(values) - 1e-12]
    return min(abs(t) for t in best), max(values)


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 12), st.sampled_from([*SCORES]),
       st.sampled_from([-20, 0, 20]))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_tuned_threshold_is_the_best_of_all_midpoints(seed, n, levels, name, shift):
    random = np.random.default_rng(seed)
    targets = random.integers(0, 2, n)
    logits = random.integers(-levels, levels, n) / 2.0 + shift
    rule = tuned(targets, logits, np.array([0.5, 0.5]), name)
    distance, value = naive_threshold(targets, logits, SCORES[name])
    assert abs(rule.offset[0]) == distance
    assert SCORES[name](targets, rule.decide(logits)) == pytest.approx(value, abs=1e-12)
    by_default = SCORES[name](targets, default_decision().decide(logits))
    assert value >= by_default - 1e-12


def test_ties_go_to_the_threshold_nearest_zero():
    # Swapped in the middle: thresholds -4.5 and 1 both give (1 + 2/3) / 2.
    targets = np.array([0, 0, 1, 0, 1, 1])
    logits = np.array([-6.0, -5.0, -4.0, 0.0, 2.0, 3.0])
    assert tuned(targets, logits, np.array([0.5, 0.5])).offset == (1.0,)
    assert tuned(targets, -logits[::-1], np.array([0.5, 0.5])).offset == (-1.0,)


def test_a_threshold_parts_neighbouring_floating_point_numbers():
    low = 0.3
    high = np.nextafter(low, 1)
    targets, logits = np.array([0, 0, 1, 1]), np.array([low, low, high, high])
    rule = tuned(targets, logits, np.array([0.5, 0.5]))
    assert rule.decide(logits).tolist() == targets.tolist()
    huge = np.array([-1.7e308, -1.6e308, 1.6e308, 1.7e308])
    assert tuned(targets, huge, np.array([0.5, 0.5])).decide(huge).tolist() == targets.tolist()


def test_one_distinct_score_leaves_the_default():
    rule = tuned(np.array([0, 1]), np.array([-2.0, -2.0]), np.array([0.5, 0.5]))
    assert rule.offset == (0.0,)


def test_two_softmax_outputs_are_tuned_as_their_difference():
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, 50)
    logits = random.normal(size=(50, 2)) + 2 * np.eye(2)[targets] + np.array([3.0, 0.0])
    prior = np.array([0.5, 0.5])
    single = logits[:, 1] - logits[:, 0]
    both, one = tuned(targets, logits, prior), tuned(targets, single, prior)
    assert both.offset == (0.0, one.offset[0])
    assert (both.decide(logits) == one.decide(single)).all()


@given(st.integers(0, 10**6), st.sampled_from([*SCORES]))
@settings(max_examples=12, deadline=None)
def test_tau_is_the_best_of_the_grid_and_nearest_zero_on_ties(seed, name):
    random = np.random.default_rng(seed)
    prior = np.array([0.7, 0.2, 0.1])
    targets = random.choice(3, 40, p=prior)
    logits = random.normal(size=(40, 3)) + np.eye(3)[targets] + np.log(prior)
    rule = tuned(targets, logits, prior, name)
    grid = [round(-0.5 + 0.05 * i, 10) for i in range(71)]
    assert TAUS.tolist() == pytest.approx(grid, abs=1e-12)
    values = [SCORES[name](targets, (logits - tau * np.log(prior)).argmax(axis=1)) for tau in TAUS]
    assert SCORES[name](targets, rule.decide(logits)) == pytest.approx(max(values), abs=1e-12)
    best = [abs(t) for t, v in zip(TAUS, values, strict=True) if v >= max(values) - 1e-12]
    assert abs(rule.tau) == min(best)


def test_prior_correction_gives_the_probabilities_under_balanced_classes():
    # Bayes: with likelihoods f_c, logits log(pi_c f_c) turn into f_c / sum f.
    prior, likelihood = np.array([0.9, 0.08, 0.02]), np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.7]])
    logits = np.log(prior * likelihood)
    rule = prior_corrected(prior, logits)
    expected = likelihood / likelihood.sum(axis=1, keepdims=True)
    assert rule.probabilities(logits) == pytest.approx(expected)
    assert rule.decide(logits).tolist() == [1, 2]
    assert default_decision().decide(logits).tolist() == [0, 0]
    two = np.array([0.75, 0.25])
    logit = np.log((two[1] * 0.6) / (two[0] * 0.3)).reshape(1)
    assert prior_corrected(two, logit).probabilities(logit) == pytest.approx([0.6 / 0.9])


def test_probabilities_are_stable_and_default_ties_go_to_class_zero():
    assert default_decision().probabilities(np.array([-1e4, 0, 1e4])).tolist() == [0, 0.5, 1]
    assert default_decision().probabilities(np.array([[1e4, 0, -1e4]])).tolist() == [[1, 0, 0]]
    assert default_decision().decide(np.array([0.0, 1e-9])).tolist() == [0, 1]
    assert default_decision().decide(np.zeros((1, 3))).tolist() == [0]


def test_what_cannot_be_decided_raises():
    logits, targets, prior = np.array([0.0, 1.0]), np.array([0, 1]), np.array([0.5, 0.5])
    with pytest.raises(BadInput, match=r"cannot be tuned for 'log_loss'; use one of accuracy"):
        tuned(targets, logits, prior, "log_loss")
    with pytest.raises(ValueError, match="finite"):
        tuned(targets, np.array([0.0, np.nan]), prior)
    with pytest.raises(ValueError, match="do not fit"):
        tuned(targets, np.zeros(3), prior)
    with pytest.raises(ValueError, match="positive numbers"):
        prior_corrected(np.array([1.0, 0.0]), logits)
    with pytest.raises(ValueError, match="do not fit 3 offsets"):
        Decision("tuned", (0.0, 1.0, 2.0)).decide(np.zeros((4, 2)))
