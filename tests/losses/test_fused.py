"""The one-pass cores on plain CPU tensors: against the branch-free terms, mpmath and loops."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losslab.losses import LOSSES, chunked_softmax, focal_chunk
from losslab.losses.closed_form import focal, focal_terms, focal_total, margin, softmax_focal
from losslab.losses.focal import Focal
from losslab.losses.formulas import focal_values
from losslab.losses.inlined import exp_of_negative, log1p_of_unit
from losslab.losses.reduction import reduce

GAMMAS = [None, 0.0, 0.1, 0.5, 1.0, 1.5, 1.7, 2.0, 3.0, 5.0]


def number(value):
    return None if value is None else torch.tensor(value, dtype=torch.float64)


def expected_of(logits, targets, gamma, alpha, ignored, reduction):
    """Value and gradient by `focal_terms` in float64, element by element reduced."""
    x = logits.detach().double()
    kept = targets != ignored
    x, y = torch.where(kept, x, 0), torch.where(kept, targets, 0).double()
    loss, slope = focal_terms(x, y, number(gamma), number(alpha))
    loss, slope = torch.where(kept, loss, 0), torch.where(kept, slope, 0)
    value = reduce(loss, reduction, y, (), kept)
    return value, slope * (value / loss.sum() if loss.sum() else 0)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", ["sum", "mean", "positives"])
@pytest.mark.parametrize("soft", [False, True])
def test_a_reduced_loss_is_the_reduction_of_its_elements(gamma, reduction, soft):
    draw = torch.Generator().manual_seed(1)
    # more than two chunks, the last of them short
    size = 2 * focal_chunk.CHUNK + 77
    x = 4 * torch.randn(size, generator=draw)
    y = torch.rand(size, generator=draw) if soft else (torch.rand(size, generator=draw) < 0.1) * 1.0
    y[::7] = -1
    x[14], x[21], x[28] = math.nan, math.inf, -math.inf  # all ignored
    logits = x.clone().requires_grad_()
    found = focal_total(logits, y, number(gamma), number(0.3), -1, reduction)
    value, slope = expected_of(x, y, gamma, 0.3, -1, reduction)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(value.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(found, logits)
    assert (gradient[y == -1] == 0).all()
    atol = (1e-7 if soft else 1e-9) * slope.abs().max()  # where both sides of a soft target cancel
    torch.testing.assert_close(gradient.double(), slope, rtol=5e-6, atol=atol)


@settings(max_examples=60, deadline=None)
@given(
    u=st.lists(st.floats(-100, 28, width=32), min_size=1, max_size=4),
    gamma=st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 3.3, 5.0]),
    positive=st.booleans(),
)
def test_float32_against_sixty_digits(u, gamma, positive):
    u = [value for value in u if abs(value) >= 1e-30] or [0.5]
    sign = 1 if positive else -1
    x = (sign * torch.tensor(u)).requires_grad_()
    y = torch.full((len(u),), float(positive))
    values = focal(x, y, torch.tensor(gamma))
    (slopes,) = torch.autograd.grad(values.sum(), x)
    with mpmath.workdps(60):
        for value, slope, at in zip(values.tolist(), slopes.tolist(), u, strict=True):
            m, g = mpmath.mpf(at), mpmath.mpf(torch.tensor(gamma).item())
            p, q = 1 / (1 + mpmath.exp(-m)), 1 / (1 + mpmath.exp(m))
            exact = q**g * -mpmath.log(p)
            exact_slope = -sign * q**g * (q - g * p * mpmath.log(p))
            for found, wanted in ((value, exact), (slope, exact_slope)):
                assert abs(found - wanted) <= 2e-6 * abs(wanted) + mpmath.mpf(2) ** -140


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("shape", [(9, 5), (3, 4, 6), (2, 3, 5, 2), (200, 700)])
def test_softmax_is_the_binary_core_at_the_margin(gamma, shape, monkeypatch):
    monkeypatch.setattr(chunked_softmax, "CHUNK", 1 << 12)  # many chunks of these shapes
    draw = torch.Generator().manual_seed(2)
    z = 5 * torch.randn(shape, generator=draw)
    t = torch.randint(shape[1], (shape[0], *shape[2:]), generator=draw)
    logits, exact = z.clone().requires_grad_(), z.double().requires_grad_()
    values = softmax_focal(logits, t, number(gamma))
    wanted = focal(margin(exact, t), None, number(gamma))
    torch.testing.assert_close(values.double(), wanted, rtol=3e-6, atol=1e-12)
    upstream = torch.rand(t.shape, generator=draw)
    (found,) = torch.autograd.grad(values, logits, upstream)
    (slope,) = torch.autograd.grad(wanted, exact, upstream.double())
    torch.testing.assert_close(found.double(), slope, rtol=5e-6, atol=1e-10)


@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 2.0])
@pytest.mark.parametrize("distance", [17.0, 40.0, 80.0, 1e4, 1e30])
def test_softmax_far_from_zero(gamma, distance):
    for dtype, tiny in ((torch.float32, 1e-38), (torch.float64, 1e-300)):
        z = torch.tensor([[distance, 0.0, -1.0], [-distance, 0.0, 1.0]], dtype=dtype)
        z.requires_grad_()
        t = torch.tensor([0, 0])
        values = softmax_focal(z, t, number(gamma))
        (slopes,) = torch.autograd.grad(values.sum(), z)
        assert values.isfinite().all()
        assert slopes.isfinite().all()
        g = gamma or 0.0
        with mpmath.workdps(60):
            for row in range(2):
                a = [mpmath.mpf(v) for v in z[row].tolist()]
                odds = sum(mpmath.exp(v - a[0]) for v in a[1:])
                q, cost = odds / (1 + odds), mpmath.log1p(odds)
                exact = q ** mpmath.mpf(g) * cost
                assert abs(values[row].item() - exact) <= 3e-6 * exact + tiny


def test_masked_classes_have_no_gradient():
    z = torch.tensor([[0.3, -math.inf, 1.0], [2.0, 0.0, -math.inf]], requires_grad=True)
    values = softmax_focal(z, torch.tensor([0, 1]), torch.tensor(2.0))
    (slopes,) = torch.autograd.grad(values.sum(), z)
    assert values.isfinite().all()
    assert slopes[0, 1] == slopes[1, 2] == 0
    assert slopes.isfinite().all()


@pytest.mark.parametrize(
    "kind", ["strided", "transposed", "bool", "int", "half", "empty", "scalar"]
)
def test_layouts_and_dtypes(kind):
    draw = torch.Generator().manual_seed(3)
    x, y = torch.randn(6, 8, generator=draw), torch.rand(6, 8, generator=draw) < 0.4
    if kind == "strided":
        x, y = x[:, ::2], y[:, ::2]
    elif kind == "transposed":
        x, y = x.T, y.T
    elif kind == "half":
        x = x.bfloat16()
    elif kind == "empty":
        x, y = x[:0], y[:0]
    elif kind == "scalar":
        x, y = x[0, 0], y[0, 0]
    targets = y if kind == "bool" else y.long() if kind == "int" else y.float()
    logits = x.detach().requires_grad_()
    loss = Focal(gamma=1.5)
    found = loss(logits, targets)
    (gradient,) = torch.autograd.grad(found, logits)
    value, slope = expected_of(x, y.double(), 1.5, 0.25, -100, "mean")
    assert found.item() == pytest.approx(value.item(), rel=1e-6, abs=1e-12)
    assert gradient.dtype == x.dtype
    close = {"rtol": 1e-2, "atol": 1e-4} if kind == "half" else {"rtol": 5e-6, "atol": 1e-9}
    torch.testing.assert_close(gradient.double(), slope, **close)


def test_second_derivatives_and_walking_the_graph_again():
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(9, generator=draw, dtype=torch.float64, requires_grad=True)
    y = (torch.rand(9, generator=draw) < 0.5).double()
    y[3] = -1
    total = lambda x: focal_total(x, y, number(1.5), number(0.3), -1, "mean")  # noqa: E731
    assert torch.autograd.gradcheck(total, x)
    assert torch.autograd.gradgradcheck(total, x)
    value = total(x)
    first = torch.autograd.grad(value, x, retain_graph=True)[0].clone()
    again = torch.autograd.grad(value, x, torch.tensor(-2.0).double(), retain_graph=True)[0]
    torch.testing.assert_close(again, -2 * first, rtol=1e-15, atol=0)
    last = torch.autograd.grad(value, x)[0]  # the kept gradient may be overwritten now
    assert torch.equal(last, first)
    z = torch.randn(4, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0, 2, 1, 1])
    assert torch.autograd.gradcheck(lambda z: softmax_focal(z, t, number(0.5)), z)
    assert torch.autograd.gradgradcheck(lambda z: softmax_focal(z, t, number(0.5)), z)


def test_two_uses_of_one_value_add_up():
    x = torch.randn(5, requires_grad=True)
    y = torch.ones(5)
    value = focal_total(x, y, number(2.0), None, None, "sum")
    (twice,) = torch.autograd.grad(value + value * value, x)
    (once,) = torch.autograd.grad(focal_total(x, y, number(2.0), None, None, "sum"), x)
    torch.testing.assert_close(twice, (1 + 2 * value.detach()) * once)


def test_what_it_leaves_to_the_ordinary_way():
    x = torch.zeros(3, requires_grad=True)
    for wrong in (1.5, -0.5, math.nan):
        assert focal_total(x, torch.tensor([0.0, 1.0, wrong]), None, None, -100, "sum") is None
    batched = torch.zeros(3, dtype=torch.float64)
    assert focal_total(x, torch.ones(3), batched, None, None, "sum") is None
    learnt = torch.ones(3, requires_grad=True)
    assert focal_total(x, learnt, None, None, None, "sum") is None


def test_a_subclass_that_computes_something_else_does_not_take_its_parents_short_way():
    class Doubled(Focal):
        def elementwise(self, logits, targets):
            return 2 * super().elementwise(logits, targets)

    x, y = torch.randn(7), torch.ones(7)
    assert Doubled()(x, y).item() == pytest.approx(2 * Focal()(x, y).item(), rel=1e-6)


@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 2.0, 5.0])
def test_shared_exponentials_are_the_terms(gamma):
    x = torch.linspace(-90, 90, 4001, dtype=torch.float64)
    for y in (torch.zeros_like(x), torch.ones_like(x), torch.full_like(x, 0.3)):
        expected = focal_terms(x, y, number(gamma), number(0.25))
        for found, wanted in zip(
            focal_values(x, y, number(gamma), number(0.25)), expected, strict=True
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-300)


def test_polynomials_of_the_compiled_way():
    x = torch.linspace(-87, 0, 200_001)
    exact = x.double().exp()
    assert ((exp_of_negative(x).double() - exact) / exact).abs().max() < 2.5e-7
    assert exp_of_negative(torch.tensor([-200.0, -math.inf])).tolist() == [0.0, 0.0]
    x = torch.cat([torch.linspace(0, 1, 200_001)[1:], torch.logspace(-30, 0, 1000)])
    exact = x.double().log1p()
    assert ((log1p_of_unit(x).double() - exact) / exact).abs().max() < 3e-7


@pytest.mark.parametrize("name", ["ce", "balanced_ce", "focal"])
def test_one_and_two_threads_agree(name):
    draw = torch.Generator().manual_seed(5)
    x, y = torch.randn(300_000, generator=draw), torch.rand(300_000, generator=draw) < 0.1
    values = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            logits = x.clone().requires_grad_()
            loss = LOSSES.create(name)(logits, y)
            values.append((loss.item(), torch.autograd.grad(loss, logits)[0]))
    finally:
        torch.set_num_threads(before)
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-6)
    torch.testing.assert_close(values[0][1], values[1][1], rtol=1e-6, atol=0)
