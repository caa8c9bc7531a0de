"""Trainings whose examples, or anchors, have one class each: their loss and their validation."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from losslab.experiments.building import (
    ForeignLoss,
    build_model,
)
from losslab.experiments.data import Examples, RunData
from losslab.experiments.decisions import default_decision
from losslab.experiments.metrics import evaluate
from losslab.experiments.states import Job
from losslab.experiments.tasks import TASKS, ElementTask
from losslab.experiments.tasks.base import Link, WithAuxiliary, probabilities
from losslab.experiments.training import Parts, data_of, loss_of
from losslab.losses.base import Loss
from losslab.randomness import seed_integer

# Elements (examples × anchors) that one forward pass of an evaluation takes at most.
EVALUATION_ELEMENTS = 1 << 18


@dataclass
class ElementParts(Parts):
    """A training whose examples, or anchors, have one class each."""

    task: ElementTask
    loss: Loss | ForeignLoss

    def batch_loss(self, job: Job, batch: Tensor, epoch: int) -> Tensor:
        """The loss of a batch."""
        features, targets = self.data.train.features[batch], self.data.train.targets[batch]
        outputs = self.model(features)
        targets = self.task.loss_targets(targets, job.link)
        if isinstance(outputs, WithAuxiliary):
            main, auxiliary = (self.task.logits(each, job.link) for each in outputs[:2])
            # The loss of the main head last: a loss with a memory is left in its state.
            beside: Tensor = outputs.weight * self.loss(auxiliary, targets)
            return beside + self.loss(main, targets)
        loss: Tensor = self.loss(self.task.logits(outputs, job.link), targets)
        return loss

    def validate(self, job: Job) -> dict[str, float]:
        """The job's metrics on the validation split, decided at 0.5 or argmax."""
        logits, targets, _ = logits_and_targets(
            self.model, self.data.validation, self.task, job.link
        )
        return scores(self.data, job, logits, targets)


def prepare_elements(job: Job) -> ElementParts:
    """The same for a task of examples or anchors with one class each."""
    data = data_of(job)
    task = TASKS[data.dataset.task](data.dataset.num_classes)
    assert isinstance(task, ElementTask)
    model = build_model(
        job.config["model"],
        task,
        job.link,
        tuple(data.train.features.shape[1:]),
        data.class_counts,
        seed_integer(job.study_seed, "weights", job.run_seed),
        data.train.features,
    )
    precision = data.train.features.dtype
    loss = loss_of(job, task, data)
    model = model.to(job.device, precision)
    return ElementParts(data, model, loss, job.config["training"], task)


def logits_and_targets(
    model: nn.Module, examples: Examples, task: ElementTask, link: Link
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


def scores(data: RunData, job: Job, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """The job's metrics of logits (N,) or (N, K), decided at 0.5 or argmax."""
    return evaluate(
        targets,
        probabilities(logits, job.link),
        default_decision().decide(logits),
        class_names=data.dataset.class_names,
        train_class_counts=data.class_counts,
        names=job.metrics,
    )
