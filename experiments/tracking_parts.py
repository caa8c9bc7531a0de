"""The trainings of a study in files by the hundred, written as they are mirrored; see `run_parts`.

Numbers only grow: a session begins a part of its own, and the study run's tag names a part before
any run carries its number. So a part below that number is never written to again, and one without
a file (its session was killed) can be searched for by the tag.
"""

from collections.abc import Mapping
from typing import Any

from losslab.experiments.run_parts import PART_SIZE, PART_TAG, FiledRun, pack, part_file
from losslab.experiments.tracking_client import ClientStore


class Parts:
    """The parts of one study run, written to by one session."""

    def __init__(self, store: ClientStore, study_run: str):
        self._store = store
        self._study_run = study_run
        self._number: int | None = None
        self._pending: dict[str, FiledRun] = {}
        self._full: dict[int, list[FiledRun]] = {}

    def current(self) -> int:
        """The number of the part that is written to."""
        if self._number is None:
            last = self._store.get_tag(self._study_run, PART_TAG) or "0"
            self._begin(int(last) + 1)
        assert self._number is not None
        return self._number

    def add(self, run_id: str, record: Mapping[str, Any]) -> None:
        """File a training whose run is in the store, whole, with the current part's number."""
        self._pending[run_id] = FiledRun.of(run_id, record)
        if len(self._pending) >= PART_SIZE:
            self.close()

    def close(self) -> None:
        """Attach the current part's file and begin another; what fails is done by the next call."""
        if self._number is not None and self._pending:
            self._full[self._number] = list(self._pending.values())
            self._pending = {}
            self._begin(self._number + 1)
        for number, runs in list(self._full.items()):
            self._store.add_bytes(self._study_run, pack(runs), part_file(number))
            del self._full[number]

    def _begin(self, number: int) -> None:
        self._store.set_tag(self._study_run, PART_TAG, str(number))
        self._number = number
