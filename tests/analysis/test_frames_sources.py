"""The same frames from a study's folder, from its local store, and through MLflow's client."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from losslab.analysis.frames import frames_from_folder, frames_from_mlflow
from losslab.analysis.frames import local as local_module
from losslab.errors import BadInput
from losslab.experiments import tracking_outputs, tracking_parts
from losslab.experiments.local_store import local_store
from losslab.experiments.run_ledger import RunLedger
from losslab.experiments.run_parts import FiledRun, pack, unpack
from losslab.experiments.tracking import Tracker
from losslab.experiments.tracking_client import quiet_mlflow
from losslab.experiments.tracking_sqlite import SqliteStore

FRAMES = ("trials", "epochs", "confirmation", "ledger", "selected", "arm_table")
METRIC = 'val/recall/"é" 50 %'


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An empty MLflow database; making one takes seconds."""
    quiet_mlflow()
    from mlflow.tracking import MlflowClient

    home = tmp_path_factory.mktemp("store")
    MlflowClient(local_store(home)).search_experiments()
    return home / "mlflow.db"


@pytest.fixture
def home(tmp_path, empty_store):
    place = tmp_path / "runs"
    place.mkdir()
    shutil.copy(empty_store, place / "mlflow.db")
    return place


@pytest.fixture(params=["rows", "client"])
def source(request, monkeypatch):
    """Both ways of reading a store."""
    if request.param == "client":
        monkeypatch.setattr("losslab.analysis.frames.source.has_known_tables", lambda file: False)
    return request.param


class Study:
    """A study whose folder and mirror are written side by side."""

    def __init__(self, home, name="mirrored", study_id="1" * 32):
        self.home, self.folder = home, home / name
        self.numbers = count()
        self.study = {
            "id": study_id, "study": name, "question": "?", "primary": "average_precision",
            "direction": "maximize", "decision": "accuracy", "baseline": "ce", "standing": "ce",
            "seeds": 2, "repeats": 2, "budget": 4, "metrics": ["average_precision"], "git": "",
            "yaml": "study: x\n", "versions": {"losslab": "0"}, "created": 0.0,
            "arms": {
                arm: {"slug": slug, "summary": arm, "of": arm, "implicit": False,
                      "config": {"loss": {"name": arm}},
                      "space": {"loss.a": {"low": 0, "high": 1, "scale": "linear"}}}
                for arm, slug in (("ce", "ce"), ("it's 50 % `é`", "its"))
            },
            "dataset": {"name": "d", "task": "classification", "options": {}, "splits": {},
                        "content_hash": "0"},
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "study.json").write_text(json.dumps(self.study))

    def record(self, arm, phase, trial, *, repeat=0, seed=0, epochs=3, state="complete"):
        number = next(self.numbers)
        random = np.random.default_rng(number)
        history = [
            {"epoch": e, "train/loss": random.uniform(), METRIC: random.uniform()}
            for e in range(1, epochs + 1)
        ]
        inner = f"/repeat-{repeat:03d}" if repeat else ""
        slug = self.study["arms"][arm]["slug"]
        if phase == "confirm":
            name, place = f"selected-{seed:04d}", f"confirm/{slug}{inner}"
        else:
            name, place = f"trial-{trial:05d}", f"arms/{slug}{inner}"
        record = {
            "key": f"{arm}{inner}/{name}", "arm": arm, "phase": phase,
            "variant": "selected" if phase == "confirm" else None, "trial": trial,
            "repeat": repeat, "generation": None, "seed_index": seed, "run_seed": number,
            "state": state, "reason": "" if state == "complete" else "on purpose",
            "params": {"loss.a": random.uniform()}, "value": random.uniform(),
            "judged_epoch": epochs, "epochs": epochs, "seconds": 1.0,
            "started": 1763680000.25 + number, "ended": 1763680001.5 + number,
            "history": history,
            "metrics": {'test/recall/"é" 50 %': random.uniform()} if phase == "confirm" else {},
            "pairing": {"train": "t" * 20}, "outputs": None,
            "config": {part: {"name": "x"} for part in ("loss", "training", "model", "dataset")},
            "attributes": {},
        }  # fmt: skip
        if phase == "confirm":
            record["outputs"] = f"{place}/{name}.npz"
            (self.folder / place).mkdir(parents=True, exist_ok=True)
            np.savez(self.folder / record["outputs"], test_logits=random.uniform(size=5))
        self.write(f"{place}/{name}.json", record)
        return record

    def write(self, name, content):
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(json.dumps(content))

    def tracker(self):
        ledger = self.folder / "tracking.jsonl"
        tracker = Tracker(local_store(self.home), self.home, self.study, ledger)
        tracker.open()
        return tracker

    def mirror(self, *records, outputs=False, selected=None):
        tracker = self.tracker()
        tracker.mirror(records)
        tracker.mirror_selected(selected or {})
        if outputs:
            tracker.attach_outputs(
                {r["key"]: self.folder / r["outputs"] for r in records if r["outputs"]}
            )
        tracker.finish("FINISHED")
        assert tracker.problem == ""

    def select(self, arm, repeat):
        chosen = {"trial": 0, "params": {"loss.a": 0.5}, "value": 0.75, "repeat": repeat,
                  "candidates": [], "flags": [f"flag {repeat}"]}  # fmt: skip
        inner = f"/repeat-{repeat:03d}" if repeat else ""
        self.write(f"arms/{self.study['arms'][arm]['slug']}{inner}/selected.json", chosen)
        return {(arm, repeat): chosen}

    def from_mlflow(self, cache=False):
        return frames_from_mlflow(local_store(self.home), self.study["study"], cache=cache)


