"""The metrics of a detection study: COCO's, and one of anchors that needs no boxes."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from losslab.datasets.detection.base import DetectionSplit
from losslab.errors import UnknownName
from losslab.experiments.detection.anchor_metrics import anchor_average_precision
from losslab.experiments.detection.coco_metrics import coco_metrics
from losslab.experiments.detection.found import Detections
from losslab.experiments.score_metrics import marked
from losslab.registry import nearest


@marked("maximize", "detection")
def detection_metrics(
    split: DetectionSplit,
    detections: Detections,
    anchor_logits: np.ndarray,
    anchor_labels: np.ndarray,
    *,
    class_names: Sequence[str],
    names: Iterable[str],
) -> dict[str, float]:
    """The named metrics of a detector on a split.

    COCO's as in `coco_metrics` (`ap` and so on, `ap/<class>` for one class); `ap` among the names
    gives every class's too. `anchor_ap` is the mean over classes of `anchor_average_precision` of
    `anchor_logits` (n, A, K) by `anchor_labels` (n, A). A metric that no object of the split tells
    of is left out; asked for by its full name `ap/<class>` it is nan.

    Raises `UnknownName` for a class that there is not.
    """
    asked = list(dict.fromkeys(names))
    found = coco_metrics(split.annotations, detections, split.scales, class_names)
    if "anchor_ap" in asked:
        of_classes = anchor_average_precision(anchor_logits, anchor_labels).values()
        found["anchor_ap"] = float(np.mean(list(of_classes))) if of_classes else math.nan
    values: dict[str, float] = {}
    for name in asked:
        if name not in found:
            label = name.removeprefix("ap/")
            raise UnknownName(
                f"unknown class {label!r} in the metric {name!r}{nearest(label, class_names)} "
                f"(the classes are {', '.join(class_names)})"
            )
        if name.startswith("ap/") or not math.isnan(found[name]):
            values[name] = found[name]
    if "ap" in asked:
        own = {name: value for name, value in found.items() if name.startswith("ap/")}
        values |= {name: value for name, value in own.items() if not math.isnan(value)}
    return values
