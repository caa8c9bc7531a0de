"""The local MLflow store as rows: what MLflow's client would write, for a twentieth of the cost.

MLflow's client takes some 30 ms of a core for a run of 160 metric values, most of it in its object
layer; a whole generation as one SQLite transaction takes 1.5 ms a run. That is worth knowing
MLflow's tables, but only those of one version: `open_store` uses this for the revision that it was
written for and leaves any other to the client. A test compares the two, row by row.
"""

import shutil
import sqlite3
import time
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from losslab.errors import LosslabError
from losslab.experiments.folder import write_atomically
from losslab.experiments.local_store import (
    MLFLOW,
    REVISION,
    artifact_place,
    begin_creating,
    follow_home,
    local_store,
    revision,
    transaction,
)
from losslab.experiments.run_labels import TAG_LIMIT, RunEntry
from losslab.experiments.run_ledger import RunLedger
from losslab.experiments.tracking_client import ClientStore


class LocalClientStore(ClientStore):
    """The local store through the client, which creates it where it is missing."""

    def open(self, name: str, tags: Mapping[str, str]) -> None:
        """Find or create the experiment; its files are in the home folder, wherever that is."""
        client, place = self.client, artifact_place(self.home, name)
        found = client.get_experiment_by_name(name)
        if found is None:
            client.create_experiment(name, artifact_location=place)
        elif found.artifact_location != place:
            follow_home(self.home)
        super().open(name, tags)

    def can_link(self, file: Path) -> bool:
        """Whether the file system lets a file be in two folders of the home at once."""
        place = self.home / "artifacts"
        probe = place / f".{uuid.uuid4().hex}"
        try:
            place.mkdir(exist_ok=True)
            probe.hardlink_to(file)
        except OSError:
            return False
        probe.unlink()
        return True

    def add_file(self, run_id: str, file: Path, name: str) -> None:
        """Attach a file to a run under another name: a link to it, else a copy."""
        place = self._artifacts(run_id)
        place.mkdir(parents=True, exist_ok=True)
        (place / name).unlink(missing_ok=True)
        try:
            (place / name).hardlink_to(file)
        except OSError:
            shutil.copy2(file, place / name)

    def _artifacts(self, run_id: str) -> Path:
        return _folder(self.client.get_run(run_id).info.artifact_uri)


