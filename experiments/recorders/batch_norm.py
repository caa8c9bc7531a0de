"""How far the running statistics of batch norms have moved since before the first epoch."""

import torch
from torch import Tensor

from losslab.experiments.models.batch_norm import Statistics, running_statistics
from losslab.experiments.recorders.layers import numbered
from losslab.experiments.states import Job
from losslab.experiments.training import Parts, prepare

#: What torch's batch norms add to a variance.
EPSILON = 1e-5


class BatchNormDrift:
    """Per norm (`01_<name>` ...) and over all of them (`all`); nothing where there is none.

    A norm's drift is the root mean square of `distances` over its channels, that of all norms over
    the channels of all. Its unit are the standard deviations from before the first epoch: 1 in a
    fresh norm, whose mean is 0.
    """

    def __init__(self, parts: Parts, job: Job):
        self.now, self.before = parts.model, prepare(job).model.to(job.device)

    def measure(self) -> dict[str, float]:
        """The drift since before the first epoch."""
        return drift(running_statistics(self.now), running_statistics(self.before))


def drift(now: Statistics, before: Statistics) -> dict[str, float]:
    """Drift of running means and variances by norm, and of all; see `BatchNormDrift`."""
    squares = [distances(*now[name], *before[name]) ** 2 for name in now]
    found = dict(zip(numbered(list(now)), squares, strict=True))
    if squares:
        found["all"] = torch.cat(squares)
    return {name: float(each.mean().sqrt()) for name, each in found.items()}


def distances(mean: Tensor, variance: Tensor, old_mean: Tensor, old_variance: Tensor) -> Tensor:
    """Distance of N(mean, variance) to N(old_mean, old_variance), in old standard deviations.

    That of Wasserstein, of second order: √((μ − μ₀)² + (σ − σ₀)²) / σ₀ (Givens and Shortt,
    Michigan Math. J. 1984, proposition 7), where σ is what a norm divides by, √(variance + ε) with
    torch's ε. Shapes broadcast; float64.

    >>> one, two = torch.tensor([1.0]), torch.tensor([2.0])
    >>> distances(3 * two, 4 * two**2, 0 * one, one)
    tensor([6.7082], dtype=torch.float64)
    """
    moved = mean.double() - old_mean.double()
    scale, old = ((each.double() + EPSILON).sqrt() for each in (variance, old_variance))
    return torch.hypot(moved, scale - old) / old
