"""The plain training loop: a pure function from a state and an epoch to a later state.

Everything that a training has gathered goes in and comes out: parameters, optimiser, loss state,
history; random generators are seeded anew for every epoch. So the same piece of work runs in this
process or another, and a killed run goes on from its last rung with the same bits as if nothing
had happened.
"""

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from losslab.errors import BadInput
from losslab.experiments.building import (
    ForeignLoss,
    build_loss,
    build_model,
    build_optimizer,
    learning_rate,
    weights_digest,
)
from losslab.experiments.data import Examples, RunData, run_data
from losslab.experiments.decisions import default_decision
from losslab.experiments.divergence import DIVERGENCES, not_finite, of_the_machine, reason_of
from losslab.experiments.metrics import evaluate
from losslab.experiments.tasks import TASKS, Task
from losslab.experiments.tasks.base import Link, probabilities
from losslab.losses.base import Loss
from losslab.randomness import generator, seed_integer

# Elements (examples × anchors) that one forward pass of an evaluation takes at most.
EVALUATION_ELEMENTS = 1 << 18


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


@dataclass
class Parts:
    """The live objects of a training while it runs."""

    data: RunData
    task: Task
    model: nn.Module
    loss: Loss | ForeignLoss
    optimizer: torch.optim.Optimizer = field(init=False)


def prepare(job: Job) -> Parts:
    """Data, model and loss of a job, the model at its initial weights."""
    if job.device == "cpu":
        # One and two threads gave different bits; one thread is the promise, in every process.
        torch.set_num_threads(1)
    data = run_data(job.config["dataset"], job.study_seed, job.run_seed, job.device)
    task = TASKS[data.dataset.task](data.dataset.num_classes)
    model = build_model(
        job.config["model"],
        task,
        job.link,
        tuple(data.train.features.shape[1:]),
        data.class_counts,
        seed_integer(job.study_seed, "weights", job.run_seed),
    )
    try:
        loss = build_loss(job.config["loss"], task, data.class_counts)
    except (BadInput, TypeError, ValueError) as error:
        raise BadInput(f"loss: cannot be built: {error}") from error
    parts = Parts(data, task, model.to(job.device), loss.to(job.device))
    parts.optimizer = build_optimizer(job.config["training"], parts.model)
    return parts


