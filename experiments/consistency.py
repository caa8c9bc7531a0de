"""Checks of a study that need more than one of its sections."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from losslab.errors import BadInput, LosslabError
from losslab.experiments.decisions import check_decision_metric
from losslab.experiments.folder import slug
from losslab.experiments.metrics import METRICS, direction_of, metric
from losslab.experiments.schema import Metrics, StudyFile
from losslab.experiments.spaces import Choices
from losslab.experiments.tasks import TASKS
from losslab.registry import nearest

if TYPE_CHECKING:
    from losslab.experiments.arms import Arm

# What else stands in the home folder.
TAKEN = ("artifacts", "mlflow.db")


def check_names(study: str, file: StudyFile, problems: list[str]) -> None:
    """The names of study and arms, which become folders, columns and run names."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", study) or study in TAKEN:
        problems.append(
            f"study: {study!r} cannot name a folder among the results; write a `study:` of "
            f"letters, digits, '_', '.' and '-'"
        )
    folders: dict[str, str] = {}
    for name in file.arms:
        if not name.strip() or not name.isprintable() or len(name) > 100:
            problems.append(
                f"arms.{name[:100]!r}: a name is 1 to 100 printable characters, not all blank"
            )
        if re.search(r"/repeat-\d+$", name):
            problems.append(f"arms.{name}: repeats of a search are called so; give another name")
        alike = folders.setdefault(slug(name).casefold(), name)
        if alike != name:
            problems.append(
                f"arms.{name}: {alike!r} is an arm too; names must differ in more than case"
            )


def check_contrasts(file: StudyFile, problems: list[str]) -> None:
    """A contrast names two different arms of the file."""
    for number, contrast in enumerate(file.contrasts):
        where = f"contrasts.{number}"
        for side in ("better", "than"):
            arm = getattr(contrast, side)
            if arm not in file.arms:
                hint = nearest(arm, file.arms) or f" (arms: {', '.join(file.arms)})"
                problems.append(f"{where}.{side}: no arm is called {arm!r}{hint}")
        if contrast.better == contrast.than:
            problems.append(f"{where}: compares {contrast.than!r} with itself")


def check_rungs(file: StudyFile, arms: Mapping[str, "Arm"], problems: list[str]) -> None:
    """Rungs ascend and lie before the last epoch of every arm."""
    rungs = file.search.rungs
    if rungs is not None and (rungs != sorted(set(rungs)) or any(rung < 1 for rung in rungs)):
        problems.append(f"search.rungs: must be ascending epochs from 1 on, got {rungs}")
    epochs = [arm.config["training"].get("epochs") for arm in arms.values()]
    epochs = [number for number in epochs if isinstance(number, int)]
    if rungs and epochs and rungs[-1] >= min(epochs):
        problems.append(
            f"search.rungs: must all lie before the last epoch ({min(epochs)}), got {rungs}"
        )


def check_sampler(file: StudyFile, arms: Mapping[str, "Arm"], problems: list[str]) -> None:
    """CMA-ES moves several numbers together; with less it would quietly draw at random."""
    if file.search.sampler != "cma-es":
        return
    for arm in arms.values():
        choices = [path for path, space in arm.spaces.items() if isinstance(space, Choices)]
        if choices or len(arm.spaces) == 1:
            what = f"choices ({', '.join(choices)})" if choices else "a single number"
            problems.append(
                f"search.sampler: cma-es searches two or more ranges, and arm {arm.name!r} has "
                f"{what}; use tpe"
            )


def metrics_for(file: StudyFile, arms: Mapping[str, "Arm"]) -> Metrics:
    """The metrics of a study whose arms are known: some tasks have metrics of their own.

    Raises `BadInput` where arms differ in that, or where a metric measures something else.
    """
    tasks = {arm.task: TASKS[arm.task] for arm in arms.values()}
    if len({task.measures for task in tasks.values()}) > 1:
        raise BadInput(f"arms: their tasks differ ({', '.join(tasks)}); nothing measures them all")
    task = next(iter(tasks.values()))
    metrics = file.metrics
    if "primary" not in metrics.model_fields_set:
        metrics = metrics.model_copy(update={"primary": task.primary})
    for where, names in (("primary", [metrics.primary]), ("extra", metrics.extra)):
        for name in names:
            if metric(name).kind not in task.measures:
                known = ", ".join(n for n in METRICS.names() if metric(n).kind in task.measures)
                raise BadInput(
                    f"metrics.{where}: {name} has no meaning where the task is {task.kind}; known "
                    f"there: {known}"
                )
    return metrics


def direction_told(file: StudyFile, problems: list[str]) -> str:
    """Whether more of the primary metric is better; all metrics' names are checked on the way."""
    metrics = file.metrics
    for name in metrics.extra:
        try:
            metric(name)
        except LosslabError as error:
            problems.append(f"metrics.extra: {error}")
    try:
        check_decision_metric(metrics.decision)
    except LosslabError as error:
        problems.append(f"metrics.decision: {error}")
    try:
        known = direction_of(metrics.primary)
    except LosslabError as error:
        problems.append(f"metrics.primary: {error}")
        return "maximize"
    if mean := {"recall": "balanced_accuracy", "iou": "miou"}.get(metrics.primary):
        name = metrics.primary
        problems.append(
            f"metrics.primary: {name} is one number a class; name one, as in {name}/1, or use "
            f"{mean}, their mean"
        )
    if known is None and metrics.direction is None:
        problems.append(
            f"metrics.direction: say maximize or minimize for the metric {metrics.primary!r}"
        )
    return metrics.direction or known or "maximize"
