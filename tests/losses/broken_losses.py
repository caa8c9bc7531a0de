"""Losses that are broken on purpose, one rule each, and good ones that stand beside them.

`test_conformance.py` imports this file by path, as a user's own module would be.
"""

import torch
from torch import nn
from torch.nn import functional as F

from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.identity import Identity

GAMMA = Hyperparameter(2.0, low=0.0, high=5.0, meaning="focusing", minimum=0.0)


class Good(Loss):
    """The focal loss in log space, by a stranger who read the documentation."""

    links = ("sigmoid",)
    hyperparameters = {"gamma": GAMMA}  # noqa: RUF012
    identities = (Identity("gamma 0 is cross-entropy", {"gamma": 0}, "ce"),)
    second_order = True

    def elementwise(self, logits, targets):
        gamma = self.gamma.to(logits.dtype)
        on, off = F.logsigmoid(logits), F.logsigmoid(-logits)
        return -(targets * (gamma * off).exp() * on + (1 - targets) * (gamma * on).exp() * off)


class _Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, gamma):
        ctx.save_for_backward(u, gamma)
        return -(gamma * F.logsigmoid(-u)).exp() * F.logsigmoid(u)

    @staticmethod
    def backward(ctx, upstream):
        u, gamma = ctx.saved_tensors  # the factor's own derivative is forgotten
        return -upstream * (gamma * F.logsigmoid(-u)).exp() * torch.sigmoid(-u), None


class WrongGradient(Good):
    def elementwise(self, logits, targets):
        return _Wrong.apply(logits * (2 * targets - 1), self.gamma.to(logits.dtype))


class NaNForSmallGamma(Good):
    """The usual formula: (1 - p)^gamma has no slope at p = 1 for gamma below 1."""

    def elementwise(self, logits, targets):
        p = torch.sigmoid(logits)
        p_t = p * targets + (1 - p) * (1 - targets)
        ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (1 - p_t) ** self.gamma.to(logits.dtype) * ce


class NaNAtOneHalf(Good):
    def elementwise(self, logits, targets):
        values = super().elementwise(logits, targets)
        return torch.where(self.gamma == 0.5, torch.nan, 1) * values


class Inert(Good):
    hyperparameters = {  # noqa: RUF012
        "gamma": GAMMA,
        "delta": Hyperparameter(1.0, low=0.0, high=2.0, meaning="nothing at all"),
    }


class InertWhereDeclared(Good):
    """Delta matters above 3, and is declared to be searched below 2."""

    hyperparameters = {  # noqa: RUF012
        "gamma": GAMMA,
        "delta": Hyperparameter(1.0, low=0.0, high=2.0, meaning="a floor that is never reached"),
    }

    def elementwise(self, logits, targets):
        return super().elementwise(logits, targets) + (self.delta - 3).clamp(min=0)


class WrongMean(Good):
    """Ignored elements stay in the denominator."""

    def forward(self, logits, targets):
        if self.reduction != "mean":
            return super().forward(logits, targets)
        self.reduction = "sum"
        total = super().forward(logits, targets)
        self.reduction = "mean"
        return total / max(1, targets.numel())


class MeanOverAllButOne(Good):
    def forward(self, logits, targets):
        value = super().forward(logits, targets)
        return value * targets.numel() / (targets.numel() - 1) if value.ndim == 0 else value


