"""All that a trained detector classifies in held-out images, for Figure 4 of the focal paper."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from losslab.analysis.detections import study_seed
from losslab.analysis.frames import StudyFrames
from losslab.datasets.detection.base import DetectionSplit
from losslab.errors import BadInput
from losslab.experiments.detection.assignment import IGNORED
from losslab.experiments.states import Job
from losslab.randomness import generator

# Of background as many as the paper has; more are drawn from at random.
MOST_BACKGROUND = 10_000_000


@dataclass(frozen=True)
class AnchorScores:
    """Logits and targets (N,) of elements: each anchor, or proposal, with each class is one.

    Targets are 1 for an anchor that has to find an object of the class, else 0; anchors that
    training ignores are left out. `kind` says which they are: anchors or proposals. `images` is how
    many images they are of; of the `background` elements of these images, `share` is in the arrays.
    """

    logits: np.ndarray
    targets: np.ndarray
    kind: str
    images: int
    background: int
    share: float


def anchor_scores(
    frames: StudyFrames,
    outputs: Path,
    images: int | None = None,
    most_background: int = MOST_BACKGROUND,
) -> AnchorScores:
    """The anchors, or proposals, of a confirmation run's detector in the test images.

    `outputs` is the run's file of arrays, beside which its record and its weights lie. `images`:
    so many test images; a dataset that composes its images (`scenes`) makes more of them from what
    is held out for test, others give what they have. All of them are in memory at once. Of more
    than `most_background` background elements about so many are drawn at random, always the same.

    Raises `BadInput` where weights, record or dataset are not there or do not fit.
    """
    import torch

    from losslab.experiments.detection.replaying import replay

    job = _job(frames, outputs.with_suffix(".json"))
    split, classes = _test_images(job, images)
    file = outputs.with_suffix(".pt")
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput(f"{file} cannot be read: {error}") from error
    random = generator(job.study_seed, "anchor scores", job.run_seed)
    share, background = 1.0, 0
    foreground: list[np.ndarray] = []
    sampled: list[np.ndarray] = []
    for logits, labels in replay(job, weights, split, classes):
        if not sampled:
            elements = len(split) * logits[0].size
            share = min(1.0, most_background / elements)
        own = labels[..., None] == np.arange(classes)
        rest = logits[~own & (labels != IGNORED)[..., None]]
        foreground.append(logits[own])
        background += len(rest)
        sampled.append(rest if share == 1 else rest[random.random(len(rest)) < share])
    parts = [np.concatenate(part) for part in (foreground, sampled)]
    targets = np.repeat(np.array([1, 0], dtype=np.int8), [len(part) for part in parts])
    kind = "proposals" if job.config["model"]["name"] == "two_stage" else "anchors"
    return AnchorScores(np.concatenate(parts), targets, kind, len(split), background, share)


def _job(frames: StudyFrames, file: Path) -> Job:
    try:
        record: dict[str, Any] = json.loads(file.read_bytes())
        return Job(record["config"], study_seed(frames), record["run_seed"], ("ap",))
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{file} cannot be read: {error}") from error


def _test_images(job: Job, images: int | None) -> tuple[DetectionSplit, int]:
    from losslab.experiments.data import dataset_for

    options = dict(job.config["dataset"])
    if images is not None and "test_images" in options:
        options["test_images"] = images
    dataset = dataset_for(options, job.study_seed)
    split = dataset.test(job.run_seed)
    if not isinstance(split, DetectionSplit):
        raise BadInput(f"{options['name']} has no boxes")
    if images is not None and images < len(split):
        some = slice(images)
        split = DetectionSplit(
            split.images[some], split.annotations.take(np.arange(images)), split.ids[some],
            split.sizes[some], split.scales[some],
        )  # fmt: skip
    return split, len(dataset.class_names)
