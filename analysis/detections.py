"""What detectors found in the test images: confirmation runs read, evaluated and matched."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from losslab.analysis.frames import StudyFrames
from losslab.analysis.remembering import once
from losslab.datasets.detection.annotations import Annotations
from losslab.datasets.detection.base import ANNOTATED
from losslab.errors import BadInput
from losslab.experiments.detection.coco_metrics import Evaluation, evaluate
from losslab.experiments.detection.found import Detections
from losslab.experiments.detection.overlap import areas, intersections, iou

MOST_RUNS = 100  # of one study; a report must not take minutes
HIT_IOU = 0.5
_FOUND = ("offsets", "boxes", "scores", "labels")


@dataclass(frozen=True)
class DetectorRun:
    """One confirmation run of a detector: what there was to find in the test images, and was found.

    `ids` (n,) of the images; `truth`, `found` and `evaluation` are of these images, in this order.
    """

    key: str
    arm: str
    seed_index: int
    repeat: int
    ids: np.ndarray
    truth: Annotations
    found: Detections
    evaluation: Evaluation


def is_detection(frames: StudyFrames) -> bool:
    """Whether the study is one of object detection."""
    return frames.study.get("dataset", {}).get("task") == "detection"


@once
def detector_runs(frames: StudyFrames) -> dict[str, list[DetectorRun]]:
    """The selected configurations' complete runs that have outputs, by arm, lowest seeds first.

    At most 100 runs a study, as many of each arm. Arms without are left out. Computed once for
    each `frames`.
    """
    if not is_detection(frames):
        return {}
    runs = frames.confirmation
    runs = runs[(runs["variant"] == "selected") & (runs["state"] == "complete")]
    runs = runs[runs["outputs"].notna() & (runs["outputs"] != "")]
    arms = [arm for arm in frames.arms if (runs["arm"] == arm).any()]
    names = [str(name) for name in frames.study["dataset"].get("class_names", [])]
    found: dict[str, list[DetectorRun]] = {}
    for arm in arms:
        own = runs[runs["arm"] == arm].sort_values(["repeat", "seed_index"])
        for run in own.head(max(MOST_RUNS // len(arms), 1)).itertuples():
            if (outputs := _outputs(frames, str(run.key))) is not None:
                owner = (str(run.key), arm, int(run.seed_index), int(run.repeat))
                found.setdefault(arm, []).append(_read(outputs, owner, names))
    return found


def match(
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    truth: tuple[np.ndarray, np.ndarray, np.ndarray],
    least: float = HIT_IOU,
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections of one image are hits, and which true boxes are hit; COCO's rule.

    `found`: boxes, scores (highest first), labels; `truth`: boxes, labels, crowd flags. In the
    order of scores, a detection takes the true box of its class that it overlaps most, by an IoU of
    at least `least`, of those not taken. Gives (d,) 1 for a hit, 0 for a false alarm, -1 where at
    least that share of the detection lies in a crowd box of its class, which makes it neither; and
    (m,) whether each true box is hit.

    >>> box, own, other = [[0, 0, 4, 4]], np.array([0]), np.array([1])
    >>> twice = np.array([*box, *box]), np.array([0.9, 0.8]), np.array([0, 0])
    >>> match(twice, (np.array(box), own, np.array([False])))
    (array([1, 0]), array([ True]))
    >>> match((np.array(box), np.array([0.9]), other), (np.array(box), own, np.array([False])))
    (array([0]), array([False]))
    """
    boxes, _, labels = found
    true_boxes, true_labels, crowd = truth
    state, taken = np.zeros(len(boxes), dtype=int), np.zeros(len(true_boxes), dtype=bool)
    if not len(boxes) or not len(true_boxes):
        return state, taken
    overlap = iou(boxes, true_boxes)
    inside = intersections(boxes, true_boxes) / areas(boxes)[:, None]
    for i in range(len(boxes)):
        same = true_labels == labels[i]
        free = np.where(same & ~crowd & ~taken, overlap[i], 0.0)
        if free.max() >= least:
            state[i], taken[free.argmax()] = 1, True
        elif (inside[i][same & crowd] >= least).any():
            state[i] = -1
    return state, taken


def break_even_score(run: DetectorRun) -> float:
    """The score of the N-th highest detection, N being how many objects there are to find.

    At this threshold an arm detects as many boxes as there are objects, so that arms whose scores
    are of different size can be compared. With fewer detections the lowest score; 1 without any.
    """
    objects = int((~run.truth.crowd).sum())
    scores = np.sort(run.found.scores)[::-1]
    return float(scores[min(max(objects, 1), len(scores)) - 1]) if len(scores) else 1.0


def _outputs(frames: StudyFrames, key: str) -> Mapping[str, np.ndarray] | None:
    try:
        outputs = frames.outputs(key)
    except BadInput:  # a damaged file: figures say how many runs they show
        return None
    return outputs if outputs is not None and "test_found_offsets" in outputs else None


def _read(
    outputs: Mapping[str, np.ndarray], owner: tuple[str, str, int, int], names: list[str]
) -> DetectorRun:
    truth = Annotations(*(outputs[f"test_{name}"] for name in ANNOTATED))
    found = Detections(*(outputs[f"test_found_{name}"] for name in _FOUND))
    evaluation = evaluate(truth, found, outputs.get("test_scales"), names)
    return DetectorRun(*owner, outputs["test_ids"], truth, found, evaluation)


def study_seed(frames: StudyFrames) -> int:
    """The seed of the study, which its test split depends on."""
    return int(frames.study.get("resolved", {}).get("seed", 0))
