"""Tasks: how model outputs become the loss's logits and the metrics' scores."""

from losslab.experiments.tasks.base import ElementTask, Task
from losslab.experiments.tasks.classification import Classification
from losslab.experiments.tasks.dense import Dense
from losslab.experiments.tasks.detection import Detection

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "dense": Dense,
    "detection": Detection,
}

__all__ = ["TASKS", "Classification", "Dense", "Detection", "ElementTask", "Task"]
