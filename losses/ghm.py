"""The gradient harmonising mechanism: elements weighted by how rare their gradient norm is."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.arguments import check_choice, check_whole
from losslab.losses.base import Loss
from losslab.losses.closed_form import compute_dtype, focal, margin, softmax_focal
from losslab.losses.identity import Identity
from losslab.losses.smooth_l1 import MU, asl1

_CITATION = "Li, Liu, Wang, Gradient Harmonized Single-stage Detector, AAAI 2019"


def _momentum(default: float) -> Hyperparameter:
    return Hyperparameter(
        default,
        low=0.0,
        high=0.95,
        meaning="how much of the earlier batches' density is kept; 0 is this batch's alone",
        paper=f"Li et al. 2019, section EMA; {default} in their configuration",
        minimum=0.0,
        maximum=0.9999,
    )


class HarmonizedLoss(Loss):
    """Base of the losses with gradient density weights.

    The gradient norm g in [0, 1] falls into one of `bins` bins of one width (a structural option);
    with R_j elements of a batch in bin j, S_j <- momentum S_j + (1 - momentum) R_j over the
    training batches, this one included, and beta = sum(S) / (bins S_j). That is the
    paper's N / GD without a bias at the start, where S is small throughout, and without a jump
    where a batch has another number of elements. `normalize="mmdet"` puts the number of bins that
    this batch does not leave empty in the place of `bins`, as the authors' code and mmdet do;
    every other structural choice follows "paper". Unlike there, empty bins are forgotten too.

    No gradient passes through beta. Ignored elements count in no bin. In evaluation mode S stays
    as it is, a bin counts as holding at least one element, and before the first training batch
    beta is 1. S is the buffer `counts`, float64 (bins,), part of the state dict.
    """

    structural: ClassVar[tuple[str, ...]] = ("bins", "normalize")
    counts: Tensor
    momentum: Tensor

    def __init__(self, *, bins: int, normalize: str = "paper", **arguments: Any):
        super().__init__(**arguments)
        owner = type(self).__name__
        self.bins = check_whole(owner, "bins", bins)
        self.normalize = check_choice(owner, "normalize", normalize, ("paper", "mmdet"))
        self.register_buffer("counts", torch.zeros(bins, dtype=torch.float64))

    def gradient_norm(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Gradient norm of every element, in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} does not define gradient_norm")

    def observe(self, logits: Tensor, targets: Tensor, kept: Tensor) -> None:
        """Move the density towards this batch's."""
        found = self._histogram(self._bin(logits, targets), kept)
        self.counts.mul_(self.momentum).add_((1 - self.momentum) * found)

    def batch_weights(self, logits: Tensor, targets: Tensor, kept: Tensor) -> Tensor | None:
        """The beta of every element."""
        place = self._bin(logits, targets)
        number: Tensor | int = self.bins
        if self.normalize == "mmdet":
            number = (self._histogram(place, kept) > 0).sum().clamp(min=1)
        # In training an occupied bin holds at least 1 - momentum: one element of this batch.
        held = torch.maximum(self.counts, 1 - self.momentum)
        total = self.counts.sum()
        beta = torch.where(total > 0, total / (number * held), 1)
        return beta.to(compute_dtype(logits.dtype))[place]

    def _bin(self, logits: Tensor, targets: Tensor) -> Tensor:
        norm = self.gradient_norm(logits, targets)
        return (norm * self.bins).to(torch.int64).clamp(0, self.bins - 1)

    def _histogram(self, place: Tensor, kept: Tensor) -> Tensor:
        # Ignored elements go to a bin of their own, which is cut off.
        index = torch.where(kept, place, self.bins).flatten()
        one = torch.ones((), dtype=torch.int64, device=index.device).expand_as(index)
        empty = torch.zeros(self.bins + 1, dtype=torch.int64, device=index.device)
        return empty.scatter_add(0, index, one)[:-1]


