"""Whatever ends a study, the same command goes on with it: nothing lost, nothing doubled."""

import contextlib
import errno
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from optuna.storages.journal import JournalFileBackend

from losslab import run_study
from losslab.cli import main
from losslab.errors import BadInput, LosslabError
from losslab.experiments import (
    context,
    executors,
    folder,
    stacked,
    states,
    tracking,
    tracking_sqlite,
    training,
    work,
)
from losslab.experiments.folder import StudyFolder
from losslab.experiments.observing import Observer
from losslab.experiments.run_ledger import RunLedger
from losslab.experiments.tracking_sqlite import SqliteStore


def small_study():
    """One arm with rungs at which trials are pruned, selection and confirmation."""
    return {
        "study": "small",
        "dataset": {
            "name": "clusters",
            "examples": 120,
            "validation_examples": 60,
            "test_examples": 60,
            "imbalance_ratio": 3,
            "dimensions": 2,
        },
        "model": {"name": "mlp", "hidden": [2]},
        "training": {"epochs": 3, "batch_size": 64},
        "arms": ["ce"],
        "search": {
            "trials": 7,
            "generation": 3,
            "pruner": "halving",
            "rungs": [1, 2],
            "select": {"best": 1, "seeds": 1},
        },
        "confirm": {"seeds": 1},
    }


