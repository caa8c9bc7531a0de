"""What every task answers: links, output sizes, logits and targets for losses and metrics."""

import sys
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from losslab.losses import LOSSES
from losslab.registry import Registry

#: What turns outputs into probabilities; "identity" where there are none.
Link = Literal["sigmoid", "softmax", "identity"]


class WithAuxiliary(NamedTuple):
    """What a model with an auxiliary head gives in training; in evaluation it gives `main` alone.

    The training loss is that of `main` plus `weight` times that of `auxiliary` (deep supervision:
    Lee et al., AISTATS 2015; Zhao et al., CVPR 2017, section 3.3). Both have the same layout.
    """

    main: Tensor
    auxiliary: Tensor
    weight: float


class Task:
    """One kind of problem with a number of classes (background included, but in detection).

    `default_link` is the link of arms that name none, `default_reduction` the reduction of losses
    that name none, and `ignore_index` the target of elements that do not count. `primary` is the
    metric that decides where a study names none, `measures` the kinds of metrics that have a
    meaning here, `losses` the registry of its losses and `plain_loss` that of the standing
    baseline.

    `most_stored`: of how many elements of a split a confirmation run keeps the outputs, at most.

    `prepares` and `judges` are the places (module:function) of what makes a job's
    `training.Parts`, and of what makes its `confirmation.Verdict`; a new kind of task brings its
    own and leaves the runner alone. `alone` says why its trainings are never stacked, if so.
    """

    kind: ClassVar[str]
    default_reduction: ClassVar[str]
    ignore_index: ClassVar[int] = -1
    primary: ClassVar[str] = "average_precision"
    measures: ClassVar[frozenset[str]] = frozenset({"ranking", "probability", "decision"})
    plain_loss: ClassVar[str] = "ce"
    losses: ClassVar[Registry] = LOSSES
    prepares: ClassVar[str] = "losslab.experiments.elements:prepare_elements"
    judges: ClassVar[str] = "losslab.experiments.confirmation:judge_elements"
    alone: ClassVar[str] = ""
    most_stored: ClassVar[int] = sys.maxsize

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    @property
    def default_link(self) -> Link:
        """Sigmoid for two classes, softmax for more."""
        return "sigmoid" if self.num_classes == 2 else "softmax"

    def outputs(self, link: Link) -> int:
        """How many numbers the model gives per element: one for two classes under sigmoid."""
        return 1 if link == "sigmoid" and self.num_classes == 2 else self.num_classes


class ElementTask(Task, ABC):
    """A task whose model gives numbers for every example or anchor, each of one class."""

    @abstractmethod
    def logits(self, outputs: Tensor, link: Link) -> Tensor:
        """Model outputs (..., outputs) in the layout that losses take."""

    @abstractmethod
    def loss_targets(self, targets: Tensor, link: Link) -> Tensor:
        """Integer targets as losses take them: floats under sigmoid, indices under softmax."""

    @abstractmethod
    def rows(self, logits: Tensor, targets: Tensor, link: Link) -> tuple[np.ndarray, np.ndarray]:
        """The counted elements as float64 logits (N,) or (N, K) and int64 targets (N,).

        (N,) for one output per element, where the sign decides.
        """


def probabilities(logits: np.ndarray, link: Link) -> np.ndarray:
    """Class probabilities of logits (N,) or (N, K), in float64.

    Under sigmoid, one output gives the probability of class 1; K outputs (one against the rest)
    are divided by their sum, so that every metric reads one and the same set of scores.

    >>> probabilities(np.array([0.0]), "sigmoid")
    array([0.5])
    """
    values = torch.from_numpy(np.asarray(logits, dtype=np.float64))
    if link == "softmax":
        return torch.softmax(values, dim=1).numpy()
    if values.ndim == 1:
        return torch.sigmoid(values).numpy()
    # In log space: at strongly negative logits all sigmoids underflow, but their ratios do not.
    return torch.softmax(torch.nn.functional.logsigmoid(values), dim=1).numpy()
