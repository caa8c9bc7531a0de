"""The detector's loss against loops over anchors and classes."""

import math

import pytest
import torch
from fvcore.nn import giou_loss
from torch.testing import assert_close

from losslab.errors import BadInput
from losslab.experiments.detection.coding import decode, encode
from losslab.experiments.detection.loss import DetectionLoss, class_reduction, class_targets
from losslab.experiments.detection.mining import MiningSettings, mine
from losslab.losses import LOSSES

A, B, K = 40, 3, 4


@pytest.fixture
def batch():
    """Logits, offsets, anchors, labels and matched boxes; the third image has no object."""
    generator = torch.Generator().manual_seed(8)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    centre, side = 30 * draw(A, 2), 5 + 10 * draw(A, 2).abs()
    anchors = torch.cat([centre - side, centre + side], 1)
    labels = torch.randint(-2, K, (B, A), generator=generator).to(torch.int16)
    labels[torch.rand(B, A, generator=generator) < 0.6] = -1
    labels[2].clamp_(max=-1)
    image, anchor = torch.nonzero(labels >= 0, as_tuple=True)
    boxes = decode(anchors[anchor], 0.3 * draw(len(image), 4))
    logits, offsets = draw(B, A, K).requires_grad_(), (0.3 * draw(B, A, 4)).requires_grad_()
    return logits, offsets, anchors, labels, boxes


def make(loss="focal", box="smooth_l1", mining=None, normalizer="positives", **arguments):
    reduction = class_reduction(normalizer, mining)
    options = {"alpha": 0.25, "gamma": 2} if loss == "focal" else {}
    return DetectionLoss(
        LOSSES.create(loss, link="sigmoid", reduction=reduction, **options),
        LOSSES.create(box, link="identity", reduction="sum"),
        normalizer=normalizer,
        mining=mining,
        **arguments,
    )


def focal_sum(logits, labels, gamma=2, alpha=0.25):
    total = 0.0
    for b in range(B):
        for a in range(A):
            for k in range(K):
                if labels[b, a] == -2:
                    continue
                p = 1 / (1 + math.exp(-logits[b, a, k].item()))
                if labels[b, a] == k:
                    total -= alpha * (1 - p) ** gamma * math.log(p)
                else:
                    total -= (1 - alpha) * p**gamma * math.log(1 - p)
    return total


def smooth_l1_sum(offsets, anchors, labels, boxes, beta=1.0):
    total, n = 0.0, 0
    for b in range(B):
        for a in range(A):
            if labels[b, a] >= 0:
                wanted = encode(anchors[a], boxes[n])
                n += 1
                for d in (offsets[b, a] - wanted).abs().tolist():
                    total += d * d / (2 * beta) if d < beta else d - beta / 2
    return total, n


def test_focal_and_smooth_l1_by_positives(batch):
    logits, offsets, anchors, labels, boxes = batch
    terms = make(box_weight=2.5)(*batch)
    boxwise, positives = smooth_l1_sum(offsets, anchors, labels, boxes)
    assert positives == len(boxes) > 10
    assert terms.classes.item() == pytest.approx(focal_sum(logits, labels) / positives)
    assert terms.boxes.item() == pytest.approx(2.5 * boxwise / positives)
    assert terms.total.item() == pytest.approx((terms.classes + terms.boxes).item())
    terms.total.backward()
    assert (logits.grad[labels == -2] == 0).all()
    assert (logits.grad[labels != -2] != 0).all()
    assert torch.equal(offsets.grad.abs().sum(-1) > 0, labels >= 0)


def test_a_batch_without_objects(batch):
    logits, offsets, anchors, labels, boxes = batch
    for box in ("smooth_l1", "giou", "ghm_r"):
        terms = make(box=box)(logits, offsets, anchors, labels.clamp(max=-1), boxes[:0])
        background = focal_sum(logits, labels.clamp(max=-1))
        assert terms.total.item() == pytest.approx(background)  # divided by 1, not by 0
        terms.total.backward()
        assert offsets.grad.isfinite().all()


def test_the_moving_average_of_positives(batch):
    boxes = batch[-1]
    loss, plain = make(normalizer="moving_average"), make()
    divisor = 100.0
    for _ in range(3):
        divisor = 0.9 * divisor + 0.1 * len(boxes)
        expected = plain(*batch).total * len(boxes) / divisor
        assert loss(*batch).total.item() == pytest.approx(expected.item())
    again = make(normalizer="moving_average")
    again.load_state_dict(loss.state_dict())
    again.eval()
    assert again(*batch).total.item() == pytest.approx(expected.item())
    assert again.positives.item() == pytest.approx(divisor)


def test_elements_is_the_loss_s_own_mean(batch):
    logits, _, _, labels, _ = batch
    ghm = LOSSES.create("ghm_c", link="sigmoid", bins=10)
    counted = labels != -2
    flat = torch.nn.functional.one_hot(labels[counted].long().clamp(min=-1) + 1, K + 1)[:, 1:]
    expected = ghm(logits[counted], flat.double())
    found = make(loss="ghm_c", normalizer="elements")
    found.class_loss = LOSSES.create("ghm_c", link="sigmoid", bins=10)
    assert_close(found(*batch).classes, expected)


def test_box_losses_of_decoded_boxes(batch):
    _, offsets, anchors, labels, boxes = batch
    image, anchor = torch.nonzero(labels >= 0, as_tuple=True)
    found = make(box="giou")(*batch).boxes
    expected = giou_loss(decode(anchors[anchor], offsets[image, anchor]), boxes, reduction="sum")
    assert_close(found, expected / len(boxes))


def test_targets():
    found = class_targets(torch.tensor([[0, -1, 2, -2]], dtype=torch.int16), 3)
    assert found.movedim(1, -1).tolist() == [[[1, 0, 0], [0, 0, 0], [0, 0, 1], [-100, -100, -100]]]


@pytest.mark.parametrize("ratio", [None, 3.0])
def test_mining(batch, ratio):
    """The mean over what `mine` keeps by loss summed over classes; the boxes' loss is as ever."""
    logits, offsets, anchors, labels, _ = batch
    settings = MiningSettings(12, 0.5, ratio)
    terms = make(loss="ce", mining=settings)(*batch)
    targets = torch.nn.functional.one_hot((labels + 1).clamp(min=0).long(), K + 1)[..., 1:]
    values = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets.double(), reduction="none"
    ).sum(-1)
    kept = mine(values, decode(anchors, offsets), labels, settings)
    assert_close(terms.classes, values[kept].mean())
    assert_close(terms.boxes, make(loss="ce")(*batch).boxes)
    terms.classes.backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, kept)


def test_class_weights_go_by_class(batch):
    """Dimension 1 is the class, as losses with a weight for each class expect."""
    logits, _, _, labels, _ = batch
    weights = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    loss = make()
    loss.class_loss = LOSSES.create("ce", link="sigmoid", reduction="sum", class_weights=weights)
    loss(*batch).classes.backward()
    assert (logits.grad[..., 1:] == 0).all()
    assert (logits.grad[..., 0][labels != -2] != 0).all()


def test_mistakes(batch):
    ce = LOSSES.create("ce", link="sigmoid")
    with pytest.raises(BadInput) as told:
        DetectionLoss(ce, LOSSES.create("smooth_l1", link="identity"))
    assert [p.split(":")[0] for p in told.value.problems] == ["class_loss", "box_loss"]
    with pytest.raises(BadInput, match="normalizer: must be one of positives"):
        make(normalizer="anchors")
    with pytest.raises(BadInput, match="anchors are positive, got 2 boxes"):
        make()(*batch[:4], batch[4][:2])