class SqliteStore(LocalClientStore):
    """One experiment of the local store, written as rows.

    A store that is not there yet is created beside the training; the first call waits for it.
    """

    batch = 1000

    def __init__(self, home: Path, study_id: str):
        super().__init__(local_store(home), home, study_id)
        self.creating = begin_creating(home) if revision(home) is None else None

    def open(self, name: str, tags: Mapping[str, str]) -> None:
        """Find or create the experiment, and set its tags."""
        self._wait_for_store()
        place = artifact_place(self.home, name)
        with transaction(self.home) as store:
            store.execute("BEGIN IMMEDIATE")
            found = _experiment(store, name) or _new_experiment(store, name, place)
            number, stage, location = found
            if stage == "active":
                store.executemany(
                    "INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) "
                    "VALUES (?, ?, ?)",
                    [(tag, value, number) for tag, value in tags.items()],
                )
        self.experiment = str(number)
        if stage != "active" or location != place:
            super().open(name, tags)

    def stage(self, run_id: str) -> str | None:
        """Whether a run is active or deleted; None if the store does not know it."""
        with transaction(self.home) as store:
            found = store.execute("SELECT lifecycle_stage FROM runs WHERE run_uuid = ?", (run_id,))
            row = found.fetchone()
        return None if row is None else str(row[0])

    def keys(self) -> dict[str, str]:
        """The ids of all of the study's runs, by the key that each carries as a tag."""
        with transaction(self.home) as store:
            return _keys(store, self.experiment, self.study_id)

    def write(self, entries: Sequence[RunEntry], ledger: RunLedger) -> None:
        """Write runs that are not done yet: all of them or, if anything fails, none."""
        entries = [entry for entry in entries if entry.key not in ledger.done]
        if not entries:
            return
        unsure = any(e.key in ledger.intended and e.key not in ledger.ids for e in entries)
        for entry in entries:
            ledger.note(entry.key, ledger.ids.get(entry.key))
        with transaction(self.home) as store:
            store.execute("BEGIN IMMEDIATE")
            found = _keys(store, self.experiment, self.study_id) if unsure else {}
            ids = {
                entry.key: ledger.ids.get(entry.key) or found.get(entry.key) for entry in entries
            }
            for entry in entries:
                ids[entry.key] = _write_run(store, self.experiment, ids[entry.key], entry)
            datasets = {
                entry.dataset["digest"]: entry.dataset for entry in entries if entry.dataset
            }
            for digest, dataset in datasets.items():
                used = [ids[e.key] for e in entries if e.dataset and e.dataset["digest"] == digest]
                _use_dataset(store, self.experiment, dataset, used)
        for entry in entries:
            ledger.note(entry.key, ids[entry.key], done=entry.ended is not None)

    def terminate(self, run_ids: Sequence[str], status: str) -> None:
        """Close runs as FINISHED, FAILED or KILLED."""
        now = int(time.time() * 1000)
        with transaction(self.home) as store:
            store.executemany(
                "UPDATE runs SET status = ?, end_time = ? WHERE run_uuid = ?",
                [(status, now, run_id) for run_id in run_ids],
            )

    def get_tag(self, run_id: str, name: str) -> str | None:
        """The value of a run's tag; None if it has none."""
        with transaction(self.home) as store:
            found = store.execute(
                "SELECT value FROM tags WHERE run_uuid = ? AND key = ?", (run_id, name)
            ).fetchone()
        return None if found is None else str(found[0])

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        """Set a tag of a run."""
        with transaction(self.home) as store:
            store.execute(
                "INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
                (name, value[:TAG_LIMIT], run_id),
            )

    def add_text(self, run_id: str, text: str, name: str) -> None:
        """Attach a text file to a run."""
        place = self._artifacts(run_id)
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")

    def add_bytes(self, run_id: str, content: bytes, name: str) -> None:
        """Attach a file of which only the content is there; `name` may have a folder."""
        file = self._artifacts(run_id) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)

    def add_folder(self, run_id: str, folder: Path, name: str) -> None:
        """Attach a folder's files to a run."""
        shutil.copytree(folder, self._artifacts(run_id) / name, dirs_exist_ok=True)

    def _artifacts(self, run_id: str) -> Path:
        with transaction(self.home) as store:
            found = store.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,))
            return _folder(found.fetchone()[0])

    def _wait_for_store(self) -> None:
        if self.creating is None:
            return
        _, errors = self.creating.communicate()
        if self.creating.returncode != 0 or revision(self.home) != REVISION:
            self.creating = begin_creating(self.home)  # for the next attempt
            told = errors.decode(errors="replace").strip().splitlines() or ["no reason told"]
            raise LosslabError(f"the MLflow store could not be created: {told[-1]}")
        self.creating = None


def open_store(uri: str, home: Path, study_id: str) -> ClientStore:
    """The store at an address; the local one as rows, if MLflow's tables are as they were."""
    if uri != local_store(home):
        return ClientStore(uri, home, study_id)
    found = revision(home)
    as_rows = found == REVISION or (found is None and version("mlflow").startswith(MLFLOW))
    return SqliteStore(home, study_id) if as_rows else LocalClientStore(uri, home, study_id)


def _folder(uri: str) -> Path:
    return Path(url2pathname(urlparse(uri).path))


def _experiment(store: sqlite3.Connection, name: str) -> tuple[int, str, str] | None:
    found: tuple[int, str, str] | None = store.execute(
        "SELECT experiment_id, lifecycle_stage, artifact_location FROM experiments "
        "WHERE name = ? AND workspace = 'default'",
        (name,),
    ).fetchone()
    return found


