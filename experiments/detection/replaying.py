"""A trained detector once more on images: the logits of all that it classifies, not stored."""

from collections.abc import Iterator

import numpy as np
import torch

from losslab.datasets.detection.base import DetectionSplit
from losslab.experiments.detection.anchors import make_anchors
from losslab.experiments.detection.assignment import assign_all
from losslab.experiments.detection.parts import EVALUATION_IMAGES, assignment_of, make_detector
from losslab.experiments.detection.two_stage import assign_proposals
from losslab.experiments.models.two_stage import TwoStage
from losslab.experiments.states import Job
from losslab.experiments.training import load_weights


def replay(
    job: Job, weights: dict[str, torch.Tensor], split: DetectionSplit, classes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Logits (b, A, K) and labels (b, A), as `Targets` has them, of `split`, some images at a time.

    They are of the anchors, or of the proposals in two stages. `weights` are those that a
    confirmation run of this job stored. On the CPU, in float32.
    """
    shape = tuple(split.images.shape[1:])
    model = make_detector(job, classes, shape, np.ones(classes, dtype=np.int64))
    load_weights(model, weights)
    anchors = make_anchors(model.anchor_settings, *shape[1:])
    assignment = assignment_of(job.config["detector"])
    model.eval()
    with torch.no_grad():
        for begin in range(0, len(split), EVALUATION_IMAGES):
            part = np.arange(begin, min(begin + EVALUATION_IMAGES, len(split)))
            images = torch.from_numpy(np.ascontiguousarray(split.images[part]))
            annotations = split.annotations.take(part)
            if isinstance(model, TwoStage):
                logits, _, proposals = model(images)
                labels, _ = assign_proposals(proposals, annotations)
            else:
                logits, _ = model(images)
                labels = assign_all(anchors, annotations, assignment).labels
            yield logits.float().numpy(), labels
