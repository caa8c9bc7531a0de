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
from losslab.experiments.building import build_box_loss, build_loss, build_model
from losslab.experiments.data import Examples, Images, run_data
from losslab.experiments.detection.anchors import (
    Anchors,
    AnchorSettings,
    flip_permutation,
    make_anchors,
)
from losslab.experiments.detection.assignment import (
    AssignmentSettings,
    Targets,
    assign_all,
    matched_boxes,
)
from losslab.experiments.detection.detections import (
    Detections,
    DetectionSettings,
    detect,
    join,
)
from losslab.experiments.detection.loss import DetectionLoss, class_reduction
from losslab.experiments.detection.metrics import detection_metrics
from losslab.experiments.detection.mining import MiningSettings
from losslab.experiments.models.retinanet import RetinaNet
from losslab.experiments.states import Job
from losslab.experiments.tasks import Detection
from losslab.experiments.training import PRECISIONS, Parts
from losslab.randomness import generator, seed_integer

# Images that one forward pass of an evaluation takes at most.
EVALUATION_IMAGES = 32


@dataclass
class DetectorParts(Parts):
    """The live objects of a detector's training."""

    model: RetinaNet
    loss: DetectionLoss
    anchors: Anchors
    assignment: AssignmentSettings
    inference: DetectionSettings
    known: Mapping[str, Targets]  # of train and validation, as the images are stored
    mirrored: np.ndarray | None  # see `anchors.flip_permutation`; None: not on anchors
    flip: float
    jitter: tuple[float, float] | None

    def batch_loss(self, job: Job, batch: Tensor, epoch: int) -> Tensor:
        """Class loss and box loss of a batch of images, mirrored and scaled at random."""
        train = _split(self.data.train)
        rows = batch.cpu().numpy()
        random = generator(job.study_seed, "augment", job.run_seed, epoch, int(rows[0]))
        images, annotations, targets = self._batch(train, rows, random)
        boxes = torch.from_numpy(matched_boxes(targets.matched, annotations)).to(job.device)
        logits, offsets = self.model(torch.from_numpy(images).to(job.device))
        terms = self.loss(
            logits,
            offsets,
            self.boxes(logits),
            torch.from_numpy(targets.labels).to(job.device),
            boxes.to(offsets.dtype),
        )
        total: Tensor = terms.total
        return total

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
        detections, logits = self.evaluate(self.data.validation)
        labels = self.known["validation"].labels
        return self.scores(self.data.validation, detections, logits, labels, job)

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

    def evaluate(self, examples: Examples) -> tuple[Detections, np.ndarray]:
        """Detections in a split, and its anchors' logits (n, A, K)."""
        split, found, logits = _split(examples), [], []
        self.model.eval()
        with torch.no_grad():
            for begin in range(0, len(split), EVALUATION_IMAGES):
                part = slice(begin, begin + EVALUATION_IMAGES)
                raw, offsets = (each.float().cpu() for each in self.model(examples.features[part]))
                detected = detect(
                    raw, offsets, self.anchors, split.sizes[part], self.inference, self.loss.coding
                )
                found += [detected.of(i) for i in range(len(detected))]
                logits.append(raw.numpy())
        return join(found), np.concatenate(logits)

    def labels(self, examples: Examples) -> np.ndarray:
        """The targets of all anchors in a split's images, (n, A)."""
        return assign_all(self.anchors, _split(examples).annotations, self.assignment).labels

    def boxes(self, like: Tensor) -> Tensor:
        """The anchors' boxes, (A, 4), in the type and on the device of `like`."""
        return torch.from_numpy(self.anchors.boxes).to(like)


def prepare_detector(job: Job) -> DetectorParts:
    """Data, detector and losses of a job, the detector at its initial weights.

    Raises `BadInput` where the model is no detector or the losses do not fit.
    """
    data = run_data(job.config["dataset"], job.study_seed, job.run_seed, job.device)
    settings: Mapping[str, Any] = job.config["detector"]
    train = _split(data.train)
    model = build_model(
        {key: value for key, value in job.config["model"].items() if key != "prior_init"},
        Detection(data.dataset.num_classes),
        job.link,
        tuple(train.images.shape[1:]),
        data.class_counts,
        seed_integer(job.study_seed, "weights", job.run_seed),
    )
    if not isinstance(model, RetinaNet):
        name = job.config["model"]["name"]
        raise BadInput(f"name: {name} is no detector; write model: retinanet")
    anchors = make_anchors(model.anchor_settings, *train.images.shape[2:])
    assignment = AssignmentSettings(
        settings["positive"], settings["negative"], settings["best_from"]
    )
    known = _targets(
        json.dumps(job.config["dataset"], sort_keys=True), job.study_seed, job.run_seed,
        job.device, model.anchor_settings, assignment,
    )  # fmt: skip
    labels = known["train"].labels
    counts = np.bincount(labels[labels >= 0], minlength=data.dataset.num_classes)
    _set_prior(model, job.config["model"].get("prior_init", False), counts / labels.size)
    precision = PRECISIONS[job.config["training"].get("precision", "float32")]
    return DetectorParts(
        data,
        model.to(job.device, precision),
        _loss(job, counts).to(job.device),
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


def _loss(job: Job, counts: np.ndarray) -> DetectionLoss:
    """The loss of a job; losses that weigh classes count their positive anchors."""
    settings = job.config["detector"]
    mining = settings["mining"] and MiningSettings(**settings["mining"])
    config = {**job.config["loss"], "reduction": class_reduction(settings["normalizer"], mining)}
    try:
        return DetectionLoss(
            build_loss(config, Detection(len(counts)), counts),
            build_box_loss(settings["box_loss"]),
            normalizer=settings["normalizer"],
            box_weight=settings["box_weight"],
            mining=mining,
        )
    except (BadInput, TypeError, ValueError) as error:
        raise BadInput(f"loss: cannot be built: {error}") from error


def _set_prior(model: RetinaNet, prior: bool | float, shares: np.ndarray) -> None:
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
