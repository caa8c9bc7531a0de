"""A look at every arm before the first trial: does its model take the data, does its loss train?"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from losslab.errors import BadInput
from losslab.experiments.arms import Arm
from losslab.experiments.config import Study
from losslab.experiments.context import metric_names
from losslab.experiments.data import run_data
from losslab.experiments.elements import ElementParts
from losslab.experiments.plans import Plan
from losslab.experiments.stacking import plan_of
from losslab.experiments.states import Job
from losslab.experiments.tasks.base import WithAuxiliary
from losslab.experiments.training import Parts, advance, prepare, start
from losslab.randomness import seed_integer


def preflight(study: Study, device: str) -> None:
    """Put one batch through every arm at its defaults, forwards and backwards.

    Raises `BadInput` with every arm's problem: a split that cannot be drawn, a model that does not
    fit the data, a loss that refuses the logits' or targets' shape, a gradient that is missing.
    """
    problems: dict[str, list[str]] = {}
    for arm in study.arms.values():
        for line in _problems(first_job(study, arm, device)):
            problems.setdefault(line, []).append(arm.name)
    if problems:
        raise BadInput(
            [
                line if len(arms) == len(study.arms) else f"arms.{arm}.{line}"
                for line, arms in problems.items()
                for arm in (arms[:1] if len(arms) == len(study.arms) else arms)
            ]
        )


def _problems(job: Job) -> list[str]:
    try:
        run_data(job.config["dataset"], job.study_seed, job.run_seed, job.device)
    except BadInput as error:
        return [f"dataset.{line}" for line in error.problems]
    try:
        parts = prepare(job)
    except BadInput as error:
        own = ("loss:",)
        return [line if line.startswith(own) else f"model.{line}" for line in error.problems]
    except Exception as error:
        return [f"model: cannot be built: {_short(error)}"]
    return _model_or_loss_problems(parts, job) or _metric_problems(parts, job)


def _model_or_loss_problems(parts: Parts, job: Job) -> list[str]:
    if isinstance(parts, ElementParts):
        return _element_problems(parts, job)
    try:
        parts.batch_loss(job, torch.arange(min(2, len(parts.data.train))), 0).backward()
    except BadInput as error:
        return [f"loss: {line}" for line in error.problems]
    except Exception as error:
        return [f"loss: fails on two training examples: {_short(error)}"]
    return []


def _element_problems(parts: ElementParts, job: Job) -> list[str]:
    size = min(job.config["training"]["batch_size"], len(parts.data.train), 8)
    features, targets = parts.data.train.features[:size], parts.data.train.targets[:size]
    try:
        outputs = parts.model(features)
        outputs = outputs.main if isinstance(outputs, WithAuxiliary) else outputs
        logits = parts.task.logits(outputs, job.link)
    except BadInput as error:
        return [f"model.{line}" for line in error.problems]
    except Exception as error:
        return [f"model: fails on examples of shape {tuple(features.shape[1:])}: {_short(error)}"]
    if not logits.requires_grad:
        return ["model: its output does not depend on trainable parameters"]
    if wrong := _unsuitable(parts.loss, job.link):
        return [f"loss.name: {wrong}"]
    wanted = parts.task.loss_targets(targets, job.link)
    try:
        loss = parts.loss(logits, wanted)
    except BadInput as error:
        return [f"loss: {line}" for line in error.problems]
    except Exception as error:
        other = "softmax" if job.link == "sigmoid" else "sigmoid"
        return [
            f"loss: fails on logits of shape {tuple(logits.shape)} and {wanted.dtype} targets of "
            f"shape {tuple(wanted.shape)}, as link: {job.link} gives them (write link: {other}, "
            f"or take another loss): {_short(error)}"
        ]
    if loss.ndim != 0:
        shape = tuple(loss.shape)
        return [f"loss: must give one number, gave a tensor of shape {shape}; set its reduction"]
    if not loss.requires_grad:
        return ["loss: its value does not depend on the logits"]
    try:
        loss.backward()
    except Exception as error:
        return [f"loss: its gradient cannot be computed: {_short(error)}"]
    return []


def _unsuitable(loss: nn.Module, link: str) -> str:
    """What is wrong with a well-known loss that would take the logits and learn nonsense."""
    module = getattr(loss, "module", None)
    if isinstance(module, nn.BCELoss):
        return "BCELoss takes probabilities; use torch.nn:BCEWithLogitsLoss, which takes logits"
    if isinstance(module, nn.NLLLoss):
        return "NLLLoss takes log-probabilities; use ce, or torch.nn:CrossEntropyLoss"
    if isinstance(module, nn.CrossEntropyLoss) and link == "sigmoid":
        return "CrossEntropyLoss compares classes: it needs link: softmax"
    return ""


def _metric_problems(parts: Parts, job: Job) -> list[str]:
    """A metric given by path may refuse what it gets, and one may have no value on this data."""
    try:
        values = parts.validate(job)
    except BadInput as error:
        return [f"metrics: {line}" for line in error.problems]
    except ValueError as error:
        return [f"model: its outputs cannot be judged: {_short(error)}"]
    primary = job.metrics[0]
    value = values.get(primary, math.nan)
    if not math.isfinite(value):
        return [f"metrics.primary: {primary} is {value} on this validation split; take another"]
    return []


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def plan_study(study: Study, device: str) -> dict[str, Plan]:
    """How every arm's trainings will run; `BadInput` if memory is too little for what is asked."""
    return {
        name: plan_of(first_job(study, arm, device), study.engine, study.memory)
        for name, arm in study.arms.items()
    }


@dataclass(frozen=True)
class Estimate:
    """What a study will take, from one timed epoch of every arm."""

    trainings: int
    searches: int
    confirmations: int
    seconds: float
    megabytes: float
    plans: Mapping[str, Plan]


def estimate(study: Study, device: str, workers: int) -> Estimate:
    """Time one epoch of every arm and scale it up; pruning makes the real study shorter."""
    runs = study.search.repeats * study.confirm.seeds * (2 if study.confirm.defaults else 1)
    confirmations = runs * len(study.arms)
    seconds = megabytes = 0.0
    searches = 0
    for arm in study.arms.values():
        job = first_job(study, arm, device)
        state = start(job)
        began = time.perf_counter()
        state = advance(state, 1)
        each = (time.perf_counter() - began) * arm.config["training"]["epochs"]
        searches += study.search.repeats * arm.tuning
        count = study.search.repeats * arm.tuning + runs
        data = run_data(job.config["dataset"], study.seed, job.run_seed, device)
        stored = min(data.validation.targets.numel(), study.task.most_stored)
        outputs = (stored * 2) * 16
        weights = sum(tensor.numel() * tensor.element_size() for tensor in state.model.values())
        seconds += each * count
        megabytes += runs * (outputs + weights) / 1e6 + count * 0.02
    return Estimate(
        searches + confirmations,
        searches,
        confirmations,
        seconds / max(workers, 1),
        megabytes,
        plan_study(study, device),
    )


def first_job(study: Study, arm: Arm, device: str) -> Job:
    """Trial 0 of an arm: its defaults on the first search seed."""
    return Job(
        config=arm.configure(arm.defaults),
        study_seed=study.seed,
        run_seed=seed_integer(study.seed, "search", 0),
        metrics=metric_names(study),
        maximize=study.direction == "maximize",
        device=device,
    )
