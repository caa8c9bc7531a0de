"""The MLflow store that needs no server: a SQLite file in the home folder, files beside it."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# The version of MLflow's tables that `tracking_sqlite` writes itself, and the MLflow that has it.
REVISION = "dc11669786a5"
MLFLOW = "3.17."
# Seconds to wait for another process that writes, as MLflow does.
LOCK_TIMEOUT = 20.0

# Run by a process of its own, in which importing MLflow and migrating an empty database take some
# seconds; the file appears when it is whole, so a kill leaves nothing half made.
_CREATE = """
import fcntl, sys
from pathlib import Path
from losslab.experiments.tracking_client import quiet_mlflow
home = Path(sys.argv[1])
with (home / ".store.lock").open("a") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    for left in home.glob(".mlflow.db*"):
        left.unlink()
    if not (home / "mlflow.db").exists():
        quiet_mlflow()
        from mlflow.tracking import MlflowClient
        MlflowClient(f"sqlite:///{home / '.mlflow.db'}").search_experiments()
        (home / ".mlflow.db").rename(home / "mlflow.db")
"""


def local_store(home: Path) -> str:
    """The default tracking URI: a SQLite file in the home folder."""
    return f"sqlite:///{home / 'mlflow.db'}"


def artifact_place(home: Path, experiment: str) -> str:
    """Where the local store keeps an experiment's files, as a URI."""
    return (home / "artifacts" / experiment).as_uri()


def revision(home: Path) -> str | None:
    """The version of the local store's tables; None if there is no store yet."""
    file = home / "mlflow.db"
    if not file.exists() or file.stat().st_size == 0:
        return None
    with transaction(home) as store:
        tables = "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
        if store.execute(tables).fetchone() is None:
            return ""
        return str(store.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def begin_creating(home: Path) -> "subprocess.Popen[bytes]":
    """Begin to create the local store, beside whatever this process does."""
    file = home / "mlflow.db"
    if file.exists() and file.stat().st_size == 0:
        file.unlink()
    return subprocess.Popen(
        [sys.executable, "-c", _CREATE, str(home)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        start_new_session=True,  # Ctrl-C is the driver's; this is done in seconds
    )


@contextlib.contextmanager
def transaction(home: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the local store that commits at the end of the block, or rolls back."""
    with contextlib.closing(sqlite3.connect(home / "mlflow.db", timeout=LOCK_TIMEOUT)) as store:
        store.execute("PRAGMA foreign_keys = ON")
        with store:
            yield store


def follow_home(home: Path) -> None:
    """After the home folder was moved, let the store look for its files where they are now.

    MLflow writes absolute places into its database and has no call that changes them; without
    this, files would be looked for, and new ones written, where the home folder used to be.
    """
    with transaction(home) as store:
        rows = store.execute("SELECT experiment_id, name, artifact_location FROM experiments")
        for number, name, old in rows.fetchall():
            new = artifact_place(home, name)
            ours = old and old.endswith(new.removeprefix(home.as_uri()))
            if not ours or old == new:
                continue
            store.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                (new, number),
            )
            store.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (new, len(old) + 1, number, len(old), old),
            )
