"""The gradient of every layer's weights: recorder `gradients`."""

import math

import torch

from losslab.experiments.recorders.layers import first_batch, weights_of
from losslab.experiments.states import Job
from losslab.experiments.training import Parts


class Gradients:
    """Norm of the loss's gradient by each layer's weights, on one fixed batch, in training mode.

    The batch is the first one of the first epoch, so that what changes is the model. `01_<name>`
    is the layer nearest to the input, and `all` the norm over all of them. What is not finite is
    left out.
    """

    def __init__(self, parts: Parts, job: Job) -> None:
        self.parts, self.job = parts, job

    def measure(self) -> dict[str, float]:
        """The norms now."""
        parts = self.parts
        parts.model.train()
        parts.loss.train()
        loss = parts.batch_loss(self.job, first_batch(parts, self.job), 0)
        weights = weights_of(parts.model)
        slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        norms = {
            name: 0.0 if slope is None else slope.double().norm().item()
            for name, slope in zip(weights, slopes, strict=True)
        }
        norms["all"] = math.hypot(*norms.values())
        return {name: norm for name, norm in norms.items() if math.isfinite(norm)}
