"""What people see in MLflow, and that it stays one run a training whatever happens to the store."""

import copy
import json
import shutil
import time

import pytest

from losslab import run_study
from losslab.experiments.folder import read_json
from losslab.experiments.run_labels import run_name, run_params, safe_name
from losslab.experiments.run_ledger import RunLedger
from losslab.experiments.tracking import Tracker, local_store


@pytest.fixture(autouse=True)
def _no_report(no_report):
    """None of these tests looks at the report."""


def forget_places():
    """A new process has not yet seen where a run's files are."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()


@pytest.fixture
def client():
    from mlflow.tracking import MlflowClient

    return lambda home: MlflowClient(local_store(home))


@pytest.fixture
def entry(finished):
    """What study.json holds, for a tracker without a study around it."""
    return read_json(finished / "tiny" / "study.json")


def record(**changes):
    content = {
        "key": "ce/trial-00003",
        "arm": "ce",
        "phase": "search",
        "variant": None,
        "trial": 3,
        "repeat": 0,
        "seed_index": 0,
        "state": "complete",
        "reason": "",
        "params": {"training.learning_rate": 0.001},
        "value": 0.5,
        "judged_epoch": 2,
        "epochs": 2,
        "seconds": 1.25,
        "started": time.time() - 9,
        "ended": time.time(),
        "history": [
            {"epoch": 1, "train/loss": 0.9, "val/average_precision": 0.4},
            {"epoch": 2, "train/loss": 0.7, "val/average_precision": 0.5},
        ],
        "metrics": {},
        "pairing": {},
        "config": {
            "loss": {"name": "focal", "link": "sigmoid", "gamma": 2.0, "seed": 5},
            "training": {"learning_rate": 0.001, "batch_size": 64, "clip_norm": None},
            "model": {"name": "mlp", "hidden": [4], "batch_size": 3, "prior_init": False},
            "dataset": {"name": "table", "path": "x" * 900, "trial": 1},
        },
        "attributes": {"not": "shown"},
    }
    return {**content, **changes}


def tracked(home, entry, *records):
    """Mirror records into the store of `home`; the tracker, finished."""
    tracker = Tracker(local_store(home), home, entry, home / "tracking.jsonl")
    tracker.open()
    tracker.mirror(records)
    tracker.finish("FINISHED")
    return tracker


# Names


def test_parameters_have_short_names_and_keep_their_section_where_two_end_alike():
    assert run_params(record()) == {
        "seed": "0",
        "trial": "3",
        "loss": "focal",
        "link": "sigmoid",
        "gamma": "2.0",
        "loss.seed": "5",
        "learning_rate": "0.001",
        "batch_size": "64",
        "clip_norm": "None",
        "model": "mlp",
        "hidden": "[4]",
        "model.batch_size": "3",
        "prior_init": "False",
        "dataset": "table",
        "path": "x" * 500,
        "dataset.trial": "1",
    }
    # a name means the same in every run, whether or not there is a trial
    assert run_params(record(trial=None)).keys() == run_params(record()).keys() - {"trial"}


def test_run_names_are_readable():
    assert run_name(record()) == "ce · trial 3"
    assert run_name(record(phase="select", seed_index=1)) == "ce · trial 3 again, seed 1"
    confirm = record(phase="confirm", variant="selected", seed_index=4)
    assert run_name(confirm) == "ce · test, seed 4"
    assert run_name({**confirm, "variant": "defaults"}) == "ce · test at defaults, seed 4"


def test_run_names_are_unique_in_a_study(finished, mirrored):
    names = [run.info.run_name for run in mirrored(finished).values()]
    assert len(names) == len(set(names)) == 25


def test_metric_names_of_different_classes_stay_different():
    names = [
        "val/recall/é",
        "val/recall/è",
        "val/recall/<5 %",
        "a//b",
        "..",
        ".",
        "",
        "/etc",
        "x" * 999,
    ]
    assert len({safe_name(name) for name in names}) == len(names)
    assert safe_name("val/recall/class 1.5_a-b:c") == "val/recall/class 1.5_a-b:c"


# Runs


def test_a_run_has_what_the_table_and_the_charts_need(home, entry, client):
    tracked(
        home, entry, record(),
        record(key="ce/trial-00004", trial=4, state="pruned", reason="pruned at epoch 2 by rule"),
        record(key="ce/trial-00005", trial=5, state="diverged", reason="loss is nan", value=None),
    )  # fmt: skip
    (experiment,) = [e for e in client(home).search_experiments() if e.name == "tiny"]
    runs = client(home).search_runs([experiment.experiment_id])
    by_key = {run.data.tags["losslab.key"]: run for run in runs}
    assert set(by_key) == {
        "study", "arm/ce", "ce/trial-00003", "ce/trial-00004", "ce/trial-00005"
    }  # fmt: skip
    states = {key: by_key[f"ce/trial-0000{key}"].info.status for key in (3, 4, 5)}
    assert states == {3: "FINISHED", 4: "KILLED", 5: "FAILED"}
    assert by_key["ce/trial-00005"].data.tags["losslab.reason"] == "loss is nan"
    assert "objective" not in by_key["ce/trial-00005"].data.metrics
    run = by_key["ce/trial-00003"]
    assert run.data.tags["mlflow.parentRunId"] == by_key["arm/ce"].info.run_id
    assert by_key["arm/ce"].data.tags["mlflow.parentRunId"] == by_key["study"].info.run_id
    assert "mlflow.parentRunId" not in by_key["study"].data.tags
    assert {float(run.data.params[name]) for name in ("gamma", "seed")} == {2.0, 0.0}
    assert run.data.metrics["objective"] == 0.5
    history = client(home).get_metric_history(run.info.run_id, "val/average_precision")
    assert [(point.step, point.value) for point in history] == [(1, 0.4), (2, 0.5)]
    assert run.info.end_time - run.info.start_time == pytest.approx(9000, abs=2)
    kept = json.loads(run.data.tags["losslab.record"])
    assert kept["params"] == {"training.learning_rate": 0.001}
    assert not {"history", "config", "attributes"} & set(kept)
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.digest == entry["dataset"]["content_hash"]


def test_the_study_run_holds_study_dataset_commit_and_versions(finished, mirrored, client, entry):
    run = mirrored(finished)["study"]
    for package in ("python", "torch", "optuna", "mlflow", "numpy"):
        assert run.data.tags[f"version.{package}"] == entry["versions"][package]
    if entry["git"]:
        assert run.data.tags["mlflow.source.git.commit"] == entry["git"]
    files = {file.path for file in client(finished).list_artifacts(run.info.run_id)}
    assert {"study.json", "study.yaml", "report"} <= files
    place = finished / "artifacts" / "tiny" / run.info.run_id / "artifacts"
    assert json.loads((place / "study.json").read_text()) == entry
    assert "learning_rate" in (place / "study.yaml").read_text()
    assert run.inputs.dataset_inputs[0].dataset.name == "clusters"
    arm = mirrored(finished)["arm/focal"].info.run_id
    selected = finished / "artifacts" / "tiny" / arm / "artifacts" / "selected.json"
    assert json.loads(selected.read_text()) == read_json(
        finished / "tiny" / "arms" / "focal" / "selected.json"
    )


def test_hostile_names_are_accepted_by_mlflow(home, entry, mirrored):
    classes = ["it's", 'say "no"', "<5 %", "a//b", "..", "é", "è", "", "x" * 300, "emoji 🙂", "`t`"]
    metrics = {f"test/recall/{name}": index / 10 for index, name in enumerate(classes)}
    arm = 'it\'s "50 %" `é` / \\ 🙂'
    one = record(arm=arm, key=f"{arm}/trial-00003", metrics=metrics)
    assert tracked(home, entry, one).problem == ""
    # the run's id is lost by a kill, and its key must find it again
    ledger = home / "tracking.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    kept = [line for line in lines if not (line["run_id"] and line["key"] != "study")]
    assert len(kept) < len(lines)
    ledger.write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert tracked(home, entry, one).problem == ""
    runs = mirrored(home)
    assert set(runs) == {"study", f"arm/{arm}", f"{arm}/trial-00003"}
    found = runs[f"{arm}/trial-00003"].data.metrics
    recalls = [value for name, value in found.items() if name.startswith("test/recall")]
    assert sorted(recalls) == sorted(metrics.values())


def test_many_metrics_and_epochs_are_all_there(home, entry, client):
    history = [{"epoch": e, **{f"val/m{m}": e + m / 100 for m in range(30)}} for e in range(1, 71)]
    tracked(home, entry, record(history=history, epochs=70, judged_epoch=70))
    ledger = RunLedger(home / "tracking.jsonl", "local")
    points = client(home).get_metric_history(ledger.ids["ce/trial-00003"], "val/m29")
    assert [(p.step, p.value) for p in points] == [(e, e + 0.29) for e in range(1, 71)]


# What may happen to a store


def test_nothing_is_written_twice(home, entry, mirrored):
    tracked(home, entry, record())
    before = mirrored(home)
    size = (home / "tracking.jsonl").stat().st_size
    tracked(home, entry, record())
    assert {k: r.info.run_id for k, r in mirrored(home).items()} == {
        k: r.info.run_id for k, r in before.items()
    }
    assert (home / "tracking.jsonl").stat().st_size == size


def test_a_discarded_run_goes_to_the_bin_and_may_come_back(home, entry, mirrored, client):
    tracked(home, entry, record())
    tracker = Tracker(local_store(home), home, entry, home / "tracking.jsonl")
    tracker.open()
    tracker.discard("ce/trial-00003")
    tracker.discard("ce/trial-00003")
    tracker.discard("ce/never-there")
    tracker.finish("FINISHED")
    assert tracker.problem == ""
    assert set(mirrored(home)) == {"study", "arm/ce"}
    tracked(home, entry, record())
    assert set(mirrored(home)) == {"study", "arm/ce", "ce/trial-00003"}


def test_a_moved_home_goes_on_with_its_runs_and_files(tiny, copied, tmp_path, mirrored, client):
    before = {key: run.info.run_id for key, run in mirrored(copied).items()}
    moved = tmp_path / "moved häre & there"
    shutil.move(copied, moved)
    forget_places()
    run_study({**tiny, "confirm": {"seeds": 3}}, home=moved)
    runs = mirrored(moved)
    assert {key: runs[key].info.run_id for key in before} == before
    assert len(runs) == 25 + 4
    assert not copied.exists()
    for run in runs.values():
        assert run.info.artifact_uri.startswith((moved / "artifacts").as_uri())
    study = runs["study"].info.run_id
    content = json.loads((moved / "artifacts/tiny" / study / "artifacts/study.json").read_text())
    assert content["seeds"] == 3


def test_a_new_empty_store_gets_every_run(tiny, copied, mirrored, migrated_store):
    before = set(mirrored(copied))
    shutil.copy(migrated_store, copied / "mlflow.db")
    run_study(tiny, home=copied)
    assert set(mirrored(copied)) == before
    run_study(tiny, home=copied)
    assert set(mirrored(copied)) == before


def test_another_store_gets_every_run_and_the_first_keeps_its_own(tiny, copied, mirrored, new_home):
    before = {key: run.info.run_id for key, run in mirrored(copied).items()}
    other = new_home("other")
    for _ in range(2):
        run_study(tiny, home=copied, tracking_uri=local_store(other))
    assert set(mirrored(other)) == set(before)
    run_study(tiny, home=copied)
    assert {key: run.info.run_id for key, run in mirrored(copied).items()} == before


def test_what_was_deleted_in_the_ui_is_restored_where_it_is_needed(tiny, copied, mirrored, client):
    before = {key: run.info.run_id for key, run in mirrored(copied).items()}
    experiment = client(copied).get_experiment_by_name("tiny").experiment_id
    client(copied).delete_experiment(experiment)
    run_study(tiny, home=copied)
    assert {key: run.info.run_id for key, run in mirrored(copied).items()} == before
    for key in ("study", "arm/ce"):
        client(copied).delete_run(before[key])
    run_study({**tiny, "confirm": {"seeds": 3}}, home=copied)
    runs = mirrored(copied)
    assert {key: runs[key].info.run_id for key in before} == before
    assert runs["study"].info.status == runs["arm/ce"].info.status == "FINISHED"


def test_starting_anew_keeps_the_old_runs_apart(tiny, copied, client):
    changed = copy.deepcopy(tiny)
    changed["seed"] = 1
    old = read_json(copied / "tiny" / "study.json")["id"]
    run_study(changed, home=copied, fresh=True)
    new = read_json(copied / "tiny" / "study.json")["id"]
    experiment = client(copied).get_experiment_by_name("tiny").experiment_id
    runs = client(copied).search_runs([experiment], max_results=1000)
    by_study = {
        study: {
            run.data.tags["losslab.key"]: run
            for run in runs
            if run.data.tags["losslab.study_id"] == study
        }
        for study in (old, new)
    }
    assert old != new
    assert len(runs) == 50
    assert by_study[old].keys() == by_study[new].keys() or len(by_study[new]) == 25
    for study, own in by_study.items():
        ids = {run.info.run_id for run in own.values()}
        parents = {run.data.tags.get("mlflow.parentRunId") for run in own.values()} - {None}
        assert parents <= ids, study


def test_a_superseded_confirmation_leaves_mlflow_even_if_a_kill_came_between(
    tiny, copied, mirrored
):
    place = copied / "tiny" / "confirm" / "ce"
    stale = read_json(place / "selected-0000.json")
    stale["key"] = "ce/selected-0000-of-trial-00099"
    tracker = Tracker(
        local_store(copied), copied, read_json(copied / "tiny" / "study.json"),
        copied / "tiny" / "tracking.jsonl",
    )  # fmt: skip
    tracker.open()
    tracker.mirror([stale])
    tracker.finish("KILLED")
    (place / "selected-0000.json.superseded-of-trial-99").write_text(json.dumps(stale))
    before = set(mirrored(copied))
    assert stale["key"] in before
    run_study(tiny, home=copied)
    assert set(mirrored(copied)) == before - {stale["key"]}


def test_the_ledger_survives_a_torn_line(tmp_path):
    file = tmp_path / "tracking.jsonl"
    ledger = RunLedger(file, "local")
    ledger.note("a")
    ledger.note("a", "1")
    ledger.note("a", "1", done=True)
    ledger.note("b")
    RunLedger(file, "http://elsewhere").note("a", "9", done=True)
    whole = file.read_bytes()
    for cut in range(1, 40):
        file.write_bytes(whole + b'{"store": "local", "key": "b", "run_id": "2", "done'[:cut])
        ledger = RunLedger(file, "local")
        assert (ledger.ids, ledger.done, ledger.intended) == ({"a": "1"}, {"a"}, {"a", "b"})
        ledger.note("c", "3")
        again = RunLedger(file, "local")
        assert again.ids == {"a": "1", "c": "3"}
    ledger.note("a")  # discarded
    again = RunLedger(file, "local")
    assert (again.ids, again.done) == ({"c": "3"}, set())
