"""Which arm is the standing baseline, and that its prior correction is right under every link."""

import json

import numpy as np
import pytest

from losslab import run_study
from losslab.errors import BadInput
from losslab.experiments.config import load_study
from losslab.experiments.decisions import decision_scores, prior_corrected


def _study(**changes):
    return {"dataset": "clusters", "arms": ["balanced_ce", "focal"], **changes}


def test_plain_cross_entropy_stands_beside_another_baseline():
    study = load_study(_study(baseline="balanced_ce"))
    assert (study.baseline, study.standing) == ("balanced_ce", "ce")
    assert study.arms["ce"].implicit
    study = load_study(_study(arms=["ce", "focal"], baseline="focal"))
    assert (study.baseline, study.standing, list(study.arms)) == ("focal", "ce", ["ce", "focal"])


def test_an_arm_that_is_plain_as_the_file_says_is_not_trained_twice():
    arms = {"plain": {}, "focal": "focal"}
    study = load_study(_study(loss={"name": "ce", "link": "softmax"}, arms=arms))
    assert (study.standing, list(study.arms)) == ("plain", ["plain", "focal"])


def test_arms_that_all_bring_a_dataset_need_a_plain_one():
    arms = {"a": {"dataset": "clusters", "loss": "focal"}, "b": {"dataset": "digits"}}
    assert load_study({"arms": arms}).standing == "b"
    arms["b"]["loss"] = "focal"
    with pytest.raises(BadInput, match="add an arm `ce`"):
        load_study({"arms": arms})


def test_the_correction_goes_to_plain_cross_entropy_alone(tiny, home):
    tiny |= {"arms": ["balanced_ce", "ce"], "baseline": "balanced_ce", "confirm": {"seeds": 1}}
    frames = run_study(tiny, home=home)
    for arm in ("balanced_ce", "ce"):
        file = home / "tiny" / "confirm" / arm / "selected-0000.json"
        names = json.loads(file.read_text())["metrics"]
        corrected = "test_prior_corrected/balanced_accuracy" in names
        assert corrected == (arm == "ce")
    results = (home / "tiny" / "report" / "tables" / "results.md").read_text()
    assert "ce (prior correction)" in results
    assert "balanced\\_ce (prior correction)" not in results
    assert frames.study["baseline"] == "balanced_ce"


def test_one_against_the_rest_outputs_are_corrected_by_their_probabilities():
    # calibrated posteriors: the rule that maximises mean recall is argmax of p / prior
    p, prior = np.array([[0.6, 0.25, 0.15]]), np.array([0.6, 0.3, 0.1])
    scores = decision_scores(np.log(p / (1 - p)), "sigmoid")
    assert np.allclose(scores, np.log(p))
    decided = prior_corrected(prior, scores).decide(scores)
    assert decided == np.argmax(p / prior) == 2


def test_nested_paths_are_searched_for_each_trial_by_itself():
    arms = {"x": {"loss": {"name": "torch.nn:BCEWithLogitsLoss"}, "model": "mlp"}}
    arm = load_study(_study(arms=arms)).arms["x"]
    arm.config["loss"]["options"] = {"t": 0.0}
    first, second = arm.configure({"loss.options.t": 1.0}), arm.configure({"loss.options.t": 2.0})
    assert first["loss"]["options"] == {"t": 1.0}
    assert second["loss"]["options"] == {"t": 2.0}
    assert arm.config["loss"]["options"] == {"t": 0.0}


def test_a_networks_widths_can_be_choices(tiny, home, no_report):
    widths = [[4], [3, 3]]
    tiny |= {"model": {"name": "mlp", "hidden": {"choices": widths}}, "arms": ["ce"]}
    frames = run_study(tiny, home=home)
    found = [
        json.loads(file.read_text()) for file in (home / "tiny" / "arms" / "ce").glob("trial-*")
    ]
    assert {json.dumps(record["params"]["model.hidden"]) for record in found} == {"[4]", "[3, 3]"}
    assert all(
        record["config"]["model"]["hidden"] == record["params"]["model.hidden"] for record in found
    )
    assert len(frames.trials) == 7
