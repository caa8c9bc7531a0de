"""Metrics of imbalanced classification, fast enough to run on 300,000 elements every epoch.

Definitions are in docs/metrics.md. Every value equals scikit-learn's where scikit-learn has the
metric. Arguments come in scikit-learn's order: targets, then probabilities (ranking and
probability metrics) or predicted classes (decision metrics). Shapes throughout: `targets` int
(N,); `probabilities` (N,) for two classes, the probability of class 1, or (N, K); `predicted` int
(N,).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from losslab.datasets.base import IGNORE
from losslab.errors import BadInput, UnknownName
from losslab.experiments import decision_metrics
from losslab.experiments.score_metrics import Direction, Kind, Ranked, marked
from losslab.registry import Registry, load, nearest

_SCORES = "losslab.experiments.score_metrics"
_DECISIONS = "losslab.experiments.decision_metrics"
_BUILT_IN = {
    "average_precision": (
        "Area under precision and recall; macro one-vs-rest for several classes.",
        f"{_SCORES}:average_precision",
    ),
    "roc_auc": ("Area under the ROC curve; macro one-vs-rest.", f"{_SCORES}:roc_auc"),
    "balanced_accuracy": ("Mean of the classes' recalls.", f"{_DECISIONS}:balanced_accuracy"),
    "accuracy": ("Share of right decisions.", f"{_DECISIONS}:accuracy"),
    "macro_f1": ("Mean of the classes' F1 scores.", f"{_DECISIONS}:macro_f1"),
    "recall": ("Recall of every class, as recall/<class name>.", f"{_DECISIONS}:recall"),
    "accuracy_many": ("Mean recall of classes with > 100 rows.", f"{_DECISIONS}:accuracy_many"),
    "accuracy_medium": (
        "Mean recall of classes with 20 to 100 training rows.",
        f"{_DECISIONS}:accuracy_medium",
    ),
    "accuracy_few": ("Mean recall of classes with < 20 rows.", f"{_DECISIONS}:accuracy_few"),
    "log_loss": ("Mean negative log-likelihood.", f"{_SCORES}:log_loss"),
    "ece": ("Expected calibration error, 15 bins of equal width.", f"{_SCORES}:ece"),
    "brier": ("Squared error of the probabilities.", f"{_SCORES}:brier"),
}
_DETECTION = "losslab.experiments.detection.metrics:detection_metrics"
_OF_DETECTORS = {
    "ap": ("COCO's AP: mean over IoU 0.50 to 0.95 and classes; ap/<class> for one.", _DETECTION),
    "ap50": ("AP at IoU 0.50.", _DETECTION),
    "ap75": ("AP at IoU 0.75.", _DETECTION),
    "ap_small": ("AP of objects below 32 x 32 pixels.", _DETECTION),
    "ap_medium": ("AP of objects between 32 x 32 and 96 x 96 pixels.", _DETECTION),
    "ap_large": ("AP of larger objects.", _DETECTION),
    "ar_100": ("COCO's average recall with 100 detections an image.", _DETECTION),
    "anchor_ap": ("Average precision of anchors as foreground of their class.", _DETECTION),
}
_GENERATION = "losslab.experiments.adversarial.metrics"
_OF_GENERATORS = {
    "mode_coverage": (
        "Share of the modes that got a quarter or more of their samples.",
        f"{_GENERATION}:mode_coverage",
    ),
    "high_quality": (
        "Share of generated samples within 3 standard deviations of a mode.",
        f"{_GENERATION}:high_quality",
    ),
    "mode_divergence": (
        "KL divergence of the generated mode frequencies from the real ones.",
        f"{_GENERATION}:mode_divergence",
    ),
}
_SEGMENTATION = "losslab.experiments.segmentation.metrics"
_OF_SEGMENTATION = {
    "miou": ("Mean intersection over union of the classes.", f"{_SEGMENTATION}:miou"),
    "pixel_accuracy": (
        "Share of the pixels with the right class.",
        f"{_SEGMENTATION}:pixel_accuracy",
    ),
    "iou": ("IoU of every class, as iou/<class name>.", f"{_SEGMENTATION}:iou"),
}
_OWN = {**_BUILT_IN, **_OF_DETECTORS, **_OF_GENERATORS, **_OF_SEGMENTATION}
METRICS = Registry("metric", "losslab.metrics", _OWN)
__all__ = ["METRICS", "Metric", "direction_of", "evaluate", "marked", "metric"]
SHOTS = ("accuracy_many", "accuracy_medium", "accuracy_few")


@dataclass(frozen=True)
class Metric:
    """A metric as the runner uses it: its name, function, direction and kind.

    `direction` is None where nobody said (a function given by path that is not marked).
    """

    name: str
    function: Callable[..., Any]
    direction: Direction | None
    kind: Kind


def metric(name: str) -> Metric:
    """The metric of that name: built in, registered, `recall/<class name>`, or a path.

    Raises `UnknownName` where there is none.

    >>> metric("recall/7").direction, metric("sklearn.metrics:average_precision_score").direction
    ('maximize', None)
    """
    base = name.split("/")[0] if name.startswith(("recall/", "ap/", "iou/")) else name
    # Built-ins skip the registry, which reads the entry points of all packages at every look-up
    # (8 ms: more than a metric takes).
    known = _OWN.get(base)
    function = load(known[1]) if known else METRICS.get(base)
    if not callable(function):
        raise BadInput(f"metric {name!r} cannot be called")
    kind: Kind = getattr(function, "kind", "probability")
    return Metric(name, function, getattr(function, "direction", None), kind)


def direction_of(name: str) -> Direction | None:
    """`maximize` or `minimize`, or None for a function whose direction nobody has said.

    >>> direction_of("average_precision"), direction_of("log_loss"), direction_of("math:log")
    ('maximize', 'minimize', None)
    """
    return metric(name).direction


def evaluate(
    targets: np.ndarray,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    *,
    class_names: Sequence[str],
    train_class_counts: np.ndarray,
    names: Iterable[str] | None = None,
    confusion: np.ndarray | None = None,
) -> dict[str, float]:
    """The named metrics (default: all built-in ones) of one set of predictions.

    `probabilities` may be (N, 2) for two classes too. `train_class_counts` (K,) decides which
    classes are many, medium and few-shot. `recall` stands for one entry a class,
    `recall/<class name>`. Recalls of classes without targets and accuracies of empty groups are
    left out, as are the groups where there are only two classes; asked for by their full name
    they are NaN. Elements whose target is -1 do not count. Where the predictions are a sample of
    more, `confusion` (K, K) are the counts of all of them, which built-in decision metrics read.

    Raises `ValueError` where shapes do not fit or probabilities are not finite numbers in [0, 1],
    `UnknownName` for a name that is no metric, and `BadInput` where a metric given by path fails.

    >>> evaluate(np.array([0, 0, 1]), np.array([0.1, 0.6, 0.8]), np.array([0, 1, 1]),
    ...          class_names=["no", "yes"], train_class_counts=np.array([2, 1]),
    ...          names=["average_precision", "recall"])
    {'average_precision': 1.0, 'recall/no': 0.5, 'recall/yes': 1.0}
    """
    targets, probabilities, predicted = _checked(targets, probabilities, predicted, class_names)
    if confusion is None:
        confusion = decision_metrics.confusion(targets, predicted, len(class_names))
    context: dict[str, Any] = {
        "ranked": Ranked(targets, probabilities),
        "confusion": confusion,
        "train_class_counts": np.asarray(train_class_counts),
    }
    values: dict[str, float] = {}
    for name in _BUILT_IN if names is None else dict.fromkeys(names):
        chosen = metric(name)
        if chosen.function is decision_metrics.recall:
            values.update(_recalls(name, context["confusion"], class_names))
            continue
        value = _call(chosen, targets, probabilities, predicted, context)
        if not (names is None and name in SHOTS and math.isnan(value)):
            values[name] = value
    return values


def _checked(
    targets: np.ndarray,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    class_names: Sequence[str],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The elements that count, in the shapes that metric functions take."""
    targets, predicted = np.asarray(targets).ravel(), np.asarray(predicted).ravel()
    probabilities = np.asarray(probabilities)
    classes = len(class_names)
    if classes == 2 and probabilities.shape == (len(targets), 2):
        probabilities = probabilities[:, 1]
    probabilities = probabilities.ravel() if classes == 2 else probabilities
    shape = (len(targets),) if classes == 2 else (len(targets), classes)
    if probabilities.shape != shape or len(predicted) != len(targets):
        raise ValueError(
            f"{len(targets)} targets of {classes} classes need probabilities of shape {shape} and "
            f"as many predictions, got {probabilities.shape} and {len(predicted)}"
        )
    if not len(targets):
        raise ValueError("there are no targets to evaluate")
    counted = targets != IGNORE
    if not counted.all():
        targets, probabilities, predicted = (
            targets[counted], probabilities[counted], predicted[counted],
        )  # fmt: skip
        if not len(targets):
            raise ValueError("all targets are ignored; there is nothing to evaluate")
    # min and max are NaN where any value is, and need no temporary array.
    low, high = probabilities.min(), probabilities.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"probabilities must be finite and in [0, 1], found {low} to {high}")
    if targets.min() < 0 or targets.max() >= classes:
        raise ValueError(f"targets must be classes 0 to {classes - 1}")
    if predicted.min() < 0 or predicted.max() >= classes:
        raise ValueError(f"predicted classes must be 0 to {classes - 1}")
    return targets, probabilities, predicted


def _call(
    chosen: Metric,
    targets: np.ndarray,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    context: dict[str, Any],
) -> float:
    extra = {name: context[name] for name in getattr(chosen.function, "shares", ())}
    given = predicted if chosen.kind == "decision" else probabilities
    if chosen.function.__module__ in (_SCORES, _DECISIONS):
        return chosen.function(targets, given, **extra)
    try:
        return float(chosen.function(targets, given))
    except Exception as error:
        what = "predicted classes" if chosen.kind == "decision" else "probabilities"
        raise BadInput(
            f"metric {chosen.name!r}, called with targets {targets.shape} and {what} "
            f"{given.shape}, fails: {type(error).__name__}: {error}"
        ) from error


def _recalls(name: str, confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    recalls = decision_metrics.recalls(confusion)
    found = {f"recall/{c}": float(r) for c, r in zip(class_names, recalls, strict=True)}
    if name == "recall":
        return {key: value for key, value in found.items() if not math.isnan(value)}
    if name not in found:
        label = name.removeprefix("recall/")
        raise UnknownName(
            f"unknown class {label!r} in the metric {name!r}{nearest(label, class_names)} "
            f"(the classes are {', '.join(class_names)})"
        )
    return {name: found[name]}
