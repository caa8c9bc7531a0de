"""The two-stage detector: pooling, proposals, and a study with it."""

import numpy as np
import pytest
import torch

from losslab.datasets.detection.annotations import Annotations
from losslab.errors import BadInput
from losslab.experiments.config import load_study
from losslab.experiments.detection.loss import Terms
from losslab.experiments.detection.pooling import pool_boxes
from losslab.experiments.detection.two_stage import TwoStageParts, assign_proposals
from losslab.experiments.models.two_stage import Proposals, build, with_truth
from losslab.experiments.preflight import first_job
from losslab.experiments.training import advance, prepare, start


def small(**options):
    return build((3, 64, 64), 2, **{"width": 4, "channels": 8, "proposals": 12, **options})


def bilinear(level, x, y):
    """The value of a map (C, H, W) at a point in its pixels, half a pixel being a centre."""
    rows, columns = level.shape[1:]
    x, y = np.clip(x - 0.5, 0, columns - 1), np.clip(y - 0.5, 0, rows - 1)
    left, top = int(np.floor(x)), int(np.floor(y))
    right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
    u, v = x - left, y - top
    upper = (1 - u) * level[:, top, left] + u * level[:, top, right]
    lower = (1 - u) * level[:, bottom, left] + u * level[:, bottom, right]
    return (1 - v) * upper + v * lower


def test_pooled_features_are_those_of_a_naive_loop():
    rng = np.random.default_rng(0)
    levels = [rng.normal(size=(2, 3, 64 // s, 64 // s)) for s in (8, 16)]
    # sides of 16 and of 40: the first is read from stride 8, the other from stride 16
    boxes = np.array([[[3.0, 5, 19, 21], [10, 12, 50, 52]], [[-4, 60, 12, 76], [0, 0, 64, 20]]])
    pooled = pool_boxes(
        [torch.from_numpy(level) for level in levels], (8, 16), torch.from_numpy(boxes), 3, 16.0
    )
    assert pooled.shape == (2, 2, 3, 3, 3)
    for image in range(2):
        for n, (x1, y1, x2, y2) in enumerate(boxes[image]):
            side = np.sqrt((x2 - x1) * (y2 - y1))
            place = int(np.clip(np.round(np.log2(side / 16)), 0, 1))
            stride, level = (8, 16)[place], levels[place][image]
            for i in range(3):
                for j in range(3):
                    points = [
                        bilinear(
                            level,
                            (x1 + (j + a) / 3 * (x2 - x1)) / stride,
                            (y1 + (i + b) / 3 * (y2 - y1)) / stride,
                        )
                        for a in (0.25, 0.75)
                        for b in (0.25, 0.75)
                    ]
                    np.testing.assert_allclose(
                        pooled[image, n, :, i, j], np.mean(points, axis=0), atol=1e-10
                    )


def test_gradients_reach_the_map_and_not_the_boxes():
    level = torch.rand(1, 2, 8, 8, requires_grad=True)
    boxes = torch.tensor([[[8.0, 8, 40, 40]]], requires_grad=True)
    pool_boxes([level], (8,), boxes, 2, 16.0).sum().backward()
    assert level.grad.abs().sum() > 0
    assert boxes.grad is None


def test_proposals_are_the_best_boxes_that_do_not_overlap():
    model = small(proposals=3, proposal_nms=0.5)
    with torch.no_grad():
        logits, offsets = model.first(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    offsets = torch.zeros_like(offsets)
    found = model.propose(logits, offsets, (64, 64))
    assert found.boxes.shape == (2, 3, 4)
    assert found.valid.all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= 64).all()
    from losslab.experiments.detection.overlap import areas, intersections

    for own in found.boxes.numpy():
        common = intersections(own, own)
        iou = common / (areas(own)[:, None] + areas(own)[None] - common)
        assert (iou[~np.eye(3, dtype=bool)] <= 0.5 + 1e-6).all()


def test_true_boxes_stand_in_the_last_places_and_labels_follow():
    boxes, valid = torch.zeros(2, 4, 4), torch.zeros(2, 4, dtype=torch.bool)
    boxes[0, 0], valid[0, 0] = torch.tensor([0.0, 0, 10, 10]), True
    truth = Annotations.of_images([[[0, 0, 10, 12], [20, 20, 40, 40]], []], [[1, 0], []])
    given = with_truth(Proposals(boxes, valid), [truth.of(0)[0], truth.of(1)[0]])
    assert not valid[0, 2]  # what was given is left alone
    labels, matched = assign_proposals(given, truth)
    assert labels.tolist() == [[1, -2, 1, 0], [-2, -2, -2, -2]]
    assert matched.tolist() == [[0, 0, 10, 12], [0, 0, 10, 12], [20, 20, 40, 40]]


def job(**changes):
    loaded = load_study({
        "study": "two",
        "dataset": {"name": "scenes", "train_images": 8, "validation_images": 4,
                    "test_images": 4, "size": 64, "largest": 32, "objects_per_image": 2},
        "model": {"name": "two_stage", "width": 4, "channels": 8, "proposals": 16,
                  "prior_init": 0.01},
        "training": {"epochs": 2, "batch_size": 4},
        "arms": {"focal": {"loss": {"name": "focal", "gamma": 2}}},
        **changes,
    })  # fmt: skip
    return first_job(loaded, loaded.arms["focal"], "cpu")


def test_a_training_repeats_and_learns_in_both_stages():
    before = start(job())
    after = advance(before, 2)
    again = advance(advance(before, 1), 2)
    assert not after.diverged
    for name, weights in after.model.items():
        assert torch.equal(weights, again.model[name]), name
    moved = {n.split(".")[0] for n, w in after.model.items() if not torch.equal(w, before.model[n])}
    assert {"first", "trunk", "scores", "boxes"} <= moved
    assert {"val/ap", "val/anchor_ap"} <= set(after.history[-1])


def test_the_studys_loss_is_that_of_the_second_stage_alone():
    parts = prepare(job())
    assert isinstance(parts, TwoStageParts)
    assert torch.sigmoid(parts.model.scores.bias).tolist() == pytest.approx([0.01] * 3)
    ce = prepare(job(arms={"focal": {"loss": {"name": "ce"}}}))
    both = [each.batch_loss(job(), torch.arange(4), 0).item() for each in (parts, ce)]
    assert both[0] != both[1]
    for each in (parts, ce):
        each.loss.forward = lambda *_: Terms(*torch.zeros(3))
    assert (
        parts.batch_loss(job(), torch.arange(4), 0) == ce.batch_loss(job(), torch.arange(4), 0) > 0
    )


def test_it_overfits_a_few_scenes():
    training = {"epochs": 40, "batch_size": 4, "learning_rate": 3e-3, "weight_decay": 0.0,
                "schedule": "constant", "clip_norm": 1.0}  # fmt: skip
    model = {"name": "two_stage", "width": 8, "channels": 16, "proposals": 24, "prior_init": 0.1}
    parts = prepare(job(training=training, model=model, detector={"flip": 0.0}))
    own = job(training=training, model=model, detector={"flip": 0.0})
    for group in parts.optimizer.param_groups:
        group["lr"] = 3e-3
    losses = []
    for epoch in range(40):
        loss = parts.batch_loss(own, torch.arange(4), epoch)
        parts.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.model.parameters(), 1.0)
        parts.optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_mistakes_are_told_at_once():
    with pytest.raises(BadInput) as error:
        small(proposals=0, pool=0, proposal_nms=2.0)
    assert [line.split(":")[0] for line in error.value.problems] == [
        "proposals", "pool", "proposal_nms",
    ]  # fmt: skip
