"""What losses share that are the cross-entropy of selected elements: mining and sampling."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.closed_form import focal, softmax_focal
from losslab.losses.identity import Identity


class SelectedCrossEntropy(Loss):
    """Base of the losses that are the cross-entropy of selected elements.

    `per_image` (a structural option) selects within each slice of dimension 0 instead of within
    the batch; the targets then need a second dimension, else `BadInput` is raised. Selection is
    by the unweighted loss, among elements that are not ignored, in training and evaluation alike;
    no gradient passes through it. What is not selected counts like ignored elements: in no
    divisor.
    """

    upcasts = True
    structural: ClassVar[tuple[str, ...]] = ("per_image",)
    soft_targets = "mixture"
    second_order = True

    def __init__(self, *, per_image: bool = False, **arguments: Any):
        super().__init__(**arguments)
        if not isinstance(per_image, bool):
            raise BadInput(f"{type(self).__name__}: per_image must be a bool, got {per_image!r}")
        self.per_image = per_image

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-log p_t per element."""
        if self.link == "sigmoid":
            return focal(logits, targets)
        return softmax_focal(logits, targets)

    def highest(self, keys: Tensor, among: Tensor, number: Tensor) -> Tensor:
        """Mask of the `number` elements of `among` with the highest keys; ties go to the first.

        `keys`, `among`: the shape of the targets; `number`: one, or one per image, rounded to the
        nearest whole number.
        """
        lowest = float("-inf") if keys.is_floating_point() else torch.iinfo(keys.dtype).min
        rows = torch.where(among, keys, lowest).flatten(1 if self.per_image else 0)
        order = rows.argsort(dim=-1, descending=True, stable=True)
        place = torch.arange(rows.shape[-1], device=rows.device).expand_as(order)
        rank = torch.empty_like(order).scatter(-1, order, place).reshape(keys.shape)
        return among & (rank < number.round().clamp(max=keys.numel()).to(torch.int64))

    def count(self, mask: Tensor) -> Tensor:
        """How many elements are True: in the batch, or in each image, shaped to broadcast."""
        if not self.per_image:
            return mask.sum()
        if mask.ndim < 2:
            raise BadInput(
                f"{type(self).__name__}(per_image=True) needs more than one target per image, in "
                f"dimensions after the first; got targets {tuple(mask.shape)}"
            )
        return mask.flatten(1).sum(1).reshape(-1, *[1] * (mask.ndim - 1))


class RatioSelection(SelectedCrossEntropy):
    """Base of the losses with all positives and some negatives per positive."""

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "negatives_per_positive": Hyperparameter(
            3.0,
            low=1.0,
            high=10.0,
            meaning="negatives kept per positive; 1 balances the two",
            paper="Liu et al. 2016, section 2.2: at most 3",
            scale="log",
            minimum=0.0,
        )
    }
    identities = (
        Identity("all negatives is cross-entropy", {"negatives_per_positive": 1e9}, "ce"),
    )
    negatives_per_positive: Tensor

    def keys(self, values: Tensor) -> Tensor:
        """What the negatives are ordered by, the highest first."""
        raise NotImplementedError(f"{type(self).__name__} does not define keys")

    def selected(self, values: Tensor, targets: Tensor, kept: Tensor) -> Tensor | None:
        """All positives, and the negatives with the highest keys."""
        positive = kept & (targets > 0)
        number = self.negatives_per_positive * self.count(positive).clamp(min=1)
        return positive | self.highest(self.keys(values), kept & ~positive, number)
