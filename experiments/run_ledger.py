"""Which key of a study is which MLflow run: an append-only file beside the study's records.

A key is noted before its run is created and again with the run's id after it, so whatever happens
in between, a later mirroring knows to look for the run instead of making a second one.
"""

import json
import os
from pathlib import Path
from typing import Any


class RunLedger:
    """The runs of one study in one store, read from and appended to `path`.

    `ids` are the known run ids by key, `intended` all keys that may have a run, `done` those whose
    run is complete. Entries about other stores are kept in the file and otherwise ignored.
    """

    def __init__(self, path: Path, store: str):
        self.path = path
        self.store = store
        self.ids: dict[str, str] = {}
        self.intended: set[str] = set()
        self.done: set[str] = set()
        if path.exists():
            for line in path.read_bytes().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # torn by a kill; its key was noted as intended before
                if entry.get("store") == store:
                    self._take(entry["key"], entry["run_id"], entry["done"])

    def note(self, key: str, run_id: str | None = None, done: bool = False) -> None:
        """Write down that `key` is intended, has a run, or is done; the last word counts."""
        known = key in self.intended and self.ids.get(key) == run_id
        if known and done == (key in self.done):
            return
        self._append({"store": self.store, "key": key, "run_id": run_id, "done": done})
        self._take(key, run_id, done)

    def forget(self) -> None:
        """Take back every id: the store is another one than it was. The keys stay intended."""
        for key in list(self.ids):
            self.note(key)

    def _append(self, entry: dict[str, Any]) -> None:
        with self.path.open("ab+") as file:
            torn = False
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
            file.write(b"\n" * torn + json.dumps(entry).encode() + b"\n")

    def _take(self, key: str, run_id: str | None, done: bool) -> None:
        self.intended.add(key)
        self.ids.pop(key, None)
        self.done.discard(key)
        if run_id:
            self.ids[key] = run_id
        if done:
            self.done.add(key)
