"""Seesaw loss: rare classes are spared the gradients of frequent ones, except where they err."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.closed_form import softmax_focal
from losslab.losses.identity import Identity

SMALLEST_SCORE = 1e-2  # of the target class in the compensation factor, as in the authors' code


class Seesaw(Loss):
    """Seesaw loss, cross-entropy in which S_tj scales the other classes (Wang et al. 2021).

    L = -log[e^{z_t} / (e^{z_t} + sum_{j != t} S_tj e^{z_j})], S = M C: mitigation
    M_tj = min(1, N_j / N_t)^p, with N_j the number of targets of class j seen in training
    so far, this batch included, at least 1; compensation C_tj = max(1, P_j / P_t)^q, with
    P the softmax of z, P_t at least 0.01 (authors' code), through which no gradient passes.

    N starts at 0 as in the authors' code, not at `class_counts`, which only tell the number of
    classes; without them `BadInput` is raised. It is the buffer `seen`, int64 (C,), part of the
    state dict; evaluation mode leaves it alone. Scores are the plain softmax of z. The objectness
    branch and the normalised linear layer of the paper belong to a model, not to the loss. Other
    arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> loss = Seesaw(p=1, class_counts=[1, 1], reduction="none")
    >>> loss(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])).exp()  # N = 3, 1: 1 + 1/3, 1 + 1
    tensor([1.3333, 1.3333, 1.3333, 2.0000])
    """

    links = ("softmax",)
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "p": Hyperparameter(
            0.8,
            low=0.0,
            high=1.5,
            meaning="mitigation: how far classes rarer than the target are spared; 0 is none",
            paper="Wang et al. 2021, section 4.1",
            minimum=0.0,
        ),
        "q": Hyperparameter(
            2.0,
            low=0.0,
            high=4.0,
            meaning="compensation: extra penalty of classes scored above the target; 0 is none",
            paper="Wang et al. 2021, section 4.1",
            minimum=0.0,
        ),
    }
    formula = (
        "L = -log(e^z_t / (e^z_t + sum_{j != t} S_tj e^z_j)),  "
        "S_tj = min(1, N_j/N_t)^p max(1, P_j/P_t)^q"
    )
    citation = (
        "Wang, Zhang, Zang, Cao, Pang, Gong, Chen, Liu, Loy, Lin, Seesaw Loss for Long-Tailed "
        "Instance Segmentation, CVPR 2021, section 3.2"
    )
    soft_targets = "hard"
    second_order = True
    identities = (Identity("p 0, q 0 is cross-entropy", {"p": 0, "q": 0}, "ce"),)
    p: Tensor
    q: Tensor
    seen: Tensor

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        assert self.class_counts is not None
        self.register_buffer("seen", torch.zeros_like(self.class_counts))

    @classmethod
    def needs_class_counts(cls, link: str, values: dict[str, float]) -> bool:
        """True: they tell the number of classes.

        >>> Seesaw.needs_class_counts("softmax", {})
        True
        """
        return True

    def observe(self, logits: Tensor, targets: Tensor, kept: Tensor) -> None:
        """Count the targets."""
        found = torch.zeros_like(self.seen)
        self.seen.add_(found.scatter_add(0, targets.flatten(), kept.to(torch.int64).flatten()))

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of z_j + log S_tj."""
        largest = torch.finfo(logits.dtype).max
        z = logits.clamp(-largest, largest)
        return softmax_focal(z + self._log_scale(z.detach(), targets), targets)

    def _log_scale(self, logits: Tensor, targets: Tensor) -> Tensor:
        """log S, of the shape of the logits; 0 at the target."""
        log_seen = self.seen.clamp(min=1).to(torch.float64).log().to(logits.dtype)
        # Not log_seen[t] out of a C x C table: one value per logit is all there is.
        rarer = log_seen.reshape(-1, *[1] * (logits.ndim - 2)) - log_seen[targets].unsqueeze(1)
        log_score = torch.log_softmax(logits, dim=1)
        own = log_score.gather(1, targets.unsqueeze(1)).clamp(min=math.log(SMALLEST_SCORE))
        p, q = self.p.to(logits.dtype), self.q.to(logits.dtype)
        return p * rarer.clamp(max=0) + q * (log_score - own).clamp(min=0)
