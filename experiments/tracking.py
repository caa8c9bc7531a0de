"""The MLflow mirror of a study: what people look at, rebuilt from the study folder at any time.

One experiment a study; in it a study run, under it arm runs, under them one run for every training.
Every run carries the tag `losslab.key`, which names it for ever; `run_ledger` remembers which key
is which run, so that none is made twice. Only the tracking modules and `analysis.frames` know
MLflow.
"""

import contextlib
import errno
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from losslab.errors import BadInput
from losslab.experiments.local_store import local_store
from losslab.experiments.run_labels import (
    DIGEST_TAG,
    RunEntry,
    study_dataset,
    study_tags,
    training_entry,
)
from losslab.experiments.run_ledger import RunLedger
from losslab.experiments.tracking_client import quiet_mlflow
from losslab.experiments.tracking_outputs import attach_outputs, outputs_limit
from losslab.experiments.tracking_parts import Parts
from losslab.experiments.tracking_sqlite import open_store
from losslab.experiments.views import view_address, view_tags

# A store that is away is asked again after a pause, and at the end once more; one round of asking
# is given up after so many seconds of failing.
PAUSE = 30.0
PATIENCE = 20.0
# What may help where a store cannot be used, by MLflow's code of the error.
REMEDY = "start the server, correct the address, or leave the option out for a local store"
REMEDIES = {
    "UNAUTHENTICATED": (
        "it does not know this user name or password; set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD"
    ),
    "PERMISSION_DENIED": (
        "this user may not write the study's experiment; give the study another name, or have its "
        "owner permit it"
    ),
}
# The tracking URI that stands for no MLflow at all.
NONE = "none"


def make_tracker(uri: str | None, home: Path, study: Mapping[str, Any], ledger: Path) -> "Tracker":
    """What mirrors a study: to an address, to the local store (None), or nowhere ("none").

    `study` is the content of study.json, `ledger` the file that remembers what is mirrored.
    """
    if uri == NONE:
        return NoTracker()
    return Tracker(uri or local_store(home), home, study, ledger)


