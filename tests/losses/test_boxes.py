"""IoU losses against fvcore, MONAI, boxes measured by hand, and loops."""

import math

import fvcore.nn
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.box_utils import box_giou, box_iou
from torch.func import vmap

from losslab.errors import BadInput
from losslab.losses.boxes import CIoU, DIoU, GIoU, IoU

FAMILY = [(IoU, {}), (IoU, {"form": "linear"}), (GIoU, {}), (DIoU, {}), (CIoU, {})]


@pytest.fixture(params=FAMILY, ids=["iou log", "iou linear", "giou", "diou", "ciou"])
def make(request):
    cls, fixed = request.param
    return lambda **arguments: cls(link="identity", **fixed, **arguments)


@pytest.fixture
def boxes():
    """Pairs of boxes, some of which overlap."""
    generator = torch.Generator().manual_seed(5)
    corner = 3 * torch.rand(2, 30, 2, generator=generator, dtype=torch.float64)
    sides = 0.2 + 3 * torch.rand(2, 30, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corner, corner + sides], -1)


def measured(a, b, trade=None):
    """IoU, GIoU, DIoU, CIoU of two boxes in order; `trade`: a constant in place of CIoU's a."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    union = sum(areas) - width * height
    iou = width * height / union
    w, h = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    apart = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    diou = iou - apart / (w**2 + h**2)
    angles = [math.atan((c[2] - c[0]) / (c[3] - c[1])) for c in (a, b)]
    v = 4 / math.pi**2 * (angles[1] - angles[0]) ** 2
    if trade is None:
        trade = v / (1 - iou + v) if v else 0.0
    return iou, iou - (w * h - union) / (w * h), diou, diou - trade * v, trade


def test_against_a_loop(boxes):
    rows = [measured(a, b) for a, b in zip(*boxes.tolist(), strict=True)]
    assert any(row[0] == 0 for row in rows)
    assert sum(row[0] > 0 for row in rows) > 5
    for i, cls in enumerate((IoU, GIoU, DIoU, CIoU)):
        fixed = {"form": "linear"} if cls is IoU else {}
        expected = [1 - row[i] for row in rows]
        found = cls(link="identity", reduction="none", **fixed)(*boxes)
        assert found.tolist() == pytest.approx(expected, rel=1e-10)
        for reduction, value in (("sum", sum(expected)), ("mean", sum(expected) / 30)):
            reduced = cls(link="identity", reduction=reduction, **fixed)(*boxes)
            assert reduced.item() == pytest.approx(value, rel=1e-10)
    logarithms = [-math.log(max(row[0], 1e-6)) for row in rows]
    assert IoU(link="identity", reduction="none")(*boxes).tolist() == pytest.approx(logarithms)


def test_against_fvcore_and_monai(boxes):
    a, b = boxes
    found = GIoU(link="identity", reduction="none")(a, b)
    torch.testing.assert_close(found, fvcore.nn.giou_loss(a, b), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, 1 - box_giou(a, b).diagonal(), rtol=1e-5, atol=1e-6)
    found = IoU(link="identity", form="linear", reduction="none")(a, b)
    torch.testing.assert_close(found, 1 - box_iou(a, b).diagonal(), rtol=1e-5, atol=1e-6)


def test_by_hand():
    # 2 x 2 and 4 x 2 share 1 x 1, of a union of 11; the box around both is 5 x 3, and the centres
    # are (1, 1) and (3, 2).
    a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 5, 3])
    iou, v = 1 / 11, 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    expected = {
        IoU: math.log(11),
        GIoU: 1 - iou + 4 / 15,
        DIoU: 1 - iou + 5 / 34,
        CIoU: 1 - iou + 5 / 34 + v * v / (1 - iou + v),
    }
    for cls, value in expected.items():
        assert cls(link="identity")(a, b).item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("cls", "fixed"), FAMILY[:-1])  # CIoU holds a weight constant: below
def test_gradients_against_finite_differences(cls, fixed, boxes):
    a, b = boxes[0].clone().requires_grad_(), boxes[1]
    loss = cls(link="identity", **fixed)
    assert torch.autograd.gradcheck(lambda x: loss(x, b), a)
    assert torch.autograd.gradgradcheck(lambda x: loss(x[:6], b[:6]), a)
    assert torch.autograd.gradcheck(lambda x: loss(x.flip(-1)[..., [1, 0, 3, 2]], b), a)  # inverted


def test_ciou_holds_its_weight_constant(boxes):
    a, b = boxes
    x = a.clone().requires_grad_()
    (slope,) = torch.autograd.grad(CIoU(link="identity", reduction="sum")(x, b), x)
    step = 1e-6
    for i in range(30):
        first, second = a[i].tolist(), b[i].tolist()
        trade = measured(first, second)[4]
        for j in range(4):
            up, down = list(first), list(first)
            up[j] += step
            down[j] -= step
            by = measured(down, second, trade)[3] - measured(up, second, trade)[3]
            assert slope[i, j].item() == pytest.approx(by / (2 * step), rel=1e-5, abs=1e-8)


def test_inverted_boxes_are_the_boxes_in_order(make, boxes):
    a, b = boxes
    x = a.clone().requires_grad_()
    value = make(reduction="sum")(x, b)
    (slope,) = torch.autograd.grad(value, x)
    for order in ([2, 1, 0, 3], [0, 3, 2, 1], [2, 3, 0, 1]):
        y = a[:, order].clone().requires_grad_()
        turned = make(reduction="sum")(y, b)
        assert turned.item() == pytest.approx(value.item(), rel=1e-14)
        torch.testing.assert_close(torch.autograd.grad(turned, y)[0], slope[:, order])
        other = make(reduction="sum")(a, b[:, order])
        assert other.item() == pytest.approx(value.item(), rel=1e-14)


AWKWARD = [
    ([0, 0, 0, 0], [0, 0, 0, 0]),  # the same point
    ([1, 1, 1, 1], [5, 5, 5, 5]),  # two points
    ([1, 2, 1, 2], [0, 0, 4, 4]),  # a point inside
    ([0, 0, 4, 4], [1, 2, 1, 2]),  # around a point
    ([0, 0, 4, 0], [0, 0, 4, 0]),  # the same line
    ([0, 0, 0, 4], [2, 0, 2, 4]),  # two parallel lines
    ([0, 0, 4, 0], [0, 0, 4, 4]),  # a side
    ([0, 0, 1, 1], [0, 0, 1, 1]),  # identical
    ([0, 0, 1, 1], [1, 0, 2, 1]),  # touching
    ([0, 0, 1, 1], [1, 1, 2, 2]),  # touching at a corner
    ([0, 0, 1, 1], [9000, 9000, 9001, 9001]),  # far apart
    ([-1e4, -1e4, 1e4, 1e4], [0, 0, 1, 1]),
    ([1e4, 1e4, -1e4, -1e4], [-1, -1, 1, 1]),  # inverted
    ([1e4, 0, 1e4, 1], [-1e4, 0, -1e4, 1]),
    ([0, 0, 1e-3, 1e4], [0, 0, 1, 1]),
    ([0, 0, 1e-7, 1e-7], [0, 0, 1e-7, 1e-7]),
    ([0, 0, 1e-20, 1e-20], [0, 0, 1, 2]),
    ([0, 0, 0, 1e-22], [0, 0, 1, 2]),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_awkward_boxes_are_finite(make, dtype):
    a, b = (torch.tensor(each, dtype=dtype) for each in zip(*AWKWARD, strict=True))
    a.requires_grad_()
    found = make(reduction="none")(a, b)
    (slope,) = torch.autograd.grad(found.sum(), a)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert slope.dtype == dtype
    assert found.isfinite().all()
    assert slope.isfinite().all()
    assert (found >= 0).all()
    assert found[7] == 0


def test_conventions_without_area():
    values = {
        cls: cls(link="identity", reduction="none")(
            *(torch.tensor(each, dtype=torch.float64) for each in zip(*AWKWARD, strict=True))
        ).tolist()
        for cls in (IoU, GIoU, DIoU)
    }
    nothing = -math.log(1e-6)
    assert values[IoU][:7] == pytest.approx([nothing] * 7)
    # Two points: nothing of the box around them is covered. On one line there is no such box.
    assert values[GIoU][:3] == pytest.approx([1, 2, 1])
    assert values[GIoU][4:6] == pytest.approx([1, 2])
    assert values[DIoU][:2] == pytest.approx([1, 2])
    assert values[DIoU][5] == pytest.approx(1 + 4 / 20)


def test_how_small_nothing_is():
    # Sides of 1e-8 and 1e-7 have less area than the square of float32's epsilon, 1.4e-14.
    box = torch.tensor([0.0, 0.0, 1e-8, 1e-7])
    assert IoU(link="identity", form="linear")(box, box).item() == 1
    assert IoU(link="identity", form="linear")(box.double(), box.double()).item() == 0
    assert IoU(link="identity", form="linear")(20 * box, 20 * box).item() == 0


def test_a_prediction_without_width_is_pulled_open():
    # A line inside the true box: widening it raises the IoU, so x1 goes down and x2 up.
    x = torch.tensor([2.0, 1.0, 2.0, 3.0], requires_grad=True)
    for cls in (GIoU, DIoU, CIoU):
        loss = cls(link="identity")(x, torch.tensor([0.0, 0, 4, 4]))
        (slope,) = torch.autograd.grad(loss, x)
        assert slope[0] > 0 > slope[2]


def test_nan_stays_nan(make, boxes):
    a, b = (each.clone() for each in boxes)
    a[0, 1], a[1], b[2, 3] = (float("nan"),) * 3
    found = make(reduction="none")(a, b)
    assert found[:3].isnan().all()
    assert found[3:].isfinite().all()
    assert make()(a, b).isnan()


@given(
    numbers=st.lists(st.integers(-50, 50), min_size=8, max_size=8),
    shift=st.integers(-20, 20),
    scale=st.sampled_from([0.25, 2.0, 8.0]),
)
@settings(max_examples=60, deadline=None)
def test_ranges_symmetry_and_invariance(numbers, shift, scale):
    a, b = torch.tensor(numbers, dtype=torch.float64).reshape(2, 4)
    iou, giou, diou, ciou = (
        cls(link="identity", **({"form": "linear"} if cls is IoU else {}))
        for cls in (IoU, GIoU, DIoU, CIoU)
    )
    for loss, high in ((iou, 1), (giou, 2), (diou, 2), (ciou, 3)):
        value = loss(a, b).item()
        assert 0 <= value <= high
        assert loss(b, a).item() == pytest.approx(value, abs=1e-12)
        assert loss(scale * (a + shift), scale * (b + shift)).item() == pytest.approx(value)
    assert iou(a, b) <= giou(a, b) + 1e-12
    assert iou(a, b) <= diou(a, b) + 1e-12 <= ciou(a, b) + 2e-12


def test_shapes_and_empty(make, boxes):
    a, b = (each.reshape(5, 3, 2, 4) for each in boxes)
    found = make(reduction="none")(a, b)
    assert found.shape == (5, 3, 2)
    torch.testing.assert_close(found.flatten(), make(reduction="none")(*boxes))
    torch.testing.assert_close(vmap(make(reduction="none"))(a, b), found)
    empty = torch.zeros(0, 4, requires_grad=True)
    value = make()(empty, torch.zeros(0, 4))
    assert value.item() == 0
    assert torch.autograd.grad(value, empty)[0].shape == (0, 4)


def test_wrong_arguments_are_told(make):
    with pytest.raises(BadInput, match=r"boxes \(\.\.\., 4\) as x1, y1, x2, y2; got \(3, 5\)"):
        make()(torch.zeros(3, 5), torch.zeros(3, 5))
    with pytest.raises(BadInput, match="unknown form 'squared'"):
        IoU(link="identity", form="squared")
    with pytest.raises(BadInput, match="unknown link 'softmax'"):
        GIoU(link="softmax")
    with pytest.raises(BadInput, match="unknown reduction 'positives'"):
        make(reduction="positives")


def test_compiles_fullgraph(boxes):
    a, b = boxes.float()
    for cls in (IoU, CIoU):
        torch._dynamo.reset()
        loss = cls(link="identity")
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(a, b), loss(a, b))
