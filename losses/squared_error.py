"""Squared error of probabilities."""

import torch
from torch import Tensor

from losslab.losses.base import Loss
from losslab.losses.identity import Identity


class SquaredError(Loss):
    """Squared error of the probabilities (Brier score), L = (1 - p_t)^2 of a binary output.

    Sigmoid: p_t of every binary output; soft targets mix both losses, which is (p - y)^2 and a
    constant y (1 - y). Softmax: half the sum over classes of (p_j - y_j)^2, which for two classes
    is the same; Brier's own score is the whole sum. The gradient by the logits has the factor
    p (1 - p) of the sigmoid, which cross-entropy cancels: an element that is wrong with certainty
    has nearly none. No hyper-parameters. Other arguments, shapes, errors: see `Loss`.

    >>> SquaredError()(torch.zeros(2), torch.tensor([0, 1]))
    tensor(0.2500)
    >>> SquaredError(link="softmax")(torch.zeros(1, 4), torch.tensor([3]))  # (.75^2 + 3 .25^2) / 2
    tensor(0.3750)
    """

    formula = "L = (1 - p_t)^2; softmax: sum_j (p_j - y_j)^2 / 2"
    citation = (
        "Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather "
        "Review 78(1), 1950"
    )
    soft_targets = "mixture"
    second_order = True
    identities = (Identity("two-class softmax is sigmoid", {}, "squared_error", two_class=True),)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The squared error per element."""
        if self.link == "sigmoid":
            # 1 - p as sigmoid(-x): p itself rounds to 1.
            on, off = torch.sigmoid(-logits), torch.sigmoid(logits)
            return targets * on.square() + (1 - targets) * off.square()
        classes = torch.arange(logits.shape[1], device=logits.device)
        classes = classes.view(-1, *[1] * (logits.ndim - 2))
        others = torch.where(classes == targets.unsqueeze(1), 0, logits.softmax(1))
        return (others.sum(1).square() + others.square().sum(1)) / 2