class Tracker:
    """Mirrors one study into an MLflow store.

    Runs are written by a thread of their own, beside the training. A store that goes away does not
    stop the study: what could not be written waits for the next round, `problem` says why, and
    what is still missing at the end is written when the study is run again.
    """

    def __init__(self, uri: str, home: Path, study: Mapping[str, Any], ledger: Path):
        self.uri = uri
        self.home = home
        self.study = study
        self.problem = ""
        self._dataset = study_dataset(study)
        # The local store moves with its home, so the ledger must not name the place.
        self._ledger = RunLedger(ledger, "local" if uri == local_store(home) else uri)
        self._ready = False
        self._waiting: list[Callable[[], None]] = []
        self._not_before = 0.0
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")

    def open(self) -> None:
        """Connect, and create experiment and study run; `BadInput` if the store is unreachable.

        A local store that is not there yet is created while the study goes on.
        """
        quiet_mlflow()
        try:
            self.store = open_store(self.uri, self.home, self.study["id"])
            if self.store.creating:
                self._write(self._prepare)
            else:
                self._prepare()
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            remedy = REMEDIES.get(getattr(error, "error_code", ""), REMEDY)
            raise BadInput(
                f"--tracking-uri: cannot use {self.uri}: {_first_line(error)}; {remedy}"
            ) from error

    def mirror(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Have every record logged that is not in the store yet; returns at once."""
        new = [record for record in records if record["key"] not in self._ledger.done]
        size = self.store.batch
        parts = (new[begin : begin + size] for begin in range(0, len(new), size))
        self._write(*(partial(self._log, part) for part in parts))

    def mirror_selected(self, selected: Mapping[tuple[str, int], Mapping[str, Any]]) -> None:
        """Attach what was selected, by arm and repeat of its search, to the arm runs."""
        writes = (partial(self._log_selected, *key, chosen) for key, chosen in selected.items())
        self._write(*writes)

    def discard(self, key: str) -> None:
        """Delete the run of a record that was replaced (MLflow keeps it in its bin)."""
        self._write(partial(self._discard, key))

    def attach_outputs(self, files: Mapping[str, Path]) -> None:
        """Attach per-example outputs to the runs with these keys, the first ones first.

        Where that takes space or time there is a limit; see `tracking_outputs`.
        """
        limit = outputs_limit()
        self._write(partial(self._attach_outputs, files, limit))

    def attach(self, folder: Path, name: str) -> None:
        """Attach a folder's files to the study run."""
        self._write(partial(self._attach, folder, name))

    def settle(self, seconds: float) -> None:
        """Wait until what was asked for so far is written, for so many seconds at most."""
        with contextlib.suppress(TimeoutError):
            self._writer.submit(_nothing).result(seconds)

    def finish(self, status: str) -> None:
        """Wait until all is written; close study run and arm runs as FINISHED, FAILED or KILLED.

        Where the store is away this gives up after some seconds.
        """
        writes: list[Callable[[], None]] = [self._close_part, partial(self._terminate, status)]
        self._writer.submit(self._round, writes, last=True)
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
                self._prepare()
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

    def _prepare(self) -> None:
        """Find or create the experiment and the study run, and write what they hold now."""
        if self._ready:
            return
        self.store.open(str(self.study["study"]), view_tags(self.study))
        self._check_known_runs()
        self._ledger.note("experiment", self.store.experiment)
        self._log_study()
        self._parts = Parts(self.store, self._ledger.ids["study"])
        self._ready = True

    def _log(self, records: Sequence[Mapping[str, Any]]) -> None:
        arms = {arm: self._arm_run(arm) for arm in dict.fromkeys(r["arm"] for r in records)}
        part = self._parts.current()
        entries = [
            training_entry(record, self.study, arms[record["arm"]], self._dataset, part)
            for record in records
        ]
        self.store.write(entries, self._ledger)
        for record in records:
            self._parts.add(self._ledger.ids[record["key"]], record)

    def _log_selected(self, arm: str, repeat: int, chosen: Mapping[str, Any]) -> None:
        name = f"selected-{repeat:03d}.json" if repeat else "selected.json"
        self.store.add_json(self._arm_run(arm), dict(chosen), name)

    def _attach_outputs(self, files: Mapping[str, Path], limit: float) -> None:
        attach_outputs(self.store, self._ledger, self._ledger.ids["study"], files, limit)

    def _close_part(self) -> None:
        self._parts.close()

    def _attach(self, folder: Path, name: str) -> None:
        self.store.add_folder(self._ledger.ids["study"], folder, name)

    def _discard(self, key: str) -> None:
        if key in self._ledger.intended:
            run_id = self._ledger.ids.get(key) or self.store.keys().get(key)
            if run_id is not None:
                self.store.delete(run_id)
            self._ledger.note(key)

    def _terminate(self, status: str) -> None:
        self.store.terminate([self._ledger.ids[key] for key in self._parents()], status)

    def _parents(self) -> list[str]:
        # An arm may be called "arm", but its trainings are done some time, and parents never are.
        open_runs = self._ledger.ids.keys() - self._ledger.done
        return [key for key in open_runs if key == "study" or key.startswith("arm/")]

    def _check_known_runs(self) -> None:
        """Mirror everything anew into a store that was emptied; bring back deleted parents."""
        for key in self._parents():
            stage = self.store.stage(run_id := self._ledger.ids[key])
            if stage is None:
                self._ledger.forget()
                return
            if stage == "deleted":
                self.store.restore(run_id)

    def _arm_run(self, arm: str) -> str:
        if (key := f"arm/{arm}") not in self._ledger.ids:
            tags = study_tags(self.study, key, self._ledger.ids["study"])
            # The digest's tag alone says that every file attached will have one of its own.
            tags |= {"losslab.phase": "arm", "losslab.arm": arm, DIGEST_TAG: "1"}
            self.store.write([RunEntry(key, arm, tags, _now())], self._ledger)
        return self._ledger.ids[key]

    def _log_study(self) -> None:
        """The resolved study, its dataset and what it runs on, as they are now."""
        tags = study_tags(self.study, "study")
        tags |= {f"version.{name}": value for name, value in self.study["versions"].items()}
        tags |= {
            "losslab.phase": "study",
            "mlflow.note.content": (
                f"{self.study['question']}\n\nPrimary metric: {self.study['primary']}."
            ),
        }
        name = self.study["study"]
        entry = RunEntry("study", name, tags, _now(), dataset=self._dataset)
        self.store.write([entry], self._ledger)
        run_id = self._ledger.ids["study"]
        self.store.add_json(run_id, dict(self.study), "study.json")
        self.store.add_text(run_id, self.study["yaml"], "study.yaml")


class NoTracker(Tracker):
    """Mirrors nothing: the study folder alone holds the results.

    A later run of the same study that does track mirrors everything.
    """

    def __init__(self) -> None:
        self.uri = NONE
        self.problem = ""

    def open(self) -> None:
        """Nothing to connect to."""

    def attach_outputs(self, files: Mapping[str, Path]) -> None:
        """Nothing is attached."""

    def _write(self, *writes: Callable[[], None]) -> None:
        """Nothing is written."""

    def mirror(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Nothing is mirrored."""

    def settle(self, seconds: float) -> None:
        """Nothing to wait for."""

    def finish(self, status: str) -> None:
        """Nothing to wait for."""


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


def _nothing() -> None:
    """What is done when its turn comes."""


def _now() -> int:
    return int(time.time() * 1000)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    # What follows is a chain of wrapped exceptions, the same news several times over.
    first = lines[0].split(" with exception")[0][:300] if lines else ""
    return f"{type(error).__name__}: {first}"
