"""Detections: from a detector's outputs to boxes with classes and scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from losslab.experiments.detection.anchors import Anchors
from losslab.experiments.detection.coding import WEIGHTS, clip, decode
from losslab.experiments.detection.found import Detections, join
from losslab.experiments.detection.nms import suppress


@dataclass(frozen=True)
class DetectionSettings:
    """RetinaNet's inference (Lin et al. 2017, section 4, "Inference").

    Of every level the `top_k` highest class scores that reach `score_threshold` are decoded; the
    levels are merged, boxes whose IoU with a better one of their class is above `nms_threshold`
    are dropped, and the best `most` are kept (100 in the COCO protocol).
    """

    score_threshold: float = 0.05
    top_k: int = 1000
    nms_threshold: float = 0.5
    most: int = 100


def detect(
    logits: Tensor,
    offsets: Tensor,
    anchors: Anchors,
    sizes: np.ndarray,
    settings: DetectionSettings | None = None,
    weights: Sequence[float] = WEIGHTS,
) -> Detections:
    """Detections in a batch: class logits (B, A, K) and box offsets (B, A, 4), both on the CPU.

    `sizes` (B, 2): height and width of each image without its padding; boxes are cut off there
    and dropped where nothing is left. `weights`: those of the box coding. A logit of nan is no
    detection.
    """
    settings = settings or DetectionSettings()
    boxes = torch.from_numpy(anchors.boxes).to(offsets.dtype)
    found = [
        _detect_one(logits[i], offsets[i], boxes, anchors.per_level, sizes[i], settings, weights)
        for i in range(len(logits))
    ]
    return join(found)


def detect_from(
    logits: Tensor,
    offsets: Tensor,
    boxes: Tensor,
    sizes: np.ndarray,
    settings: DetectionSettings | None = None,
    weights: Sequence[float] = WEIGHTS,
) -> Detections:
    """The same of boxes (B, N, 4) that each image has of its own, such as proposals."""
    settings = settings or DetectionSettings()
    per_level = (boxes.shape[1],)
    return join(
        [
            _detect_one(logits[i], offsets[i], boxes[i], per_level, sizes[i], settings, weights)
            for i in range(len(logits))
        ]
    )


def _detect_one(
    logits: Tensor,
    offsets: Tensor,
    anchors: Tensor,
    per_level: Sequence[int],
    size: np.ndarray,
    settings: DetectionSettings,
    weights: Sequence[float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place, scores = _candidates(logits, per_level, settings)
    anchor, label = place // logits.shape[1], place % logits.shape[1]
    boxes = decode(anchors[anchor], offsets[anchor], weights)
    boxes = clip(boxes, float(size[0]), float(size[1]))
    solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    boxes, scores, label = boxes[solid], scores[solid], label[solid]
    kept = suppress(
        boxes.numpy(), scores.numpy(), settings.nms_threshold, label.numpy(), settings.most
    )
    return boxes.numpy()[kept], scores.numpy()[kept], label.numpy()[kept]


def _candidates(
    logits: Tensor, per_level: Sequence[int], settings: DetectionSettings
) -> tuple[Tensor, Tensor]:
    """Places in the flattened logits (A · K) and scores: each level's best, level by level."""
    places, scores = [], []
    begin, bound = 0, torch.logit(torch.tensor(settings.score_threshold)).item()
    for count in per_level:
        level = logits[begin : begin + count].reshape(-1)
        # Logits are compared and ranked: sigmoids cost more, and round to one number at the top.
        found = torch.nonzero(level >= bound)[:, 0]
        if len(found) > settings.top_k:
            order = torch.argsort(level[found], descending=True, stable=True)
            found = found[order[: settings.top_k]]
        places.append(found + begin * logits.shape[1])
        scores.append(torch.sigmoid(level[found]))
        begin += count
    return torch.cat(places), torch.cat(scores)
