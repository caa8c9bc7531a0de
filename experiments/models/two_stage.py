"""A two-stage detector in small: proposals of no class, then a head that classifies each."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from losslab.errors import BadInput
from losslab.experiments.detection.anchors import Anchors, AnchorSettings, make_anchors
from losslab.experiments.detection.coding import clip, decode
from losslab.experiments.detection.nms import suppress
from losslab.experiments.detection.pooling import pool_boxes
from losslab.experiments.models.resnet import ResNet
from losslab.experiments.models.retinanet import RetinaNet, checked_anchors

# Candidates of an image that suppression chooses proposals from, for each proposal.
CANDIDATES = 8


def build(
    input_shape: Sequence[int],
    outputs: int,
    *,
    width: int = 16,
    blocks: list[int] | None = None,
    block: Literal["basic", "bottleneck"] = "basic",
    norm: Literal["train", "frozen", "group"] = "train",
    channels: int = 32,
    head_depth: int = 1,
    head_std: float = 0.03,
    strides: list[int] | None = None,
    scales: int = 3,
    aspects: list[float] | None = None,
    anchor_size: float = 2.0,
    proposals: int = 64,
    proposal_nms: float = 0.7,
    pool: int = 5,
    hidden: int = 64,
    channels_last: bool = True,
) -> "TwoStage":
    """Faster R-CNN in small (Ren et al. 2015, on a feature pyramid) for images (3, height, width).

    `outputs` is the number of classes, background not included. A first stage like `retinanet`
    with one class says where objects are; its best `proposals` after suppression at an IoU of
    `proposal_nms` are pooled (RoIAlign, `pool` × `pool` bins) and go through two fully connected
    layers of `hidden` units to a sigmoid for every class and to a better box.

    - `head_depth`, `head_std`: of the first stage; all other options as in `retinanet`.

    Raises `BadInput` with every mistake.
    """
    blocks = [1, 1, 1] if blocks is None else blocks
    settings, problems = checked_anchors(
        input_shape, outputs, width, blocks, norm, channels, head_depth,
        strides, scales, aspects, anchor_size,
    )  # fmt: skip
    for name, value in (("proposals", proposals), ("pool", pool), ("hidden", hidden)):
        if value < 1:
            problems.append(f"{name}: must be at least 1, got {value}")
    if not 0 < proposal_nms <= 1:
        problems.append(f"proposal_nms: must be in (0, 1], got {proposal_nms}")
    if problems:
        raise BadInput(problems)
    backbone = ResNet(input_shape[0], width=width, blocks=blocks, block=block, norm=norm)
    first = RetinaNet(backbone, settings, 1, channels, head_depth, head_std)
    first.set_prior(torch.tensor([0.01]))
    model = TwoStage(first, outputs, channels, proposals, proposal_nms, pool, hidden)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


class Proposals(NamedTuple):
    """Boxes (B, N, 4) and which of them (B, N) are there; an image may have fewer than N."""

    boxes: Tensor
    valid: Tensor


class TwoStage(nn.Module):
    """See `build`. The parts are called one by one in training, and by `forward` at inference."""

    def __init__(
        self,
        first: RetinaNet,
        classes: int,
        channels: int,
        proposals: int,
        proposal_nms: float,
        pool: int,
        hidden: int,
    ):
        super().__init__()
        self.first = first
        self.classes, self.proposals, self.proposal_nms = classes, proposals, proposal_nms
        self.pool = pool
        self.trunk = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * pool * pool, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
        )  # fmt: skip
        self.boxes = nn.Linear(hidden, 4)
        self.scores = nn.Linear(hidden, classes)
        for layer in (self.boxes, self.scores):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @property
    def anchor_settings(self) -> AnchorSettings:
        """The anchors of the first stage."""
        return self.first.anchor_settings

    def set_prior(self, probabilities: Tensor) -> None:
        """Let every proposal start at these probabilities of the classes (K,)."""
        with torch.no_grad():
            self.scores.bias.copy_(torch.logit(probabilities.double()))

    def last_shared(self) -> list[Tensor]:
        """The weights of the last layer that classes and boxes of the second stage share."""
        layer = self.trunk[-2]
        assert isinstance(layer, nn.Linear)
        return [cast(nn.Parameter, layer.weight)]

    def shared(self) -> list[nn.Parameter]:
        """All that trains of what classes and boxes of the second stage share."""
        return [*self.first.shared(), *self.trunk.parameters()]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Proposals]:
        """Class logits (B, N, K) and box offsets (B, N, 4) of the images' N proposals."""
        levels = self.first.levels(images)
        proposals = self.propose(*self.first.heads(levels), images.shape[2:])
        return *self.second(levels, proposals.boxes), proposals

    def propose(self, logits: Tensor, offsets: Tensor, size: Sequence[int]) -> Proposals:
        """The proposals of the first stage's logits (B, A, 1) and offsets; no gradient passes."""
        height, width = size
        anchors = torch.from_numpy(_anchors(self.anchor_settings, height, width).boxes)
        scores, offsets = logits.detach()[..., 0].cpu(), offsets.detach().cpu()
        boxes = torch.zeros(len(scores), self.proposals, 4)
        valid = torch.zeros(len(scores), self.proposals, dtype=torch.bool)
        for i in range(len(scores)):
            number = min(CANDIDATES * self.proposals, scores.shape[1])
            best = torch.topk(scores[i], number).indices
            found = clip(decode(anchors[best], offsets[i, best].float()), height, width)
            solid = (found[:, 2:] - found[:, :2] >= 1).all(1)
            best, found = best[solid], found[solid]
            kept = suppress(
                found.numpy(), scores[i, best].numpy(), self.proposal_nms, limit=self.proposals
            )
            boxes[i, : len(kept)] = found[torch.from_numpy(kept)]
            valid[i, : len(kept)] = True
        return Proposals(boxes.to(logits.device), valid.to(logits.device))

    def second(self, levels: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, N, K) and box offsets (B, N, 4) of boxes (B, N, 4)."""
        settings = self.anchor_settings
        smallest = settings.size * settings.strides[0]
        pooled = pool_boxes(levels, settings.strides, boxes, self.pool, smallest)
        features = self.trunk(pooled.flatten(0, 1)).unflatten(0, boxes.shape[:2])
        return self.scores(features), self.boxes(features)


@lru_cache(maxsize=8)
def _anchors(settings: AnchorSettings, height: int, width: int) -> Anchors:
    return make_anchors(settings, height, width)


def with_truth(proposals: Proposals, truth: Sequence[np.ndarray]) -> Proposals:
    """Proposals with each image's true boxes (m, 4) in the last places, as in Faster R-CNN.

    So the second stage sees objects before the first has learnt to find them.
    """
    boxes, valid = proposals.boxes.clone(), proposals.valid.clone()
    for i, own in enumerate(truth):
        own = own[: boxes.shape[1]]
        if len(own):
            boxes[i, -len(own) :] = torch.from_numpy(np.ascontiguousarray(own)).to(boxes)
            valid[i, -len(own) :] = True
    return Proposals(boxes, valid)