def start(job: Job) -> State:
    """The state of a job before its first epoch."""
    parts = prepare(job)
    return State(
        job=job,
        epoch=0,
        model=_copied(parts.model.state_dict()),
        optimizer=copy.deepcopy(parts.optimizer.state_dict()),
        loss=_copied(parts.loss.state_dict()),
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
    parts.model.load_state_dict(state.model)
    parts.optimizer.load_state_dict(copy.deepcopy(state.optimizer))
    parts.loss.load_state_dict(state.loss)
    history, values, epoch = list(state.history), list(state.values), state.epoch
    best, diverged = state.best, ""
    with torch.random.fork_rng([] if job.device == "cpu" else [torch.cuda.current_device()]):
        while epoch < until_epoch and not diverged:
            _seed(job, epoch)
            try:
                row = _epoch(parts, job, epoch)
            except DIVERGENCES as error:
                if of_the_machine(error):
                    raise
                diverged = reason_of(error, epoch + 1)
                break
            epoch += 1
            history.append(row)
            diverged = not_finite(row, job.metrics[0])
            if not diverged:
                best = _better(best, row, parts.model, job)
                values.append(best["value"] if best else row[f"val/{job.metrics[0]}"])
    return replace(
        state,
        epoch=epoch,
        model=_copied(parts.model.state_dict()),
        optimizer=copy.deepcopy(parts.optimizer.state_dict()),
        loss=_copied(parts.loss.state_dict()),
        history=tuple(history),
        values=tuple(values),
        best=best,
        diverged=diverged,
        seconds=state.seconds + time.perf_counter() - began,
    )


def logits_and_targets(
    model: nn.Module, examples: Examples, task: Task, link: Link
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float64 logits and targets of all counted elements, and the example id of each."""
    per_example = int(np.prod(examples.targets.shape[1:], dtype=np.int64))
    chunk = max(1, EVALUATION_ELEMENTS // per_example)
    logits, targets = [], []
    model.eval()
    with torch.no_grad():
        for begin in range(0, len(examples), chunk):
            part = slice(begin, begin + chunk)
            raw = task.logits(model(examples.features[part]), link)
            rows = task.rows(raw, examples.targets[part], link)
            logits.append(rows[0])
            targets.append(rows[1])
    counted = (examples.targets != task.ignore_index).reshape(len(examples), -1).sum(1)
    ids = np.repeat(examples.ids, counted.cpu().numpy())
    return np.concatenate(logits), np.concatenate(targets), ids


def validate(parts: Parts, job: Job) -> dict[str, float]:
    """The job's metrics on the validation split, decided at 0.5 or argmax."""
    logits, targets, _ = logits_and_targets(
        parts.model, parts.data.validation, parts.task, job.link
    )
    return evaluate(
        targets,
        probabilities(logits, job.link),
        default_decision().decide(logits),
        class_names=parts.data.dataset.class_names,
        train_class_counts=parts.data.class_counts,
        names=job.metrics,
    )


def _epoch(parts: Parts, job: Job, epoch: int) -> dict[str, float]:
    """Train one epoch, then validate; the row of its history."""
    training = job.config["training"]
    order = list(_batches(len(parts.data.train), training["batch_size"], job, epoch))
    parts.model.train()
    parts.loss.train()
    total, rate = torch.zeros((), dtype=torch.float64, device=job.device), 0.0
    steps = training["epochs"] * len(order)
    for index, batch in enumerate(order):
        parts.loss.set_progress((epoch * len(order) + index) / steps)
        rate = learning_rate(training, epoch * len(order) + index, len(order))
        for group in parts.optimizer.param_groups:
            group["lr"] = rate
        total += _step(parts, job, batch.to(job.device), training["clip_norm"])
    loss = total.item() / len(order)
    sound = np.isfinite(loss) and all(
        bool(torch.isfinite(p).all()) for p in parts.model.parameters()
    )
    values = validate(parts, job) if sound else {}
    return {
        "epoch": epoch + 1,
        "train/loss": loss,
        "learning_rate": rate,
        **{f"val/{name}": value for name, value in values.items()},
    }


def _step(parts: Parts, job: Job, batch: Tensor, clip_norm: float | None) -> Tensor:
    features, targets = parts.data.train.features[batch], parts.data.train.targets[batch]
    logits = parts.task.logits(parts.model(features), job.link)
    loss = parts.loss(logits, parts.task.loss_targets(targets, job.link))
    parts.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(parts.model.parameters(), clip_norm)
    parts.optimizer.step()
    return loss.detach().double()


def _batches(examples: int, size: int, job: Job, epoch: int) -> Iterator[Tensor]:
    """The batches of an epoch: a permutation that depends on study seed, run seed and epoch.

    A last batch of one example is dropped, because a batch norm cannot train on it, unless it is
    the only one.
    """
    random = generator(job.study_seed, "batches", job.run_seed, epoch)
    order = torch.from_numpy(random.permutation(examples))
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1 and size > 1:
        batches.pop()
    yield from batches


def _seed(job: Job, epoch: int) -> None:
    """Seed what dropout and the like draw from; `torch.manual_seed` does it too, in 3 ms."""
    seed = seed_integer(job.study_seed, "torch", job.run_seed, epoch)
    torch.default_generator.manual_seed(seed)
    if job.device != "cpu":
        torch.cuda.manual_seed(seed)


def _better(
    best: dict[str, Any] | None, row: dict[str, float], model: nn.Module, job: Job
) -> dict[str, Any] | None:
    """The best validation epoch so far, where the study judges by it; the earlier one on ties."""
    if job.config["training"]["judge"] != "best_validation":
        return None
    value = row[f"val/{job.metrics[0]}"]
    if best is not None and (value <= best["value"] if job.maximize else value >= best["value"]):
        return best
    return {"epoch": int(row["epoch"]), "value": value, "model": _copied(model.state_dict())}


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
