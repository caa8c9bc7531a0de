"""Simulated studies: only the training is simulated, and its truth is what it says."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from losslab.analysis.error_rates import error_rates, expected_power, simulated_differences
from losslab.experiments.responses import ANCHORS, DIGITS
from losslab.experiments.simulation import Outcome, simulate_study, two_arms
from losslab.experiments.states import Job

WHEN = ("seconds", "started", "ended")
TRAINED = ("history", "metrics", "pairing", "engine", "outputs", *WHEN)


def everything(folder):
    """Every file of a study that says what was asked for and what was found."""
    files = [*folder.glob("arms/**/*.json"), *folder.glob("confirm/**/*.json")]
    return {str(file.relative_to(folder)): json.loads(file.read_text()) for file in files}


def test_with_a_real_studys_values_everything_else_is_that_study(repeated, tiny, tmp_path):
    """Asked for, pruned, selected and confirmed: all as in `run_study`, file by file."""
    real = everything(repeated)
    known = {
        (json.dumps(record["config"], sort_keys=True), record["run_seed"]): record
        for record in real.values()
        if "phase" in record
    }

    def train(job):
        record = known[json.dumps(job.config, sort_keys=True), job.run_seed]
        values = [row["val/average_precision"] for row in record["history"]]
        diverged = record["reason"] if record["state"] == "diverged" else ""
        return Outcome(tuple(values), record["metrics"].get("test/average_precision", 0), diverged)

    tiny["search"]["repeats"] = 3
    simulated = everything(simulate_study(tiny, train, tmp_path).folder)
    assert len(real) == len(simulated) > 3 * 2 * (7 + 2 * 2)
    for name, content in real.items():
        found = simulated[name]
        assert content.keys() == found.keys()
        for key in content.keys() - set(TRAINED):
            assert content[key] == found[key], (name, key)
        if "phase" in content and content["phase"] == "confirm":
            value = content["metrics"]["test/average_precision"]
            assert found["metrics"] == {"test/average_precision": value}
    assert {record["engine"] for record in simulated.values() if "engine" in record} == {
        "simulated"
    }


def job(run_seed, rate=0.02, loss="ce", study_seed=0, epochs=4):
    config = {"training": {"learning_rate": rate, "epochs": epochs}, "loss": {"name": loss}}
    return Job(config, study_seed, run_seed)


@pytest.mark.parametrize("response", [DIGITS, ANCHORS])
@pytest.mark.parametrize("rate", [1e-3, 0.02, 0.1])
def test_the_truth_is_the_mean_over_run_seeds(response, rate):
    found = [response(job(seed, rate)).test for seed in range(3000)]
    truth = response.truth(job(0, rate).config, study_seed=0)
    assert abs(np.mean(found) - truth) < 4 * stats.sem(found)


def test_trainings_diverge_as_often_as_they_are_said_to():
    outcomes = [ANCHORS(job(seed, rate=0.2)) for seed in range(1000)]
    lost = [outcome for outcome in outcomes if outcome.diverged]
    assert stats.binomtest(len(lost), 1000, 0.5).pvalue > 1e-3
    assert all(outcome.test == ANCHORS.chance and len(outcome.values) < 4 for outcome in lost)
    assert {len(outcome.values) for outcome in lost} == {0, 1, 2, 3}


def test_a_run_seeds_noise_pairs_off_and_a_trainings_does_not():
    pairs = np.array(
        [[DIGITS(job(seed, rate)).test for rate in (0.02, 0.01)] for seed in range(3000)]
    )
    own = math.hypot(DIGITS.training, DIGITS.test)
    assert pairs.std(axis=0) == pytest.approx(math.hypot(own, DIGITS.run_seed), rel=0.05)
    assert (pairs[:, 0] - pairs[:, 1]).std() == pytest.approx(math.sqrt(2) * own, rel=0.05)


def test_the_noise_of_test_is_not_seen_on_validation():
    outcomes = [DIGITS(job(seed)) for seed in range(3000)]
    test, judged = (np.array([o.test for o in outcomes]), [o.values[-1] for o in outcomes])
    covariance = np.cov(test, judged)[0, 1]
    assert covariance == pytest.approx(DIGITS.run_seed**2 + DIGITS.training**2, rel=0.1)


def test_the_same_job_has_the_same_outcome_and_another_one_has_not():
    assert DIGITS(job(3)) == DIGITS(job(3))
    others = [job(4), job(3, rate=0.021), job(3, loss="focal"), job(3, study_seed=1)]
    assert len({DIGITS(other).test for other in (job(3), *others)}) == 5


def test_a_smaller_design_reads_what_a_smaller_study_would_have_run():
    cut = simulated_differences(two_arms(5, 3, repeats=3), DIGITS, 2, [(2, 2), (1, 3)])
    alone = simulated_differences(two_arms(5, 2, repeats=2), DIGITS, 2, [(2, 2)])
    pd.testing.assert_frame_equal(cut[cut["repeats"] == 2].reset_index(drop=True), alone)
    single = simulated_differences(two_arms(5, 3), DIGITS, 2, [(1, 3)])
    pd.testing.assert_frame_equal(cut[cut["repeats"] == 1].reset_index(drop=True), single)


def test_true_differences_of_configurations_are_those_of_the_files():
    line = simulated_differences(two_arms(5, 3), DIGITS, 1, [(1, 3)]).iloc[0]
    assert line["of_losses"] == 0
    assert abs(line["difference"] - line["of_configurations"]) < 5 * math.sqrt(2) * 0.0042
    study = two_arms(5, 3, second={"loss": {"name": "focal", "gamma": 2, "alpha": 0.5}})
    ahead = replace(DIGITS, advantage={"focal": 0.02})
    line = simulated_differences(study, ahead, 1, [(1, 3)]).iloc[0]
    assert line["of_losses_elsewhere"] == 0.02
    assert line["of_losses"] == pytest.approx(0.02, abs=5 * DIGITS.split)
    assert line["of_losses"] != 0.02


def test_rates_are_counted():
    lines = pd.DataFrame(
        {"difference": [0.0, 1.0, 2.0, -1.0], "half_width": 0.5, "repeats": 2, "seeds": 5,
         "p_holm": [1.0, 0.04, 0.01, 0.06], "of_configurations": [0.1, 1.1, 1.1, -1.1],
         "of_losses": 0.0, "of_losses_elsewhere": 1.0}
    )  # fmt: skip
    lines["low"], lines["high"] = lines["difference"] - 0.5, lines["difference"] + 0.5
    rates = error_rates(lines).loc[(2, 5)]
    assert rates["studies"] == 4
    assert (rates["covers_configurations"], rates["covers_losses"]) == (0.75, 0.25)
    assert (rates["covers_losses_elsewhere"], rates["decided"]) == (0.25, 0.75)
    assert (rates["decided_holm"], rates["error"]) == (0.5, 0.5)
    expected = expected_power(lines.assign(of_losses=0.003), DIGITS).loc[(2, 5)]
    spread = 2 * lines["of_configurations"].var() + 2 * (DIGITS.training**2 + DIGITS.test**2) / 5
    assert expected["sd"] == pytest.approx(math.sqrt(spread))
    assert 0.05 < expected["power"] < 0.06
