"""Judging a finished detector on the test split."""

import numpy as np

from losslab.datasets.detection.base import DetectionSplit
from losslab.experiments.confirmation import Verdict
from losslab.experiments.costs import model_costs
from losslab.experiments.data import Images, held_out
from losslab.experiments.detection.found import Detections
from losslab.experiments.detection.parts import prepare_detector
from losslab.experiments.states import State
from losslab.experiments.training import load_weights

# Images that are timed together, and how often.
TIMED_IMAGES, TIMED = 8, 5


def judge_detector(state: State, decision: str, with_prior_correction: bool) -> Verdict:
    """Judge a detector's weights on the test split; one that diverged detects nothing.

    `metrics` are the study's, as `test/...`, and what the detector costs: `test/milliseconds` an
    image at inference, `test/parameters`, `test/flops` an image. `outputs` are the detections
    (`test_found_offsets, _boxes, _scores, _labels`) and what there is to find (`test_boxes` and so
    on), as in `Detections` and `Annotations`, with the images' ids and sizes. Every detection has
    a score, so there is no `decision` to tune and no prior to correct.
    """
    job, parts = state.job, prepare_detector(state.job)
    test, digest = held_out(job.config["dataset"], job.study_seed, job.run_seed, job.device)
    assert isinstance(test, Images)
    load_weights(parts.model, state.judged_model)
    costs = {}
    if state.diverged:  # its model may fail, or hang, once more
        labels = np.full((len(test), 1), -1)
        logits = np.zeros((len(test), 1, len(parts.data.dataset.class_names)), dtype=np.float32)
        detections = _nothing(len(test))
    else:
        detections, logits, labels = parts.evaluate(test)
        costs = model_costs(parts.model, test.features[:TIMED_IMAGES], TIMED)
    values = parts.scores(test, detections, np.nan_to_num(logits), labels, job)
    return Verdict(
        {f"test/{name}": value for name, value in {**values, **costs}.items()},
        _arrays(test.split, detections),
        {**parts.data.pairing, "test": digest},
    )


def _nothing(images: int) -> Detections:
    return Detections(
        np.zeros(images + 1, dtype=np.int64),
        np.zeros((0, 4), dtype=np.float32),
        np.zeros(0, dtype=np.float32),
        np.zeros(0, dtype=np.int64),
    )


def _arrays(split: DetectionSplit, found: Detections) -> dict[str, np.ndarray]:
    names = ("offsets", "boxes", "labels", "crowd", "areas")
    truth = dict(zip(names, split.annotations.arrays(), strict=True))
    return {
        **{f"test_{name}": array for name, array in truth.items()},
        "test_ids": split.ids,
        "test_sizes": split.sizes,
        "test_scales": split.scales,
        "test_found_offsets": found.offsets,
        "test_found_boxes": found.boxes,
        "test_found_scores": found.scores,
        "test_found_labels": found.labels,
    }
