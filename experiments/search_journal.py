"""A study's finished trials as an Optuna journal, for Optuna's own tools."""

from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from losslab.experiments.folder import cut_torn_line
from losslab.experiments.search import ArmSearch, Told


class Journal:
    """The study's finished trials as an Optuna journal, for Optuna's own tools.

    It is a copy of what the study folder holds: a torn last line is cut before it is opened, and
    what is missing is appended; one that Optuna cannot read is set aside and written anew. The
    caller holds the study's lock, so the file needs none.
    """

    def __init__(self, path: Path):
        cut_torn_line(path)
        try:
            self._storage = _journal_storage(path)
        except Exception:
            path.replace(path.with_name(f"{path.name}.damaged"))
            self._storage = _journal_storage(path)
        self._counts: dict[str, int] = {}

    def append(self, search: ArmSearch, told: Sequence[Told]) -> None:
        """Append the trials of an arm that the journal does not hold yet."""
        study = optuna.create_study(
            storage=self._storage,
            study_name=search.name,
            direction=search.direction,
            load_if_exists=True,
        )
        if search.name not in self._counts:
            self._counts[search.name] = len(study.get_trials(deepcopy=False))
        for number in range(self._counts[search.name], len(told)):
            study.add_trial(search.frozen(told[number]))
        self._counts[search.name] = max(self._counts[search.name], len(told))


def _journal_storage(path: Path) -> JournalStorage:
    backend = JournalFileBackend(str(path), lock_obj=_NoLock())  # type: ignore[arg-type]
    return JournalStorage(backend)


class _NoLock:
    """The study's own lock guards the journal; Optuna's would outlive a killed process."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None
