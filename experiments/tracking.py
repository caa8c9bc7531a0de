"""The MLflow mirror of a study: what people look at, rebuilt from the study folder at any time.

One experiment a study; in it a study run, under it arm runs, under them one run for every training.
Every run carries the tag `losslab.key`, which names it for ever; `run_ledger` remembers which key
is which run, so that none is made twice. Only this module and `analysis.frames` know MLflow.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from losslab.errors import BadInput
from losslab.experiments.local_store import artifact_place, follow_home, local_store
from losslab.experiments.run_labels import metrics_at_steps, run_name, run_params, run_tags
from losslab.experiments.run_ledger import RunLedger
from losslab.experiments.views import logarithmic_paths, view_address, view_tags

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "diverged": "FAILED"}
# A store that is away is asked again after a pause, and at the end once more; one round of asking
# is given up after so many seconds of failing.
PAUSE = 30.0
PATIENCE = 20.0


def quiet_mlflow() -> None:
    """No telemetry, no progress logs, and an unreachable server is noticed in seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Tracker:
    """Mirrors one study into an MLflow store.

    Runs are written by a thread of their own, beside the training. A store that goes away does not
    stop the study: what could not be written waits for the next round, `problem` says why, and
    what is still missing at the end is written when the study is run again.
    """

    def __init__(self, uri: str, home: Path, study: Mapping[str, Any], ledger: Path):
        self.uri = uri
        self.home = home
        self.local = uri == local_store(home)
        self.study = study
        self.problem = ""
        # The local store moves with its home, so the ledger must not name the place.
        self._ledger = RunLedger(ledger, "local" if self.local else uri)
        self._waiting: list[Callable[[], None]] = []
        self._not_before = 0.0
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")

    def open(self) -> None:
        """Connect, and create experiment and study run; `BadInput` if the store is unreachable."""
        quiet_mlflow()
        from mlflow.tracking import MlflowClient

        try:
            with self._first_time():
                self.client = MlflowClient(self.uri)
                self.experiment = self._experiment(str(self.study["study"]))
            for tag, value in view_tags(self.study).items():
                self.client.set_experiment_tag(self.experiment, tag, value)
            self._check_known_runs()
            self.study_run = self._run("study", self.study["study"], None, {})
            self._log_study()
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            raise BadInput(
                f"--tracking-uri: cannot use {self.uri}: {_first_line(error)}; start the server, "
                f"correct the address, or leave the option out for a local store"
            ) from error

    def mirror(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Have every record logged that is not in the store yet; returns at once."""
        new = [record for record in records if record["key"] not in self._ledger.done]
        self._write(*(partial(self._log, record) for record in new))

    def mirror_selected(self, selected: Mapping[str, Mapping[str, Any]]) -> None:
        """Attach what was selected to the arm runs."""
        self._write(*(partial(self._log_selected, arm, chosen) for arm, chosen in selected.items()))

    def discard(self, key: str) -> None:
        """Delete the run of a record that was replaced (MLflow keeps it in its bin)."""
        self._write(partial(self._discard, key))

    def attach(self, folder: Path, name: str) -> None:
        """Attach a folder's files to the study run."""
        self._write(partial(self._attach, folder, name))

    def finish(self, status: str) -> None:
        """Wait until all is written; close study run and arm runs as FINISHED, FAILED or KILLED.

        Where the store is away this gives up after some seconds.
        """
        self._writer.submit(self._round, [partial(self._terminate, status)], last=True)
        self._writer.shutdown(wait=True)

    def _write(self, *writes: Callable[[], None]) -> None:
        self._writer.submit(self._round, list(writes))

    def _round(self, new: list[Callable[[], None]], last: bool = False) -> None:
        """Write what waits, in order; what fails waits on, behind the rest."""
        self._waiting += new
        if time.monotonic() < self._not_before and not last:
            return
        writes, self._waiting, failing = self._waiting, [], 0.0
        for index, write in enumerate(writes):
            began = time.monotonic()
            try:
                write()
            except Exception as error:
                self.problem = _first_line(error)
                self._waiting.append(write)
                failing += time.monotonic() - began
            if failing > PATIENCE:
                self._waiting[:0] = writes[index + 1 :]
                break
        if self._waiting:
            self._not_before = time.monotonic() + PAUSE
        else:
            self.problem, self._not_before = "", 0.0

    def _log_selected(self, arm: str, chosen: Mapping[str, Any]) -> None:
        self.client.log_dict(self._arm_run(arm), dict(chosen), "selected.json")

    def _attach(self, folder: Path, name: str) -> None:
        self.client.log_artifacts(self.study_run, str(folder), name)

    def _discard(self, key: str) -> None:
        if key in self._ledger.intended:
            run_id = self._ledger.ids.get(key) or self._find(key)
            if run_id is not None:
                self.client.delete_run(run_id)
            self._ledger.note(key)

    def _terminate(self, status: str) -> None:
        for key, run_id in self._ledger.ids.items():
            if key == "study" or key.startswith("arm/"):
                self.client.set_terminated(run_id, status)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            if self.local and found.artifact_location != artifact_place(self.home, name):
                follow_home(self.home)
            return str(found.experiment_id)
        place = artifact_place(self.home, name) if self.local else None
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

    def _check_known_runs(self) -> None:
        """Mirror everything anew into a store that was emptied; bring back deleted parents."""
        from mlflow.exceptions import MlflowException

        parents = [k for k in self._ledger.ids if k == "study" or k.startswith("arm/")]
        for key in parents:
            try:
                run = self.client.get_run(self._ledger.ids[key])
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                self._ledger.forget()
                return
            if run.info.lifecycle_stage == "deleted":
                self.client.restore_run(run.info.run_id)

    def _log(self, record: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        key, parent = str(record["key"]), self._arm_run(record["arm"])
        if key in self._ledger.done:
            return
        tags = run_tags(record)
        run_id = self._run(key, run_name(record), parent, tags, record["started"])
        stamp = int(record["ended"] * 1000)
        metrics = [Metric(name, value, stamp, n) for name, value, n in metrics_at_steps(record)]
        logarithmic = logarithmic_paths(self.study, record["arm"])
        params = [Param(name, value) for name, value in run_params(record, logarithmic).items()]
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
        self._ledger.note(key, run_id, done=True)

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
        if key in self._ledger.ids:
            return self._ledger.ids[key]
        run_id = self._find(key) if key in self._ledger.intended else None
        if run_id is None:
            self._ledger.note(key)
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
        self._ledger.note(key, run_id)
        return run_id

    def _find(self, key: str) -> str | None:
        """A run that was created just before this process's predecessor died."""
        # Arms may be called anything, and MLflow's filters know no escapes for quotes.
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment],
                f"tags.`losslab.study_id` = '{self.study['id']}'",
                max_results=1000,
                page_token=token,
            )
            for run in page:
                if run.data.tags.get("losslab.key") == key:
                    return str(run.info.run_id)
            if not (token := page.token):
                return None

    def _log_study(self) -> None:
        """The resolved study, its dataset and what it runs on, as they are now."""
        from mlflow.entities import RunTag

        versions = {f"version.{name}": value for name, value in self.study["versions"].items()}
        tags = {
            "losslab.phase": "study",
            "losslab.study_id": self.study["id"],
            "mlflow.note.content": (
                f"{self.study['question']}\n\nPrimary metric: {self.study['primary']}."
            ),
            **versions,
        }
        self.client.log_batch(self.study_run, tags=[RunTag(*tag) for tag in tags.items()])
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


def study_addresses(home: Path, base: str) -> dict[str, dict[str, str]]:
    """For each study in the local store, the addresses of its views in the UI at `base`."""
    quiet_mlflow()
    from mlflow.tracking import MlflowClient

    return {
        experiment.name: {
            "test": view_address(base, experiment.experiment_id, "test", charts=False),
            "search": view_address(base, experiment.experiment_id, "search", charts=True),
        }
        for experiment in MlflowClient(local_store(home)).search_experiments()
        if experiment.name != "Default"
    }


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    # What follows is a chain of wrapped exceptions, the same news several times over.
    first = lines[0].split(" with exception")[0][:300] if lines else ""
    return f"{type(error).__name__}: {first}"
