"""A two-stage detector while it trains: the study's class loss is that of the second stage."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from losslab.datasets.detection.annotations import Annotations
from losslab.experiments.detection.assignment import IGNORED, AssignmentSettings, assign
from losslab.experiments.detection.detections import detect_from
from losslab.experiments.detection.found import Detections
from losslab.experiments.detection.loss import DetectionLoss, Terms
from losslab.experiments.detection.parts import DetectorParts
from losslab.experiments.models.two_stage import Proposals, TwoStage, with_truth
from losslab.losses import LOSSES

# A proposal has the class of the box that it overlaps by at least a half (Girshick, Fast R-CNN).
OVERLAP = AssignmentSettings(positive=0.5, negative=0.5)


@dataclass
class TwoStageParts(DetectorParts):
    """The live objects of a two-stage detector's training.

    The first stage trains with cross-entropy over the number of positive anchors and smooth L1 in
    every arm; the class loss, the box loss and all other settings of the study are those of the
    second stage, whose elements are the proposals.
    """

    def terms_of(
        self, images: Tensor, annotations: Annotations, labels: Tensor, boxes: Tensor
    ) -> Terms:
        """The second stage's losses; both stages' in `total`."""
        assert isinstance(self.model, TwoStage)
        levels = self.model.first.levels(images)
        logits, offsets = self.model.first.heads(levels)
        objects = torch.where(labels >= 0, 0, labels)
        first = _first_loss()(
            logits, offsets, self.anchor_boxes(logits), objects, boxes.to(offsets.dtype)
        )
        proposals = self.model.propose(logits, offsets, images.shape[2:])
        proposals = with_truth(
            proposals, [_objects(annotations, i) for i in range(len(annotations))]
        )
        own, matched = assign_proposals(proposals, annotations)
        scores, shifts = self.model.second(levels, proposals.boxes)
        second = self.loss(
            scores,
            shifts,
            proposals.boxes.to(shifts),
            torch.from_numpy(own).to(scores.device),
            torch.from_numpy(matched).to(shifts),
        )
        return Terms(first.total + second.total, second.classes, second.boxes)

    def infer(
        self, images: Tensor, sizes: np.ndarray, annotations: Annotations
    ) -> tuple[Detections, np.ndarray, np.ndarray]:
        """Detections, and logits and labels of the proposals, in some images."""
        logits, offsets, (boxes, valid) = self.model(images)
        logits = torch.where(valid[..., None], logits, -torch.inf).float().cpu()
        boxes = boxes.cpu()
        found = detect_from(
            logits, offsets.float().cpu(), boxes, sizes, self.inference, self.loss.coding
        )
        labels, _ = assign_proposals(Proposals(boxes, valid.cpu()), annotations)
        return found, logits.numpy(), labels


def assign_proposals(
    proposals: Proposals, annotations: Annotations
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (B, N) of proposals, as in `Targets`, and the boxes (P, 4) that positives must find.

    Places without a proposal are ignored.
    """
    boxes, valid = proposals.boxes.cpu().numpy(), proposals.valid.cpu().numpy()
    labels = np.full(valid.shape, IGNORED, dtype=np.int16)
    matched = []
    for i, there in enumerate(valid):
        truth, classes, crowd = annotations.of(i)
        labels[i, there], found = assign(boxes[i, there], truth, classes, crowd, OVERLAP)
        matched.append(truth[found[found >= 0]])
    return labels, np.concatenate(matched) if matched else np.empty((0, 4), np.float32)


def _objects(annotations: Annotations, image: int) -> np.ndarray:
    boxes, _, crowd = annotations.of(image)
    return boxes[~crowd]


def _first_loss() -> DetectionLoss:
    return DetectionLoss(
        LOSSES.create("ce", link="sigmoid", reduction="sum", ignore_index=-100),
        LOSSES.create("smooth_l1", link="identity", reduction="sum"),
    )
