import math
import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from losslab.errors import BadInput, UnknownName
from losslab.experiments.decision_metrics import accuracy_few, accuracy_many, accuracy_medium
from losslab.experiments.metrics import METRICS, direction_of, evaluate, marked, metric
from losslab.experiments.score_metrics import average_precision, brier, ece, log_loss, roc_auc

CLOSE = {"rel": 1e-12, "abs": 1e-12}


@st.composite
def binary(draw):
    n = draw(st.integers(2, 300))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    targets = (random.random(n) < draw(st.sampled_from([0.01, 0.1, 0.5, 0.9]))).astype(int)
    targets[:2] = [0, 1]
    levels = draw(st.sampled_from([2, 5, 50, 10**9]))  # few levels: many ties, zeros and ones too
    return random.permutation(targets), random.integers(0, levels + 1, n) / levels


@st.composite
def several(draw):
    n, classes = draw(st.integers(4, 200)), draw(st.integers(3, 6))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    present = random.permutation(classes)[: draw(st.integers(2, classes))]
    targets = random.choice(present, n)
    targets[:2] = present[:2]
    probabilities = random.integers(1, draw(st.sampled_from([3, 1000])), (n, classes)).astype(float)
    return targets, probabilities / probabilities.sum(axis=1, keepdims=True)


@given(binary())
@settings(max_examples=60, deadline=None)
def test_two_classes_equal_scikit_learn(case):
    targets, p = case
    predicted = (p > 0.5).astype(int)
    values = evaluate(
        targets, p, predicted, class_names=["no", "yes"], train_class_counts=np.array([9, 3])
    )
    recalls = sk.recall_score(targets, predicted, average=None)
    expected = {
        "average_precision": sk.average_precision_score(targets, p),
        "roc_auc": sk.roc_auc_score(targets, p),
        "log_loss": sk.log_loss(targets, p),
        "brier": sk.brier_score_loss(targets, p),
        "balanced_accuracy": sk.balanced_accuracy_score(targets, predicted),
        "accuracy": sk.accuracy_score(targets, predicted),
        "macro_f1": sk.f1_score(targets, predicted, average="macro"),
        "recall/no": recalls[0],
        "recall/yes": recalls[1],
        "ece": values["ece"],  # scikit-learn has none; tested below
    }
    assert values == pytest.approx(expected, **CLOSE)
    both = np.stack([1 - p, p], axis=1)
    assert evaluate(targets, both, predicted, class_names=["no", "yes"],
                    train_class_counts=np.array([9, 3])) == values  # fmt: skip


@given(several())
@settings(max_examples=60, deadline=None)
def test_several_classes_equal_scikit_learn(case):
    targets, p = case
    classes, predicted = p.shape[1], p.argmax(axis=1)
    labels, present = list(range(classes)), np.unique(targets)
    onehot = np.eye(classes)[targets]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "average_precision": sk.average_precision_score(onehot[:, present], p[:, present]),
            "roc_auc": sk.roc_auc_score(onehot[:, present], p[:, present], average="macro"),
            "log_loss": sk.log_loss(targets, p, labels=labels),
            "brier": sk.brier_score_loss(targets, p, labels=labels),
            "balanced_accuracy": sk.balanced_accuracy_score(targets, predicted),
            "macro_f1": sk.f1_score(targets, predicted, average="macro", labels=present),
        }
        recalls = sk.recall_score(targets, predicted, average=None, labels=present)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = evaluate(
            targets, p, predicted, class_names=[str(c) for c in labels],
            train_class_counts=np.ones(classes), names=[*expected, "recall"],
        )  # fmt: skip
    expected |= {f"recall/{c}": r for c, r in zip(present, recalls, strict=True)}
    assert values == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_loss_clips_as_scikit_learn_does(dtype):
    targets = np.array([0, 1, 1, 0])
    p = np.array([1.0, 0.0, 0.3, 0.2], dtype=dtype)
    assert log_loss(targets, p) == pytest.approx(sk.log_loss(targets, p), rel=1e-6)
    assert log_loss(targets, p) > (7 if dtype == np.float32 else 17)
    many = np.array([[1, 0, 0], [0.2, 0.3, 0.5]], dtype=dtype)
    expected = sk.log_loss([1, 2], many, labels=[0, 1, 2])
    assert log_loss(np.array([1, 2]), many) == pytest.approx(expected, rel=1e-6)


