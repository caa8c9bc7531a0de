"""ZLPR and the two-way loss against loops over labels, cross-entropy, and their limits."""

import math

import mpmath
import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.losses.multilabel import ZLPR, TwoWay

IGNORED = -100


@pytest.fixture
def labels():
    """(6, 5) logits and labels: a row and a column without, and with nothing but positives."""
    generator = torch.Generator().manual_seed(4)
    x = 2 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    y = (torch.rand(6, 5, generator=generator) < 0.4).double()
    y[0], y[:, 1], y[2], y[:, 3] = 0, 0, 1, 1
    y[0, 3], y[2, 1] = 0, 1
    y[4, 2] = y[5, 0] = IGNORED
    return x, y


def zlpr(x, y, weights):
    """One row; y may be soft."""
    negative = sum(w * (1 - t) * mpmath.exp(v) for v, t, w in zip(x, y, weights, strict=True))
    positive = sum(w * t * mpmath.exp(-v) for v, t, w in zip(x, y, weights, strict=True))
    return float(mpmath.log(1 + negative) + mpmath.log(1 + positive))


def two_way(x, y, t_pos, t_neg, weights):
    """One row or column; None where it has no positive."""
    on = [w * math.exp(-v / t_pos) for v, t, w in zip(x, y, weights, strict=True) if t == 1]
    off = [w * math.exp(v / t_neg) for v, t, w in zip(x, y, weights, strict=True) if t == 0]
    if not sum(on):
        return None
    if not sum(off):
        return 0.0
    return math.log1p(sum(off) ** t_neg * sum(on) ** t_pos)


def kept(values, y, weights):
    """A row without its ignored labels."""
    rows = [(v, t, w) for v, t, w in zip(values, y, weights, strict=True) if t != IGNORED]
    return [list(each) for each in zip(*rows, strict=True)]


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0, 0.0]])
@pytest.mark.parametrize("soft", [False, True])
def test_zlpr_against_mpmath(labels, weights, soft):
    x, y = labels
    if soft:
        y = torch.where(y == IGNORED, y, 0.9 * y + 0.05)
    found = ZLPR(reduction="none", class_weights=weights)(x, y)
    rows = zip(x.tolist(), y.tolist(), strict=True)
    expected = [zlpr(*kept(a, b, weights or [1.0] * 5)) for a, b in rows]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert ZLPR(class_weights=weights)(x, y).item() == pytest.approx(sum(expected) / 6)


def test_zlpr_shapes():
    x = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    y = (torch.rand(x.shape) < 0.3).double()
    found = ZLPR(reduction="none")(x, y)
    assert found.shape == (3, 2, 5)
    flat = ZLPR(reduction="none")(x.movedim(1, -1).reshape(-1, 4), y.movedim(1, -1).reshape(-1, 4))
    torch.testing.assert_close(found.flatten(), flat)


def test_one_label_is_cross_entropy():
    x = torch.randn(9, dtype=torch.float64)
    y = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 0])
    expected = F.binary_cross_entropy_with_logits(x, y.double(), reduction="none")
    torch.testing.assert_close(ZLPR(reduction="none")(x, y), expected)  # (N,): N examples
    torch.testing.assert_close(ZLPR(reduction="none")(x[:, None], y[:, None]), expected)