def same(found, expected):
    assert found.study == expected.study
    for name in FRAMES:
        assert_frame_equal(getattr(found, name), getattr(expected, name), check_exact=True)


@pytest.fixture
def study(home):
    return Study(home)


@pytest.fixture
def mirrored(study):
    """Two arms with two repeats, a diverged and a pruned trial, hostile names, all mirrored."""
    arms = list(study.study["arms"])
    records = [
        study.record(arm, "search", trial, repeat=repeat, epochs=epochs, state=state)
        for arm in arms
        for repeat in range(2)
        for trial, (epochs, state) in enumerate([(3, "complete"), (1, "pruned"), (0, "diverged")])
    ]
    records += [
        study.record(arm, "confirm", 0, repeat=repeat, seed=seed)
        for arm in arms
        for repeat in range(2)
        for seed in range(2)
    ]
    selected = {**study.select(arms[0], 0), **study.select(arms[0], 1), **study.select(arms[1], 1)}
    study.mirror(*records, outputs=True, selected=selected)
    return study


def test_every_source_gives_the_same_frames(mirrored, source, tmp_path):
    expected = frames_from_folder(mirrored.folder)
    assert len(expected.trials) == 12
    assert list(expected.selected["repeat"]) == [0, 1, 1]
    assert METRIC in expected.epochs
    assert set(expected.ledger["missing_confirmations"]) == {4}  # no defaults, on 2 x 2 seeds
    assert (expected.trials["run_id"].str.len() == 32).all()
    for _ in range(2):
        found = mirrored.from_mlflow(tmp_path / "cache")
        same(found, expected)
        assert found.tracking == expected.tracking
    same(mirrored.from_mlflow(), expected)


def test_a_store_of_an_older_version_is_read_run_by_run(mirrored, source):
    expected = frames_from_folder(mirrored.folder)
    with sqlite3.connect(mirrored.home / "mlflow.db") as store:
        store.execute("DELETE FROM tags WHERE key = 'losslab.part' OR key LIKE 'losslab.digest%'")
    for file in (mirrored.home / "artifacts").rglob("parts/*.npz"):
        file.unlink()
    same(mirrored.from_mlflow(), expected)


def test_parts_that_a_kill_or_damage_took_are_searched_for(mirrored, source, tmp_path):
    expected = frames_from_folder(mirrored.folder)
    (file,) = (mirrored.home / "artifacts").rglob("parts/*.npz")
    content = file.read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 30):
        file.write_bytes(content[:cut])
        same(mirrored.from_mlflow(), expected)
    file.unlink()
    for _ in range(2):
        same(mirrored.from_mlflow(tmp_path / "cache"), expected)


