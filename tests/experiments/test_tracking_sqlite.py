"""The local store written as rows: the same rows that MLflow's own client writes."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter

import pytest

from losslab import run_study
from losslab.errors import BadInput
from losslab.experiments import local_store as local
from losslab.experiments import tracking, tracking_sqlite
from losslab.experiments.folder import read_json
from losslab.experiments.local_store import REVISION, local_store, revision
from losslab.experiments.run_parts import unpack
from losslab.experiments.tracking import NoTracker, Tracker, make_tracker
from losslab.experiments.tracking_client import ClientStore
from losslab.experiments.tracking_sqlite import LocalClientStore, SqliteStore, open_store


@pytest.fixture(autouse=True)
def _no_report(no_report):
    """None of these tests looks at the report."""


@pytest.fixture
def entry(finished):
    """What study.json holds, for a tracker without a study around it."""
    return {**read_json(finished / "tiny" / "study.json"), "git": "abc+"}


@pytest.fixture
def records(finished):
    """Trainings of every kind: complete, pruned, diverged, tested, hostile, long."""
    ce, focal = finished / "tiny" / "arms" / "ce", finished / "tiny" / "arms" / "focal"
    test = finished / "tiny" / "confirm" / "ce" / "selected-0000.json"
    found = [
        read_json(file) for file in [*sorted(ce.glob("trial-*")), *focal.glob("trial-*"), test]
    ]
    found[1] |= {"state": "pruned", "reason": "pruned at epoch 2"}
    found[2] |= {"state": "diverged", "reason": "loss is nan", "value": None, "history": []}
    found[3]["metrics"] = {'test/recall/it\'s "50 %" `é` 🙂': 0.5, "a//b": 1, "equal": 1.0}
    found[3]["history"].append(dict(found[3]["history"][-1]))  # said twice
    found[4] |= {"arm": 'it\'s "50 %" `é` / 🙂', "key": 'it\'s "50 %" `é` / 🙂/trial-00004'}
    found[5]["config"] = {**found[5]["config"], "dataset": {"name": "table", "path": "x" * 9000}}
    found[6]["pairing"] = {"long": "y" * 9000}
    return found


def mirror(home, entry, records):
    """Mirror records by two trackers, as by two runs of a study."""
    files = home / "files"
    (files / "deep").mkdir(parents=True)
    (files / "deep" / "é.txt").write_text("naïve")
    for some in (records[:5], records):
        tracker = Tracker(local_store(home), home, entry, home / "tracking.jsonl")
        tracker.open()
        tracker.mirror(some)
        tracker.mirror_selected({("ce", r): {"params": {"é": 1}, "repeat": r} for r in range(2)})
        tracker.attach(files, "report")
        tracker.finish("KILLED" if some is not records else "FINISHED")
        assert tracker.problem == ""


# Times that the store takes from the clock, and ids that it draws.
CLOCK = {"creation_time", "last_update_time", "start_time", "end_time"}


def content(home):
    """All rows of all tables, counted, with ids by the names they stand for."""
    with sqlite3.connect(home / "mlflow.db") as store:
        store.row_factory = sqlite3.Row
        names = [n for (n,) in store.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        tables = {name: [dict(row) for row in store.execute(f'SELECT * FROM "{name}"')]
                  for name in names}  # fmt: skip
    ids = {row["run_uuid"]: row["value"] for row in tables["tags"] if row["key"] == "losslab.key"}
    ids |= {row["dataset_uuid"]: row["digest"] for row in tables["datasets"]}
    for row in tables["runs"]:
        if row["source_name"] == "" and ids[row["run_uuid"]].startswith(("study", "arm/")):
            row |= dict.fromkeys(CLOCK & row.keys(), "now")
    for row in tables["experiments"]:
        row |= dict.fromkeys(CLOCK & row.keys(), "now")
    for row in tables["inputs"]:
        assert len(row.pop("input_uuid")) == 32
    found = Counter()
    for name, rows in tables.items():
        for row in rows:
            text = json.dumps(row, sort_keys=True).replace(home.as_uri(), "HOME")
            for run_id, key in ids.items():
                text = text.replace(run_id, json.dumps(key)[1:-1])
            found[name, text] += 1
    return found


def files(home):
    """Everything attached, by name, with the run's key for its id."""
    with sqlite3.connect(home / "mlflow.db") as store:
        rows = store.execute("SELECT run_uuid, value FROM tags WHERE key = 'losslab.key'")
        ids = dict(rows.fetchall())
    found = {}
    for file in (home / "artifacts").rglob("*"):
        if file.is_file():
            experiment, run_id, *rest = file.relative_to(home / "artifacts").parts
            found[experiment, ids[run_id], *rest] = (
                part(file) if file.suffix == ".npz" else file.read_text()
            )
    return found


