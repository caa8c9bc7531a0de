"""Cross-entropy."""

from torch import Tensor

from losslab.losses.base import Loss
from losslab.losses.closed_form import focal, focal_total, softmax_focal
from losslab.losses.identity import Identity


class CrossEntropy(Loss):
    """Cross-entropy, L = -log p_t, under either link; no hyper-parameters.

    Sigmoid: p_t = sigmoid((2y-1) x) (soft targets: y L(1) + (1-y) L(0), which is binary
    cross-entropy). Softmax: p_t = softmax(z)_t. Arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> CrossEntropy()(torch.zeros(2), torch.tensor([0, 1]))
    tensor(0.6931)
    >>> CrossEntropy(link="softmax")(torch.zeros(2, 3), torch.tensor([0, 2]))
    tensor(1.0986)
    """

    upcasts = True
    formula = "L = -log p_t"
    citation = "Good, Rational Decisions, JRSS B 14(1), 1952 (the logarithmic score)"
    soft_targets = "mixture"
    second_order = True
    identities = (Identity("two-class softmax is sigmoid", {}, "ce", two_class=True),)

    def fused(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """The reduced loss in one pass, see `focal_total`."""
        return focal_total(logits, targets, None, None, self.ignore_index, self.reduction)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-log p_t per element."""
        if self.link == "sigmoid":
            return focal(logits, targets)
        return softmax_focal(logits, targets)
