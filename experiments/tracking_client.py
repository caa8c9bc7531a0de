"""An MLflow store through MLflow's own client: any server, any database."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from losslab.experiments.run_labels import DIGEST_TAG, TAG_LIMIT, RunEntry
from losslab.experiments.run_ledger import RunLedger

# A server that is asked for more in one call refuses it.
METRICS_PER_CALL = 900


def quiet_mlflow() -> None:
    """No telemetry, no progress logs, and an unreachable server is noticed in seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    # Two lines on stdout for each run that ends on a server, and two more calls to know its name.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


class ClientStore:
    """One experiment of an MLflow store, through the public client.

    `study_id` tells this study's runs from those of earlier ones in the same experiment. Every
    call may raise what the client raises; nothing is lost by calling it again.
    """

    # How many entries one `write` should be given: each is several calls here.
    batch = 1

    def __init__(self, uri: str, home: Path, study_id: str):
        self.uri = uri
        self.home = home
        self.study_id = study_id
        self.experiment = ""
        # The process that creates a store which is not there yet.
        self.creating: subprocess.Popen[bytes] | None = None
        self._found: dict[str, str] | None = None

    @cached_property
    def client(self) -> Any:
        """MLflow's client; importing it takes seconds, so only what needs it pays for it."""
        quiet_mlflow()
        from mlflow.tracking import MlflowClient

        with self._first_time():
            return MlflowClient(self.uri)

    def open(self, name: str, tags: Mapping[str, str]) -> None:
        """Find the experiment, bring it back from the bin, or create it; set its tags."""
        client = self.client
        found = client.get_experiment_by_name(name)
        if found is None:
            self.experiment = str(client.create_experiment(name))
        else:
            self.experiment = str(found.experiment_id)
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(self.experiment)
        for tag, value in tags.items():
            client.set_experiment_tag(self.experiment, tag, value)

    def stage(self, run_id: str) -> str | None:
        """Whether a run is active or deleted; None if the store does not know it."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_run(run_id).info.lifecycle_stage)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def restore(self, run_id: str) -> None:
        """Bring a run back from the bin."""
        self.client.restore_run(run_id)

    def delete(self, run_id: str) -> None:
        """Put a run into MLflow's bin."""
        self.client.delete_run(run_id)

    def keys(self) -> dict[str, str]:
        """The ids of all of the study's runs, by the key that each carries as a tag."""
        # One by one would be simpler, but arms may be called anything, and MLflow's filters know
        # no escapes for quotes.
        found, token = {}, None
        while True:
            page = self.client.search_runs(
                [self.experiment],
                f"tags.`losslab.study_id` = '{self.study_id}'",
                max_results=1000,
                page_token=token,
            )
            for run in page:
                found[run.data.tags["losslab.key"]] = str(run.info.run_id)
            if not (token := page.token):
                return found

    def write(self, entries: Sequence[RunEntry], ledger: RunLedger) -> None:
        """Write runs that are not done yet, from their creation to their last state.

        The ledger notes a run before it is created, when its id is known, and when it is done.
        """
        try:
            for entry in entries:
                if entry.key not in ledger.done:
                    self._write(entry, ledger)
        except BaseException:
            self._found = None  # what failed may be in the store all the same
            raise

    def terminate(self, run_ids: Sequence[str], status: str) -> None:
        """Close runs as FINISHED, FAILED or KILLED."""
        for run_id in run_ids:
            self.client.set_terminated(run_id, status)

    def get_tag(self, run_id: str, name: str) -> str | None:
        """The value of a run's tag; None if it has none."""
        value = self.client.get_run(run_id).data.tags.get(name)
        return None if value is None else str(value)

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        """Set a tag of a run."""
        self.client.set_tag(run_id, name, value[:TAG_LIMIT])

    def add_json(self, run_id: str, content: Any, name: str) -> None:
        """Attach a JSON file to a run, and then its digest as a tag, so that a change is seen."""
        text = json.dumps(content, indent=2)
        self.add_text(run_id, text, name)
        digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        self.set_tag(run_id, f"{DIGEST_TAG}.{name}", digest)

    def add_text(self, run_id: str, text: str, name: str) -> None:
        """Attach a text file to a run."""
        self.client.log_text(run_id, text, name)

    def add_bytes(self, run_id: str, content: bytes, name: str) -> None:
        """Attach a file of which only the content is there; `name` may have a folder."""
        with tempfile.TemporaryDirectory(prefix="losslab-") as place:
            file = Path(place) / PurePosixPath(name).name
            file.write_bytes(content)
            folder = str(PurePosixPath(name).parent)
            self.client.log_artifact(run_id, str(file), None if folder == "." else folder)

    def can_link(self, file: Path) -> bool:
        """Whether `add_file` takes no space, since the store's files are beside this one."""
        return False

    def add_file(self, run_id: str, file: Path, name: str) -> None:
        """Attach a file to a run under another name."""
        self.add_bytes(run_id, file.read_bytes(), name)

    def add_folder(self, run_id: str, folder: Path, name: str) -> None:
        """Attach a folder's files to a run."""
        self.client.log_artifacts(run_id, str(folder), name)

    def _write(self, entry: RunEntry, ledger: RunLedger) -> None:
        from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

        client, run_id = self.client, ledger.ids.get(entry.key)
        tags: list[RunTag] = []
        if run_id is None and entry.key in ledger.intended:
            if self._found is None:
                self._found = self.keys()
            run_id = self._found.get(entry.key)
        if run_id is None:
            ledger.note(entry.key)
            run = client.create_run(self.experiment, entry.started, entry.stored_tags, entry.name)
            run_id = str(run.info.run_id)
        else:
            tags = [RunTag(*tag) for tag in entry.stored_tags.items()]
        ledger.note(entry.key, run_id)
        stamp = entry.started if entry.ended is None else entry.ended
        metrics = [Metric(name, value, stamp, at) for name, value, at in entry.metrics]
        params = [Param(*param) for param in entry.params.items()]
        # Equal metrics collapse and equal params are accepted, so a log cut short is repeated.
        for begin in range(0, max(len(metrics), bool(params or tags)), METRICS_PER_CALL):
            part = metrics[begin : begin + METRICS_PER_CALL]
            client.log_batch(run_id, part, *((params, tags) if begin == 0 else ()))
        if entry.dataset:
            client.log_inputs(run_id, [DatasetInput(Dataset(**entry.dataset))])
        if entry.ended is not None:
            client.set_terminated(run_id, entry.status, entry.ended)
            ledger.note(entry.key, run_id, done=True)
        elif tags:
            client.update_run(run_id, status=entry.status)

    @contextlib.contextmanager
    def _first_time(self) -> Iterator[None]:
        """One process at a time: a new store that is opened by several is broken by them."""
        if not self.uri.startswith("sqlite"):
            yield
            return
        with (self.home / ".store.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
