"""A detector while it trains: its anchors and their targets, the loss of a batch, validation."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from losslab.datasets.detection.annotations import Annotations
from losslab.datasets.detection.augment import augment, flip
from losslab.datasets.detection.base import DetectionSplit
from losslab.errors import BadInput
from losslab.experiments.building import build_model
from losslab.experiments.data import Examples, Images, run_data
from losslab.experiments.detection.anchors import (
    Anchors,
    AnchorSettings,
    flip_permutation,
    make_anchors,
)
from losslab.experiments.detection.assignment import (
    BACKGROUND,
    AssignmentSettings,
    Targets,
    assign_all,
    matched_boxes,
)
from losslab.experiments.detection.detections import DetectionSettings, detect
from losslab.experiments.detection.found import Detections, join
from losslab.experiments.detection.loss import (
    DetectionLoss,
    Terms,
    class_counts_of,
    detection_loss,
)
from losslab.experiments.detection.metrics import detection_metrics
from losslab.experiments.models.retinanet import RetinaNet
from losslab.experiments.models.two_stage import TwoStage
from losslab.experiments.states import Job
from losslab.experiments.tasks import Detection
from losslab.experiments.training import PRECISIONS, Parts
from losslab.randomness import generator, seed_integer

# Images that one forward pass of an evaluation takes at most.
EVALUATION_IMAGES = 32


@dataclass
class DetectorParts(Parts):
    """The live objects of a detector's training."""

    model: RetinaNet | TwoStage
    loss: DetectionLoss
    anchors: Anchors
    assignment: AssignmentSettings
    inference: DetectionSettings
    known: Mapping[str, Targets]  # of train and validation, as the images are stored
    mirrored: np.ndarray | None  # see `anchors.flip_permutation`; None: not on anchors
    flip: float
    jitter: tuple[float, float] | None

    def batch_loss(self, job: Job, batch: Tensor, epoch: int) -> Tensor:
        """What a batch of images trains; a balance of its losses that learns, learns of them."""
        terms = self.batch_terms(job, batch, epoch)
        self.loss.balance.adapt(torch.stack([terms.classes, terms.boxes]), self.model.last_shared())
        return terms.total

    def batch_terms(self, job: Job, batch: Tensor, epoch: int) -> Terms:
        """Class loss and box loss of a batch of images, mirrored and scaled at random."""
        train = _split(self.data.train)
        rows = batch.cpu().numpy()
        random = generator(job.study_seed, "augment", job.run_seed, epoch, int(rows[0]))
        images, annotations, targets = self._batch(train, rows, random)
        boxes = torch.from_numpy(matched_boxes(targets.matched, annotations)).to(job.device)
        pixels = torch.from_numpy(images).to(job.device)
        labels = torch.from_numpy(targets.labels).to(job.device)
        return self.terms_of(pixels, annotations, labels, boxes)

    def terms_of(
        self, images: Tensor, annotations: Annotations, labels: Tensor, boxes: Tensor
    ) -> Terms:
        """The losses of images as they are: labels (B, A), boxes (P, 4) of positive anchors."""
        logits, offsets = self.model(images)
        terms: Terms = self.loss(
            logits, offsets, self.anchor_boxes(logits), labels, boxes.to(offsets.dtype)
        )
        return terms

    def _batch(
        self, train: DetectionSplit, rows: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, Annotations, Targets]:
        """Images, annotations and targets of a batch; mirrored targets are looked up."""
        images, annotations = train.images[rows], train.annotations.take(rows)
        if self.jitter is not None or self.mirrored is None:
            images, annotations = augment(images, annotations, random, self.flip, self.jitter)
            return images, annotations, assign_all(self.anchors, annotations, self.assignment)
        flipped = random.random(len(rows)) < self.flip
        images, annotations = flip(images, annotations, flipped)
        own = Targets(self.known["train"].labels[rows], self.known["train"].matched[rows])
        turned = own.flipped(self.mirrored)
        side = flipped[:, None]
        return (
            images,
            annotations,
            Targets(
                np.where(side, turned.labels, own.labels),
                np.where(side, turned.matched, own.matched),
            ),
        )

    def validate(self, job: Job) -> dict[str, float]:
        """The job's metrics on the validation split."""
        return self.scores(self.data.validation, *self.evaluate(self.data.validation), job)

    def scores(
        self,
        examples: Examples,
        detections: Detections,
        logits: np.ndarray,
        labels: np.ndarray,
        job: Job,
    ) -> dict[str, float]:
        """The job's metrics of what `evaluate` gave."""
        return detection_metrics(
            _split(examples),
            detections,
            logits,
            labels,
            class_names=self.data.dataset.class_names,
            names=job.metrics,
        )

    def evaluate(self, examples: Examples) -> tuple[Detections, np.ndarray, np.ndarray]:
        """Detections in a split, and logits (n, A, K) and labels (n, A) of what is classified."""
        split = _split(examples)
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        logits: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        self.model.eval()
        with torch.no_grad():
            for begin in range(0, len(split), EVALUATION_IMAGES):
                rows = np.arange(begin, min(begin + EVALUATION_IMAGES, len(split)))
                images = examples.features[torch.from_numpy(rows)]
                detected, *rest = self.infer(
                    images, split.sizes[rows], split.annotations.take(rows)
                )
                found += [detected.of(i) for i in range(len(detected))]
                for several, one in zip((logits, labels), rest, strict=True):
                    several.append(one)
        return join(found), np.concatenate(logits), np.concatenate(labels)

    def infer(
        self, images: Tensor, sizes: np.ndarray, annotations: Annotations
    ) -> tuple[Detections, np.ndarray, np.ndarray]:
        """The same of some images, the model being in evaluation mode."""
        logits, offsets = (each.float().cpu() for each in self.model(images))
        found = detect(logits, offsets, self.anchors, sizes, self.inference, self.loss.coding)
        labels = assign_all(self.anchors, annotations, self.assignment).labels
        return found, logits.numpy(), labels

    def anchor_boxes(self, like: Tensor) -> Tensor:
        """The anchors' boxes, (A, 4), in the type and on the device of `like`."""
        return torch.from_numpy(self.anchors.boxes).to(like)


