"""The MLflow store that needs no server: a SQLite file in the home folder, files beside it."""

import contextlib
import sqlite3
from pathlib import Path


def local_store(home: Path) -> str:
    """The default tracking URI: a SQLite file in the home folder."""
    return f"sqlite:///{home / 'mlflow.db'}"


def artifact_place(home: Path, experiment: str) -> str:
    """Where the local store keeps an experiment's files, as a URI."""
    return (home / "artifacts" / experiment).as_uri()


def follow_home(home: Path) -> None:
    """After the home folder was moved, let the store look for its files where they are now.

    MLflow writes absolute places into its database and has no call that changes them; without
    this, files would be looked for, and new ones written, where the home folder used to be.
    """
    with contextlib.closing(sqlite3.connect(home / "mlflow.db", timeout=20)) as store, store:
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
