import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from losslab.errors import UnknownName
from losslab.experiments.decision_metrics import confusion
from losslab.experiments.metrics import metric
from losslab.experiments.segmentation.metrics import ious, segmentation_metrics

NAMES = ["wall", "a", "b", "c"]


def pixels(seed=0, classes=4, count=4000, present=3):
    random = np.random.default_rng(seed)
    targets = random.integers(0, present, count)
    predicted = np.where(random.random(count) < 0.6, targets, random.integers(0, classes, count))
    scores = random.random((count, classes))
    return targets, scores / scores.sum(1, keepdims=True), predicted


def test_they_equal_scikit_learns():
    targets, _, predicted = pixels()  # class 3 is predicted and never true
    labels = np.unique(targets)
    wanted = jaccard_score(targets, predicted, average="macro", labels=labels)
    assert metric("miou").function(targets, predicted) == pytest.approx(wanted)
    assert metric("pixel_accuracy").function(targets, predicted) == pytest.approx(
        accuracy_score(targets, predicted)
    )
    by_class = ious(confusion(targets, predicted, 4))
    np.testing.assert_allclose(
        by_class[:3], jaccard_score(targets, predicted, average=None, labels=labels)
    )
    assert np.isnan(by_class[3])


def test_counts_come_from_all_pixels_and_probabilities_from_the_sample():
    targets, probabilities, predicted = pixels()
    matrix = confusion(targets, predicted, 4)
    few = slice(0, 500)
    values = segmentation_metrics(
        targets[few], probabilities[few], predicted[few], matrix,
        class_names=NAMES, train_class_counts=matrix.sum(1),
        names=["miou", "macro_f1", "iou", "log_loss", "iou/c", "accuracy_many"],
    )  # fmt: skip
    labels = np.unique(targets)
    assert list(values) == ["miou", "macro_f1", "iou/wall", "iou/a", "iou/b", "log_loss", "iou/c"]
    assert values["macro_f1"] == pytest.approx(
        f1_score(targets, predicted, average="macro", labels=labels)
    )
    assert values["iou/a"] == pytest.approx(
        jaccard_score(targets, predicted, average=None, labels=[1])[0]
    )
    assert np.isnan(values["iou/c"])
    own = probabilities[few][np.arange(500), targets[few]]
    assert values["log_loss"] == pytest.approx(-np.log(own).mean())
    with pytest.raises(UnknownName, match=r"unknown class 'wal'.*did you mean 'wall'"):
        segmentation_metrics(
            targets, probabilities, predicted, matrix, class_names=NAMES,
            train_class_counts=matrix.sum(1), names=["iou/wal"],
        )  # fmt: skip
