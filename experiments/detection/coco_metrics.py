"""COCO's detection metrics of arrays or files, computed by an evaluator that is kept by others.

The evaluator is faster-coco-eval, pycocotools' rules in C++; its numbers equal those of
pycocotools, which is tested.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from losslab.datasets.detection.annotations import Annotations
from losslab.errors import BadInput
from losslab.experiments.detection.coco_files import read_results
from losslab.experiments.detection.found import Detections

# Sides of the squares, in pixels of the original image, whose areas part small, medium and large.
SIZES = (32.0, 96.0)
NAMES: tuple[str, ...] = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)
RECALLS = np.linspace(0, 1, 101)  # at which precision is read
IOUS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Evaluation:
    """What the evaluator finds in a set of images.

    `metrics` as `coco_metrics` gives them. `precision` (10, 101, K) at `IOUS` and `RECALLS` for
    each class, with 100 detections an image and objects of any size; nan for a class without
    objects. At recall r it is the highest precision of any recall from r on, 0 beyond the highest
    recall reached, so that its mean over recalls is AP.
    """

    metrics: dict[str, float]
    precision: np.ndarray

    def curve(self, iou: float) -> np.ndarray:
        """Precision at `RECALLS` (101,), the mean over the classes that have objects.

        Its mean is `ap50` at `iou` 0.5 and `ap75` at 0.75; nan where no class has objects. Raises
        `BadInput` for a threshold that COCO has not.
        """
        found = np.flatnonzero(np.isclose(IOUS, iou))
        if not len(found):
            raise BadInput(f"iou: must be one of 0.5, 0.55, ..., 0.95, got {iou}")
        known = ~np.isnan(self.precision[found[0], 0])
        if not known.any():
            return np.full(len(RECALLS), math.nan)
        mean: np.ndarray = self.precision[found[0]][:, known].mean(axis=1)
        return mean


def coco_metrics(
    annotations: Annotations,
    detections: Detections,
    scales: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    sizes: tuple[float, float] = SIZES,
) -> dict[str, float]:
    """COCO's metrics of detections in the images that `annotations` tells of.

    `ap` is the mean over IoU thresholds 0.50 to 0.95 and over the classes that have objects, of
    precision at 101 recalls; `ap50`, `ap75` at one threshold; `ap_small` and so on for objects by
    area; `ar_1`, `ar_10`, `ar_100` the recall with so many detections an image, `ar_small` and so
    on by area; `ap/<class>` each class's AP, named by `class_names` or by number. What no object
    tells of is nan, where the evaluator prints -1. Crowd boxes are no objects, and detections in
    them do not count.

    `scales` (n,): stored pixels per original pixel, by which boxes are divided, since area ranges
    are of original pixels, as `annotations.areas` are; without it they are the same. `sizes`
    parts small, medium and large.
    """
    return evaluate(annotations, detections, scales, class_names, sizes).metrics


def evaluate(
    annotations: Annotations,
    detections: Detections,
    scales: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    sizes: tuple[float, float] = SIZES,
) -> Evaluation:
    """The metrics of `coco_metrics`, which tells the arguments, and the curves behind them."""
    if len(annotations) != len(detections):
        raise BadInput(
            f"detections: of {len(detections)} images, but there are {len(annotations)} annotated"
        )
    named = max(annotations.labels.max(initial=-1), detections.labels.max(initial=-1)) + 1
    names = list(class_names) or [str(c) for c in range(max(named, 1))]
    scale = np.ones(len(annotations)) if scales is None else np.asarray(scales, dtype=np.float64)
    dataset = {
        "images": [{"id": i + 1} for i in range(len(annotations))],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(names)],
        "annotations": _truth(annotations, scale),
    }
    return _evaluate(dataset, _results(detections, scale), sizes)


def coco_metrics_of_files(
    annotations: str | Path, results: str | Path, sizes: tuple[float, float] = SIZES
) -> dict[str, float]:
    """COCO's metrics of a result file against an annotation file, both JSON as COCO has them.

    Names and values as in `coco_metrics`, those of pycocotools. As there, detections of a category
    that the annotations have not do not count. Ids may be texts, or begin with 0, which the
    evaluators take for "not matched".

    Raises `BadInput` where a file cannot be read or is not in COCO's format, or a result belongs
    to no image.
    """
    return _evaluate(*read_results(annotations, results), sizes).metrics


def _evaluate(
    dataset: dict[str, Any], results: list[dict[str, Any]], sizes: tuple[float, float]
) -> Evaluation:
    from faster_coco_eval import COCO, COCOeval_faster

    small, large = (side**2 for side in sizes)
    ranges = {"small": [0, small], "medium": [small, large], "large": [large, 1e10]}
    truth = COCO(dataset)
    evaluator = COCOeval_faster(truth, truth.loadRes(results), "bbox", ranges)
    evaluator.run()
    values = dict(zip(NAMES, evaluator.stats, strict=True))
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # thresholds, recalls, classes
    for place, category in enumerate(evaluator.params.catIds):
        own = precision[:, :, place]
        known = own[own > -1]
        values[f"ap/{truth.cats[category]['name']}"] = known.mean() if len(known) else -1
    return Evaluation(
        {name: math.nan if value < 0 else float(value) for name, value in values.items()},
        np.where(precision > -1, precision, math.nan),
    )


def _truth(annotations: Annotations, scale: np.ndarray) -> list[dict[str, Any]]:
    image = annotations.images
    boxes = _corner_and_size(annotations.boxes, scale[image])
    columns = (image, boxes, annotations.labels, annotations.crowd, annotations.areas)
    return [
        # Identifiers begin at 1, since the evaluators take 0 for "not matched".
        {"id": i + 1, "image_id": at + 1, "bbox": box, "category_id": label + 1,
         "iscrowd": int(crowd), "area": area}
        for i, (at, box, label, crowd, area) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        )
    ]  # fmt: skip


def _results(detections: Detections, scale: np.ndarray) -> list[dict[str, Any]]:
    image = np.repeat(np.arange(len(detections)), np.diff(detections.offsets))
    boxes = _corner_and_size(detections.boxes, scale[image])
    columns = (image, boxes, detections.labels, detections.scores)
    return [
        {"image_id": at + 1, "bbox": box, "category_id": label + 1, "score": score}
        for at, box, label, score in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _corner_and_size(boxes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """x, y, width, height in original pixels, float64."""
    original = boxes.astype(np.float64) / scale[:, None]
    return np.concatenate([original[:, :2], original[:, 2:] - original[:, :2]], axis=1)
