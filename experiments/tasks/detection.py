"""Object detection: boxes with classes in images, background being none of the classes."""

from losslab.experiments.tasks.base import Link, Task


class Detection(Task):
    """A detector gives every anchor a logit for each of K classes, and four numbers for its box.

    The class loss is one of K sigmoids, as in RetinaNet. What it is divided by is a setting of the
    detector (`detector.normalizer`), and not of the loss: `experiments.detection.loss`.
    """

    kind = "detection"
    default_reduction = "sum"
    ignore_index = -100
    primary = "ap"
    measures = frozenset({"detection"})
    prepares = "losslab.experiments.detection.parts:prepare_detector"
    judges = "losslab.experiments.detection.judging:judge_detector"
    alone = "a detector keeps a core busy by itself"

    @property
    def default_link(self) -> Link:
        """Sigmoid, however many classes there are."""
        return "sigmoid"

    def outputs(self, link: Link) -> int:
        """One logit a class."""
        return self.num_classes
