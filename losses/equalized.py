"""Losses that balance the accumulated gradients of positives and negatives, column by column."""

from typing import ClassVar

import torch
from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.closed_form import focal, focal_terms
from losslab.losses.gradient_balance import GradientBalancedLoss
from losslab.losses.identity import Identity
from losslab.losses.weighting import alpha_t


class EqualizedFocal(GradientBalancedLoss):
    """Equalized focal loss: rare columns focus more (Li et al. 2022).

    L = w_j alpha_t (1 - p_t)^gamma_j (-log p_t) with gamma_j = gamma + s (1 - g_j) and
    w_j = gamma_j / gamma; g_j is the accumulated gradient of the positives of column j over that
    of its negatives, at most 1, and 1 before the first batch has been seen: then, and for s = 0,
    it is the focal loss. Alpha weights the positives, 1 - alpha the negatives, and counts in the
    gradients that make g, as in the authors' code. Soft targets mix both losses. See
    `GradientBalancedLoss` for the state; `weight_sum` divides by the sum of w_j alpha_t. Other
    arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> loss = EqualizedFocal(gamma=1, s=1, alpha=0.5, class_counts=[1, 1])
    >>> first = loss(torch.zeros(4), torch.tensor([1, 0, 0, 0]))  # leaves g = 1/3 behind
    >>> first / 0.6931472, loss(torch.zeros(1), torch.ones(1))  # 5/3 * 1/2 * 2^(-5/3) log 2
    (tensor(0.2500), tensor(0.1819))
    """

    upcasts = True
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "gamma": Hyperparameter(
            2.0,
            low=0.5,
            high=5.0,
            meaning="focusing of a balanced column",
            paper="Li et al. 2022, section 3",
            minimum=1e-3,
        ),
        "s": Hyperparameter(
            8.0,
            low=1.0,
            high=16.0,
            meaning="extra focusing of a column whose positives have no gradient",
            paper="Li et al. 2022, section 3",
            scale="log",
            minimum=0.0,
        ),
        "alpha": Hyperparameter(
            0.25,
            low=0.05,
            high=0.95,
            meaning="weight of the positives; the negatives get 1 - alpha",
            paper="Li et al. 2022, as in focal loss",
            minimum=0.0,
            maximum=1.0,
        ),
    }
    formula = (
        "L = (gamma_j / gamma) alpha_t (1 - p_t)^gamma_j (-log p_t),  "
        "gamma_j = gamma + s (1 - min(1, g_j)),  g_j = sum |dL+| / sum |dL-|"
    )
    citation = (
        "Li, Yao, Tan, Zhang, Yu, Lu, Luo, Equalized Focal Loss for Dense Long-Tailed Object "
        "Detection, CVPR 2022, section 3"
    )
    soft_targets = "mixture"
    second_order = True
    identities = (Identity("s = 0 is focal loss", {"s": 0, "gamma": 1.5}, "focal", {"gamma": 1.5}),)
    start = 1.0
    gamma: Tensor
    s: Tensor
    alpha: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """w_j alpha_t (1 - p_t)^gamma_j (-log p_t)."""
        gamma, weight = self._column_terms(targets)
        return weight * focal(logits, targets, gamma, self.alpha)

    def element_weights(self, targets: Tensor) -> Tensor | None:
        """w_j alpha_t."""
        return self._column_terms(targets)[1] * alpha_t(self.alpha, targets)

    def magnitude(self, logits: Tensor, targets: Tensor) -> Tensor:
        """|dL/dx| per element."""
        gamma, weight = self._column_terms(targets)
        return weight * focal_terms(logits, targets, gamma, self.alpha)[1].abs()

    def _column_terms(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        gamma = self.gamma + self.s * (1 - self.quotient.clamp(max=1))
        return self.spread(gamma, targets), self.spread(gamma / self.gamma, targets)


class EQLv2(GradientBalancedLoss):
    """Equalization loss v2: cross-entropy that evens out the gradients of each column.

    With f_j = sigmoid(gamma (g_j - mu)), negatives weigh f_j and positives 1 + alpha (1 - f_j)
    (Tan et al. 2021); g_j is the accumulated gradient of the positives of column j over
    that of its negatives, weights included. Before the first batch has been seen f is 1: plain
    cross-entropy. This alpha is no focal alpha. Soft targets mix both losses. The objectness
    column of the paper belongs to a model. The authors divide by the number of rows, `mean` by
    that of elements. See `GradientBalancedLoss` for the state; `weight_sum` divides by the sum of
    the weights. Other arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> loss = EQLv2(mu=0.25, class_counts=[1, 1], reduction="none")
    >>> x, y = torch.zeros(5), torch.tensor([1, 0, 0, 0, 0])
    >>> loss(x, y)[:2] / 0.6931472, loss(x, y)[:2] / 0.6931472  # then g = 1/4, f = 1/2
    (tensor([1., 1.]), tensor([3.0000, 0.5000]))
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "gamma": Hyperparameter(
            12.0,
            low=4.0,
            high=20.0,
            meaning="steepness of the weight as a function of the gradient quotient",
            paper="Tan et al. 2021, section 4",
            minimum=0.0,
        ),
        "mu": Hyperparameter(
            0.8,
            low=0.3,
            high=1.0,
            meaning="gradient quotient at which a negative weighs 1/2",
            paper="Tan et al. 2021, section 4",
        ),
        "alpha": Hyperparameter(
            4.0,
            low=0.0,
            high=8.0,
            meaning="largest extra weight of the positives",
            paper="Tan et al. 2021, section 4",
            minimum=0.0,
        ),
    }
    formula = (
        "L = -(y (1 + alpha (1 - f_j)) log p + (1 - y) f_j log(1 - p)),  "
        "f_j = sigmoid(gamma (g_j - mu)),  g_j = sum |dL+| / sum |dL-|"
    )
    citation = (
        "Tan, Lu, Zhang, Yin, Li, Equalization Loss v2: A New Gradient Balance Approach for "
        "Long-tailed Object Detection, CVPR 2021, section 4"
    )
    soft_targets = "mixture"
    second_order = True
    identities = (Identity("mu far below 0 is cross-entropy", {"mu": -100}, "ce"),)
    # Large enough for f to be 1; the authors start with weights of 1, a later version with 100.
    start = 100.0
    gamma: Tensor
    mu: Tensor
    alpha: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Weighted -log p_t, mixed for soft targets."""
        on, off = self._weights(targets)
        at_one, at_zero = focal(logits, None), focal(-logits, None)
        return targets * on * at_one + (1 - targets) * off * at_zero

    def element_weights(self, targets: Tensor) -> Tensor | None:
        """Weight of the positives or of the negatives, linear in between."""
        on, off = self._weights(targets)
        return targets * on + (1 - targets) * off

    def magnitude(self, logits: Tensor, targets: Tensor) -> Tensor:
        """|dL/dx| per element."""
        on, off = self._weights(targets)
        p, q = torch.sigmoid(logits), torch.sigmoid(-logits)
        return ((1 - targets) * off * p - targets * on * q).abs()

    def _weights(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        off = torch.sigmoid(self.gamma * (self.quotient - self.mu))
        return self.spread(1 + self.alpha * (1 - off), targets), self.spread(off, targets)
