"""A detection study from its file to its frames, small."""

import json

import numpy as np
import pytest
import torch

from losslab import run_study
from losslab.datasets.detection.annotations import Annotations
from losslab.errors import BadInput
from losslab.experiments.config import load_study
from losslab.experiments.data import run_data
from losslab.experiments.detection.coco_metrics import coco_metrics
from losslab.experiments.detection.found import Detections
from losslab.experiments.detection.loss import DetectionLoss, class_counts_of
from losslab.experiments.preflight import first_job, preflight
from losslab.experiments.training import advance, prepare, start
from losslab.losses import LOSSES


def study(**changes):
    return {
        "study": "boxes",
        "dataset": {"name": "scenes", "train_images": 12, "validation_images": 6,
                    "test_images": 6, "size": 64, "largest": 32, "objects_per_image": 2},
        "model": {"name": "retinanet", "width": 4, "channels": 8, "head_depth": 1,
                  "prior_init": 0.01},
        "training": {"epochs": 2, "batch_size": 4},
        "arms": ["ce", "focal"],
        "search": {"trials": 3, "generation": 2, "select": {"best": 1}},
        "confirm": {"seeds": 1},
        **changes,
    }  # fmt: skip


def job(**changes):
    loaded = load_study(study(**changes))
    return first_job(loaded, next(iter(loaded.arms.values())), "cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    home = tmp_path_factory.mktemp("boxes")
    run_study(study(), home=home, tracking_uri="none", workers=2)
    return home / "boxes"


def test_records_hold_cocos_metrics_and_costs(finished):
    record = json.loads((finished / "confirm" / "focal" / "selected-0000.json").read_text())
    assert {"test/ap", "test/anchor_ap", "test/milliseconds", "test/flops"} <= set(
        record["metrics"]
    )
    assert {"val/ap", "val/anchor_ap"} <= set(record["history"][0])
    assert record["config"]["detector"]["normalizer"] == "positives"
    assert record["value"] == record["history"][-1]["val/ap"]


def test_the_stored_detections_give_the_stored_metrics(finished):
    file = finished / "confirm" / "ce" / "defaults-0000"
    stored = np.load(file.with_suffix(".npz"))
    truth = Annotations(
        *(stored[f"test_{n}"] for n in ("offsets", "boxes", "labels", "crowd", "areas"))
    )
    found = Detections(
        *(stored[f"test_found_{n}"] for n in ("offsets", "boxes", "scores", "labels"))
    )
    metrics = json.loads(file.with_suffix(".json").read_text())["metrics"]
    again = coco_metrics(truth, found, stored["test_scales"])
    for name in ("ap", "ap50", "ar_100"):
        assert metrics[f"test/{name}"] == pytest.approx(again[name])


def test_the_report_of_detections_is_written(finished):
    assert (finished / "report" / "report.html").stat().st_size > 10_000


def test_a_training_goes_on_with_the_same_bits():
    whole = advance(start(job()), 2)
    halves = advance(advance(start(job()), 1), 2)
    for name, weights in whole.model.items():
        assert torch.equal(weights, halves.model[name]), name
    assert whole.history == halves.history


def test_every_epoch_mirrors_other_images():
    parts = prepare(job(detector={"flip": 0.5}))
    batch = torch.arange(4)
    losses = {parts.batch_loss(job(), batch, epoch).item() for epoch in range(6)}
    assert len(losses) > 1
    parts = prepare(job(detector={"flip": 0.0}))
    parts.model.eval()  # batch norm follows the batch
    same = {parts.batch_loss(job(), batch, epoch).item() for epoch in range(3)}
    assert len(same) == 1


def test_mirrored_targets_are_those_of_the_mirrored_boxes():
    parts = prepare(job(detector={"flip": 1.0}))
    train = parts.data.train.split
    rows = np.arange(4)
    images, _, targets = parts._batch(train, rows, np.random.default_rng(0))
    assert (images == train.images[rows][..., ::-1]).all()
    parts.mirrored = None  # now they are computed
    _, _, computed = parts._batch(train, rows, np.random.default_rng(0))
    assert (targets.labels == computed.labels).all()
    assert (targets.matched == computed.matched).all()


def test_prior_init_is_the_share_of_positive_anchors_when_on():
    parts = prepare(job(model={**study()["model"], "prior_init": True}))
    labels = parts.known["train"].labels
    shares = [(labels == c).mean() for c in range(3)]
    start_at = torch.sigmoid(parts.model.class_subnet[-1].bias)[:3].tolist()
    assert start_at == pytest.approx(np.maximum(shares, 1e-6).tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"detector": {"normaliser": "positives"}}, "detector.normaliser: unknown key; did you"),
        ({"detector": {"negative": 0.6}}, "negative: must be at most positive"),
        ({"detector": {"jitter": [2, 1]}}, "jitter: needs 0 < low <= high"),
        ({"detector": {"box_loss": {"name": "focal"}}}, "compares no boxes"),
        ({"detector": {"box_loss": {"name": "smooth_l1", "betta": 1}}}, "betta"),
        ({"arms": {"a": {"loss": {"name": "ce", "link": "softmax"}}}}, "a sigmoid for every class"),
        ({"arms": {"a": {"loss": {"name": "ce", "reduction": "mean"}}}},
         "detector.normalizer says"),
        ({"metrics": {"primary": "roc_auc"}}, "roc_auc has no meaning where the task is detection"),
        ({"dataset": {"name": "clusters"}, "model": {"name": "mlp"},
          "metrics": {"primary": "ap"}}, "ap has no meaning where the task is"),
        ({"dataset": {"name": "clusters"}, "model": {"name": "mlp"},
          "detector": {"flip": 0}}, "belongs to object detection"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_trained(changes, told):
    with pytest.raises(BadInput, match=told):
        load_study(study(**changes))


def test_a_model_that_is_no_detector_is_refused():
    with pytest.raises(BadInput, match=r"model.name: cnn is no detector"):
        preflight(load_study(study(model={"name": "cnn"})), "cpu")


def test_splits_are_the_same_from_files(tmp_path):
    from losslab.experiments.data import lay_out, needs_of
    from losslab.experiments.shared_data import read, write

    for objects in (2, 0.01):  # the second has splits without a single box
        options = {**study()["dataset"], "objects_per_image": objects}
        need = needs_of(options, 0, 1, False)[0]
        laid = lay_out(need)
        write(tmp_path, need, laid)
        again = read(tmp_path, need)
        assert {n: s.digest() for n, s in again.splits.items()} == laid.digests
        data = run_data(options, 0, 1, "cpu")
        assert (data.train.features.numpy() == again.splits["train"].images).all()


@pytest.mark.parametrize("digits", [[3], [3, 5]])
@pytest.mark.parametrize("loss", ["ce", "class_balanced_ce", "equalized_focal", "ohem"])
def test_one_and_two_classes_train(digits, loss):
    dataset = {**study()["dataset"], "object_digits": digits}
    own = job(dataset=dataset, arms={"a": {"loss": {"name": loss}}})
    state = advance(start(own), 1)
    assert not state.diverged
    assert np.isfinite(state.history[0]["val/ap"])


def test_two_classes_are_weighed_one_by_one():
    """Two counts would be read as those of negatives and positives."""
    positives = np.array([900, 100])
    counts = torch.from_numpy(class_counts_of(positives, 10_000))
    made = {"link": "sigmoid", "reduction": "sum", "class_counts": counts, "ignore_index": -100}
    boxes = LOSSES.create("smooth_l1", link="identity", reduction="sum")
    loss = DetectionLoss(LOSSES.create("class_balanced_ce", one_minus_beta=0.01, **made), boxes)
    labels = torch.tensor([[0, 1, -1, -2]])
    logits = torch.randn(1, 4, 2, dtype=torch.float64, requires_grad=True)
    anchors = torch.tensor([[0.0, 0, 8, 8]]).repeat(4, 1).double()
    offsets = torch.zeros(1, 4, 4, dtype=torch.float64)
    found = loss(logits, offsets, anchors, labels, anchors[:2]).classes
    effective = (1 - 0.99**positives) / 0.01  # Cui et al. 2019
    weights = (1 / effective) / (1 / effective).mean()
    # the weight is that of the anchor's own class, at every column, and 1 on background
    plain = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[0, :3], torch.tensor([[1.0, 0], [0, 1], [0, 0]]).double(), reduction="none"
    )
    wanted = (plain.sum(1) * torch.tensor([*weights, 1.0])).sum() / 2  # two positives
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
