import pytest
import torch
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.experiments.building import ForeignLoss
from losslab.experiments.tasks import Segmentation
from losslab.losses import LOSSES

TARGETS = torch.tensor([[[0, 2], [1, -1]], [[2, 2], [-1, 0]]])


def logits(classes=3):
    return torch.randn(2, classes, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_losses_take_the_layout_and_leave_ignored_pixels_out(link):
    task = Segmentation(3)
    raw = logits().requires_grad_()
    loss = LOSSES.create("ce", link=link, ignore_index=task.ignore_index)
    value = loss(task.logits(raw, link), task.loss_targets(TARGETS, link))
    value.backward()
    counted = TARGETS >= 0
    rows = raw.detach().movedim(1, -1)[counted]
    if link == "softmax":
        wanted = F.cross_entropy(rows, TARGETS[counted])
    else:
        one_hot = F.one_hot(TARGETS[counted], 3).float()
        wanted = F.binary_cross_entropy_with_logits(rows, one_hot)
    torch.testing.assert_close(value, wanted)
    assert (raw.grad.movedim(1, -1)[~counted] == 0).all()
    assert (raw.grad.movedim(1, -1)[counted] != 0).all()


def test_two_classes_have_one_sigmoid():
    task = Segmentation(2)
    assert (task.default_link, task.outputs("softmax"), task.outputs("sigmoid")) == (
        "softmax", 2, 1,
    )  # fmt: skip
    targets = TARGETS.clamp(max=1)
    raw = logits(1)
    loss = LOSSES.create("focal", link="sigmoid", ignore_index=-1, gamma=2.0, alpha=0.5)
    value = loss(task.logits(raw, "sigmoid"), task.loss_targets(targets, "sigmoid"))
    counted = targets >= 0
    p = torch.sigmoid(raw[:, 0][counted])
    p = torch.where(targets[counted] == 1, p, 1 - p)
    torch.testing.assert_close(value, (-0.5 * (1 - p) ** 2 * p.log()).mean())
    rows, own = task.rows(task.logits(raw, "sigmoid"), targets, "sigmoid")
    assert rows.shape == own.shape == (6,)


def test_a_loss_from_elsewhere_sees_the_pixels_that_count():
    task = Segmentation(3)
    own = ForeignLoss(torch.nn.CrossEntropyLoss(), task, "softmax")
    raw, counted = logits(), TARGETS >= 0
    torch.testing.assert_close(
        own(task.logits(raw, "softmax"), TARGETS),
        F.cross_entropy(raw.movedim(1, -1)[counted], TARGETS[counted]),
    )


def test_a_model_of_another_kind_is_told():
    with pytest.raises(BadInput, match="logits for every pixel; write model: pspnet"):
        Segmentation(3).logits(torch.zeros(2, 3), "softmax")
