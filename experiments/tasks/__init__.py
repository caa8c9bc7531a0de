"""Tasks: how model outputs become the loss's logits and the metrics' scores."""

from losslab.experiments.tasks.adversarial import Adversarial
from losslab.experiments.tasks.base import ElementTask, Task
from losslab.experiments.tasks.classification import Classification
from losslab.experiments.tasks.dense import Dense
from losslab.experiments.tasks.detection import Detection
from losslab.experiments.tasks.segmentation import Segmentation

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "dense": Dense,
    "detection": Detection,
    "adversarial": Adversarial,
    "segmentation": Segmentation,
}

__all__ = [
    "TASKS",
    "Adversarial",
    "Classification",
    "Dense",
    "Detection",
    "ElementTask",
    "Segmentation",
    "Task",
]