def test_outputs_are_read_from_the_folder_and_from_the_store(mirrored, source, tmp_path):
    folder, store = frames_from_folder(mirrored.folder), mirrored.from_mlflow(tmp_path / "cache")
    files = folder.confirmation.set_index("key")["outputs"]
    for key in files.index:
        for frames in (folder, store):
            arrays = frames.outputs(key)
            expected = np.load(mirrored.folder / files[key])
            assert list(arrays) == ["test_logits"]
            np.testing.assert_array_equal(arrays["test_logits"], expected["test_logits"])
    with pytest.raises(BadInput, match="no confirmation run has the key 'x'"):
        store.outputs("x")
    links = [file.stat().st_nlink for file in mirrored.folder.glob("confirm/**/*.npz")]
    assert set(links) == {2}


def test_outputs_that_are_too_large_for_a_server_are_left_out_and_told(
    study, monkeypatch, tmp_path
):
    records = [study.record("ce", "confirm", 0, seed=seed) for seed in range(4)]
    size = (study.folder / records[0]["outputs"]).stat().st_size / 1e6
    monkeypatch.setattr(SqliteStore, "can_link", lambda *_: False)
    monkeypatch.setenv("LOSSLAB_OUTPUTS_LIMIT", str(2.5 * size))
    study.mirror(*records, outputs=True)
    frames = study.from_mlflow()
    found = [frames.outputs(record["key"]) is not None for record in records]
    assert found == [True, True, False, False]
    with sqlite3.connect(study.home / "mlflow.db") as store:
        ((told,),) = store.execute("SELECT value FROM tags WHERE key = 'losslab.outputs'")
    assert told.startswith("attached to 2 of 4 runs; left out from ce/selected-0002 on")
    monkeypatch.delenv("LOSSLAB_OUTPUTS_LIMIT")
    study.mirror(*records, outputs=True)  # the same command again, with the usual limit
    assert all(frames.outputs(record["key"]) for record in records)
    monkeypatch.setenv("LOSSLAB_OUTPUTS_LIMIT", "lots")
    with pytest.raises(BadInput, match="LOSSLAB_OUTPUTS_LIMIT: must be a number"):
        tracking_outputs.outputs_limit()


def test_outputs_go_on_after_an_outage(study, monkeypatch):
    records = [study.record("ce", "confirm", 0, seed=seed) for seed in range(3)]
    real, calls = SqliteStore.add_file, count()

    def fails(self, *arguments):
        if next(calls) == 1:
            raise ConnectionError("gone")
        real(self, *arguments)

    monkeypatch.setattr(SqliteStore, "add_file", fails)
    tracker = study.tracker()
    tracker.mirror(records)
    tracker.attach_outputs({r["key"]: study.folder / r["outputs"] for r in records})
    tracker.finish("FINISHED")
    assert tracker.problem == ""  # the last round has tried again
    assert next(calls) == 4
    assert all(study.from_mlflow().outputs(record["key"]) for record in records)


def test_the_newest_of_two_studies_of_one_name_counts(mirrored, source, tmp_path):
    mirrored.from_mlflow(tmp_path / "cache")
    shutil.move(mirrored.folder, mirrored.folder.with_name("aside"))
    anew = Study(mirrored.home, study_id="2" * 32)
    anew.mirror(anew.record("ce", "search", 0), anew.record("ce", "search", 1))
    same(mirrored.from_mlflow(tmp_path / "cache"), frames_from_folder(anew.folder))


def test_a_record_that_is_too_long_for_a_tag_is_whole(study, source):
    record = study.record("ce", "search", 0)
    record["params"] = {f"loss.{'x' * 90}_{n}": n / 7 for n in range(100)}
    study.write("arms/ce/trial-00000.json", record)
    study.mirror(record)
    with sqlite3.connect(study.home / "mlflow.db") as store:
        tags = dict(store.execute("SELECT key, length(value) FROM tags"))
    assert max(tags.values()) <= 5000 < sum(v for k, v in tags.items() if "record" in k)
    same(study.from_mlflow(), frames_from_folder(study.folder))


def test_a_moved_home_is_read_where_it_is(mirrored, tmp_path):
    expected = frames_from_folder(mirrored.folder)
    moved = Study(tmp_path / "moved")
    shutil.rmtree(moved.home)
    shutil.move(mirrored.home, moved.home)
    found = moved.from_mlflow()
    same(found, expected)
    assert found.outputs("ce/selected-0000") is not None


