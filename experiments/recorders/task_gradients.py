"""How a detector's two losses share the gradient of what they share: recorder `task_gradients`."""

import torch

from losslab.errors import BadInput
from losslab.experiments.detection.balance import gradients
from losslab.experiments.detection.parts import DetectorParts
from losslab.experiments.states import Job
from losslab.experiments.training import Parts, batches

# Batches of training images that are looked at, the same after every epoch.
BATCHES = 4


class TaskGradients:
    """Norms of the class loss's and the box loss's gradient, each as weighted in training.

    Means over the first four batches of the first epoch: `boxes_share`, the box loss's norm over
    the sum of both, in all that both subnets share (backbone and pyramid; in two stages the second
    one's trunk too), and `boxes_share_last`, the same in the last layer that they share, which
    GradNorm looks at; `cosine` of the angle between both gradients, in all that is shared; the
    factors `classes_weight` and `boxes_weight` that the balance puts on the losses, a fixed
    `detector.box_weight` being part of the loss; and the losses without them, `classes_loss` and
    `boxes_loss`. Batches in which one of them has no gradient are left out, and without any other
    only losses and weights are told.

    Raises `BadInput` where the study is not one of object detection.
    """

    def __init__(self, parts: Parts, job: Job) -> None:
        if not isinstance(parts, DetectorParts):
            raise BadInput("task_gradients: looks at the two losses of a detector")
        self.parts, self.job = parts, job

    def measure(self) -> dict[str, float]:
        """The values now."""
        parts, job = self.parts, self.job
        parts.model.train()
        parts.loss.train()
        order = batches(len(parts.data.train), parts.training["batch_size"], job, 0)[:BATCHES]
        weights = parts.loss.balance.weights.double().cpu()
        found = [self._of(batch.to(job.device), weights) for batch in order]
        names = ("boxes_share", "boxes_share_last", "cosine", "classes_loss", "boxes_loss")
        means = torch.stack(found).nanmean(0).tolist()
        means += weights.tolist()
        told = zip((*names, "classes_weight", "boxes_weight"), means, strict=True)
        return {name: value for name, value in told if value == value}

    def _of(self, batch: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Share in all and in the last shared layer, cosine, and both losses, of one batch."""
        model, terms = self.parts.model, self.parts.batch_terms(self.job, batch, 0)
        losses = (terms.classes, terms.boxes)
        every = [gradients(loss, model.shared()) for loss in losses]
        ends = {id(parameter) for parameter in model.last_shared()}
        places = [place for place, p in enumerate(model.shared()) if id(p) in ends]
        shared = [torch.cat(own).double().cpu() for own in every]
        last = [torch.cat([own[place] for place in places]).double().cpu() for own in every]
        # 0 / 0 is nan, which the mean over batches leaves out
        shares = [_share(weights, own) for own in (shared, last)]
        cosine = shared[0] @ shared[1] / (shared[0].norm() * shared[1].norm())
        return torch.stack([*shares, cosine, *(loss.detach().double().cpu() for loss in losses)])


def _share(weights: torch.Tensor, slopes: list[torch.Tensor]) -> torch.Tensor:
    norms = weights * torch.stack([each.norm() for each in slopes])
    share = norms[1] / norms.sum()
    return torch.where((norms > 0).all(), share, torch.nan)