def prepare_detector(job: Job) -> DetectorParts:
    """Data, detector and losses of a job, the detector at its initial weights.

    Raises `BadInput` where the model is no detector or the losses do not fit.
    """
    data = run_data(job.config["dataset"], job.study_seed, job.run_seed, job.device)
    settings: Mapping[str, Any] = job.config["detector"]
    train = _split(data.train)
    model = make_detector(
        job, data.dataset.num_classes, tuple(train.images.shape[1:]), data.class_counts
    )
    anchors = make_anchors(model.anchor_settings, *train.images.shape[2:])
    assignment = assignment_of(settings)
    known = _targets(
        json.dumps(job.config["dataset"], sort_keys=True), job.study_seed, job.run_seed,
        job.device, model.anchor_settings, assignment,
    )  # fmt: skip
    labels = known["train"].labels
    counts = np.bincount(labels[labels >= 0], minlength=data.dataset.num_classes)
    _set_prior(model, job.config["model"].get("prior_init", False), counts / labels.size)
    precision = PRECISIONS[job.config["training"].get("precision", "float32")]
    kind = DetectorParts
    if isinstance(model, TwoStage):
        # Here, since it stands above this module.
        from losslab.experiments.detection.two_stage import TwoStageParts as kind
    return kind(
        data,
        model.to(job.device, precision),
        detection_loss(
            job.config["loss"],
            settings,
            class_counts_of(counts, int((labels == BACKGROUND).sum())),
        ).to(job.device),
        job.config["training"],
        anchors,
        assignment,
        DetectionSettings(
            settings["score_threshold"], settings["top_k"],
            settings["nms_threshold"], settings["detections"],
        ),
        known,
        _mirrored(anchors),
        settings["flip"],
        settings["jitter"] and tuple(settings["jitter"]),
    )  # fmt: skip


def make_detector(
    job: Job, classes: int, shape: tuple[int, ...], class_counts: np.ndarray
) -> RetinaNet | TwoStage:
    """The job's detector for images of `shape` (3, H, W), at its initial weights, without prior.

    Raises `BadInput` where the model is no detector.
    """
    model = build_model(
        {key: value for key, value in job.config["model"].items() if key != "prior_init"},
        Detection(classes),
        job.link,
        shape,
        class_counts,
        seed_integer(job.study_seed, "weights", job.run_seed),
    )
    if not isinstance(model, RetinaNet | TwoStage):
        name = job.config["model"]["name"]
        raise BadInput(f"name: {name} is no detector; write model: retinanet or two_stage")
    return model


def assignment_of(settings: Mapping[str, Any]) -> AssignmentSettings:
    """How the section `detector` of a configuration assigns anchors."""
    return AssignmentSettings(settings["positive"], settings["negative"], settings["best_from"])


def _set_prior(model: RetinaNet | TwoStage, prior: bool | float, shares: np.ndarray) -> None:
    """Start at a probability for every class, or (on) at the share of anchors that are positive."""
    if prior is False:
        return
    least = 1e-6  # a class that no anchor has to find still needs a finite bias
    given = np.maximum(shares, least) if prior is True else np.full(len(shares), float(prior))
    model.set_prior(torch.from_numpy(given))


def _mirrored(anchors: Anchors) -> np.ndarray | None:
    try:
        return flip_permutation(anchors)
    except BadInput:  # mirrored anchors lie between the others: targets are computed anew
        return None


@lru_cache(maxsize=8)
def _targets(
    dataset: str,
    study_seed: int,
    run_seed: int,
    device: str,
    settings: AnchorSettings,
    assignment: AssignmentSettings,
) -> dict[str, Targets]:
    """Targets of train and validation, once for all trainings on the same data."""
    data = run_data(json.loads(dataset), study_seed, run_seed, device)
    anchors = make_anchors(settings, *data.train.features.shape[2:])
    return {
        name: assign_all(anchors, _split(part).annotations, assignment)
        for name, part in (("train", data.train), ("validation", data.validation))
    }


def _split(examples: Examples) -> DetectionSplit:
    assert isinstance(examples, Images)
    return examples.split