class ModuleWithAWrongMean(nn.Module):
    """No loss of our kind: a reduction that divides by N - 1."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, logits, targets):
        values = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if self.reduction == "mean":
            return values.sum() / (values.numel() - 1)
        return values if self.reduction == "none" else values.sum()


class MeanWithoutAName(nn.Module):
    """Divides by N - 1, and has no other reduction to compare with."""

    def forward(self, logits, targets):
        values = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return values.sum() / (values.numel() - 1)


class GoodModule(nn.Module):
    """A good loss that knows nothing of losslab."""

    def __init__(self, gamma: float = 2.0, reduction: str = "mean"):
        super().__init__()
        self.gamma, self.reduction = gamma, reduction

    def forward(self, logits, targets):
        u = logits * (2 * targets - 1)
        values = -(self.gamma * F.logsigmoid(-u)).exp() * F.logsigmoid(u)
        return {"none": values, "mean": values.mean(), "sum": values.sum()}[self.reduction]


class InertModule(GoodModule):
    def __init__(self, gamma: float = 2.0, alpha: float = 0.25, reduction: str = "mean"):
        super().__init__(gamma, reduction)


class StateInAnAttribute(Good):
    """A running mean that no checkpoint sees, and that holds the graph of every batch."""

    def elementwise(self, logits, targets):
        values = super().elementwise(logits, targets)
        self.running = 0.9 * getattr(self, "running", 1.0) + 0.1 * values.mean()
        return values / self.running


class StateInAFloat(Good):
    def elementwise(self, logits, targets):
        values = super().elementwise(logits, targets)
        self.running = 0.9 * getattr(self, "running", 1.0) + 0.1 * values.mean().item()
        return values / self.running


class StateInTheClass(Good):
    seen = [0]  # noqa: RUF012

    def elementwise(self, logits, targets):
        self.seen[0] += 1
        return super().elementwise(logits, targets) * (1 + 1 / self.seen[0])


class _Running(Good):
    persistent = True
    shape = (1,)
    identities = ()

    def __init__(self, **arguments):
        super().__init__(**arguments)
        running = torch.ones(self.shape, dtype=torch.float64)
        self.register_buffer("running", running, persistent=self.persistent)

    def batch_weights(self, logits, targets, kept):
        return (1 / self.running.sum()).expand(targets.shape)


class GoodState(_Running):
    """A running scale, kept as it should be."""

    def observe(self, logits, targets, kept):
        count = kept.sum().clamp(min=1)
        self.running.mul_(0.9).add_(0.1 * torch.where(kept, logits.abs(), 0).sum() / count)


class ScalarState(GoodState):
    """torch.compile (2.13) drops in-place changes of 0-dimensional float64 tensors, silently."""

    shape = ()


class StateOutsideTheStateDict(GoodState):
    persistent = False


class StateLearnsFromValidation(_Running):
    def elementwise(self, logits, targets):
        with torch.no_grad():
            self.running.mul_(0.9).add_(0.1 * logits.abs().mean())
        return super().elementwise(logits, targets)


class StateAssigned(_Running):
    """Lost under vmap: the stack of states is never written."""

    def observe(self, logits, targets, kept):
        self.running = 0.9 * self.running + 0.1 * logits.abs().mean()


class GradientThroughTheState(_Running):
    def elementwise(self, logits, targets):
        self.running = 0.9 * self.running + 0.1 * logits.abs().mean()
        return super().elementwise(logits, targets)


class GradientThroughWeights(Good):
    """Not broken: weights without detach are part of the loss, and the gradient is right."""

    identities = ()

    def elementwise(self, logits, targets):
        return super().elementwise(logits, targets) * torch.sigmoid(logits)


class LeaksGradMode(Good):
    def elementwise(self, logits, targets):
        with torch.no_grad():
            weight = torch.sigmoid(logits)
        torch.set_grad_enabled(True)
        return super().elementwise(logits, targets) * weight


class WritesOnItsLogits(nn.Module):
    def forward(self, logits, targets):
        logits.data.clamp_(-1, 1)
        return F.binary_cross_entropy_with_logits(logits, targets)


class CountsByPosition(Good):
    def elementwise(self, logits, targets):
        position = torch.arange(len(logits)).reshape(-1, *[1] * (logits.ndim - 1))
        return super().elementwise(logits, targets) * (1 + position)


class ClaimsAMixture(Good):
    """torchvision's form: (1 - p_t)^gamma of the mixed p_t."""

    soft_targets = "mixture"

    def elementwise(self, logits, targets):
        p = torch.sigmoid(logits)
        log_rest = torch.log(p * (1 - targets) + (1 - p) * targets + 1e-30)
        ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (self.gamma.to(logits.dtype) * log_rest).exp() * ce


class BranchesOnAValue(Good):
    def elementwise(self, logits, targets):
        if self.gamma == 2:
            return super().elementwise(logits, targets)
        return super().elementwise(logits, targets) + 0.0


class FalseIdentity(Good):
    identities = (Identity("gamma 1 is cross-entropy", {"gamma": 1}, "ce"),)


class _ScalesInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        ctx.slope = -torch.sigmoid(-u)
        return -F.logsigmoid(u)

    @staticmethod
    def backward(ctx, upstream):
        return ctx.slope.mul_(upstream)


class ScalesItsSavedGradient(nn.Module):
    def forward(self, logits, targets):
        return _ScalesInPlace.apply(logits * (2 * targets - 1)).mean()


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(-torch.sigmoid(-u))
        return -F.logsigmoid(u)

    @staticmethod
    def backward(ctx, upstream):
        (slope,) = ctx.saved_tensors
        return upstream * slope


class WrongSecondOrder(Good):
    """Its gradient is a constant of the forward pass, so that the Hessian misses a term."""

    def elementwise(self, logits, targets):
        sign = 2 * targets - 1
        return _Once.apply(logits * sign) * (self.gamma.to(logits.dtype) + 1)


class NaNInAModule(nn.Module):
    """The usual formula again, with a whole number for a default."""

    def __init__(self, gamma=2):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits, targets):
        ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return ((1 - torch.exp(-ce)) ** self.gamma * ce).mean()


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, upstream):
        return upstream / 2


class HalfTheGradientOfASum(GoodModule):
    def forward(self, logits, targets):
        value = super().forward(logits, targets)
        return _Halved.apply(value) if self.reduction == "sum" else value


class FlatFarOut(nn.Module):
    def forward(self, logits, targets):
        return _FlatFarOut.apply(logits, targets).mean()


class _FlatFarOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return F.softplus(x) - y * x

    @staticmethod
    def backward(ctx, upstream):
        x, y = ctx.saved_tensors
        return upstream * (torch.sigmoid(x) - y) * (x.abs() < 8), None


class Reseeds(nn.Module):
    def forward(self, logits, targets):
        torch.manual_seed(0)
        return F.binary_cross_entropy_with_logits(logits, targets)


class MixesClassesAndPositions(Loss):
    links = ("softmax",)

    def elementwise(self, logits, targets):
        rows = logits.reshape(-1, logits.shape[1])
        return F.cross_entropy(rows, targets.reshape(-1), reduction="none").view(targets.shape)


class NoGradient(nn.Module):
    def forward(self, logits, targets):
        return (logits * 0 + targets).mean()


class GoodWeights(nn.Module):
    """Class weights in a float32 buffer, and torch's own weighted mean."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, logits, targets):
        return F.cross_entropy(logits, targets, weight=self.weight, reduction=self.reduction)


class GoodRunningMean(nn.Module):
    """State that is assigned, detached, outside of no_grad."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running", torch.ones(()))

    def forward(self, logits, targets):
        values = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if self.training:
            self.running = 0.9 * self.running + 0.1 * values.mean().detach()
        return values.mean() / self.running
