"""The MLflow mirror of a study: what people look at, rebuilt from the study folder at any time.

One experiment a study; in it a study run, under it arm runs, under them one run for every training.
Every run carries the tag `losslab.key`, which names it for ever. Before a run is created its key is
written to tracking.jsonl, after that its run id: so whatever happens in between, a later mirroring
finds the run by its key instead of making a second one. Only this module and `analysis.frames`
know MLflow.
"""

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from losslab.errors import BadInput

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "diverged": "FAILED"}
PARAM_LIMIT = 500  # characters; longer texts are cut, since the UI shows them in a column


def local_store(home: Path) -> str:
    """The default tracking URI: a SQLite file in the home folder."""
    return f"sqlite:///{home / 'mlflow.db'}"


def quiet_mlflow() -> None:
    """No telemetry, no progress logs, and an unreachable server is noticed in seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import logging

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Tracker:
    """Mirrors one study into an MLflow store.

    Runs are written by a thread of their own, beside the training. A store that goes away does not
    stop the study: `problem` then says why, and the next mirroring writes what is missing.
    """

    def __init__(self, uri: str, home: Path, study: Mapping[str, Any], ledger: Path):
        self.uri = uri
        self.home = home
        # The local store moves with its home, so the ledger must not name the place.
        self.store = "local" if uri == local_store(home) else uri
        self.study = study
        self.ledger = ledger
        self.problem = ""
        self._ids: dict[str, str] = {}
        self._intended: set[str] = set()
        self._done: set[str] = set()
        self._missing: dict[str, Mapping[str, Any]] = {}
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._read_ledger()

    def open(self) -> None:
        """Connect, and create experiment and study run; `BadInput` if the store is unreachable."""
        quiet_mlflow()
        import mlflow
        from mlflow.tracking import MlflowClient

        try:
            with self._first_time():
                self.client = MlflowClient(self.uri)
                self.experiment = self._experiment(str(self.study["study"]))
            self.study_run = self._run("study", self.study["study"], None, self._study_tags())
            self._log_study(mlflow)
        except Exception as error:
            raise BadInput(
                f"--tracking-uri: cannot use {self.uri}: {_first_line(error)}; start the server, "
                f"correct the address, or leave the option out for a local store"
            ) from error

    def mirror(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Have every record logged that is not in the store yet; returns at once."""
        self._writer.submit(self._safely, self._mirror, list(records))

    def mirror_selected(self, selected: Mapping[str, Mapping[str, Any]]) -> None:
        """Attach what was selected to the arm runs."""
        for arm, chosen in selected.items():
            self._writer.submit(self._safely, self._log_selected, arm, dict(chosen))

    def discard(self, key: str) -> None:
        """Delete the run of a record that was replaced (MLflow keeps it in its bin)."""
        self._writer.submit(self._safely, self._discard, key)

    def attach(self, folder: Path, name: str) -> None:
        """Attach a folder's files to the study run."""
        self._writer.submit(self._safely, self._attach, folder, name)

    def finish(self, status: str) -> None:
        """Wait until all is written; close study run and arm runs as FINISHED, FAILED or KILLED."""
        self._writer.submit(self._safely, self._mirror, [])
        self._writer.submit(self._safely, self._terminate, status)
        self._writer.shutdown(wait=True)

    def _safely(self, write: Callable[..., None], *arguments: Any) -> None:
        """A store that is away is a problem to tell, not a reason to stop."""
        try:
            write(*arguments)
        except Exception as error:
            self.problem = _first_line(error)

    def _mirror(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._missing |= {r["key"]: r for r in records if r["key"] not in self._done}
        for key in list(self._missing):
            self._log(self._missing[key])
            del self._missing[key]
        self.problem = ""

    def _log_selected(self, arm: str, chosen: dict[str, Any]) -> None:
        self.client.log_dict(self._arm_run(arm), chosen, "selected.json")

    def _attach(self, folder: Path, name: str) -> None:
        self.client.log_artifacts(self.study_run, str(folder), name)

    def _discard(self, key: str) -> None:
        if key in self._ids:
            self.client.delete_run(self._ids[key])
            self._note(key, None)

    def _terminate(self, status: str) -> None:
        for key, run_id in self._ids.items():
            if key == "study" or key.startswith("arm/"):
                self.client.set_terminated(run_id, status)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        place = (self.home / "artifacts" / name).as_uri() if self.store == "local" else None
        return str(self.client.create_experiment(name, artifact_location=place))

    @contextlib.contextmanager
    def _first_time(self) -> Iterator[None]:
        """One process at a time: a new store that is opened by several is broken by them."""
        if not self.uri.startswith("sqlite"):
            yield
            return
        with (self.home / ".store.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _log(self, record: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        key, parent = str(record["key"]), self._arm_run(record["arm"])
        tags = _tags(record)
        run_id = self._run(key, _run_name(record), parent, tags, record["started"])
        stamp = int(record["ended"] * 1000)
        metrics = [
            Metric(_metric_key(name), float(value), stamp, int(row["epoch"]))
            for row in record["history"]
            for name, value in row.items()
            if name != "epoch"
        ]
        final = {**record["metrics"], "epochs": record["epochs"], "seconds": record["seconds"]}
        if record["value"] is not None:
            final["objective"] = record["value"]
        step = int(record["judged_epoch"])
        metrics += [Metric(_metric_key(name), float(v), stamp, step) for name, v in final.items()]
        params = [Param(name, value) for name, value in run_params(record).items()]
        # Equal metrics collapse and equal params are accepted, so a log cut short is repeated.
        for begin in range(0, max(len(metrics), 1), 900):
            self.client.log_batch(
                run_id,
                metrics=metrics[begin : begin + 900],
                params=params if begin == 0 else [],
                tags=[RunTag(name, value) for name, value in tags.items()] if begin == 0 else [],
            )
        self._log_dataset(run_id)
        self.client.set_terminated(run_id, STATUS[record["state"]], stamp)
        self._done.add(key)
        self._note(key, run_id, done=True)

    def _arm_run(self, arm: str) -> str:
        tags = {"losslab.phase": "arm", "losslab.arm": arm}
        return self._run(f"arm/{arm}", arm, self.study_run, tags)

    def _run(
        self,
        key: str,
        name: str,
        parent: str | None,
        tags: Mapping[str, str],
        started: float | None = None,
    ) -> str:
        """The id of the run with this key: known, found in the store, or created."""
        if key in self._ids:
            return self._ids[key]
        run_id = self._find(key) if key in self._intended else None
        if run_id is None:
            self._note(key, None)
            tags = {
                **tags,
                "losslab.key": key,
                "losslab.study_id": self.study["id"],
                "losslab.study": self.study["study"],
                "mlflow.source.name": "losslab",
                "mlflow.source.type": "LOCAL",
            }
            if self.study["git"]:
                tags["mlflow.source.git.commit"] = self.study["git"]
            if parent is not None:
                tags["mlflow.parentRunId"] = parent
            start = int((started or time.time()) * 1000)
            run = self.client.create_run(self.experiment, start, tags, run_name=name)
            run_id = str(run.info.run_id)
        self._note(key, run_id)
        return run_id

    def _find(self, key: str) -> str | None:
        """A run that was created just before this process's predecessor died."""
        quoted = key.replace("'", "\\'")
        runs = self.client.search_runs(
            [self.experiment],
            f"tags.`losslab.key` = '{quoted}' AND tags.`losslab.study_id` = '{self.study['id']}'",
            max_results=1,
        )
        return str(runs[0].info.run_id) if runs else None

    def _read_ledger(self) -> None:
        if not self.ledger.exists():
            return
        for line in self.ledger.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # a line that a kill has torn; its key was noted as intended before
            if entry.get("store") != self.store:
                continue  # another store; its runs are not in this one
            key, run_id = entry["key"], entry["run_id"]
            self._intended.add(key)
            self._ids.pop(key, None)
            if run_id:
                self._ids[key] = run_id
            if entry.get("done"):
                self._done.add(key)

    def _note(self, key: str, run_id: str | None, done: bool = False) -> None:
        if run_id and self._ids.get(key) == run_id and not done:
            return
        self._intended.add(key)
        self._ids.pop(key, None)
        if run_id:
            self._ids[key] = run_id
        entry = {"store": self.store, "key": key, "run_id": run_id, "done": done}
        torn = self.ledger.exists() and not self.ledger.read_bytes().endswith(b"\n")
        with self.ledger.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + json.dumps(entry) + "\n")

    def _study_tags(self) -> dict[str, str]:
        versions = {f"version.{name}": value for name, value in self.study["versions"].items()}
        note = f"{self.study['question']}\n\nPrimary metric: {self.study['primary']}."
        return {"losslab.phase": "study", "mlflow.note.content": note, **versions}

    def _log_study(self, mlflow: Any) -> None:
        """The resolved study and the dataset record, as files of the study run."""
        self.client.update_run(self.study_run, status="RUNNING")
        self.client.log_dict(self.study_run, dict(self.study), "study.json")
        self.client.log_text(self.study_run, self.study["yaml"], "study.yaml")
        self._log_dataset(self.study_run)

    def _log_dataset(self, run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput

        record = self.study["dataset"]
        source = json.dumps({"name": record["name"], **record["options"]})
        profile = json.dumps({"splits": record["splits"]})
        dataset = Dataset(record["name"], record["content_hash"], "code", source, profile=profile)
        self.client.log_inputs(run_id, [DatasetInput(dataset)])


def run_params(record: Mapping[str, Any]) -> dict[str, str]:
    """A run's parameters under short stable names: `gamma`, `learning_rate`, `seed`, `loss` ...

    The last part of a configuration path names it; `name` is replaced by its section, and where
    two paths end alike the later one keeps its section (`dataset.path`).
    """
    params = {"seed": str(record["seed_index"])}
    if record["trial"] is not None:
        params["trial"] = str(record["trial"])
    for section in ("loss", "training", "model", "dataset"):
        for key, value in record["config"][section].items():
            name = section if key == "name" else key
            if name in params:
                name = f"{section}.{key}"
            params[_metric_key(name)] = str(value)[:PARAM_LIMIT]
    return params


def _tags(record: Mapping[str, Any]) -> dict[str, str]:
    small = {
        key: value
        for key, value in record.items()
        if key not in ("history", "metrics", "config", "attributes")
    }
    return {
        "losslab.arm": record["arm"],
        "losslab.phase": record["phase"],
        "losslab.variant": record["variant"] or "",
        "losslab.state": record["state"],
        "losslab.reason": record["reason"][:500],
        "losslab.record": json.dumps(small),
    }


def _run_name(record: Mapping[str, Any]) -> str:
    arm, seed = record["arm"], record["seed_index"]
    if record["phase"] == "search":
        return f"{arm} · trial {record['trial']}"
    if record["phase"] == "select":
        return f"{arm} · trial {record['trial']} again, seed {seed}"
    what = "test" if record["variant"] == "selected" else "test at defaults"
    return f"{arm} · {what}, seed {seed}"


def _metric_key(name: str) -> str:
    """A name with nothing in it that MLflow refuses."""
    return re.sub(r"[^\w.:/ -]", "_", name, flags=re.ASCII)[:250]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    # What follows is a chain of wrapped exceptions, the same news several times over.
    first = lines[0].split(" with exception")[0][:300] if lines else ""
    return f"{type(error).__name__}: {first}"
