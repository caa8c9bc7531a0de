"""The plain training loop: a pure function from a state and an epoch to a later state.

Everything that a training has gathered goes in and comes out: parameters, optimiser, loss state,
history; random generators are seeded anew for every epoch. So the same piece of work runs in this
process or another, and a killed run goes on from its last rung with the same bits as if nothing
had happened.
"""

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from losslab.errors import BadInput
from losslab.experiments.building import (
    ForeignLoss,
    add_l1,
    build_loss,
    build_optimizer,
    learning_rate,
    weights_digest,
)
from losslab.experiments.data import Examples, RunData, run_data
from losslab.experiments.divergence import DIVERGENCES, of_the_machine, reason_of
from losslab.experiments.global_random import kept, seed_all
from losslab.experiments.recording import recorded
from losslab.experiments.states import Course, Job, State
from losslab.experiments.tasks import TASKS, Task
from losslab.losses.base import Loss
from losslab.randomness import generator, seed_integer
from losslab.registry import load

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@dataclass
class Parts(ABC):
    """The live objects of a training while it runs."""

    data: RunData
    model: nn.Module
    loss: nn.Module
    training: Mapping[str, Any]

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser; made when it is asked for, since torch imports its compiler with it."""
        return build_optimizer(self.training, self.model, self.loss)

    @abstractmethod
    def batch_loss(self, job: Job, batch: Tensor, epoch: int) -> Tensor:
        """The loss of the training examples `batch` (indices), to be differentiated."""

    def step(self, job: Job, batch: Tensor, epoch: int) -> Tensor:
        """One step of the optimiser on a batch; its loss without penalties, as a float64."""
        loss = self.batch_loss(job, batch, epoch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        add_l1(self.model, self.training.get("l1", 0.0))
        if (clip_norm := self.training["clip_norm"]) is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip_norm)
        self.optimizer.step()
        return loss.detach().double()

    @abstractmethod
    def validate(self, job: Job) -> dict[str, float]:
        """The job's metrics on the validation split."""

    def example(self) -> Tensor:
        """One example as the model takes it."""
        return self.data.train.features[:1]

    def set_progress(self, fraction: float) -> None:
        """Tell a loss that follows a schedule which share of the training is behind it."""
        self.loss.set_progress(fraction)  # type: ignore[operator]


def prepare(job: Job) -> Parts:
    """Data, model and loss of a job, the model at its initial weights."""
    if job.device == "cpu":
        # One and two threads gave different bits; one thread is the promise, in every process.
        torch.set_num_threads(1)
    parts: Parts = load(task_of(job).prepares)(job)
    return parts


def task_of(job: Job) -> type[Task]:
    """The kind of a job's task, which its dataset has."""
    data = run_data(job.config["dataset"], job.study_seed, job.run_seed, job.device)
    return TASKS[data.dataset.task]


def data_of(job: Job) -> RunData:
    """The data of a job's run, its features at the job's precision."""
    data = run_data(job.config["dataset"], job.study_seed, job.run_seed, job.device)
    return replace(
        data, train=at_precision(data.train, job), validation=at_precision(data.validation, job)
    )


def at_precision(examples: Examples, job: Job) -> Examples:
    """A split with its features at the job's precision."""
    precision = PRECISIONS[job.config["training"].get("precision", "float32")]
    return replace(examples, features=examples.features.to(precision))


def loss_of(job: Job, task: Task, data: RunData) -> Loss | ForeignLoss:
    """The loss of a job, in its first state."""
    try:
        loss = build_loss(job.config["loss"], task, data.class_counts)
    except (BadInput, TypeError, ValueError) as error:
        raise BadInput(f"loss: cannot be built: {error}") from error
    return loss.to(job.device)


def start(job: Job) -> State:
    """The state of a job before its first epoch."""
    parts = prepare(job)
    return State(
        job=job,
        epoch=0,
        model=copied(parts.model.state_dict()),
        optimizer=copy.deepcopy(parts.optimizer.state_dict()),
        loss=copied(parts.loss.state_dict()),
        initial_weights=weights_digest(parts.model),
    )


