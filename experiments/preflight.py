"""A look at every arm before the first trial: does its model take the data, does its loss train?"""

import time
from dataclasses import dataclass

from losslab.errors import BadInput
from losslab.experiments.config import Arm, Study
from losslab.experiments.context import metric_names
from losslab.experiments.data import run_data
from losslab.experiments.training import Job, Parts, advance, prepare, start, validate
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
    try:
        _try(parts, job)
    except BadInput as error:
        return error.problems
    except Exception as error:
        return [f"loss: one batch of logits and targets fails: {_short(error)}"]
    return []


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@dataclass(frozen=True)
class Estimate:
    """What a study will take, from one timed epoch of every arm."""

    trainings: int
    searches: int
    confirmations: int
    seconds: float
    megabytes: float


def estimate(study: Study, device: str, workers: int) -> Estimate:
    """Time one epoch of every arm and scale it up; pruning makes the real study shorter."""
    variants = 2 if study.confirm.defaults else 1
    confirmations = study.confirm.seeds * variants * len(study.arms)
    seconds = megabytes = 0.0
    searches = 0
    for arm in study.arms.values():
        job = first_job(study, arm, device)
        state = start(job)
        began = time.perf_counter()
        state = advance(state, 1)
        each = (time.perf_counter() - began) * arm.config["training"]["epochs"]
        budget = study.search.trials if arm.spaces else 1 + study.search.select.seeds
        searches += budget
        count = budget + study.confirm.seeds * variants
        data = run_data(job.config["dataset"], study.seed, job.run_seed, device)
        outputs = (data.validation.targets.numel() * 2) * 16
        weights = sum(tensor.numel() * tensor.element_size() for tensor in state.model.values())
        seconds += each * count
        megabytes += study.confirm.seeds * variants * (outputs + weights) / 1e6 + count * 0.02
    return Estimate(
        searches + confirmations, searches, confirmations, seconds / max(workers, 1), megabytes
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


def _try(parts: Parts, job: Job) -> None:
    size = min(job.config["training"]["batch_size"], len(parts.data.train), 8)
    features, targets = parts.data.train.features[:size], parts.data.train.targets[:size]
    logits = parts.task.logits(parts.model(features), job.link)
    if logits.requires_grad is False:
        raise BadInput("model: its output does not depend on trainable parameters")
    loss = parts.loss(logits, parts.task.loss_targets(targets, job.link))
    if loss.ndim != 0:
        raise BadInput(f"loss: must give one number, gave a tensor of shape {tuple(loss.shape)}")
    if not loss.requires_grad:
        raise BadInput("loss: its value does not depend on the logits")
    loss.backward()
    validate(parts, job)  # a metric given by path may refuse what it gets
