"""A training as a value: the job that describes it, its state after some epochs, and its file."""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from losslab.experiments.divergence import not_finite
from losslab.experiments.folder import write_atomically
from losslab.experiments.tasks.base import Link


@dataclass(frozen=True)
class Job:
    """One training, completely described: the same job gives the same bits.

    `config` has the sections dataset, model, training and loss with every value fixed; `metrics`
    are the names to evaluate, the first of which is the objective, to be maximised or minimised.
    """

    config: dict[str, Any]
    study_seed: int
    run_seed: int
    metrics: tuple[str, ...] = ("average_precision",)
    maximize: bool = True
    device: str = "cpu"

    @property
    def link(self) -> Link:
        """What turns this job's logits into probabilities."""
        return self.config["loss"]["link"]


@dataclass(frozen=True)
class State:
    """A training after `epoch` epochs. Nothing in it is ever changed in place.

    `values` are the objective's values had the training ended after its first epoch, its second
    and so on, without the epoch in which it diverged; `best` holds epoch, value and model of the
    best validation epoch so far where the study judges by it; `diverged` is empty, or the reason
    why this training cannot go on.
    """

    job: Job
    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    loss: dict[str, Tensor]
    initial_weights: str
    history: tuple[dict[str, float], ...] = ()
    values: tuple[float, ...] = ()
    best: dict[str, Any] | None = None
    diverged: str = ""
    seconds: float = 0.0

    @property
    def judged_epoch(self) -> int:
        """The epoch whose weights give this training its value: the last, or the best so far."""
        return self.best["epoch"] if self.best else self.epoch

    @property
    def value(self) -> float | None:
        """The objective at the judged epoch; None before the first epoch and if it diverged."""
        return None if self.diverged or not self.values else self.values[-1]

    @property
    def judged_model(self) -> dict[str, Tensor]:
        """The weights of the judged epoch."""
        return self.best["model"] if self.best else self.model


class Course:
    """How a training goes, epoch by epoch: its history, its values, its best epoch, its end."""

    def __init__(self, state: State):
        self.begun = state
        self.epoch = state.epoch
        self.history = list(state.history)
        self.values = list(state.values)
        self.best = state.best
        self.diverged = state.diverged

    def take(self, row: dict[str, float], weights: Callable[[], dict[str, Tensor]]) -> None:
        """An epoch has ended with this row; `weights` copies the model's."""
        job = self.begun.job
        self.epoch += 1
        self.history.append(row)
        self.diverged = not_finite(row, job.metrics[0])
        if self.diverged:
            return
        value = row[f"val/{job.metrics[0]}"]
        if job.config["training"]["judge"] == "best_validation":
            # The earlier epoch on ties.
            sign = 1 if job.maximize else -1
            if self.best is None or sign * value > sign * self.best["value"]:
                self.best = {"epoch": self.epoch, "value": value, "model": weights()}
            value = self.best["value"]
        self.values.append(value)

    def fail(self, reason: str) -> None:
        """An epoch could not be finished."""
        self.diverged = reason

    def state(self, seconds: float, **content: Any) -> State:
        """The state that has been reached, `seconds` after the one that it began with."""
        return replace(
            self.begun,
            epoch=self.epoch,
            history=tuple(self.history),
            values=tuple(self.values),
            best=self.best,
            diverged=self.diverged,
            seconds=self.begun.seconds + seconds,
            **content,
        )


def save_states(path: Path, states: Sequence[State], note: str = "") -> None:
    """Write states atomically, as plain containers and tensors, with a note about their making."""
    content = [{**state.__dict__, "job": asdict(state.job)} for state in states]
    buffer = io.BytesIO()
    torch.save({"states": content, "note": note}, buffer)
    write_atomically(path, buffer.getvalue())


def load_states(path: Path, device: str = "cpu") -> tuple[list[State], str] | None:
    """The states in a file and the note about them; None if there is none or it is damaged."""
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        states = [State(**{**each, "job": _job(each["job"])}) for each in content["states"]]
        return states, content["note"]
    except torch.OutOfMemoryError:
        raise
    except Exception:
        # Whatever a damaged file raises: the work is done again, to the same bits.
        return None


def _job(content: dict[str, Any]) -> Job:
    return Job(**{**content, "metrics": tuple(content["metrics"])})
