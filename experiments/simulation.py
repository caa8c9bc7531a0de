"""Whole studies with simulated trainings: what the protocol finds where the truth is known.

Search, selection, confirmation and every record are those of `run_study`. Only the training of a
configuration is replaced, in the executor, by a value from a formula and noise of known size. So
error rates can be counted over hundreds of studies, which real trainings would never allow.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losslab.experiments.config import Study, load_study
from losslab.experiments.confirming import confirm
from losslab.experiments.context import Context
from losslab.experiments.folder import StudyFolder, home_folder
from losslab.experiments.observing import Observer
from losslab.experiments.opening import open_study
from losslab.experiments.plans import Plan
from losslab.experiments.search_journal import Journal
from losslab.experiments.searching import Replicate, search_arms
from losslab.experiments.states import Job
from losslab.experiments.tracking import NoTracker
from losslab.experiments.work import Member, Piece, Progress


@dataclass(frozen=True)
class Outcome:
    """What a simulated training would find, were it trained to its end.

    `values` are the objective on validation after each epoch, `test` the same metric on test. One
    that diverges says why in `diverged`; its `values` then end before the epoch in which it did.
    """

    values: tuple[float, ...]
    test: float
    diverged: str = ""


#: Stands for training: the same job must give the same outcome, as real trainings do.
Trainer = Callable[[Job], Outcome]


@dataclass(frozen=True)
class SimulatedStudy:
    """A finished study: its folder, its settings, and what every search selected."""

    folder: Path
    study: Study
    selected: Mapping[Replicate, Mapping[str, Any]]

    def selected_config(self, arm: str, repeat: int = 0) -> dict[str, Any]:
        """The whole configuration that one search of an arm selected."""
        return self.study.arms[arm].configure(self.selected[arm, repeat]["params"])


def simulate_study(
    source: str | Path | Mapping[str, Any],
    train: Trainer,
    home: str | Path,
    overrides: Sequence[str] = (),
) -> SimulatedStudy:
    """Run a study to its end with `train` in the place of training; see `responses`.

    `source` and `overrides` are those of `run_study`. Nothing is mirrored to MLflow and no report
    is written; the folder `home/<study>` is a study folder like any other, in which every record
    says `engine: simulated`. Datasets are built, for the study's records, but never trained on.

    >>> study = {"dataset": "clusters", "arms": ["ce", "focal"]}
    >>> simulate_study(study, DIGITS, "runs").selected    # doctest: +SKIP
    """
    study = load_study(source, overrides)
    folder = StudyFolder(home_folder(home), study.name)
    folder.create()
    plans = dict.fromkeys(study.arms, Plan("plain", 1, "simulated", 0.0, 0.0, 0.0))
    with folder.locked():
        observer = Observer()
        open_study(study, folder, "cpu", plans, False, observer)
        executor = Simulated(train)
        context = Context(study, folder, executor, NoTracker(), observer, "cpu", plans)
        selected = search_arms(context, Journal(folder.path / "journal.log"))
        confirm(context, selected)
    return SimulatedStudy(folder.path, study, selected)


def two_arms(
    trials: int, seeds: int, repeats: int = 1, second: str | Mapping[str, Any] = "ce"
) -> dict[str, Any]:
    """A study file to simulate: arms `a`, cross-entropy and the baseline, and `b`, `second`.

    The same loss twice, unless `second` says otherwise: two arms with searches of their own, whose
    true difference is zero. The data are as small as can be, since nothing is trained on them.
    """
    data = {"examples": 200, "validation_examples": 50, "test_examples": 50, "dimensions": 2}
    return {
        "study": "simulated",
        "dataset": {"name": "clusters", "imbalance_ratio": 5, **data},
        "model": {"name": "mlp", "hidden": [2]},
        "training": {"epochs": 4},
        "arms": {"a": "ce", "b": second},
        "baseline": "a",
        "search": {"trials": trials, "repeats": repeats},
        "confirm": {"seeds": seeds, "defaults": False},
    }


class Simulated:
    """An executor that looks outcomes up instead of training."""

    def __init__(self, train: Trainer):
        self.train = train

    def run(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, list[Progress] | None]]:
        """Yield (index, progress of each member) in the order given."""
        for index, piece in enumerate(pieces):
            yield index, [self._progress(member, piece.until_epoch) for member in piece.members]

    def close(self) -> None:
        """Nothing to let go of."""

    def _progress(self, member: Member, until: int) -> Progress:
        outcome, metric = self.train(member.job), member.job.metrics[0]
        values = list(outcome.values[:until])
        diverged = outcome.diverged if len(values) < until else ""
        # As in a real confirmation run, what diverged is judged too, at chance level.
        judged = {f"test/{metric}": outcome.test} if member.outputs is not None else {}
        epoch = len(values) + bool(diverged)
        return Progress(
            epoch=epoch,
            value=None if diverged else values[-1],
            values=values,
            judged_epoch=epoch,
            diverged=diverged,
            seconds=0.0,
            history=[{"epoch": i, f"val/{metric}": v} for i, v in enumerate(values, 1)],
            metrics=judged,
            pairing={"initial_weights": f"{member.job.run_seed:08x}"},
            engine="simulated",
            started=time.time(),
        )