def test_a_class_weight_of_two_is_the_label_twice(labels):
    x, y = labels
    doubled = [1.0, 1.0, 2.0, 1.0, 1.0]
    twice = torch.cat([x, x[:, 2:3]], 1), torch.cat([y, y[:, 2:3]], 1)
    assert ZLPR(class_weights=doubled)(x, y).item() == pytest.approx(ZLPR()(*twice).item())
    rows = TwoWay(reduction="none", class_weights=doubled)(x, y)[:6]
    torch.testing.assert_close(rows, TwoWay(reduction="none")(*twice)[:6])


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0, 0.25]])
@pytest.mark.parametrize(("t_pos", "t_neg"), [(4.0, 1.0), (0.5, 8.0), (1.0, 1.0)])
def test_two_way_against_a_loop(labels, t_pos, t_neg, weights):
    x, y = labels
    options = {
        "positive_temperature": t_pos,
        "negative_temperature": t_neg,
        "class_weights": weights,
    }
    row_weights = weights or [1.0] * 5
    rows = [
        two_way(*kept(a, b, row_weights)[:2], t_pos, t_neg, kept(a, b, row_weights)[2])
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    ]
    columns = [
        two_way(*kept(a, b, [1.0] * 6)[:2], t_pos, t_neg, kept(a, b, [1.0] * 6)[2])
        for a, b in zip(x.T.tolist(), y.T.tolist(), strict=True)
    ]
    columns = [v if v is None else w * v for v, w in zip(columns, row_weights, strict=True)]
    assert None in rows
    assert 0.0 in rows
    found = TwoWay(reduction="none", **options)(x, y)
    assert found.tolist() == pytest.approx([v or 0.0 for v in rows + columns], rel=1e-10)
    total = TwoWay(reduction="sum", **options)(x, y)
    assert total.item() == pytest.approx(sum(v or 0.0 for v in rows + columns), rel=1e-10)
    # The author's code: mean over rows with a positive plus mean over such columns.
    means = [
        sum(v for v in each if v is not None) / len([v for v in each if v is not None])
        for each in (rows, columns)
    ]
    assert TwoWay(**options)(x, y).item() == pytest.approx(sum(means), rel=1e-10)


def test_one_positive_a_row_at_temperature_one_is_softmax_cross_entropy():
    x = torch.randn(7, 5, dtype=torch.float64)
    t = torch.randint(5, (7,))
    for positive_temperature in (1.0, 4.0):  # has no say over a single positive
        loss = TwoWay(reduction="none", positive_temperature=positive_temperature)
        rows = loss(x, F.one_hot(t, 5))[:7]
        torch.testing.assert_close(rows, F.cross_entropy(x, t, reduction="none"))


def test_two_way_positions_are_examples():
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    y = (torch.rand(x.shape) < 0.3).double()
    flat = x.movedim(1, -1).reshape(-1, 4), y.movedim(1, -1).reshape(-1, 4)
    assert TwoWay()(x, y).item() == pytest.approx(TwoWay()(*flat).item(), rel=1e-12)
    assert TwoWay(reduction="none")(x, y).shape == (19,)
    column = TwoWay()(x[:, 0, 0], y[:, 0, 0])
    assert column.item() == TwoWay()(x[:, :1, 0], y[:, :1, 0]).item()


@pytest.mark.parametrize("cls", [ZLPR, TwoWay])
def test_gradients_and_ignored_labels(cls, labels):
    x, y = labels
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cls()(x, y), x)
    assert torch.autograd.gradgradcheck(lambda x: cls()(x, y), x)
    (slope,) = torch.autograd.grad(cls()(x, y), x)
    assert slope[4, 2] == slope[5, 0] == 0
    # Rows of which everything is ignored are as deleted.
    gone = torch.full((2, 5), float("nan"), dtype=torch.float64)
    more = torch.cat([x, gone]), torch.cat([y, torch.full((2, 5), float(IGNORED))])
    assert cls()(*more).item() == pytest.approx(cls()(x, y).item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("corner", [0, 1])
@pytest.mark.parametrize("cls", [ZLPR, TwoWay])
def test_extreme_logits(cls, dtype, corner):
    values = {k: (h.low, h.high)[corner] for k, h in cls.hyperparameters.items()}
    loss = cls(**values)
    big = torch.tensor([1e4], dtype=dtype).item()
    for sign in (1, -1):
        x = torch.tensor([[big, -big], [-big, big]], dtype=dtype) * sign
        x.requires_grad_()
        value = loss(x, torch.eye(2))
        (slope,) = torch.autograd.grad(value, x)
        assert slope.dtype == dtype
        if sign > 0:
            assert value.item() == 0
            assert (slope == 0).all()
        else:  # both terms are `big`; two-way: softplus(2 big) by rows and by columns
            assert value.item() == pytest.approx(2 * big if cls is ZLPR else 4 * big, rel=1e-6)
            factor = 0.5 if cls is ZLPR else 1.0
            assert slope.tolist() == [[-factor, factor], [factor, -factor]]


@pytest.mark.parametrize("cls", [ZLPR, TwoWay])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_one_sided_and_empty_batches(cls, target):
    x = torch.randn(3, 4, requires_grad=True)
    value = cls()(x, torch.full((3, 4), target))
    (slope,) = torch.autograd.grad(value, x)
    if cls is TwoWay:
        assert value.item() == 0
        assert (slope == 0).all()
    else:
        sign = -1 if target else 1
        expected = torch.log1p(torch.exp(sign * x).sum(1)).mean()
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    empty = torch.zeros(0, 4, requires_grad=True)
    assert cls()(empty, torch.zeros(0, 4)).item() == 0
    assert cls()(x, torch.full((3, 4), IGNORED)).item() == 0


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_no_nan_inside_the_backward_pass():
    x = torch.randn(3, 4, requires_grad=True)
    y = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1]])
    with torch.autograd.detect_anomaly(check_nan=True):
        for loss in (ZLPR(), TwoWay()):
            loss(x, y).backward()