def _new_experiment(store: sqlite3.Connection, name: str, place: str) -> tuple[int, str, str]:
    now = int(time.time() * 1000)
    made = store.execute(
        "INSERT INTO experiments (name, artifact_location, lifecycle_stage, creation_time, "
        "last_update_time, workspace) VALUES (?, ?, 'active', ?, ?, 'default')",
        (name, place, now, now),
    )
    assert made.lastrowid is not None
    return made.lastrowid, "active", place


def _keys(store: sqlite3.Connection, experiment: str, study_id: str) -> dict[str, str]:
    return dict(
        store.execute(
            "SELECT named.value, named.run_uuid FROM tags AS named "
            "JOIN tags AS owned ON owned.run_uuid = named.run_uuid "
            "JOIN runs ON runs.run_uuid = named.run_uuid "
            "WHERE named.key = 'losslab.key' AND owned.key = 'losslab.study_id' "
            "AND owned.value = ? AND runs.experiment_id = ? AND runs.lifecycle_stage = 'active'",
            (study_id, int(experiment)),
        )
    )


def _write_run(
    store: sqlite3.Connection, experiment: str, run_id: str | None, entry: RunEntry
) -> str:
    """Create a run, or bring one that is there up to date, and give its id."""
    if run_id is None:
        run_id = uuid.uuid4().hex
        store.execute(
            "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id,"
            " status, start_time, end_time, source_version, lifecycle_stage, artifact_uri, "
            "experiment_id) SELECT ?, ?, 'UNKNOWN', '', '', 'unknown', ?, ?, ?, '', 'active', "
            "artifact_location || '/' || ? || '/artifacts', experiment_id FROM experiments "
            "WHERE experiment_id = ?",
            (
                run_id, entry.name, entry.status, entry.started, entry.ended,
                run_id, int(experiment),
            ),
        )  # fmt: skip
    else:
        store.execute(
            "UPDATE runs SET status = ?, end_time = coalesce(?, end_time) WHERE run_uuid = ?",
            (entry.status, entry.ended, run_id),
        )
    store.executemany(
        "INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
        [
            (tag, value, run_id)
            for tag, value in {**entry.stored_tags, "mlflow.runName": entry.name}.items()
        ],
    )
    # Equal rows are left alone, so a run of which a part is there is completed.
    store.executemany(
        "INSERT OR IGNORE INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
        [(name, value, run_id) for name, value in entry.params.items()],
    )
    store.executemany(
        "INSERT OR IGNORE INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
        "VALUES (?, ?, ?, ?, ?, 0)",
        [(name, value, entry.ended, run_id, step) for name, value, step in entry.metrics],
    )
    latest: dict[str, tuple[int, float]] = {}
    for name, value, step in entry.metrics:
        if (step, value) >= latest.get(name, (step, value)):
            latest[name] = (step, value)
    store.executemany(
        "INSERT OR REPLACE INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
        "VALUES (?, ?, ?, ?, 0, ?)",
        [(name, value, entry.ended, step, run_id) for name, (step, value) in latest.items()],
    )
    return run_id


def _use_dataset(
    store: sqlite3.Connection, experiment: str, dataset: Mapping[str, str], run_ids: Sequence[Any]
) -> None:
    """Say of runs that they used a dataset."""
    store.execute(
        "INSERT OR IGNORE INTO datasets (dataset_uuid, experiment_id, name, digest, "
        "dataset_source_type, dataset_source, dataset_profile) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            uuid.uuid4().hex, int(experiment), dataset["name"], dataset["digest"],
            dataset["source_type"], dataset["source"], dataset["profile"],
        ),
    )  # fmt: skip
    store.executemany(
        "INSERT OR IGNORE INTO inputs (input_uuid, source_type, source_id, destination_type, "
        "destination_id) SELECT ?, 'DATASET', dataset_uuid, 'RUN', ? FROM datasets "
        "WHERE experiment_id = ? AND name = ? AND digest = ?",
        [
            (uuid.uuid4().hex, run_id, int(experiment), dataset["name"], dataset["digest"])
            for run_id in run_ids
        ],
    )
