"""Tasks: how model outputs become the loss's logits and the metrics' scores."""

from losslab.experiments.tasks.base import Task
from losslab.experiments.tasks.classification import Classification
from losslab.experiments.tasks.dense import Dense

TASKS: dict[str, type[Task]] = {"classification": Classification, "dense": Dense}

__all__ = ["TASKS", "Classification", "Dense", "Task"]
