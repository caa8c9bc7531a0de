"""The whole way of a study, on a tiny one: its files, records, mirror and repetition."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from losslab import run_study
from losslab.analysis.frames import frames_from_folder
from losslab.errors import BadInput
from losslab.experiments.observing import Observer

pytestmark = pytest.mark.usefixtures("no_report")


def _records(folder):
    files = [*folder.glob("arms/*/[ts][re]*-*.json"), *folder.glob("confirm/*/*.json")]
    return [json.loads(file.read_text()) for file in files]


def test_a_study_leaves_every_training_once_in_folder_and_mlflow(finished, mirrored):
    frames = frames_from_folder(finished / "tiny")
    records = {record["key"]: record for record in _records(finished / "tiny")}
    # per arm: 6 search trials and 1 re-training make the budget of 7; 2 seeds, selected + defaults
    assert len(records) == 2 * (7 + 4)
    assert len(frames.trials) == 14
    assert len(frames.confirmation) == 8
    runs = mirrored(finished)
    assert set(runs) == {"study", "arm/ce", "arm/focal", *records}
    for key, record in records.items():
        run = runs[key]
        assert run.info.status == {"complete": "FINISHED", "pruned": "KILLED"}[record["state"]]
        assert float(run.data.params["learning_rate"]) == record["params"]["training.learning_rate"]
        assert run.data.params["seed"] == str(record["seed_index"])
        assert run.data.metrics["objective"] == record["value"]
        parent = runs[f"arm/{record['arm']}"].info.run_id
        assert run.data.tags["mlflow.parentRunId"] == parent
    assert runs["study"].info.status == "FINISHED"
    assert not list((finished / "tiny" / "states").iterdir())


def test_budgets_are_equal_and_seeds_are_paired(finished):
    records = _records(finished / "tiny")
    for phase in ("search", "select", "confirm"):
        counts = {
            arm: sum(r["arm"] == arm and r["phase"] == phase for r in records)
            for arm in ("ce", "focal")
        }
        assert counts["ce"] == counts["focal"]
    confirmed = [r for r in records if r["phase"] == "confirm"]
    for seed in (0, 1):
        pairings = [r["pairing"] for r in confirmed if r["seed_index"] == seed]
        assert len(pairings) == 4
        assert all(pairing == pairings[0] for pairing in pairings)
    assert len({r["pairing"]["train"] for r in confirmed}) == 2
    assert len({r["pairing"]["test"] for r in confirmed}) == 1
    searched = {r["run_seed"] for r in records if r["phase"] != "confirm"}
    assert searched.isdisjoint(r["run_seed"] for r in confirmed)


def test_trial_0_is_the_arms_defaults(finished):
    first = next(r for r in _records(finished / "tiny") if r["key"] == "focal/trial-00000")
    assert first["params"] == {
        "loss.alpha": 0.25,
        "loss.gamma": 2.0,
        "training.learning_rate": 1e-3,
        "training.weight_decay": 1e-4,
    }


def test_stored_outputs_give_the_stored_metrics(finished):
    for record in _records(finished / "tiny"):
        if record["phase"] != "confirm":
            continue
        outputs = np.load(finished / "tiny" / record["outputs"])
        targets, logits = outputs["test_targets"], outputs["test_logits"]
        metrics = record["metrics"]
        ranked = average_precision_score(targets, logits)
        assert metrics["test/average_precision"] == pytest.approx(ranked, abs=1e-12)
        decided = balanced_accuracy_score(targets, logits > 0)
        assert metrics["test/balanced_accuracy"] == pytest.approx(decided, abs=1e-12)
        prior = outputs["train_class_counts"] / outputs["train_class_counts"].sum()
        if record["arm"] == "ce":
            corrected = balanced_accuracy_score(targets, logits > np.log(prior[1] / prior[0]))
            name = "test_prior_corrected/balanced_accuracy"
            assert metrics[name] == pytest.approx(corrected, abs=1e-12)
        # the tuned threshold is the best one of validation, not of test
        val_targets, val_logits = outputs["val_targets"], outputs["val_logits"]
        cuts = np.concatenate([[val_logits.min() - 1], np.sort(val_logits)])
        scores = [balanced_accuracy_score(val_targets, val_logits > cut) for cut in cuts]
        attained = {
            round(balanced_accuracy_score(targets, logits > cut), 9)
            for low, high, score in zip(cuts, [*cuts[1:], cuts[-1] + 1], scores, strict=True)
            if score > max(scores) - 1e-12
            for cut in np.linspace(low, high, 7)
        }
        assert round(metrics["test_tuned/balanced_accuracy"], 9) in attained
        weights = torch.load(
            (finished / "tiny" / record["outputs"]).with_suffix(".pt"), weights_only=True
        )
        assert weights["0.weight"].shape == (4, 4)


def test_repetition_is_bit_identical_whatever_the_number_of_workers(
    tiny, finished, new_home, outcome
):  # fmt: skip
    first = outcome(finished / "tiny")
    assert len(first) > 20
    for name, workers in (("again", 1), ("two", 2)):
        place = new_home(name)
        run_study(tiny, home=place, workers=workers)
        assert outcome(place / "tiny") == first


def test_another_study_seed_gives_other_numbers(tiny, finished, home, outcome):
    run_study({**tiny, "seed": 1}, home=home)
    key = "confirm/ce/defaults-0000.json"
    zero, one = outcome(finished / "tiny")[key], outcome(home / "tiny")[key]
    assert zero["metrics"] != one["metrics"]


def test_a_finished_study_is_not_run_again(tiny, copied):
    class Count(Observer):
        new, old = 0, 0

        def finished(self, record):
            self.new += 1

        def already(self, record):
            self.old += 1

    count = Count()
    run_study(tiny, home=copied, observer=count)
    assert (count.new, count.old) == (0, 22)


def test_more_trials_arms_and_seeds_continue_a_study(tiny, copied, mirrored):
    before = {record["key"] for record in _records(copied / "tiny")}
    grown = {
        **tiny,
        "arms": ["ce", "focal", "balanced_ce"],
        "search": {**tiny["search"], "trials": 10},
        "confirm": {"seeds": 3},
    }
    frames = run_study(grown, home=copied)
    records = {record["key"]: record for record in _records(copied / "tiny")}
    assert {key for key in before if "/trial-" in key} <= set(records)
    assert sum(r["phase"] == "search" and r["arm"] == "ce" for r in records.values()) == 9
    assert len(frames.confirmation) == 3 * 2 * 3
    for record in records.values():
        if record["variant"] == "selected":
            chosen = json.loads(
                (copied / "tiny" / "arms" / record["arm"] / "selected.json").read_text()
            )
            assert record["params"] == chosen["params"]
    note = json.loads((copied / "tiny" / "study.json").read_text())["notes"][0]["text"]
    assert note == ("arms added: balanced_ce; trials: 7 -> 10; confirmation seeds: 2 -> 3")
    live = {key for key, run in mirrored(copied).items() if run.info.lifecycle_stage == "active"}
    assert {key for key in live if "/" in key and not key.startswith("arm/")} == set(records)


def test_a_changed_study_is_refused_with_its_changed_keys(tiny, copied, outcome):
    before = outcome(copied / "tiny")
    changed = {**tiny, "training": {"epochs": 5, "batch_size": 64}, "seed": 3}
    with pytest.raises(BadInput) as refused:
        run_study(changed, home=copied)
    assert "seed: 0 -> 3" in str(refused.value)
    assert "arms.ce.training.epochs: 4 -> 5" in str(refused.value)
    assert outcome(copied / "tiny") == before
    run_study(changed, home=copied, fresh=True)
    (aside,) = copied.glob("tiny.old-*")
    assert outcome(aside) == before
    assert outcome(copied / "tiny") != before


def test_a_diverged_trial_counts_and_is_shown_with_its_reason(tiny, home, mirrored):
    # at a learning rate of 1e30 the weights overflow in the first epochs
    study = {
        **tiny,
        "training": {
            **tiny["training"],
            "optimizer": "sgd",
            "learning_rate": {"choices": [1e-2, 1e30]},
        },
    }
    frames = run_study(study, home=home)
    diverged = [r for r in _records(home / "tiny") if r["state"] == "diverged"]
    assert diverged
    assert all(r["params"]["training.learning_rate"] == 1e30 for r in diverged)
    assert all("epoch" in r["reason"] and r["value"] is None for r in diverged)
    assert frames.ledger["diverged"].sum() == len(diverged)
    runs = mirrored(home)
    for record in diverged:
        assert runs[record["key"]].info.status == "FAILED"
        assert runs[record["key"]].data.tags["losslab.reason"] == record["reason"]
    chosen = json.loads((home / "tiny" / "arms" / "ce" / "selected.json").read_text())
    assert chosen["params"]["training.learning_rate"] == 1e-2


def test_an_arm_that_always_diverges_scores_chance_level(tiny, home):
    study = {
        **tiny,
        "arms": {"ce": "ce", "bad": {"loss": "ce", "training.learning_rate": 1e30,
                                     "training.optimizer": "sgd"}},
        "baseline": "ce",
    }  # fmt: skip
    run_study(study, home=home)
    chosen = json.loads((home / "tiny" / "arms" / "bad" / "selected.json").read_text())
    assert chosen["flags"] == ["every candidate diverged: the defaults are used"]
    confirmed = [
        r for r in _records(home / "tiny") if r["arm"] == "bad" and r["phase"] == "confirm"
    ]
    assert len(confirmed) == 4
    for record in confirmed:
        targets = np.load(home / "tiny" / record["outputs"])["test_targets"]
        assert record["state"] == "diverged"
        assert record["metrics"]["test/average_precision"] == pytest.approx(targets.mean())
        assert record["metrics"]["test/balanced_accuracy"] == 0.5
        assert record["metrics"]["test/roc_auc"] == 0.5