def naive_ece(confidence, outcome, bins=15):
    total = 0.0
    for b in range(bins):
        low, high = np.linspace(0, 1, bins + 1)[b : b + 2]
        inside = [i for i, c in enumerate(confidence) if low < c <= high or (b == 0 and c == 0)]
        if inside:
            gap = np.mean([outcome[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            total += len(inside) / len(confidence) * abs(gap)
    return total


@given(binary())
@settings(max_examples=30, deadline=None)
def test_ece_of_two_classes_is_the_naive_loop(case):
    targets, p = case
    assert ece(targets, p) == pytest.approx(naive_ece(p, targets), **CLOSE)


@given(several())
@settings(max_examples=30, deadline=None)
def test_ece_of_several_classes_uses_the_top_label(case):
    targets, p = case
    expected = naive_ece(p.max(axis=1), p.argmax(axis=1) == targets)
    assert ece(targets, p) == pytest.approx(expected, **CLOSE)


def test_ece_by_hand():
    # 0.2 falls into bin (0.2 - 1/15, 0.2], 0.9 into (13/15, 14/15].
    assert ece(np.array([0, 1, 1, 1]), np.array([0.2, 0.2, 0.9, 0.9])) == pytest.approx(0.2)


def test_scores_by_hand():
    targets, p = np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.8, 0.1])
    assert average_precision(targets, p) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert roc_auc(targets, p) == (1 + 1 + 0.5 + 1) / 4
    assert brier(np.array([0]), np.array([[0.5, 0.3, 0.2]])) == pytest.approx(0.25 + 0.09 + 0.04)


def test_shots_average_recalls_of_their_classes():
    counts = np.array([500, 101, 100, 20, 19, 1])
    targets = np.repeat(np.arange(6), 4)
    predicted = targets.copy()
    predicted[[0, 4, 5, 8, 9, 10, 16]] = 5  # recalls 3/4, 2/4, 1/4, 1, 3/4, 1
    values = evaluate(targets, np.full((24, 6), 1 / 6), predicted, class_names=list("abcdef"),
                      train_class_counts=counts)  # fmt: skip
    assert values["accuracy_many"] == (0.75 + 0.5) / 2
    assert values["accuracy_medium"] == (0.25 + 1) / 2
    assert values["accuracy_few"] == (0.75 + 1) / 2
    assert accuracy_many(targets, predicted, train_class_counts=counts) == 0.625
    without = evaluate(targets, np.full((24, 6), 1 / 6), predicted, class_names=list("abcdef"),
                       train_class_counts=np.full(6, 50))  # fmt: skip
    assert "accuracy_medium" in without
    assert not {"accuracy_many", "accuracy_few"} & set(without)


def test_two_classes_have_no_shots():
    counts, targets = np.array([500, 3]), np.array([0, 1])
    for function in (accuracy_many, accuracy_medium, accuracy_few):
        assert math.isnan(function(targets, targets, train_class_counts=counts))
    values = evaluate(targets, np.array([0.1, 0.9]), targets, class_names=["a", "b"],
                      train_class_counts=counts)  # fmt: skip
    assert not any(name.startswith("accuracy_") for name in values)


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_alone_gives_nan_for_rankings_without_a_warning(only):
    targets = np.full(5, only)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = evaluate(targets, np.linspace(0, 1, 5), targets, class_names=["a", "b"],
                          train_class_counts=np.array([1, 1]))  # fmt: skip
    assert math.isnan(values["average_precision"])
    assert math.isnan(values["roc_auc"])
    assert values["balanced_accuracy"] == values["macro_f1"] == 1.0
    assert {name for name in values if name.startswith("recall")} == {f"recall/{'ab'[only]}"}


def test_what_is_asked_for_by_full_name_is_nan_rather_than_missing():
    targets = np.array([0, 1, 1])
    values = evaluate(targets, np.full((3, 3), 1 / 3), targets, class_names=["a", "b", "c"],
                      train_class_counts=np.array([50, 50, 50]),
                      names=["recall/c", "recall/b", "accuracy_few"])  # fmt: skip
    assert values["recall/b"] == 1
    assert math.isnan(values["recall/c"])
    assert math.isnan(values["accuracy_few"])


def test_ignored_elements_do_not_count():
    targets = np.array([[0, 1, -1], [1, 0, -1]])
    p = np.array([[0.2, 0.7, 0.9], [0.4, 0.6, 0.1]])
    keep = targets >= 0
    call = {"class_names": ["a", "b"], "train_class_counts": np.array([5, 5])}
    whole = evaluate(targets, p, (p > 0.5).astype(int), **call)
    assert whole == evaluate(targets[keep], p[keep], (p > 0.5).astype(int)[keep], **call)


@pytest.mark.parametrize(
    ("targets", "p", "predicted", "message"),
    [
        ([0, 1], [0.5, float("nan")], [0, 1], "finite"),
        ([0, 1], [0.5, float("inf")], [0, 1], "finite"),
        ([0, 1], [0.5, 1.5], [0, 1], r"in \[0, 1\]"),
        ([0, 1], [0.5, 0.2, 0.1], [0, 1], r"shape \(2,\).*got \(3,\)"),
        ([0, 1], [[0.5, 0.2, 0.3]] * 2, [0, 1], "need probabilities of shape"),
        ([0, 1], [0.5, 0.5], [0], "as many predictions"),
        ([0, 2], [0.5, 0.5], [0, 1], "targets must be classes 0 to 1"),
        ([0, 1], [0.5, 0.5], [0, 2], "predicted classes must be 0 to 1"),
        ([], [], [], "no targets"),
        ([-1], [0.5], [0], "all targets are ignored"),
    ],
)
def test_what_cannot_be_evaluated_raises(targets, p, predicted, message):
    with pytest.raises(ValueError, match=message):
        evaluate(np.array(targets, int), np.array(p, float), np.array(predicted, int),
                 class_names=["a", "b"], train_class_counts=np.array([1, 1]))  # fmt: skip


def error_rate(targets, predicted):
    return np.mean(targets != predicted)


def test_metrics_of_ones_own(monkeypatch):
    targets, p = np.array([0, 1, 1, 0]), np.array([0.2, 0.7, 0.4, 0.6])
    call = {"class_names": ["a", "b"], "train_class_counts": np.array([5, 5])}
    name = "sklearn.metrics:average_precision_score"
    values = evaluate(targets, p, (p > 0.5).astype(int), names=[name], **call)
    assert values[name] == sk.average_precision_score(targets, p)
    assert direction_of(name) is None
    METRICS.register("error_rate", "Share of errors.")(marked("minimize", "decision")(error_rate))
    try:
        assert evaluate(targets, p, (p > 0.5).astype(int), names=["error_rate"], **call) == {
            "error_rate": 0.5
        }
        assert direction_of("error_rate") == "minimize"
    finally:
        METRICS.unregister("error_rate")
    with pytest.raises(BadInput, match=r"sklearn.metrics:f1_score.*fails: ValueError"):
        evaluate(targets, p, p > 0.5, names=["sklearn.metrics:f1_score"], **call)
    with pytest.raises(UnknownName, match="did you mean 'roc_auc'"):
        evaluate(targets, p, p > 0.5, names=["roc_auk"], **call)
    with pytest.raises(UnknownName, match=r"unknown class 'c'.*the classes are a, b"):
        evaluate(targets, p, p > 0.5, names=["recall/c"], **call)


def test_every_metric_says_direction_and_kind():
    kinds = {name: (metric(name).direction, metric(name).kind) for name in METRICS.names()}
    assert kinds == {
        **dict.fromkeys(("average_precision", "roc_auc"), ("maximize", "ranking")),
        **dict.fromkeys(("log_loss", "ece", "brier"), ("minimize", "probability")),
        **dict.fromkeys(
            ("balanced_accuracy", "accuracy", "macro_f1", "recall", "accuracy_many",
             "accuracy_medium", "accuracy_few"), ("maximize", "decision"),
        ),
        **dict.fromkeys(
            ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_100", "anchor_ap"),
            ("maximize", "detection"),
        ),
        **dict.fromkeys(("mode_coverage", "high_quality"), ("maximize", "generation")),
        "mode_divergence": ("minimize", "generation"),
        **dict.fromkeys(("miou", "pixel_accuracy", "iou"), ("maximize", "segmentation")),
    }  # fmt: skip
