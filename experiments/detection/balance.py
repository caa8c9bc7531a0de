"""How a detector weighs its two losses against each other.

A balance is a module whose `forward` takes the class loss and the box loss, (2,), each divided by
its normaliser and `detector.box_weight` in the second, and gives what is trained. What `weights`
it puts on them may be learnt: its parameters stand in the optimiser beside the model's, and its
buffers, like all of a loss, in the state of the training.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from losslab.registry import Registry

BALANCES = Registry(
    "balance",
    "losslab.balances",
    {
        "fixed": (
            "Both losses as they are; detector.box_weight weighs them.",
            "losslab.experiments.detection.balance:Fixed",
        ),
        "uncertainty": (
            "Weights learnt as variances of the tasks (Kendall et al. 2018).",
            "losslab.experiments.detection.balance:Uncertainty",
        ),
        "gradnorm": (
            "Weights that make the tasks train at one rate (Chen et al. 2018).",
            "losslab.experiments.detection.balance:GradNorm",
        ),
    },
)


class Balance(nn.Module):
    """What every balance has."""

    @property
    def weights(self) -> Tensor:
        """The factors (2,) of class loss and box loss in what is trained, without graph."""
        raise NotImplementedError

    def adapt(self, losses: Tensor, shared: Sequence[Tensor]) -> None:
        """Learn of the `losses` (2,) of a training step, whose graph is kept.

        `shared`: the weights of the last layer that both tasks share.
        """


class Fixed(Balance):
    """The sum of both losses.

    >>> Fixed()(torch.tensor([2.0, 3.0]))
    tensor(5.)
    """

    @property
    def weights(self) -> Tensor:
        """One and one."""
        return torch.ones(2)

    def forward(self, losses: Tensor) -> Tensor:
        """The sum."""
        return losses[0] + losses[1]


class Uncertainty(Balance):
    """Each task has a variance that is learnt (Kendall, Gal, Cipolla, CVPR 2018, eq. 10).

    exp(-s) L + s / 2 for the class loss and exp(-s) L / 2 + s / 2 for the box loss, s being the
    logarithm of the variance, which starts at 0. Held against a loss that stands still, s comes to
    where the weighted loss is 1/2, whatever the loss's scale.

    `rate`: s learns so many times as fast as the model (exactly so under Adam, whose steps know no
    scale; its square under SGD). The paper has 1, and longer trainings than ours.

    >>> Uncertainty()(torch.tensor([2.0, 3.0]))
    tensor(3.5000, grad_fn=<SumBackward0>)
    """

    def __init__(self, rate: Annotated[float, Field(gt=0)] = 1.0):
        super().__init__()
        self.rate = rate
        self.parameter = nn.Parameter(torch.zeros(2))

    @property
    def weights(self) -> Tensor:
        """exp(-s) of the class loss, exp(-s) / 2 of the box loss."""
        return self._factors().detach()

    def forward(self, losses: Tensor) -> Tensor:
        """The weighted losses and what keeps the variances from growing."""
        return (self._factors().to(losses) * losses + self.rate * self.parameter / 2).sum()

    def _factors(self) -> Tensor:
        half = self.parameter.new_tensor([1.0, 0.5])
        return half * torch.exp(-self.rate * self.parameter)


class GradNorm(Balance):
    """Weights that bring the tasks' gradients to norms at which they train at one rate.

    With w of sum 2 and G the norm of the gradient of w L in the last shared layer, w follows the
    gradient of |G - mean(G) r^alpha| summed over the tasks, the target held fixed, where r is the
    share L / L(0) of its first loss that a task still has, over the tasks' mean (Chen et al., ICML
    2018, eq. 1 and 2). `alpha`: how strongly a task that lags is pulled; at 0 all norms are to be
    equal. `rate`: that of w's steps, which are Adam's and so know no scale; the paper's is 0.025.

    L(0) is that of the first batch in which both tasks have a gradient; batches in which one has
    none (no object) teach nothing. Costs a second backward pass through the subnets.
    """

    factors: Tensor
    first: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor

    def __init__(
        self,
        alpha: Annotated[float, Field(ge=0)] = 1.5,
        rate: Annotated[float, Field(gt=0)] = 0.025,
    ):
        super().__init__()
        self.alpha, self.rate = alpha, rate
        for name, start in (("factors", 1.0), ("first", 0.0), ("mean", 0.0), ("square", 0.0)):
            self.register_buffer(name, torch.full((2,), start, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))

    @property
    def weights(self) -> Tensor:
        """w, of sum 2."""
        return self.factors.clone()

    def forward(self, losses: Tensor) -> Tensor:
        """The weighted losses; in training, `adapt` changes the weights for the next step."""
        # A copy: `adapt` changes the weights before the graph is gone.
        return (self.factors.to(losses, copy=True) * losses).sum()

    def adapt(self, losses: Tensor, shared: Sequence[Tensor]) -> None:
        """One step of the weights."""
        slopes = [torch.cat(gradients(loss, shared)) for loss in losses]
        norms = torch.stack([slope.norm() for slope in slopes]).double()
        found = losses.detach().double()
        if not (torch.isfinite(norms).all() and (norms > 0).all() and (found > 0).all()):
            return
        if not self.steps.item():
            self.first.copy_(found)
        left = found / self.first
        reached = self.factors * norms
        target = reached.mean() * (left / left.mean()) ** self.alpha
        self._step(torch.sign(reached - target) * norms)

    def _step(self, slope: Tensor) -> None:
        """Adam's step, no weight below a thousandth, then both to sum 2."""
        self.steps += 1
        self.mean.lerp_(slope, 0.1)
        self.square.lerp_(slope**2, 0.001)
        count = int(self.steps)
        size = (self.square / (1 - 0.999**count)).sqrt() + 1e-8
        self.factors.sub_(self.rate * self.mean / (1 - 0.9**count) / size).clamp_(min=1e-3)
        self.factors.mul_(2 / self.factors.sum())


def build_balance(config: Mapping[str, Any] | None) -> Balance:
    """The balance of `detector.balance`: its name and its options; `fixed` without one."""
    if not config:
        return Fixed()
    options = {key: value for key, value in config.items() if key != "name"}
    made: Balance = BALANCES.create(config["name"], **options)
    return made


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of a loss in each of `parameters`, flattened; the graph is kept.

    0 where a parameter has no part in the loss.
    """
    if not loss.requires_grad:
        return [torch.zeros_like(parameter).flatten() for parameter in parameters]
    found = torch.autograd.grad(
        loss, list(parameters), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return [each.flatten() for each in found]
