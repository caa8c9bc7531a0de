"""What the losses over regions share: sets of elements, and where prediction and truth differ."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.arguments import check_choice
from losslab.losses.sets import SetLoss

SMOOTH = Hyperparameter(
    1e-5,
    low=1e-6,
    high=1.0,
    meaning="added to both sides of the fraction: near 1 it softens the loss of small regions",
    paper="not in the papers; 1e-5 as in MONAI",
    scale="log",
    minimum=1e-8,
)
SOFT_TARGETS = "enter the sums as they are: TP = sum p y, FP = sum p (1-y), FN = sum (1-p) y"

# Dimensions of (N, C, M), M positions of an example, that a set extends over.
_DIMENSIONS = {
    ("batch", "macro"): (0, 2),
    ("batch", "micro"): (0, 1, 2),
    ("sample", "macro"): (2,),
    ("sample", "micro"): (1, 2),
}


class RegionLoss(SetLoss):
    """Base of losses that compare a predicted region with a true one; a subclass writes `region`.

    What is one set, and so one value:

    * `per` "batch" (default): over all examples of the batch; "sample": every example its own;
    * `average` "macro": every class its own; "micro": all classes in one. None is the link's
      default: macro under softmax, micro under sigmoid, where dimension 1 need not be classes.
      Macro under sigmoid takes dimension 1 for classes ((N,) is one class);
    * `absent`: whether a set without a positive is kept ("keep": it punishes every false alarm) or
      left out of the sum and of the mean ("skip").

    MONAI keeps absent classes, kornia skips them, segmentation_models_pytorch counts them as 0.
    Under per "sample" all sets have one weight in the mean; where classes are absent, others
    average within an image first.

    Values, for reduction `none`: () per batch and micro, (C,) macro, (N,) per sample and micro,
    (N, C) macro. `class_weights` are under macro factors of the values (the mean still divides by
    the number of sets), under micro the weights of the elements in every sum.

    >>> class Missed(RegionLoss):  # false negatives per positive
    ...     def region(self, hits, alarms, misses, pooled):
    ...         return pooled(misses) / pooled(hits + misses)
    >>> Missed(per="sample", reduction="none")(torch.zeros(2, 3), torch.ones(2, 3))
    tensor([0.5000, 0.5000])
    """

    structural: ClassVar[tuple[str, ...]] = ("per", "average", "absent")

    def __init__(
        self,
        *,
        per: str = "batch",
        average: str | None = None,
        absent: str = "keep",
        **arguments: Any,
    ):
        super().__init__(**arguments)
        owner = type(self).__name__
        if average is None:
            average = "macro" if self.link == "softmax" else "micro"
        self.per = check_choice(owner, "per", per, ("batch", "sample"))
        self.average = check_choice(owner, "average", average, ("macro", "micro"))
        self.absent = check_choice(owner, "absent", absent, ("keep", "skip"))

    def region(
        self,
        hits: Tensor,
        alarms: Tensor,
        misses: Tensor,
        pooled: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """One value per set, from p y, p (1-y) and (1-p) y of every element, each (N, C, M).

        `pooled` sums such a tensor over every set: `pooled(hits)` are the true positives.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define region")

    def setwise(
        self, logits: Tensor, targets: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The value of every set, and which sets count."""
        hits, alarms, misses, truth = memberships(self.link, logits, targets)
        mask = self.in_columns(kept)
        weights = self.member_weights(logits)

        def pooled(each: Tensor) -> Tensor:
            each = torch.where(mask, each, 0)
            return (each if weights is None else each * weights).sum(self.dimensions)

        values = self.region(hits, alarms, misses, pooled)
        return self.weigh(values), self.counted(truth, mask)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The dimensions of (N, C, M) that a set extends over."""
        return _DIMENSIONS[self.per, self.average]

    def in_columns(self, each: Tensor) -> Tensor:
        """A tensor of the shape of the targets as (N, C, M), or (N, 1, M) under softmax."""
        return in_columns(self.link, each)

    def counted(self, truth: Tensor, mask: Tensor) -> Tensor:
        """Which sets count: those with an element left, under "skip" with a positive left."""
        member = mask.expand_as(truth)
        if self.absent == "skip":
            member = member & (truth > 0)
        return member.sum(self.dimensions) > 0

    def member_weights(self, logits: Tensor) -> Tensor | None:
        """Class weights as weights of the elements, (C, 1), under micro; None without."""
        if self.class_weights is None or self.average == "macro":
            return None
        return self.class_weights.to(logits.dtype).unsqueeze(-1)

    def weigh(self, values: Tensor) -> Tensor:
        """The values times the class weights, under macro."""
        if self.class_weights is None or self.average == "micro":
            return values
        return values * self.class_weights.to(values.dtype)


def in_columns(link: str, each: Tensor) -> Tensor:
    """A tensor of the shape of the targets as (N, C, M); under softmax as (N, 1, M).

    >>> in_columns("sigmoid", torch.zeros(2, 3, 4, 5)).shape
    torch.Size([2, 3, 20])
    >>> in_columns("sigmoid", torch.zeros(7)).shape
    torch.Size([7, 1, 1])
    >>> in_columns("softmax", torch.zeros(2, 4, 5)).shape
    torch.Size([2, 1, 20])
    """
    if link == "softmax":
        each = each.unsqueeze(1)
    elif each.ndim < 2:
        each = each.reshape(-1, 1)
    return each.unsqueeze(-1).flatten(2)


def memberships(link: str, logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """p y, p (1-y), (1-p) y and y of every element and class, each (N, C, M).

    1-p is never a difference, so that the loss of a nearly perfect prediction has no noise.

    >>> [each.squeeze() for each in memberships("sigmoid", torch.zeros(2), torch.tensor([0.0, 1]))]
    [tensor([0.0000, 0.5000]), tensor([0.5000, 0.0000]), tensor([0.0000, 0.5000]), tensor([0., 1.])]
    """
    largest = torch.finfo(logits.dtype).max
    logits = logits.clamp(-largest, largest)  # an infinite one would make the softmax nan
    truth = in_columns(link, targets)
    if link == "sigmoid":
        z = in_columns(link, logits)
        p, q = torch.sigmoid(z), torch.sigmoid(-z)
        return p * truth, p * (1 - truth), q * truth, truth
    p = torch.softmax(logits, 1).unsqueeze(-1).flatten(2)
    own = truth == torch.arange(p.shape[1], device=p.device).unsqueeze(-1)
    hits, alarms = torch.where(own, p, 0), torch.where(own, 0, p)
    misses = torch.where(own, alarms.sum(1, keepdim=True), 0)
    return hits, alarms, misses, own.to(p.dtype)