class GHMC(HarmonizedLoss):
    """GHM-C: cross-entropy divided by the density of its gradient norm (Li et al. 2019).

    g = |sigmoid(x) - y| under sigmoid; under softmax, which the paper does not treat,
    g = 1 - softmax(z)_t. L = beta(g) (-log p_t); `bins` 30 and momentum 0.75 are the authors'
    configuration. Momentum has no effect on the first batch. See `HarmonizedLoss` for beta and
    for `normalize`; `mean` divides by the number of elements, as the paper does. Soft targets:
    the loss is the mixture, beta that of |sigmoid(x) - y|. Other arguments, shapes, errors: see
    `Loss`.

    >>> import torch
    >>> x, y = torch.tensor([-9.0, -9.0, -9.0, 0.0]), torch.zeros(4)
    >>> GHMC(bins=2, reduction="none")(x, y)[3] / 0.6931472  # 4 elements / (2 bins * 1 in its bin)
    tensor(2.)
    """

    upcasts = True
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {"momentum": _momentum(0.75)}
    formula = (
        "L = -beta log p_t,  beta = sum(S) / (bins S_j), j the bin of g,  "
        "S <- momentum S + (1 - momentum) counts\n"
        "g = |sigmoid(x) - y| (sigmoid) or 1 - softmax(z)_t (softmax)"
    )
    citation = _CITATION + ", sections GHM-C Loss and EMA"
    soft_targets = "beta(|sigmoid(x) - y|) times the mixture; least where sigmoid(x) = y"
    second_order = True
    identities = (Identity("one bin is cross-entropy", {"bins": 1}, "ce"),)

    def __init__(self, *, bins: int = 30, **arguments: Any):
        super().__init__(bins=bins, **arguments)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-log p_t per element; the base multiplies beta in."""
        if self.link == "sigmoid":
            return focal(logits, targets)
        return softmax_focal(logits, targets)

    def gradient_norm(self, logits: Tensor, targets: Tensor) -> Tensor:
        """|sigmoid(x) - y|, or 1 - softmax(z)_t."""
        if self.link == "softmax":
            return torch.sigmoid(-margin(logits, targets))
        return (torch.sigmoid(logits.to(targets.dtype)) - targets).abs()


class GHMR(HarmonizedLoss):
    """GHM-R: a smooth L1 regression loss divided by the density of its gradient norm.

    With d = prediction - target, ASL1 = sqrt(d^2 + mu^2) - mu and g = |d| / sqrt(d^2 + mu^2);
    L = beta(g) ASL1. Link "identity" only: predictions and targets of one shape, such as box
    offsets (N, 4); nothing is ignored. `bins` 10, momentum 0.7 and mu 0.02 are the authors'
    configuration, which also multiplies by 10. See `HarmonizedLoss` for beta and `normalize`.

    >>> import torch
    >>> GHMR(mu=0.04, bins=1)(torch.tensor([0.03]), torch.zeros(1))  # .05 - .04
    tensor(0.0100)
    """

    links = ("identity",)
    reductions = ("none", "mean", "sum", "weight_sum")
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "mu": MU,
        "momentum": _momentum(0.7),
    }
    formula = (
        "L = beta (sqrt(d^2 + mu^2) - mu),  d = prediction - target,  beta as in GHM-C at\n"
        "g = |d| / sqrt(d^2 + mu^2)"
    )
    citation = _CITATION + ", section GHM-R Loss"
    soft_targets = "any real number"
    second_order = True
    mu: Tensor

    def __init__(self, *, bins: int = 10, **arguments: Any):
        super().__init__(bins=bins, **arguments)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """sqrt(d^2 + mu^2) - mu per element; the base multiplies beta in."""
        return asl1(logits - targets, self.mu.to(logits.dtype))

    def gradient_norm(self, logits: Tensor, targets: Tensor) -> Tensor:
        """|d| / sqrt(d^2 + mu^2)."""
        d = logits - targets
        return d.abs() / torch.hypot(d, self.mu.to(d.dtype))
