"""Cross-entropy against smoothed targets."""

from typing import ClassVar

import torch
from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.closed_form import focal, softmax_focal
from losslab.losses.identity import Identity


class LabelSmoothing(Loss):
    """Label smoothing, L = (1 - eps) (-log p_t) + eps mean_j (-log p_j) over all classes j.

    Szegedy et al. 2016, section 7. Softmax: j runs over the C classes, the target among them, so
    that the target class gets 1 - eps + eps / C. Sigmoid: over the two sides of every binary
    output, which is binary cross-entropy with y (1 - eps) + eps / 2 for y; soft targets mix both
    losses. `eps` in [0, 1]; 0 is cross-entropy.

    A class weight multiplies the whole loss of the elements whose target is that class; torch's
    `cross_entropy` weights every smoothed term by the term's own class instead, so the two agree
    only where the weights are equal. `positives` counts the targets as they come, unsmoothed. Other
    arguments, shapes, errors: see `Loss`.

    >>> LabelSmoothing(eps=0.2)(torch.tensor([5.0]), torch.ones(1))  # log(1 + e^-5) + .1 * 5
    tensor(0.5067)
    >>> z = torch.tensor([[3.0, 0.0, 0.0]])
    >>> LabelSmoothing(link="softmax", eps=0.3)(z, torch.tensor([0]))  # log(1 + 2 e^-3) + .1 * 6
    tensor(0.6949)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "eps": Hyperparameter(
            0.1,
            low=0.0,
            high=0.3,
            meaning="share of the target that is spread evenly over all classes",
            paper="Szegedy et al. 2016, section 7: 0.1",
            minimum=0.0,
            maximum=1.0,
        ),
    }
    formula = "L = (1 - eps) (-log p_t) + eps mean_j (-log p_j)"
    citation = (
        "Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, Rethinking the Inception Architecture for "
        "Computer Vision, CVPR 2016, section 7"
    )
    soft_targets = "mixture"
    second_order = True
    identities = (
        Identity("eps 0 is cross-entropy", {"eps": 0}, "ce"),
        Identity(
            "two-class softmax is sigmoid",
            {"eps": 0.2},
            "label_smoothing",
            {"eps": 0.2},
            two_class=True,
        ),
    )
    eps: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy against the smoothed targets."""
        eps = self.eps.to(logits.dtype)
        if self.link == "sigmoid":
            return focal(logits, targets * (1 - eps) + eps / 2)
        # Infinite logits as the largest number of which differences can be summed up.
        largest = torch.finfo(logits.dtype).max / 4
        z = logits.clamp(-largest, largest)
        # -log P_j = -log P_t + z_t - z_j: one logsumexp serves all classes.
        surplus = (z.gather(1, targets.unsqueeze(1)) - z) / z.shape[1]
        return softmax_focal(logits, targets) + eps * surplus.sum(1)