def test_two_way_keeps_its_digits_in_float64():
    # log(1 + e^21) and its slope 1 - e^-21; softplus is the identity above 20.
    x = torch.tensor([[-10.5, 10.5]], dtype=torch.float64, requires_grad=True)
    value = TwoWay()(x, torch.tensor([[1, 0]]))
    assert value.item() - 21 == pytest.approx(math.log1p(math.exp(-21)), rel=1e-5)
    (slope,) = torch.autograd.grad(value, x)
    assert 1 - slope[0, 1].item() == pytest.approx(1 / (1 + math.exp(21)), rel=1e-5)


def test_infinite_logits_and_nan():
    inf, y = float("inf"), torch.tensor([[1, 0, 0], [0, 1, 0]])
    x = torch.tensor([[0.0, inf, 1.0], [-inf, -inf, 0.0]], requires_grad=True)
    for loss in (ZLPR(), TwoWay(positive_temperature=0.5, negative_temperature=0.5)):
        value = loss(x, y)
        assert value.isfinite()
        assert torch.autograd.grad(value, x)[0].isfinite().all()
        broken = x.detach().clone()
        broken[1, 2] = float("nan")
        assert loss(broken, y).isnan()


def test_vmap_over_temperatures_is_the_loop(labels):
    x, y = labels
    temperatures = torch.tensor([0.5, 4.0, 8.0], dtype=torch.float64)
    stacked = {
        "positive_temperature": temperatures,
        "negative_temperature": temperatures.flip(0),
    }
    loss = TwoWay()

    def call(values, x):
        return functional_call(loss, values, (x, y))

    found = vmap(call, in_dims=(0, None))(stacked, x)
    slopes = vmap(grad(call, argnums=1), in_dims=(0, None))(stacked, x)
    for i in range(3):
        one = TwoWay(**{name: values[i].item() for name, values in stacked.items()})
        z = x.clone().requires_grad_()
        value = one(z, y)
        assert found[i].item() == pytest.approx(value.item(), rel=1e-12)
        torch.testing.assert_close(slopes[i], torch.autograd.grad(value, z)[0])
    assert found.unique().numel() == 3
    batches = torch.stack([x, -x])
    for each in (ZLPR(), TwoWay()):
        expected = torch.stack([each(z, y) for z in batches])
        torch.testing.assert_close(vmap(lambda z, each=each: each(z, y))(batches), expected)


def test_wrong_arguments_are_told():
    with pytest.raises(BadInput, match="unknown link 'softmax'"):
        ZLPR(link="softmax")
    with pytest.raises(BadInput, match="positive_temperature must be at least"):
        TwoWay(positive_temperature=0)
    with pytest.raises(BadInput, match="has no hyper-parameter 'gamma'"):
        ZLPR(gamma=2)


def test_compiles_fullgraph(labels):
    x, y = (each.float() for each in labels)
    for loss in (ZLPR(), TwoWay()):
        torch._dynamo.reset()
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, y), loss(x, y))