def advance(state: State, until_epoch: int) -> State:
    """Train on to the end of epoch `until_epoch` (or until it diverges); `state` stays as it was.

    An exception inside a loss or model, and anything not finite, ends the training with its reason
    in `diverged`; it does not end the study.
    """
    if state.diverged or state.epoch >= until_epoch:
        return state
    began = time.perf_counter()
    job, parts = state.job, prepare(state.job)
    load_weights(parts.model, state.model)
    parts.optimizer.load_state_dict(copy.deepcopy(state.optimizer))
    load_weights(parts.loss, state.loss)
    course = Course(state)
    with kept(job.device):
        while course.epoch < until_epoch and not course.diverged:
            seed_epoch(job, course.epoch)
            try:
                row = _epoch(parts, job, course.epoch)
            except DIVERGENCES as error:
                if of_the_machine(error):
                    raise
                course.fail(reason_of(error, course.epoch + 1))
                break
            course.take(row, lambda: copied(parts.model.state_dict()))
    return course.state(
        model=copied(parts.model.state_dict()),
        optimizer=copy.deepcopy(parts.optimizer.state_dict()),
        loss=copied(parts.loss.state_dict()),
        seconds=time.perf_counter() - began,
    )


def epoch_row(
    epoch: int, loss: float, rate: float, values: Mapping[str, float]
) -> dict[str, float]:
    """The row of the history that tells of epoch `epoch`, counted from 0."""
    return {
        "epoch": epoch + 1,
        "train/loss": loss,
        "learning_rate": rate,
        **{f"val/{name}": value for name, value in values.items()},
    }


def _epoch(parts: Parts, job: Job, epoch: int) -> dict[str, float]:
    """Train one epoch, then validate; the row of its history."""
    before = recorded(parts, job, "initial") if epoch == 0 else {}
    training = job.config["training"]
    order = batches(len(parts.data.train), training["batch_size"], job, epoch)
    parts.model.train()
    parts.loss.train()
    total, rate = torch.zeros((), dtype=torch.float64, device=job.device), 0.0
    steps = training["epochs"] * len(order)
    for index, batch in enumerate(order):
        parts.set_progress((epoch * len(order) + index) / steps)
        rate = learning_rate(training, epoch * len(order) + index, len(order))
        for group in parts.optimizer.param_groups:
            group["lr"] = rate
        total += parts.step(job, batch.to(job.device), epoch)
    loss = total.item() / len(order)
    sound = np.isfinite(loss) and all(
        bool(torch.isfinite(p).all()) for p in parts.model.parameters()
    )
    row = epoch_row(epoch, loss, rate, parts.validate(job) if sound else {})
    return {**row, **before, **(recorded(parts, job, "record") if sound else {})}


def batches(examples: int, size: int, job: Job, epoch: int) -> list[Tensor]:
    """The batches of an epoch: a permutation that depends on study seed, run seed and epoch.

    A last batch of one example is dropped, because a batch norm cannot train on it, unless it is
    the only one.
    """
    random = generator(job.study_seed, "batches", job.run_seed, epoch)
    order = torch.from_numpy(random.permutation(examples))
    found = list(order.split(size))
    if len(found) > 1 and len(found[-1]) == 1 and size > 1:
        found.pop()
    return found


def seed_epoch(job: Job, epoch: int) -> None:
    """Seed what dropout and the like draw from."""
    seed_all(seed_integer(job.study_seed, "torch", job.run_seed, epoch), job.device)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a module's state dict, with the buffers that it did not have before its first step."""
    known = module.state_dict()
    for name, tensor in weights.items():
        if name not in known:
            owner, _, last = name.rpartition(".")
            module.get_submodule(owner).register_buffer(last, tensor.clone())
    module.load_state_dict(weights)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that nothing else will change."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