@pytest.fixture
def small():
    return small_study()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, migrated_store):
    """The home of the small study, run once without a hitch; to be read only."""
    home = tmp_path_factory.mktemp("undisturbed")
    (home / "mlflow.db").write_bytes(migrated_store.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        for step in ("begin_report", "write_report_files"):
            patch.setattr(f"losslab.analysis.report.{step}", lambda *_: [])
        run_study(small_study(), home=home)
    return home


class Crash(BaseException):
    """What stands for kill -9: nothing may catch it."""


class Process:
    """The life of a driver in which every durable step is counted, and one of them is its last.

    A step is a file written atomically, a line of the journal or the ledger, or a call that changes
    the MLflow store; each counts before and after. Once dead, nothing more is written.
    """

    CLIENT = ("create_run", "log_batch", "set_terminated", "update_run", "log_dict")
    ROWS = ("open", "terminate", "add_json", "add_text", "add_folder")

    def __init__(self, patch):
        self.lock, self.steps, self.last, self.dead = threading.Lock(), 0, None, False
        self.epochs = 0
        self._count_epochs(patch)
        for module in (folder, work, states):
            self._step(patch, module, "write_atomically")
        self._step(patch, JournalFileBackend, "append_logs", torn=lambda own, logs: own._file_path)
        self._step(patch, RunLedger, "_append", torn=lambda own, *_: own.path)
        from mlflow.tracking import MlflowClient

        for call in self.CLIENT:
            self._step(patch, MlflowClient, call)
        for call in self.ROWS:
            self._step(patch, SqliteStore, call)
        self._step(patch, tracking_sqlite, "_write_run")

    def live(self, last=None):
        """Begin a life that ends at the step `last`."""
        self.steps, self.last, self.dead = 0, last, False

    def _tick(self):
        with self.lock:
            self.steps += 1
            self.dead = self.dead or self.steps == self.last
            if self.dead:
                raise Crash

    def _step(self, patch, owner, name, torn=None):
        do = getattr(owner, name)

        def step(*args, **kwargs):
            self._tick()
            result = do(*args, **kwargs)
            try:
                self._tick()
            except Crash:
                if torn is not None and self.steps == self.last:  # half of the line was written
                    file = Path(torn(*args, **kwargs))
                    os.truncate(file, file.stat().st_size - 7)
                raise
            return result

        patch.setattr(owner, name, step)

    def _count_epochs(self, patch):
        """Count the epochs trained, of a stack as one."""

        def counting(owner, name):
            epoch = getattr(owner, name)

            def counted(*args):
                self.epochs += 1
                return epoch(*args)

            patch.setattr(owner, name, counted)

        counting(training, "_epoch")
        counting(stacked.Stack, "_epoch")

        def checked(piece):
            """Work whose records are all on disk is never done again."""
            place = piece.file.parent.parent.parent
            files = [*place.glob("arms/*/*-*.json"), *place.glob("confirm/*/*.json")]
            records = [json.loads(file.read_text()) for file in files]
            finished = [(r["config"], r["run_seed"]) for r in records if "config" in r]
            assert any((m.job.config, m.job.run_seed) not in finished for m in piece.members)
            return work.do(piece)

        patch.setattr(executors, "do", checked)


def _crash_everywhere(process, study, new_home, outcome, mirrored, undisturbed, positions):
    expected = outcome(undisturbed / "small")
    keys = set(mirrored(undisturbed))
    process.live()
    process.epochs = 0
    run_study(study, home=new_home("whole"))
    steps, epochs = process.steps, process.epochs
    assert steps > 150
    for position in positions(steps):
        home = new_home(f"crashed-{position}")
        process.epochs = 0
        process.live(position)
        with contextlib.suppress(Crash):
            run_study(study, home=home)
        assert process.dead, position
        process.live()
        run_study(study, home=home)
        assert outcome(home / "small") == expected, position
        # one piece of work was under way, and it alone is done again
        assert process.epochs <= epochs + study["training"]["epochs"], position
        runs = mirrored(home)
        assert set(runs) == keys, position
        assert {run.info.status for run in runs.values()} <= {"FINISHED", "KILLED"}
        assert runs["study"].info.status == "FINISHED"
        assert len({run.data.tags["losslab.study_id"] for run in runs.values()}) == 1, position
        for run in runs.values():
            parent = run.data.tags.get("mlflow.parentRunId")
            assert parent is None or parent in {other.info.run_id for other in runs.values()}
            assert run.data.tags["losslab.key"].startswith(("study", "arm/")) or run.data.metrics
        assert not list((home / "small" / "states").iterdir()), position
        assert not list((home / "small").rglob(".*.part")), position
        journal = (home / "small" / "journal.log").read_text().splitlines()
        assert sum(json.loads(line)["op_code"] == 4 for line in journal) == 6, position


def test_a_crash_at_any_step_changes_nothing(
    small, new_home, outcome, mirrored, undisturbed, no_report, monkeypatch, way
):
    """Every 29th step here; all of them in the slow test."""
    _crash_everywhere(
        Process(monkeypatch), small, new_home, outcome, mirrored, undisturbed,
        lambda steps: range(7, steps, 29),
    )  # fmt: skip


@pytest.mark.slow
def test_a_crash_at_every_step_changes_nothing(
    small, new_home, outcome, mirrored, undisturbed, no_report, monkeypatch, way
):
    _crash_everywhere(
        Process(monkeypatch), small, new_home, outcome, mirrored, undisturbed,
        lambda steps: range(1, steps),
    )  # fmt: skip


class Command:
    """`losslab run` as a user starts it, in a session of its own."""

    def __init__(self, file, home, workers=2):
        self.killed_workers = 0
        command = [sys.executable, "-m", "losslab", "run", str(file), "--quiet"]
        self.process = subprocess.Popen(
            [*command, "--home", str(home), "--workers", str(workers)],
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, number, whole_group=False):
        """Send a signal; the exit code and what stood on stderr."""
        with contextlib.suppress(ProcessLookupError):
            if whole_group:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        error = self.process.communicate(timeout=60)[1]
        deadline = time.monotonic() + 10
        while survivors := self.survivors():
            assert time.monotonic() < deadline, f"processes live on: {survivors}"
            time.sleep(0.02)
        return self.process.returncode, error

    def survivors(self):
        """Processes of the session that still live, workers and their server included."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    found.append(stat.parent.name)
        return found

    def workers(self):
        """The processes that train: children of the server that is a child of the command."""
        parents = {}
        for pid in self.survivors():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                parents[int(pid)] = int(fields[1])
        return [p for p, parent in parents.items() if parents.get(parent) == self.process.pid]

    def wait_for_progress(self, folder, beyond):
        """Until there are more records than `beyond`, or it has ended."""
        while self.process.poll() is None and _trained(folder) <= beyond:
            time.sleep(0.005)


def _trained(folder):
    """How many files of generations and records there are."""
    return len([*folder.glob("arms/*/*-*.json"), *folder.glob("confirm/*/*.json")])


def _kill_and_resume(study, signals, place, home, seed):
    """Run the study, ended by one signal after another; how many of them met it alive.

    Before the signal, single workers are killed now and then.
    """
    moments, met, killed_workers = random.Random(seed), 0, 0
    file = place / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    for number in signals:
        command, before = Command(file, home), _trained(home / study["study"])
        if number == signal.SIGKILL and moments.random() < 0.2:
            time.sleep(moments.uniform(0, 2))  # while it starts
        else:
            command.wait_for_progress(home / study["study"], before)
            time.sleep(moments.uniform(0, 0.3))
        for _ in range(moments.choice([0, 0, 1, 2])):
            if workers := command.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(moments.choice(workers), signal.SIGKILL)
                command.killed_workers += 1
            time.sleep(moments.uniform(0, 0.2))
        killed_workers += command.killed_workers
        alive = command.process.poll() is None
        code, error = command.end(number, whole_group=number == signal.SIGINT)
        if not alive:
            assert code == 0, error
            break
        met += 1
        if number == signal.SIGINT and code != 0:
            assert code == 130
            assert error.startswith("losslab: interrupted; nothing is lost"), error
            assert error.count("\n") == 1, error
    code, error = Command(file, home).end(0)
    assert code == 0, error
    assert not list(home.rglob(".*.part"))
    assert not list((home / study["study"] / "states").iterdir())
    assert killed_workers or len(signals) < 10
    return met


def test_kill_9_and_ctrl_c_change_nothing(tiny, finished, home, tmp_path, outcome, mirrored):
    signals = [signal.SIGKILL, signal.SIGINT, signal.SIGKILL]
    assert _kill_and_resume(tiny, signals, tmp_path, home, seed=1) == 3
    _assert_same_study(finished, home, "tiny", outcome, mirrored)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_twenty_kills_change_nothing(tiny, seed, new_home, tmp_path, outcome, mirrored):
    study = {
        **tiny,
        "search": {**tiny["search"], "trials": 81, "rungs": [1, 2, 3], "pruner": "halving"},
        "confirm": {"seeds": 4},
    }
    whole, killed = new_home("whole"), new_home("killed")
    assert _kill_and_resume(study, [], tmp_path, whole, seed) == 0
    assert _kill_and_resume(study, [signal.SIGKILL] * 20, tmp_path, killed, seed) == 20
    _assert_same_study(whole, killed, "tiny", outcome, mirrored)


def _assert_same_study(whole, resumed, name, outcome, mirrored):
    assert outcome(resumed / name) == outcome(whole / name)
    table = Path(name) / "report" / "tables" / "results.csv"
    assert (resumed / table).read_bytes() == (whole / table).read_bytes()
    expected, found = mirrored(whole), mirrored(resumed)
    assert set(found) == set(expected)
    for key, run in found.items():
        other = expected[key]
        assert run.info.status == other.info.status, key
        assert run.data.params == other.data.params, key
        times = {"seconds", "cost/step_milliseconds"}
        assert {k: v for k, v in run.data.metrics.items() if k not in times} == {
            k: v for k, v in other.data.metrics.items() if k not in times
        }, key


# A disk that is full


@pytest.mark.parametrize("write", [1, 9, 30])
def test_a_full_disk_is_told_in_one_line_and_loses_nothing(
    write, small, home, tmp_path, outcome, mirrored, undisturbed, no_report, monkeypatch, capsys
):  # fmt: skip
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(small))
    arguments = ["run", str(file), "--home", str(home), "--workers", "1", "--quiet"]
    writes, sync = [], os.fsync

    def full(descriptor):
        writes.append(descriptor)
        if len(writes) >= write:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(arguments) == 1
    message = capsys.readouterr().err
    assert message.startswith("losslab: the disk is full; what was finished is kept")
    assert message.count("\n") == 1
    assert not list(home.rglob(".*.part"))
    assert main(arguments) == 0
    assert outcome(home / "small") == outcome(undisturbed / "small")
    assert set(mirrored(home)) == set(mirrored(undisturbed))


# An MLflow store that is away


class Notes(Observer):
    def __init__(self):
        self.texts = []

    def note(self, text):
        self.texts.append(text)


AWAY = [
    ("client", "create_run"), ("client", "log_batch"), ("client", "set_terminated"),
    ("client", "log_artifacts"), ("rows", "write"), ("rows", "terminate"), ("rows", "add_folder"),
]  # fmt: skip


@pytest.mark.parametrize(("way", "call"), AWAY, indirect=["way"])
def test_a_store_that_goes_away_is_told_and_mirrored_later(
    way, call, small, home, outcome, mirrored, undisturbed, no_report, monkeypatch
):
    calls, real = [], getattr(way, call)

    def away(*args, **kwargs):
        calls.append(call)
        if len(calls) > 2 or call in ("log_artifacts", "terminate", "add_folder"):
            raise ConnectionError("the store is away")
        return real(*args, **kwargs)

    notes = Notes()
    with monkeypatch.context() as patch:
        patch.setattr(way, call, away)
        run_study(small, home=home, observer=notes)
    (told,) = notes.texts
    assert "ConnectionError: the store is away" in told
    assert "the same command mirrors what is missing" in told
    assert outcome(home / "small") == outcome(undisturbed / "small")
    again = Notes()
    run_study(small, home=home, observer=again)
    assert again.texts == []
    runs, expected = mirrored(home), mirrored(undisturbed)
    assert set(runs) == set(expected)
    for key, run in runs.items():
        assert run.data.params == expected[key].data.params
        assert run.info.status == expected[key].info.status


@pytest.mark.parametrize(("way", "call"), [AWAY[1], AWAY[4]], indirect=["way"])
def test_a_store_that_comes_back_in_time_has_everything(
    way, call, small, home, mirrored, undisturbed, no_report, monkeypatch
):
    calls, real = [], getattr(way, call)

    def away(*args, **kwargs):
        calls.append(args)
        if 2 < len(calls) < 6:
            raise ConnectionError("the store is away")
        return real(*args, **kwargs)

    monkeypatch.setattr(way, call, away)
    monkeypatch.setattr(tracking, "PAUSE", 0.0)
    notes = Notes()
    run_study(small, home=home, observer=notes)
    assert len(calls) > 6
    assert notes.texts == []
    assert set(mirrored(home)) == set(mirrored(undisturbed))


@pytest.mark.parametrize(("way", "call"), [AWAY[1], AWAY[4]], indirect=["way"])
def test_a_store_that_is_slow_to_fail_does_not_hold_the_study_up(
    way, call, small, home, no_report, monkeypatch
):
    calls, real = [], getattr(way, call)

    def timeout(*args, **kwargs):
        calls.append(time.monotonic())
        if len(calls) > 2:
            time.sleep(0.3)
            raise TimeoutError("no answer")
        return real(*args, **kwargs)

    monkeypatch.setattr(way, call, timeout)
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    run_study(small, home=home)
    # once when it was noticed, and once at the end, however many runs there were to write
    assert len(calls) == 2 + 2


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back(small, home, new_home, no_report, undisturbed):
    from mlflow.tracking import MlflowClient

    port = 5733
    uri = f"http://127.0.0.1:{port}"
    place = new_home("server")

    def serve():
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
            "--backend-store-uri", f"sqlite:///{place / 'mlflow.db'}", "--workers", "1",
            "--default-artifact-root", str(place / "artifacts"),
        ]  # fmt: skip
        settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "1"}
        server = subprocess.Popen(
            command, env={**os.environ, **settings}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(200):
            try:
                MlflowClient(uri).search_experiments()
                return server
            except Exception:
                time.sleep(0.2)
        raise AssertionError("the server did not start")

    class KillServer(Notes):
        def finished(self, record):
            if record["trial"] == 3 and server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()

    server = serve()
    try:
        notes = KillServer()
        began = time.monotonic()
        run_study(small, home=home, tracking_uri=uri, observer=notes)
        assert time.monotonic() - began < 60
        assert len(notes.texts) == 1
        assert "could not take everything" in notes.texts[0]
        with pytest.raises(BadInput, match="--tracking-uri: cannot use"):
            run_study(small, home=home, tracking_uri=uri)
        server = serve()
        notes = Notes()
        run_study(small, home=home, tracking_uri=uri, observer=notes)
        assert notes.texts == []
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("small").experiment_id
        keys = [run.data.tags["losslab.key"] for run in client.search_runs([experiment])]
        assert len(keys) == len(set(keys))
        ledger = RunLedger(undisturbed / "small" / "tracking.jsonl", "local")
        assert set(keys) == set(ledger.ids)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@pytest.mark.slow
def test_a_locked_database_does_not_stop_a_study(small, home, mirrored, undisturbed, no_report):
    held = sqlite3.connect(home / "mlflow.db", check_same_thread=False)

    class Lock(Notes):
        def finished(self, record):
            if record["trial"] == 2 and not held.in_transaction:
                held.execute("BEGIN EXCLUSIVE")

    notes = Lock()
    began = time.monotonic()
    run_study(small, home=home, observer=notes)
    assert time.monotonic() - began < 120
    assert "locked" in notes.texts[0]
    held.rollback()
    run_study(small, home=home)
    assert set(mirrored(home)) == set(mirrored(undisturbed))


# Files that are not as they should be


def _half(file):
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("journal.log", "torn"),
        ("journal.log", "noise"),
        ("journal.log", "gone"),
        ("tracking.jsonl", "torn"),
        ("tracking.jsonl", "noise"),
    ],
)
def test_a_torn_or_missing_log_is_mended(
    name, damage, small, undisturbed, tmp_path, mirrored, no_report
):
    import shutil

    home = tmp_path / "home"
    shutil.copytree(undisturbed, home)
    file = home / "small" / name
    whole = file.read_bytes()
    if damage == "torn":
        os.truncate(file, len(whole) - 9)
    elif damage == "noise":
        file.write_bytes(whole + b'{"op_code": \xff\x00')
    else:
        file.unlink()
    for _ in range(2):
        run_study(small, home=home)
    assert set(mirrored(home)) == set(mirrored(undisturbed))
    if name == "journal.log":
        import optuna
        from optuna.storages import JournalStorage

        storage = JournalStorage(JournalFileBackend(str(file)))
        trials = optuna.load_study(study_name="ce", storage=storage).trials
        assert [trial.number for trial in trials] == list(range(6))


@pytest.mark.parametrize("engine", ["plain", "stacked"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_damaged_states_are_trained_again(engine, epoch, small, new_home, outcome, no_report):
    """Killed at a rung; of the states on disk, some are torn and some are empty."""
    small["engine"] = engine
    whole, home = new_home("whole"), new_home("damaged")
    run_study(small, home=whole)

    class Stop(Observer):
        def advanced(self, arm, trial, progress):
            if progress.epoch == epoch:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(small, home=home, observer=Stop())
    files = sorted((home / "small" / "states").glob("*/epoch-*.pt"))
    assert {file.name[:10] for file in files} == {f"epoch-{n:04d}" for n in range(1, epoch + 1)}
    for number, file in enumerate(files):
        file.write_bytes(file.read_bytes()[: 100 * (number % 2)])
    run_study(small, home=home)
    assert outcome(home / "small") == outcome(whole / "small")


def test_a_trial_that_diverged_after_a_rung_still_reports_the_rung(
    small, new_home, outcome, no_report, monkeypatch
):
    """Killed when the state that says so was on disk and the record was not."""
    small["engine"] = "plain"
    epoch, write = training._epoch, context.write_json

    def diverges(parts, job, number):
        if number == 1 and job.config["training"]["learning_rate"] == 1e-3:
            raise RuntimeError("too far")
        return epoch(parts, job, number)

    def kill(file, content):
        if content["state"] == "diverged":
            raise Crash
        write(file, content)

    monkeypatch.setattr(training, "_epoch", diverges)
    whole, killed = new_home("whole"), new_home("killed")
    run_study(small, home=whole)
    with monkeypatch.context() as patch:
        patch.setattr(context, "write_json", kill)
        with pytest.raises(Crash):
            run_study(small, home=killed)
    run_study(small, home=killed)
    found = outcome(killed / "small")
    assert found == outcome(whole / "small")
    trial = found["arms/ce/trial-00000.json"]
    assert trial["reason"] == "RuntimeError in epoch 2: too far"
    assert list(trial["reports"]) == ["1"]


def test_a_damaged_record_is_told_with_its_file(small, undisturbed, tmp_path, no_report):
    import shutil

    home = tmp_path / "home"
    shutil.copytree(undisturbed, home)
    record = home / "small" / "arms" / "ce" / "trial-00001.json"
    _half(record)
    with pytest.raises(LosslabError, match=r"trial-00001\.json is damaged"):
        run_study(small, home=home)


# Two drivers, and the lock


def test_a_second_driver_is_refused_and_a_dead_one_is_not_waited_for(small, home, no_report):
    place = StudyFolder(home, "small")
    place.create()
    code = (
        "import sys, time; from pathlib import Path; "
        "from losslab.experiments.folder import StudyFolder\n"
        "with StudyFolder(Path(sys.argv[1]), 'small').locked(): print('held', flush=True); "
        "time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BadInput, match=f"is being run by process {other.pid} on "):
            run_study(small, home=home)
        assert f"process {other.pid} on " in place.holder()
    finally:
        other.kill()
        other.wait()
    assert (place.path / "lock").read_text().startswith(f"process {other.pid} ")
    assert place.holder() == ""
    run_study(small, home=home)
    assert (place.path / "lock").read_text().startswith(f"process {os.getpid()} ")


def test_setting_a_study_aside_keeps_its_lock(home):
    place = StudyFolder(home, "small")
    place.create()
    place.study_file.write_text("{}")
    with place.locked():
        asides = [place.set_aside()]
        place.study_file.write_text("{}")
        asides.append(place.set_aside())  # within the same second
        assert len(set(asides)) == 2
        assert all((aside / "study.json").exists() for aside in asides)
        assert not place.study_file.exists()
        with pytest.raises(BadInput, match="is being run by"), place.locked():
            pass
    assert place.holder() == ""
    assert place.set_aside() is None
