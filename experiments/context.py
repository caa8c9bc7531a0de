"""What the phases of a study share: its folder, who does the work, who hears of it, its records."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losslab.experiments.arms import Arm
from losslab.experiments.config import Study
from losslab.experiments.executors import Executor
from losslab.experiments.folder import StudyFolder, read_json, write_json
from losslab.experiments.metrics import METRICS, metric
from losslab.experiments.observing import Observer
from losslab.experiments.plans import Plan
from losslab.experiments.states import Job
from losslab.experiments.tracking import Tracker
from losslab.experiments.work import Progress
from losslab.randomness import seed_integer

Record = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """One training of a study: which configuration, in which phase, on which seed.

    `phase` is search, select or confirm; `file` is where its record goes. Search and selection
    draw their run seeds from one role, confirmation from another, so test never meets the seeds
    that tuning has seen. Each `repeat` of the search has run seeds of its own.
    """

    arm: Arm
    phase: str
    params: Mapping[str, Any]
    seed_index: int
    file: Path
    trial: int | None = None
    variant: str | None = None
    generation: int | None = None
    repeat: int = 0

    @property
    def key(self) -> str:
        """The training's name in the study, for ever."""
        trial = 0 if self.trial is None else self.trial
        arm = f"{self.arm.name}/repeat-{self.repeat:03d}" if self.repeat else self.arm.name
        if self.phase == "search":
            return f"{arm}/trial-{trial:05d}"
        if self.phase == "select":
            return f"{arm}/select-{trial:05d}-{self.seed_index}"
        of = "" if self.trial is None else f"-of-trial-{self.trial:05d}"
        return f"{arm}/{self.variant}-{self.seed_index:04d}{of}"

    @property
    def epochs(self) -> int:
        """How long it trains."""
        return int(self.arm.config["training"]["epochs"])

    def run_seed(self, study_seed: int) -> int:
        """The seed of its splits, initial weights and batches."""
        role = "confirmation" if self.phase == "confirm" else "search"
        repeat = ("repeat", self.repeat) if self.repeat else ()
        return seed_integer(study_seed, role, *repeat, self.seed_index)


@dataclass(frozen=True)
class Context:
    """A running study."""

    study: Study
    folder: StudyFolder
    executor: Executor
    tracker: Tracker
    observer: Observer
    device: str
    plans: Mapping[str, Plan]

    @property
    def maximize(self) -> bool:
        """Whether more of the primary metric is better."""
        return self.study.direction == "maximize"

    def job(self, training: Training) -> Job:
        """The work that a training is."""
        return Job(
            config=training.arm.configure(training.params),
            study_seed=self.study.seed,
            run_seed=training.run_seed(self.study.seed),
            metrics=metric_names(self.study),
            maximize=self.maximize,
            device=self.device,
        )

    def store(
        self,
        training: Training,
        progress: Progress,
        *,
        pruned: bool = False,
        reports: Mapping[int, float] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Record:
        """Write a training's record; only then is it finished."""
        state = "diverged" if progress.diverged else "pruned" if pruned else "complete"
        rule = f"pruned at epoch {progress.epoch} by the {training.arm.search.pruner} rule"
        outputs = training.file.with_suffix(".npz")
        record = {
            "key": training.key,
            "arm": training.arm.name,
            "phase": training.phase,
            "variant": training.variant,
            "trial": training.trial,
            "repeat": training.repeat,
            "generation": training.generation,
            "seed_index": training.seed_index,
            "run_seed": training.run_seed(self.study.seed),
            "state": state,
            "reason": progress.diverged or (rule if pruned else ""),
            "params": dict(training.params),
            "value": progress.value,
            "judged_epoch": progress.judged_epoch,
            "epochs": progress.epoch,
            "seconds": round(progress.seconds, 4),
            "started": progress.started,
            "ended": time.time(),
            "engine": progress.engine,
            "history": progress.history,
            "metrics": progress.metrics,
            "pairing": progress.pairing,
            "outputs": str(outputs.relative_to(self.folder.path)) if outputs.exists() else None,
            "config": training.arm.configure(training.params),
            "reports": {str(epoch): value for epoch, value in (reports or {}).items()},
            "attributes": dict(attributes or {}),
        }
        write_json(training.file, record)
        self.observer.finished(record)
        return record

    def found(self, training: Training) -> Record | None:
        """The record of a training that was finished before, if it was."""
        record: Record | None = read_json(training.file)
        if record is not None:
            self.observer.already(record)
        return record


def metric_names(study: Study) -> tuple[str, ...]:
    """Everything a study measures, the objective first."""
    fitting = [name for name in METRICS.names() if metric(name).kind in study.task.measures]
    return tuple(dict.fromkeys((study.metrics.primary, *fitting, *study.metrics.extra)))
