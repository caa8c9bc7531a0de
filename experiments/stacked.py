"""Many trainings as one batched program; the plain loop in `training` is the reference.

Parameters, optimiser states and buffers of all trainings are stacked, and one step moves them all.
Every training keeps its own learning rate, weight decay, momentum, schedule, loss, weights and
batches. The sum of all losses goes backward once: each training's loss depends on its own slice
alone, so each gets its own gradient, and one that is not finite spoils no other.
"""

import math
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from losslab.errors import LosslabError
from losslab.experiments.building import learning_rate
from losslab.experiments.data import RunData
from losslab.experiments.divergence import DIVERGENCES, of_the_machine, reason_of
from losslab.experiments.elements import prepare_elements, scores
from losslab.experiments.global_random import kept
from losslab.experiments.memory import keep_freed_memory
from losslab.experiments.stack_losses import StackedLosses
from losslab.experiments.stack_optimizers import stacked_optimizer
from losslab.experiments.stack_parts import StackedData, StackedModel, stacked_rows
from losslab.experiments.stack_probe import misfit
from losslab.experiments.states import Course, State
from losslab.experiments.training import (
    copied,
    data_of,
    epoch_row,
    load_weights,
    loss_of,
    seed_epoch,
)


class NotStackable(LosslabError):
    """These trainings cannot be one program, and why; train them one by one."""


def advance_stack(states: Sequence[State], until_epoch: int) -> list[State]:
    """Train on to the end of epoch `until_epoch`; as `training.advance` of each, to rounding.

    Trainings that have diverged, or are that far already, are given back as they are; the others
    have done the same number of epochs. Raises `NotStackable` where the trainings differ in shape
    or their model cannot be vectorised; nothing has been changed then.
    """
    going = [i for i, s in enumerate(states) if not s.diverged and s.epoch < until_epoch]
    advanced = list(states)
    for rows in _of_one_shape([states[i] for i in going]):
        chosen = [going[row] for row in rows]
        found = Stack([states[i] for i in chosen]).advance(until_epoch)
        for i, state in zip(chosen, found, strict=True):
            advanced[i] = state
    return advanced


def _of_one_shape(states: Sequence[State]) -> list[list[int]]:
    """Rows by the shape of the training split: splits differ in size, rare categories in width."""
    sizes = [data_of(state.job).train.features.shape for state in states]
    return [[i for i, size in enumerate(sizes) if size == s] for s in dict.fromkeys(sizes)]


