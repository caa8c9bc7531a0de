"""Metrics of segmentation, all from one confusion matrix of pixels. See docs/metrics.md."""

from collections.abc import Iterable, Sequence

import numpy as np

from losslab.errors import UnknownName
from losslab.experiments import decision_metrics
from losslab.experiments.metrics import SHOTS, evaluate, metric
from losslab.experiments.score_metrics import marked
from losslab.registry import nearest


def ious(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class (K,); NaN for a class without targets.

    Of TP / (TP + FP + FN) in a confusion matrix (K, K), rows being targets.

    >>> ious(np.array([[2, 1, 0], [0, 1, 0], [0, 0, 0]])).round(3).tolist()
    [0.667, 0.5, nan]
    """
    hits, targets = np.diagonal(matrix), matrix.sum(axis=1)
    union = targets + matrix.sum(axis=0) - hits
    return np.where(targets > 0, hits / np.maximum(union, 1), np.nan)


@marked("maximize", "segmentation", shares=("confusion",))
def miou(
    targets: np.ndarray, predicted: np.ndarray, *, confusion: np.ndarray | None = None
) -> float:
    """Mean IoU over the classes that have targets, background included.

    Of all pixels of a split together, as Zhao et al. (CVPR 2017) and the Cityscapes benchmark
    have it, not a mean over images. Equals `sklearn.metrics.jaccard_score(..., average="macro",
    labels=np.unique(targets))`.

    >>> round(miou(np.array([0, 0, 1]), np.array([0, 1, 1])), 4)
    0.5
    """
    return float(np.nanmean(ious(_matrix(targets, predicted, confusion))))


@marked("maximize", "segmentation", shares=("confusion",))
def pixel_accuracy(
    targets: np.ndarray, predicted: np.ndarray, *, confusion: np.ndarray | None = None
) -> float:
    """Share of the pixels with the right class.

    >>> round(pixel_accuracy(np.array([0, 0, 1]), np.array([0, 1, 1])), 4)
    0.6667
    """
    matrix = _matrix(targets, predicted, confusion)
    return float(np.trace(matrix) / matrix.sum())


@marked("maximize", "segmentation")
def iou(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """IoU of each class (K,), NaN for a class without targets; see `ious`.

    >>> iou(np.array([0, 0, 1]), np.array([0, 1, 1])).tolist()
    [0.5, 0.5]
    """
    return ious(_matrix(targets, predicted, None))


def segmentation_metrics(
    targets: np.ndarray,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    matrix: np.ndarray,
    *,
    class_names: Sequence[str],
    train_class_counts: np.ndarray,
    names: Iterable[str],
) -> dict[str, float]:
    """The named metrics of a split: what counts decisions from `matrix`, all else from a sample.

    `targets, probabilities, predicted` are of the sampled pixels, as `metrics.evaluate` takes them;
    `matrix` (K, K) is the confusion matrix of all pixels. `iou` stands for one entry a class,
    `iou/<class name>`; classes without targets are left out. Accuracies of many, medium and
    few-shot classes are left out too: they count training rows, and a picture has thousands.

    Raises `UnknownName` for a class that there is not, and what `metrics.evaluate` raises.
    """
    asked = [name for name in dict.fromkeys(names) if name not in SHOTS]
    own = [name for name in asked if metric(name).kind == "segmentation"]
    values = evaluate(
        targets,
        probabilities,
        predicted,
        class_names=class_names,
        train_class_counts=train_class_counts,
        names=[name for name in asked if name not in own],
        confusion=matrix,
    )
    by_class = {f"iou/{c}": float(v) for c, v in zip(class_names, ious(matrix), strict=True)}
    for name in own:
        if name == "iou":
            values |= {key: value for key, value in by_class.items() if not np.isnan(value)}
        elif name.startswith("iou/"):
            values[name] = _of_class(name, by_class, class_names)
        else:
            values[name] = metric(name).function(targets, predicted, confusion=matrix)
    return {name: values[name] for name in sorted(values, key=_asked_first(asked))}


def _asked_first(asked: Sequence[str]):
    """A sort key: the order of `asked`, what stands for several by its first part."""
    place = {name: i for i, name in enumerate(asked)}
    return lambda name: place.get(name, place.get(name.split("/")[0], len(place)))


def _of_class(name: str, by_class: dict[str, float], class_names: Sequence[str]) -> float:
    if name not in by_class:
        label = name.removeprefix("iou/")
        raise UnknownName(
            f"unknown class {label!r} in the metric {name!r}{nearest(label, class_names)} "
            f"(the classes are {', '.join(class_names)})"
        )
    return by_class[name]


def _matrix(targets: np.ndarray, predicted: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    if known is not None:
        return known
    classes = int(max(np.max(targets), np.max(predicted))) + 1
    return decision_metrics.confusion(targets, predicted, classes)
