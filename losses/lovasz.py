"""The Lovász losses: hinge under sigmoid, Lovász-Softmax under softmax."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from losslab.losses.regions import RegionLoss, memberships


class Lovasz(RegionLoss):
    """Lovász extension of the Jaccard loss 1 - IoU at the errors of a set's elements.

    Berman, Rannen Triki, Blaschko, CVPR 2018, section 3. With the errors m sorted downwards,
    L = sum_i m_i (J_i - J_{i-1}), J_i the Jaccard loss if the first i elements are the wrong ones.
    Sigmoid: m = max(0, 1 - (2y-1) x), the Lovász hinge, 0 where every margin is at least 1.
    Softmax: m = |y - p|, one extension per class. Hard targets only. Class weights under micro
    weigh the elements inside J.

    `absent` None (default) is the authors' code: "skip" under softmax (classes "present"), "keep"
    under sigmoid. Their `per` is "batch" for softmax and "sample" for the hinge; here "batch" for
    both. Other options: see `RegionLoss`; other arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> Lovasz()(torch.tensor([0.5, 0.0]), torch.tensor([0, 1]))  # 1.5 * 1/2 + 1 * 1/2
    tensor(1.2500)
    """

    formula = (
        "L = sum_i m_i (J_i - J_{i-1}), errors m sorted downwards, J_i = 1 - IoU with i wrong\n"
        "sigmoid: m = max(0, 1 - (2y-1) x); softmax: m = |y - p| per class"
    )
    citation = (
        "Berman, Rannen Triki, Blaschko, The Lovász-Softmax Loss: A Tractable Surrogate for the "
        "Optimization of the Intersection-Over-Union Measure in Neural Networks, CVPR 2018"
    )
    soft_targets = "hard"
    second_order = True

    def __init__(self, *, link: str = "sigmoid", absent: str | None = None, **arguments: Any):
        if absent is None:
            absent = "skip" if link == "softmax" else "keep"
        super().__init__(link=link, absent=absent, **arguments)

    def setwise(
        self, logits: Tensor, targets: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The extension of every set, and which sets count."""
        if self.link == "softmax":
            _, alarms, misses, truth = memberships(self.link, logits, targets)
            errors = alarms + misses
        else:
            truth = self.in_columns(targets)
            errors = F.relu(1 - (2 * truth - 1) * self.in_columns(logits))
        mask = self.in_columns(kept)
        weights = self.member_weights(logits)
        member = mask.to(errors.dtype) if weights is None else mask * weights
        sets = (self._by_set(each.expand_as(truth)) for each in (errors, truth, member))
        return self.weigh(lovasz_extension(*sets)), self.counted(truth, mask)

    def _by_set(self, each: Tensor) -> Tensor:
        """(N, C, M) with the elements of a set in the last dimension."""
        if self.average == "micro":
            return each.flatten(0 if self.per == "batch" else 1)
        return each.transpose(0, 1).flatten(1) if self.per == "batch" else each


def lovasz_extension(errors: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Lovász extension of 1 - IoU over the last dimension, at `errors` >= 0.

    `truth` in {0, 1}; `weights` >= 0 measure the elements (0 leaves one out). Shapes are equal.

    >>> errors, truth = torch.tensor([0.2, 0.6, 0.1]), torch.tensor([1.0, 1.0, 0.0])
    >>> lovasz_extension(errors, truth, torch.ones(3))  # .6 * 1/2 + .2 * 1/2 + .1 * 0
    tensor(0.4000)
    """
    with torch.no_grad():
        order = torch.sort(errors, dim=-1, descending=True, stable=True).indices
        y, w = truth.gather(-1, order), weights.gather(-1, order)
        positive, negative = w * y, w * (1 - y)
        total = positive.sum(-1, keepdim=True)
        left = (total - positive.cumsum(-1)).clamp(min=0)
        union = total + negative.cumsum(-1)
        before = union - negative
        # J_i - J_{i-1} in closed form: the difference of two J near 1 would lose all digits.
        started = before > 0
        step = (y * union + (1 - y) * left) / torch.where(started, union * before, 1)
        # Without positives J jumps from 0 to 1 at the first element that has a weight.
        step = torch.where(started, w * step, (w > 0).to(w.dtype))
    return (errors.gather(-1, order) * step).sum(-1)