class Stack:
    """Trainings of one shape that have done the same number of epochs."""

    def __init__(self, states: Sequence[State]):
        self.began = time.perf_counter()
        if states[0].job.device == "cpu":
            keep_freed_memory()
        self.courses = [Course(state) for state in states]
        self.jobs = [state.job for state in states]
        self.trainings = [job.config["training"] for job in self.jobs]
        self.weights = [state.model for state in states]
        self.device = self.jobs[0].device
        first = prepare_elements(self.jobs[0])
        if why := misfit(self.jobs[0], first):
            raise NotStackable(why)
        losses = [loss_of(job, first.task, data_of(job)) for job in self.jobs]
        for loss, state in zip(losses, states, strict=True):
            load_weights(loss, state.loss)
        try:
            self.model = StackedModel(first.model, states, first.task, self.jobs[0].link)
            self.losses = StackedLosses(losses, self.device)
            flat = self.model.flat
            self.optimizer = stacked_optimizer(
                flat,
                self.model.columns,
                self.trainings,
                [state.optimizer for state in states],
                self.model.numbers,
            )
        except (KeyError, ValueError, RuntimeError) as error:
            raise NotStackable(f"its parts cannot be stacked: {_short(error)}") from error
        self.data = StackedData(self.jobs, first.task)
        self.gradient = torch.empty_like(flat)
        self.ended: dict[int, State] = {}
        self.emptied: list[int] = []  # slots that are to get harmless numbers

    def advance(self, until_epoch: int) -> list[State]:
        """Train on; every training's state, of diverged ones as they were when they did."""
        with kept(self.device):
            for epoch in range(self.courses[0].epoch, until_epoch):
                if len(self.ended) == len(self.courses):
                    break
                self._epoch(epoch)
        for row in range(len(self.courses)):
            if row not in self.ended:
                self.ended[row] = self._state(row)
        share = (time.perf_counter() - self.began) / len(self.courses)
        return [
            self.courses[row].state(
                share, model=state.model, optimizer=state.optimizer, loss=state.loss
            )
            for row, state in sorted(self.ended.items())
        ]

    def _epoch(self, epoch: int) -> None:
        """Train one epoch, then validate; every training's row goes to its course."""
        self.model.module.train()
        self.losses.train()
        for row in self._going():
            self.losses.seed(row, partial(seed_epoch, self.jobs[row], epoch))
        order = self.data.batches(epoch)
        steps = len(order)
        table = self._rates(epoch, steps)
        total = torch.zeros(len(self.jobs), dtype=torch.float64, device=self.device)
        for index, indices in enumerate(order):
            done = (epoch * steps + index) / (self.trainings[0]["epochs"] * steps)
            self.losses.set_progress(done)
            total += self._step(indices, table[index], epoch)
            if len(self.ended) == len(self.courses):
                return
        self._validate(epoch, (total / steps).tolist(), table[-1, :, 0].tolist())

    def _step(self, indices: Sequence[Tensor], rates: Tensor, epoch: int) -> Tensor:
        features, targets = self.data.batch(indices)
        try:
            losses, failed = self.losses(self.model.logits(features), targets)
        except DIVERGENCES as error:
            if of_the_machine(error):
                raise
            raise NotStackable(f"it cannot be vectorised: {_short(error)}") from error
        for row, why in failed.items():
            self._leave(row, reason_of(why, epoch + 1))
        if len(self.ended) == len(self.courses):
            return losses.detach()
        try:
            whole = self.model.gradient(losses.sum(), self.gradient)
        except DIVERGENCES as error:
            if of_the_machine(error):
                raise
            raise NotStackable(f"its gradient fails in a stack: {_short(error)}") from error
        if self.losses.out_of_reach():
            raise NotStackable("a loss does not depend on its logits in some batch")
        if not whole:
            raise NotStackable("some parameters take no part in the loss")
        with torch.no_grad():
            if self.ended:
                self.gradient[list(self.ended)] = 0.0
            self.optimizer.penalise(self.gradient)
            self.optimizer.clip(self.gradient)
            self.optimizer.step(self.gradient, rates.to(self.gradient))
        self._clear()
        return losses.detach()

    def _rates(self, epoch: int, steps: int) -> Tensor:
        """The learning rate of every step and training, (steps, N, 1)."""
        rates = [
            [learning_rate(each, epoch * steps + index, steps) for each in self.trainings]
            for index in range(steps)
        ]
        return torch.tensor(rates, dtype=torch.float64, device=self.device).unsqueeze(-1)

    def _validate(self, epoch: int, losses: Sequence[float], rates: Sequence[float]) -> None:
        finite = torch.isfinite(self.model.flat).all(1).tolist()
        sound = [row for row in self._going() if finite[row] and math.isfinite(losses[row])]
        values: dict[int, dict[str, float]] = {}
        for data, rows in zip(self.data.data, self.data.rows, strict=True):
            here = [row for row in rows if row in sound]
            # Somebody's model may fail for one training alone.
            for group in [[row] for row in here] if self.model.layers is None else [here]:
                values |= self._scores(group, data, epoch)
        for row in self._going():
            course = self.courses[row]
            line = epoch_row(epoch, losses[row], rates[row], values.get(row, {}))
            course.take(line, partial(self.model.state_dict, row))
            if course.diverged:
                self._leave(row, course.diverged)
        self._clear()

    def _scores(
        self, rows: Sequence[int], data: RunData, epoch: int
    ) -> dict[int, dict[str, float]]:
        """The metrics of these trainings on their validation split; one that fails leaves."""
        values: dict[int, dict[str, float]] = {}
        outputs: list[tuple[np.ndarray, np.ndarray]] = []
        for place, row in enumerate(rows):
            try:
                outputs = outputs or stacked_rows(self.model, rows, data.validation)
                values[row] = scores(data, self.jobs[row], *outputs[place])
            except DIVERGENCES as error:
                if of_the_machine(error):
                    raise
                self._leave(row, reason_of(error, epoch + 1))
        return values

    def _clear(self) -> None:
        """Put finite numbers where a training has left; not before the step is done."""
        while self.emptied:
            row = self.emptied.pop()
            self.optimizer.forget(row)
            self.model.put(row, self.weights[row])

    def _going(self) -> list[int]:
        return [row for row in range(len(self.courses)) if row not in self.ended]

    def _leave(self, row: int, reason: str) -> None:
        """Freeze a training out: it keeps its slot, so that its neighbours keep their bits."""
        self.courses[row].fail(reason)
        self.ended[row] = self._state(row)
        self.losses.leave(row)
        self.emptied.append(row)

    def _state(self, row: int) -> State:
        """What one training has come to; what its course knows is added at the end."""
        return self.courses[row].state(
            0.0,
            model=self.model.state_dict(row),
            optimizer=self.optimizer.state_dict(row),
            loss=copied(self.losses.state_dict(row)),
        )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