def part(file):
    """What a part holds, but for the ids of its runs."""
    runs = unpack(file.read_bytes())
    return [(r.record, r.history.columns, r.history.values.tolist()) for r in runs]


def test_rows_and_files_are_those_that_the_client_writes(new_home, entry, records, monkeypatch):
    rows, client = new_home("rows"), new_home("client")
    assert isinstance(open_store(local_store(rows), rows, "x"), SqliteStore)
    mirror(rows, entry, records)
    monkeypatch.setattr(tracking, "open_store", LocalClientStore)
    mirror(client, entry, records)
    found, expected = content(rows), content(client)
    assert found - expected == expected - found == Counter()
    assert sum(n for (table, _), n in found.items() if table == "metrics") > 300
    assert {table for table, _ in found} >= {
        "runs", "params", "metrics", "latest_metrics", "tags", "inputs", "datasets",
        "experiments", "experiment_tags",
    }  # fmt: skip
    ours, theirs = files(rows), files(client)
    assert {key: json.loads(text) if key[-1].endswith(".json") else text
            for key, text in ours.items()} == {
        key: json.loads(text) if key[-1].endswith(".json") else text
        for key, text in theirs.items()
    }  # fmt: skip
    assert ("tiny", "study", "artifacts", "report", "deep", "é.txt") in ours


def test_a_run_that_the_client_began_is_completed(home, entry, records, monkeypatch, mirrored):
    """A kill between two calls of the client, then another version of losslab goes on."""
    monkeypatch.setattr(tracking, "open_store", LocalClientStore)
    real = ClientStore.client.func

    class Half:
        def __init__(self, client):
            self.client = client

        def log_batch(self, run_id, metrics, *rest):
            self.client.log_batch(run_id, metrics[:7], *rest)
            if metrics:
                raise KeyboardInterrupt

        def __getattr__(self, name):
            return getattr(self.client, name)

    store = LocalClientStore(local_store(home), home, entry["id"])
    store.client = Half(real(store))
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "open_store", lambda *_: store)
        tracker = Tracker(local_store(home), home, entry, home / "tracking.jsonl")
        tracker.open()
        with pytest.raises(KeyboardInterrupt):
            tracker._log(records[:1])
    begun = mirrored(home)
    assert len(begun) == 3
    monkeypatch.setattr(tracking, "open_store", open_store)
    tracker = Tracker(local_store(home), home, entry, home / "tracking.jsonl")
    tracker.open()
    tracker.mirror(records[:1])
    tracker.finish("FINISHED")
    ended = mirrored(home)
    assert {k: r.info.run_id for k, r in ended.items()} == {
        k: r.info.run_id for k, r in begun.items()
    }
    key = records[0]["key"]
    assert begun[key].info.status == "RUNNING"
    assert ended[key].info.status == "FINISHED"
    assert len(ended[key].data.metrics) > 7 >= len(begun[key].data.metrics)


def test_a_generation_is_there_whole_or_not_at_all(home, entry, records, monkeypatch, mirrored):
    tracker = Tracker(local_store(home), home, entry, home / "tracking.jsonl")
    tracker.open()
    real, written = tracking_sqlite._write_run, []

    def dies(store, experiment, run_id, one):
        if len(written) == 4:
            raise ConnectionError("gone")
        written.append(one.key)
        return real(store, experiment, run_id, one)

    with monkeypatch.context() as patch:
        patch.setattr(tracking_sqlite, "_write_run", dies)
        with pytest.raises(ConnectionError):
            tracker._log(records[:4])
    assert len(written) == 4  # the arm's run, and three trainings
    assert set(mirrored(home)) == {"study", "arm/ce"}
    tracker.mirror(records[:4])
    tracker.finish("FINISHED")
    assert set(mirrored(home)) == {"study", "arm/ce", *(r["key"] for r in records[:4])}