STEPS = ("add", "delete", "restore", "remirror", "anew", "damage")


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=7), by_client=st.booleans())
def test_any_history_reads_the_same_through_the_cache(
    steps, by_client, tmp_path, empty_store, monkeypatch
):
    live(steps, by_client, tmp_path, empty_store, monkeypatch)


@pytest.mark.parametrize("by_client", [False, True], ids=["rows", "client"])
def test_a_frame_through_the_cache_equals_one_without(
    by_client, tmp_path, empty_store, monkeypatch
):
    steps = ["add", "delete", "add", "restore", "remirror", "damage", "anew", "add"]
    live(steps, by_client, tmp_path, empty_store, monkeypatch)


def live(steps, by_client, tmp_path, empty_store, monkeypatch):
    """A study's life in a store, read after every step with the cache and without."""
    with monkeypatch.context() as patch:
        patch.setattr(tracking_parts, "PART_SIZE", 3)
        if by_client:
            patch.setattr("losslab.analysis.frames.source.has_known_tables", lambda file: False)
        place = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        home, cache = place / "runs", place / "cache"
        home.mkdir(parents=True)
        shutil.copy(empty_store, home / "mlflow.db")
        study, present, deleted = Study(home), [], []
        study.mirror(first := study.record("ce", "search", 0))
        present.append(first)
        for number, step in enumerate(steps, start=1):
            if step == "add":
                new = [study.record("ce", "search", 10 * number + n) for n in range(2)]
                study.mirror(*new)
                present += new
            elif step == "delete" and present:
                deleted.append(gone := present.pop())
                set_stage(study, gone["key"], "deleted")
            elif step == "restore" and deleted:
                present.append(back := deleted.pop())
                set_stage(study, back["key"], "active")
            elif step == "remirror" and present:
                tracker = study.tracker()
                tracker.discard(present[-1]["key"])
                tracker.finish("FINISHED")
                changed = {**present[-1], "value": number / 7, "started": 1763690000.0 + number}
                study.mirror(changed)
                present[-1] = changed
                deleted.clear()
            elif step == "anew":
                shutil.rmtree(study.folder)
                study = Study(home, study_id=f"{number:032d}")
                present, deleted = [study.record("ce", "search", 0)], []
                study.mirror(*present)
            elif step == "damage":
                for file in sorted(cache.rglob("*.parquet"))[:1]:
                    content = bytearray(file.read_bytes())
                    content[len(content) // 2] ^= 1
                    file.write_bytes(content)
            found = study.from_mlflow(cache)
            same(found, study.from_mlflow())
            assert set(found.trials["key"]) == {record["key"] for record in present}
            assert set(found.trials["value"]) == {record["value"] for record in present}


def set_stage(study, key, stage):
    """Move a run into MLflow's bin or out of it, as its UI does."""
    run_id = RunLedger(study.folder / "tracking.jsonl", "local").ids[key]
    with sqlite3.connect(study.home / "mlflow.db") as store:
        store.execute("UPDATE runs SET lifecycle_stage = ? WHERE run_uuid = ?", (stage, run_id))


# The folder


def test_a_large_folder_is_cached_and_changes_are_seen(study, tmp_path, monkeypatch):
    from losslab.analysis.frames import folder

    monkeypatch.setattr(folder, "CACHED_FROM", 2)
    monkeypatch.setattr(folder, "SETTLED", -60.0)  # files as if written long ago
    records = [study.record("ce", "search", trial) for trial in range(4)]
    cache = tmp_path / "cache"
    for _ in range(2):
        same(frames_from_folder(study.folder, cache=cache),
             frames_from_folder(study.folder, cache=False))  # fmt: skip
    monkeypatch.setattr(folder, "_read_json", spy := Spy(folder._read_json))
    frames_from_folder(study.folder, cache=cache)
    assert spy.names == ["study.json"]
    study.write("arms/ce/trial-00002.json", {**records[2], "value": 0.123456789012})
    (study.folder / "arms/ce/trial-00003.json").unlink()
    spy.names.clear()
    found = frames_from_folder(study.folder, cache=cache)
    assert spy.names == ["study.json", "trial-00002.json"]
    assert list(found.trials["value"])[2:] == [0.123456789012]


class Spy:
    def __init__(self, real):
        self.real, self.names = real, []

    def __call__(self, file):
        self.names.append(file.name)
        return self.real(file)


# Parts, and stores that are not there


def test_parts_give_back_what_was_filed():
    lines = [{"epoch": 1, "a": 0.1}, {"epoch": 2, "a": 0.2, "b": -1e300}]
    record = {"key": "k", "arm": "é", "history": lines, "metrics": {"test/x": 0.3}, "config": {}}
    (one, other) = unpack(pack([FiledRun.of("1", record), FiledRun.of("2", {"history": []})]))
    assert one.record == {"key": "k", "arm": "é", "metrics": {"test/x": 0.3}}
    assert one.history.columns == ("epoch", "a", "b")
    np.testing.assert_array_equal(one.history.values, [[1, 0.1, np.nan], [2, 0.2, -1e300]])
    assert (other.run_id, other.history.values.shape) == ("2", (0, 1))


def test_what_is_not_there_is_bad_input_and_nothing_is_created(tmp_path, study):
    with pytest.raises(BadInput, match="there is no MLflow store at"):
        frames_from_mlflow(f"sqlite:///{tmp_path}/none.db", "x")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(BadInput, match="no experiment 'x'"):
        frames_from_mlflow(local_store(study.home), "x")
    with pytest.raises(BadInput, match=r"http://127\.0\.0\.1:9 cannot be read"):
        frames_from_mlflow("http://127.0.0.1:9", "x")


def test_reading_a_local_store_does_not_import_mlflow(mirrored):
    code = (
        "import sys; from losslab.analysis.frames import frames_from_mlflow; "
        f"frames_from_mlflow({local_store(mirrored.home)!r}, 'mirrored', cache=False); "
        "print('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert local_module.has_known_tables(mirrored.home / "mlflow.db")


@pytest.mark.slow
def test_a_server_gives_the_same_frames_and_outputs(tmp_path, empty_store, served, monkeypatch):
    """Mirrored over HTTP and read over HTTP, by somebody who has nothing but the address."""
    monkeypatch.setattr(tracking_parts, "PART_SIZE", 5)
    study = Study(tmp_path / "runs")
    records = [study.record("ce", "search", trial) for trial in range(7)]
    records += [study.record("ce", "confirm", 0, seed=seed) for seed in range(3)]
    size = (study.folder / records[-1]["outputs"]).stat().st_size / 1e6
    monkeypatch.setenv("LOSSLAB_OUTPUTS_LIMIT", str(2.5 * size))
    for _ in range(2):
        ledger = study.folder / "tracking.jsonl"
        tracker = Tracker(served, study.home, study.study, ledger)
        tracker.open()
        tracker.mirror(records)
        tracker.mirror_selected(study.select("ce", 0))
        files = {r["key"]: study.folder / r["outputs"] for r in records if r["outputs"]}
        tracker.attach_outputs(files)
        tracker.finish("FINISHED")
        assert tracker.problem == ""
    expected = frames_from_folder(study.folder)
    assert (expected.tracking.uri, expected.tracking.experiment_id) == (served, "1")
    for cache in (False, tmp_path / "cache", tmp_path / "cache"):
        found = frames_from_mlflow(served, "mirrored", cache=cache)
        same(found, expected)
        assert found.tracking == expected.tracking
        assert found.outputs("ce/selected-0002") is None
        for key in ("ce/selected-0000", "ce/selected-0001"):
            logits, own = found.outputs(key)["test_logits"], expected.outputs(key)["test_logits"]
            np.testing.assert_array_equal(logits, own)


@pytest.fixture
def served(tmp_path, empty_store):
    """The address of an MLflow server with an empty store."""
    place = tmp_path / "server"
    place.mkdir()
    shutil.copy(empty_store, place / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{place / 'mlflow.db'}", "--workers", "1",
        "--artifacts-destination", (place / "artifacts").as_uri(),
    ]  # fmt: skip
    settings_ = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=settings_, cwd=place, start_new_session=True, stdout=log, stderr=log
        )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
