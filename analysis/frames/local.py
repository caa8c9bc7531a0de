"""A local MLflow store, read as rows: exact, fast, and without importing MLflow.

MLflow's client takes about a millisecond for the history of one metric of one run. This reads the
tables of the version that `experiments.local_store` knows; any other store is read by the client.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from urllib.parse import quote, urlparse
from urllib.request import url2pathname

from losslab.analysis.frames.cache import Cache
from losslab.analysis.frames.mirrored import Mirrored, Point
from losslab.analysis.frames.runs import Run
from losslab.errors import BadInput
from losslab.experiments.local_store import LOCK_TIMEOUT, REVISION
from losslab.experiments.run_labels import RECORD_TAG
from losslab.experiments.run_parts import PART_TAG, part_file, unpack

_AT_ONCE = 500  # runs asked for in one statement
# What is needed of a training's run; its record says the rest.
_TRAINING_TAGS = ("losslab.phase", "losslab.study_id", "losslab.key", PART_TAG, RECORD_TAG)


def store_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for every other. `BadInput` where it is not there."""
    if not uri.startswith("sqlite:///") or "?" in uri:
        return None
    file = Path(uri.removeprefix("sqlite:///")).absolute()
    if not file.is_file():
        raise BadInput(f"there is no MLflow store at {file}")
    return file


def has_known_tables(file: Path) -> bool:
    """Whether this is a store of the version whose tables are known."""
    try:
        with closing(_connect(file)) as store:
            versions = store.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.DatabaseError:
        return False
    return bool(versions == [(REVISION,)])


def experiment_id(file: Path, name: str) -> str | None:
    """The id of an experiment, by its name."""
    statement = "SELECT experiment_id FROM experiments WHERE name = ? AND workspace = 'default'"
    with closing(_connect(file)) as store:
        found = store.execute(statement, (name,)).fetchone()
    return None if found is None else str(found[0])


class LocalSource:
    """One experiment of a local store."""

    def __init__(self, file: Path, name: str):
        self.file = file
        self.name = name
        found = experiment_id(file, name)
        if found is None:
            raise BadInput(f"there is no experiment {name!r} in {file}")
        self.experiment_id = found

    def read(self, kept: Cache) -> tuple[list[Mirrored], list[Run]]:
        """The newest study's run, its arms' runs, newest first, and all its trainings."""
        with closing(_connect(self.file)) as store:
            store.execute("BEGIN")  # one state of the store, whoever writes meanwhile
            entries = list(self._entries(store))
            head = next((e for e in entries if e.tags.get("losslab.phase") == "study"), None)
            if head is None:
                return [], []
            study = head.tags.get("losslab.study_id")
            entries = [e for e in entries if e.tags.get("losslab.study_id") == study]
            arms = [entry for entry in entries if entry.tags.get("losslab.phase") == "arm"]
            return [head, *arms], self._trainings(store, head, entries, kept)

    def artifact(self, entry: Mirrored, name: str) -> bytes | None:
        """The content of a file of a run; None if it is not there."""
        try:
            return self.artifact_file(entry.id, entry.place, name).read_bytes()
        except OSError:
            return None

    def artifact_file(self, run_id: str, place: str, name: str) -> Path:
        """Where a file of a run is: beside the store, which may have been moved, or where it says.

        Raises `OSError` where the store keeps its files somewhere else than in a folder.
        """
        beside = self.file.parent / "artifacts" / self.name / run_id / "artifacts"
        if beside.is_dir():
            return beside / name
        parsed = urlparse(place)
        if parsed.scheme not in ("", "file"):
            raise OSError(f"{place} is not a folder")
        return Path(url2pathname(parsed.path)) / name

    def outputs(self, run_id: str, name: str, kept: Cache) -> Path | None:
        """A file of a run, by the run's id."""
        with closing(_connect(self.file)) as store:
            statement = "SELECT artifact_uri FROM runs WHERE run_uuid = ?"
            row = store.execute(statement, (run_id,)).fetchone()
        try:
            file = self.artifact_file(run_id, row[0] or "", name) if row else None
        except OSError:
            return None
        return file if file is not None and file.is_file() else None

    def _entries(self, store: sqlite3.Connection) -> Iterator[Mirrored]:
        """The experiment's runs, newest first, as MLflow lists them."""
        tags: dict[str, dict[str, str]] = {}
        # All of some keys, since MLflow's index begins with the key; the few parents' in full.
        for statement in (
            f"key IN ({','.join('?' * len(_TRAINING_TAGS))})",
            f"key > '{RECORD_TAG}.' AND key < '{RECORD_TAG}/'",
            "run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'losslab.phase' "
            "AND value IN ('study', 'arm'))",
        ):
            given = _TRAINING_TAGS if "?" in statement else ()
            for run_id, key, value in store.execute(
                f"SELECT run_uuid, key, value FROM tags WHERE {statement}", given
            ):
                tags.setdefault(run_id, {})[key] = value
        for run_id, status, started, ended, place in store.execute(
            "SELECT run_uuid, status, start_time, end_time, artifact_uri FROM runs "
            "WHERE experiment_id = ? AND lifecycle_stage = 'active' "
            "ORDER BY start_time DESC, run_uuid",
            (int(self.experiment_id),),
        ):
            yield Mirrored(run_id, status, started or 0, ended, place or "", tags.get(run_id, {}))

    def _trainings(
        self, store: sqlite3.Connection, head: Mirrored, entries: Sequence[Mirrored], kept: Cache
    ) -> list[Run]:
        runs, missing = [], []
        for entry in (e for e in entries if e.is_training):
            run = None if entry.is_open else kept.find(entry.id, entry.stamp)
            runs.append(run) if run else missing.append(entry)
        filed = self._filed(head, missing)
        rest = [entry for entry in missing if entry.id not in filed]
        read = [*filed.values(), *self._from_rows(store, rest)]
        open_runs = {entry.id for entry in missing if entry.is_open}
        for run in read:
            if run.id not in open_runs:
                kept.add(run)
        return runs + read

    def _filed(self, head: Mirrored, missing: Sequence[Mirrored]) -> dict[str, Run]:
        """What the study run's parts hold of these runs."""
        wanted, found = {entry.id: entry for entry in missing if not entry.is_open}, {}
        for number in sorted({e.part for e in wanted.values() if e.part is not None}):
            content = self.artifact(head, part_file(number))
            try:
                filed = [] if content is None else unpack(content)
            except ValueError:  # damaged
                continue
            for run in filed:
                if run.run_id in wanted and (same := wanted[run.run_id].filed(run)):
                    found[run.run_id] = same
        return found

    def _from_rows(self, store: sqlite3.Connection, entries: Sequence[Mirrored]) -> Iterator[Run]:
        for begin in range(0, len(entries), _AT_ONCE):
            some = {entry.id: entry for entry in entries[begin : begin + _AT_ONCE]}
            rows = store.execute(
                "SELECT run_uuid, key, step, timestamp, CASE WHEN is_nan THEN NULL ELSE value END "
                f"FROM metrics WHERE run_uuid IN ({','.join('?' * len(some))}) "
                "ORDER BY run_uuid, key, step, timestamp",
                list(some),
            )
            points: dict[str, list[Point]] = {
                run_id: [row[1:] for row in own if row[4] is not None]
                for run_id, own in groupby(rows, key=lambda row: row[0])
            }
            yield from (entry.training(points.get(entry.id, [])) for entry in some.values())


def _connect(file: Path) -> sqlite3.Connection:
    # Not read-only: what a killed writer has left half-written must be rolled back first.
    return sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=LOCK_TIMEOUT)