def test_the_tables_of_the_installed_mlflow_are_those_that_are_written(migrated_store):
    """If this fails after an upgrade of MLflow: compare the tables, then name the new revision."""
    assert revision(migrated_store.parent) == REVISION


def test_tables_of_another_version_are_left_to_the_client(home):
    with sqlite3.connect(home / "mlflow.db") as store:
        store.execute("UPDATE alembic_version SET version_num = 'later'")
    assert type(open_store(local_store(home), home, "x")) is LocalClientStore
    (home / "mlflow.db").unlink()
    assert revision(home) is None
    assert type(open_store("http://127.0.0.1:9", home, "x")) is ClientStore


def test_mlflow_is_not_imported_for_the_local_store(home, entry, records):
    (home / "entry.json").write_text(json.dumps([entry, records]))
    script = """
import json, sys
from pathlib import Path
from losslab.experiments.tracking import make_tracker
home = Path(sys.argv[1])
entry, records = json.loads((home / "entry.json").read_text())
tracker = make_tracker(None, home, entry, home / "tracking.jsonl")
tracker.open()
tracker.mirror(records)
tracker.finish("FINISHED")
print(tracker.problem, sorted({"mlflow", "torch", "optuna", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script, home], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == " []", done.stderr


@pytest.mark.slow
def test_a_new_store_is_created_beside_the_study(tmp_path, entry, records, mirrored):
    home = tmp_path / "häre & there"
    home.mkdir()
    (home / "mlflow.db").touch()  # left by a disk that was full
    began = time.monotonic()
    tracker = make_tracker(None, home, entry, home / "tracking.jsonl")
    tracker.open()
    tracker.mirror(records)
    assert time.monotonic() - began < 1
    assert tracker.store.creating is not None
    tracker.finish("FINISHED")
    assert tracker.problem == ""
    assert len(mirrored(home)) == len(records) + 1 + len({r["arm"] for r in records})
    assert not list(home.glob(".mlflow.db*"))


@pytest.mark.slow
def test_a_store_that_cannot_be_created_is_told_and_tried_again(
    tmp_path, entry, records, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(local, "_CREATE", "raise SystemExit('no space left')")
        tracker = make_tracker(None, tmp_path, entry, tmp_path / "tracking.jsonl")
        tracker.open()
        tracker.mirror(records)
        tracker.finish("FINISHED")
        assert "could not be created: no space left" in tracker.problem
    again = make_tracker(None, tmp_path, entry, tmp_path / "tracking.jsonl")
    again.open()
    again.mirror(records)
    again.finish("FINISHED")
    assert again.problem == ""


def test_without_mlflow_then_with_it(tiny, finished, tmp_path, migrated_store, mirrored, outcome):
    home = tmp_path / "home"
    run = run_study(tiny, home=home, tracking_uri="none")
    assert not (home / "mlflow.db").exists()
    assert not (home / "tiny" / "tracking.jsonl").exists()
    assert len(run.trials) == 14
    assert len(run.confirmation) == len(read_folder(finished))
    assert outcome(home / "tiny") == outcome(finished / "tiny")
    shutil.copy(migrated_store, home / "mlflow.db")
    run_study(tiny, home=home)
    assert set(mirrored(home)) == set(mirrored(finished))
    run_study(tiny, home=home, tracking_uri="none")
    assert set(mirrored(home)) == set(mirrored(finished))


def read_folder(home):
    return list((home / "tiny" / "confirm").glob("*/*.json"))


def test_a_tracker_that_does_nothing_can_all_that_the_other_can(tmp_path):
    tracker = make_tracker("none", tmp_path, {}, tmp_path / "tracking.jsonl")
    assert isinstance(tracker, NoTracker)
    tracker.open()
    tracker.mirror([{"key": "x"}])
    tracker.mirror_selected({("ce", 0): {}})
    tracker.discard("x")
    tracker.attach(tmp_path, "report")
    tracker.finish("FINISHED")
    assert (tracker.uri, tracker.problem) == ("none", "")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_local_store_is_bad_input(home, entry):
    (home / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"noise" * 4000)
    with pytest.raises(BadInput, match="--tracking-uri: cannot use"):
        make_tracker(None, home, entry, home / "tracking.jsonl").open()
