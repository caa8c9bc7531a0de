"""The training loss of a dense detector: class loss, box loss, and what they are divided by."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from losslab.errors import BadInput
from losslab.experiments.building import ForeignLoss, build_box_loss, build_loss
from losslab.experiments.detection.assignment import IGNORED
from losslab.experiments.detection.balance import Balance, Fixed, build_balance
from losslab.experiments.detection.coding import WEIGHTS, decode, encode
from losslab.experiments.detection.mining import MiningSettings, mine
from losslab.experiments.tasks import Detection
from losslab.losses.base import Loss
from losslab.losses.boxes import BoxLoss

Normalizer = Literal["positives", "moving_average", "elements"]


class Terms(NamedTuple):
    """What a batch trains, and its class and box loss, each divided, the box loss weighted too.

    `total` is their sum, or what the balance makes of them.
    """

    total: Tensor
    classes: Tensor
    boxes: Tensor


def class_reduction(normalizer: Normalizer, mining: MiningSettings | None = None) -> str:
    """The reduction that a class loss is to be made with for `DetectionLoss`.

    >>> class_reduction("positives"), class_reduction("elements")
    ('sum', 'mean')
    """
    if mining is not None:
        return "none"
    return "mean" if normalizer == "elements" else "sum"


def detection_loss(
    loss: Mapping[str, Any], detector: Mapping[str, Any], class_counts: np.ndarray
) -> "DetectionLoss":
    """The loss of the sections `loss` and `detector` of a configuration.

    `class_counts` as `class_counts_of` gives them, of the training images' anchors. Raises
    `BadInput` where the losses cannot be built or do not suit a detector.
    """
    mining = detector["mining"] and MiningSettings(**detector["mining"])
    config = {**loss, "reduction": class_reduction(detector["normalizer"], mining)}
    try:
        return DetectionLoss(
            build_loss(config, Detection(len(class_counts)), class_counts),
            build_box_loss(detector["box_loss"]),
            normalizer=detector["normalizer"],
            box_weight=detector["box_weight"],
            mining=mining,
            balance=build_balance(detector.get("balance")),
        )
    except (BadInput, TypeError, ValueError) as error:
        raise BadInput(f"loss: cannot be built: {error}") from error


class DetectionLoss(nn.Module):
    """Class loss over all anchors plus weighted box loss over the positive ones.

    `class_loss`: a loss under link sigmoid with `ignore_index` -100, made with the reduction of
    `class_reduction`. It is given logits and targets (B, K, A), so that dimension 0 is the image
    and dimension 1 the class; ignored anchors are ignored in all classes.

    `box_loss`: a loss under link identity with reduction sum; IoU losses are given decoded boxes,
    others the offsets (P, 4) of the P positive anchors. `box_weight` multiplies it.

    `normalizer`: what both sums are divided by: `positives` of the batch, at least 1 (Lin et al.
    2017, section 4.1); their `moving_average`, new = 0.9 old + 0.1 positives from 100 on, as
    detectron2 has it against the noise of small batches (it is part of the state dict, and stands
    still in evaluation mode); `elements`: the class loss divides by itself, as GHM-C's definition
    asks for, and the box loss by the positives.

    `mining`: the class loss is the mean over the anchors that OHEM keeps, of the sum over their
    classes, whatever `normalizer` says; the box loss stays that of all positives, so that arms
    differ in the class loss alone.

    `coding`: weights of the box coding. `balance`: how the two losses are weighed against each
    other, beyond `box_weight`; their sum by default.
    """

    positives: Tensor

    def __init__(
        self,
        class_loss: Loss | ForeignLoss,
        box_loss: Loss,
        *,
        normalizer: Normalizer = "positives",
        momentum: float = 0.9,
        initial: float = 100.0,
        box_weight: float = 1.0,
        mining: MiningSettings | None = None,
        coding: Sequence[float] = WEIGHTS,
        balance: Balance | None = None,
    ):
        super().__init__()
        _check(class_loss, box_loss, normalizer, mining)
        self.class_loss, self.box_loss = class_loss, box_loss
        self.normalizer, self.momentum, self.box_weight = normalizer, momentum, box_weight
        self.mining, self.coding = mining, tuple(coding)
        self.balance = Fixed() if balance is None else balance
        # Of one dimension: torch.compile drops changes of 0-dimensional float64 buffers.
        self.register_buffer("positives", torch.full((1,), initial, dtype=torch.float64))

    def set_progress(self, fraction: float) -> None:
        """Tell both losses which share of the training is behind them."""
        for loss in (self.class_loss, self.box_loss):
            loss.set_progress(fraction)

    def forward(
        self, logits: Tensor, offsets: Tensor, anchors: Tensor, labels: Tensor, boxes: Tensor
    ) -> Terms:
        """The loss of a batch.

        `logits` (B, A, K), `offsets` (B, A, 4), `anchors` (A, 4), or (B, A, 4) where
        each image has its own, `labels` (B, A) as in
        `assignment.Targets`, `boxes` (P, 4): those that the positive anchors have to find, in the
        order of `labels`, as `assignment.matched_boxes` gives them.
        """
        image, anchor = torch.nonzero(labels >= 0, as_tuple=True)
        if len(image) != len(boxes):
            raise BadInput(f"boxes: {len(image)} anchors are positive, got {len(boxes)} boxes")
        divisor = self._divisor(len(image))
        if self.mining is None:
            classes = self.class_loss(*self._elements(logits, labels))
            if self.normalizer != "elements":
                classes = classes / divisor
        else:
            classes = self._mined(logits, offsets, anchors, labels)
        own = anchors[anchor] if anchors.ndim == 2 else anchors[image, anchor]
        found = self._boxes(offsets[image, anchor], own, boxes)
        boxwise = self.box_weight * found / divisor
        return Terms(self.balance(torch.stack([classes, boxwise])), classes, boxwise)

    def _elements(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and targets (B, K, A) as the class loss takes them; see `class_counts_of`."""
        values, targets = logits.movedim(-1, 1), class_targets(labels, logits.shape[-1])
        counts = getattr(self.class_loss, "class_counts", None)
        if values.shape[1] == 2 and counts is not None and len(counts) == 3:
            shape = (len(values), 1, values.shape[2])
            values = torch.cat([values, values.new_zeros(shape)], 1)
            targets = torch.cat([targets, targets.new_full(shape, -100.0)], 1)
        return values.contiguous(), targets

    def _divisor(self, positives: int) -> float:
        if self.normalizer != "moving_average":
            return max(positives, 1)
        if self.training:
            with torch.no_grad():
                self.positives.mul_(self.momentum).add_((1 - self.momentum) * max(positives, 1))
        return self.positives.item()

    def _mined(self, logits: Tensor, offsets: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
        assert self.mining is not None
        values = self.class_loss(*self._elements(logits, labels)).sum(1)
        with torch.no_grad():
            decoded = decode(anchors, offsets, self.coding)
            kept = mine(values, decoded, labels, self.mining)
        return values[kept].sum() / max(int(kept.sum()), 1)

    def _boxes(self, offsets: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        if isinstance(self.box_loss, BoxLoss):
            return self.box_loss(decode(anchors, offsets, self.coding), boxes)
        return self.box_loss(offsets, encode(anchors, boxes, self.coding))


def class_counts_of(positives: np.ndarray, background: int) -> np.ndarray:
    """Class counts for a class loss: `positives` (K,) anchors of each class, and `background` ones.

    Losses read two counts as those of the negatives and positives of one column. So one class gets
    its background as the first, and two classes a third one that nothing belongs to, which
    `DetectionLoss` adds to logits and targets as an ignored column.

    >>> class_counts_of(np.array([5]), 995), class_counts_of(np.array([5, 3]), 992)
    (array([995,   5]), array([5, 3, 0]))
    """
    if len(positives) == 1:
        return np.array([background, positives[0]])
    return np.append(positives, 0) if len(positives) == 2 else positives


def class_targets(labels: Tensor, classes: int, ignored: float = -100.0) -> Tensor:
    """Targets (B, K, A), float32, of labels (B, A): one-hot, 0 for background, or `ignored`.

    >>> class_targets(torch.tensor([[1, -1, -2]]), 2)
    tensor([[[   0.,    0., -100.],
             [   1.,    0., -100.]]])
    """
    shape = (labels.shape[0], classes, labels.shape[1])
    rest = torch.where(labels == IGNORED, ignored, 0.0)
    targets = rest[:, None].expand(shape).contiguous()
    image, anchor = torch.nonzero(labels >= 0, as_tuple=True)
    targets[image, labels[image, anchor].long(), anchor] = 1
    return targets


def _check(
    class_loss: Loss | ForeignLoss,
    box_loss: Loss,
    normalizer: Normalizer,
    mining: MiningSettings | None,
) -> None:
    problems = []
    if normalizer not in get_args(Normalizer):
        known = ", ".join(get_args(Normalizer))
        raise BadInput(f"normalizer: must be one of {known}, got {normalizer!r}")
    needed = class_reduction(normalizer, mining)
    if class_loss.link != "sigmoid" or class_loss.reduction != needed:
        problems.append(
            f"class_loss: needs link sigmoid and reduction {needed}, got {class_loss.link} and "
            f"{class_loss.reduction}"
        )
    if box_loss.link != "identity" or box_loss.reduction != "sum":
        problems.append(
            f"box_loss: needs link identity and reduction sum, got {box_loss.link} and "
            f"{box_loss.reduction}"
        )
    if problems:
        raise BadInput(problems)
