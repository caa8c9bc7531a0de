"""The cores against 60-digit references, float64 autograd and finite differences."""

import math

import mpmath
import pytest
import torch
from torch.nn import functional as F

from losslab.errors import LosslabError
from losslab.losses import closed_form, focal_chunk
from losslab.losses.closed_form import focal, focal_terms, is_plain, margin

GAMMAS = [0.0, 0.1, 0.5, 1.0, 2.0, 3.7, 5.0]
POINTS = [0.0, 1e-6, 0.3, 1.0, 4.0, 8.0, 12.0, 16.7, 18.0, 25.0, 40.0, 80.0, 120.0, 1e3, 1e4]
MARGINS = sorted({sign * point for point in POINTS for sign in (-1, 1)})


def reference(u, gamma):
    """Loss and derivative at margin u, in 60 digits, in the paper's own form."""
    with mpmath.workdps(60):
        u, gamma = mpmath.mpf(u), mpmath.mpf(gamma)
        p, q = 1 / (1 + mpmath.exp(-u)), 1 / (1 + mpmath.exp(u))
        log_p = -mpmath.log1p(mpmath.exp(-u)) if u > -200 else u - mpmath.log1p(mpmath.exp(u))
        factor = q**gamma
        # Appendix B of the paper: (1-p)^gamma (gamma p log p + p - 1).
        return float(-factor * log_p), float(factor * (gamma * p * log_p - q))


def as_dtype(values, dtype):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def paths(monkeypatch):
    """The eager shortcuts, and the general formulas that transforms and GPUs take."""
    yield "eager"
    monkeypatch.setattr(closed_form, "is_plain", lambda *tensors: False)
    yield "general"


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)],
)
def test_against_mpmath(gamma, dtype, tolerance, monkeypatch):
    # The reference is taken at the rounded logit; the loss itself comes out in float32 or float64.
    for path in paths(monkeypatch):
        for target in (1.0, 0.0):
            x = as_dtype(MARGINS, dtype)
            loss = focal(x, torch.full_like(x, target), torch.tensor(gamma, dtype=torch.float64))
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            assert loss.dtype == closed_form.compute_dtype(dtype)
            assert gradient.dtype == dtype
            sign = 2 * target - 1
            smallest = torch.finfo(loss.dtype).tiny
            for i, logit in enumerate(x.tolist()):
                value, slope = reference(sign * logit, gamma)
                where = f"{path} {dtype} gamma={gamma} u={sign * logit}"
                loss_tolerance = min(tolerance, 1e-5)
                assert loss[i].item() == pytest.approx(
                    value, rel=loss_tolerance, abs=100 * smallest
                ), where
                floor = max(100 * smallest, torch.finfo(dtype).smallest_normal)
                assert gradient[i].item() == pytest.approx(
                    sign * slope, rel=tolerance, abs=floor
                ), where


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
def test_float32_to_two_millionths_of_mpmath(gamma, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    u = torch.cat([torch.rand(400, generator=generator) * 128 - 100, torch.linspace(-100, 28, 129)])
    expected = [reference(margin, gamma) for margin in u.tolist()]
    normal = torch.tensor([value > 2e-38 and -slope > 2e-38 for value, slope in expected])
    value, slope = torch.tensor(expected, dtype=torch.float64).T
    for path in paths(monkeypatch):
        for sign in (1, -1):
            x = (sign * u).requires_grad_()
            loss = focal(x, torch.full_like(x, (1 + sign) / 2), torch.tensor(gamma))
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            for found, wanted in ((loss, value), (sign * gradient, slope)):
                error = ((found - wanted) / wanted)[normal].abs().max().item()
                assert error < 2e-6, (path, sign, error)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0, 5.0])
def test_against_autograd_of_log_space(gamma):
    # Moderate logits, where plain autograd of the textbook expression is exact in float64.
    x = torch.linspace(-8, 8, 81, dtype=torch.float64, requires_grad=True)
    y = torch.rand(81, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha = 0.3
    at_one = alpha * torch.exp(gamma * F.logsigmoid(-x)) * -F.logsigmoid(x)
    at_zero = (1 - alpha) * torch.exp(gamma * F.logsigmoid(x)) * -F.logsigmoid(-x)
    for targets in (y, y.round()):
        expected = targets * at_one + (1 - targets) * at_zero
        found = focal(x, targets, *torch.tensor([gamma, alpha], dtype=torch.float64))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        (wanted,) = torch.autograd.grad(expected.sum(), x, retain_graph=True)
        (gradient,) = torch.autograd.grad(found.sum(), x)
        torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("gamma", [None, 0.0, 0.3, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("soft", [False, True])
def test_finite_differences_first_and_second_order(gamma, alpha, soft):
    x = torch.tensor([-3.0, -0.4, 0.7, 2.5], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.2, 0.9, 0.5, 1.0] if soft else [0.0, 1, 0, 1], dtype=torch.float64)
    g, a = (None if v is None else torch.tensor(v, dtype=torch.float64) for v in (gamma, alpha))
    assert torch.autograd.gradcheck(lambda x: focal(x, y, g, a), x)
    assert torch.autograd.gradgradcheck(lambda x: focal(x, y, g, a), x)
    if soft:
        y = y.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, y: focal(x, y, g, a), (x, y))
        assert torch.autograd.gradgradcheck(lambda x, y: focal(x, y, g, a), (x, y))


def test_second_derivative_formula():
    # alpha_t p q^gamma ((2 gamma + 1) q + gamma c (gamma p - q))
    gamma = 2.0
    x = torch.linspace(-6, 6, 25, dtype=torch.float64, requires_grad=True)
    loss = focal(x, torch.ones_like(x), torch.tensor(gamma, dtype=torch.float64))
    (first,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    p, q, c = torch.sigmoid(x), torch.sigmoid(-x), -F.logsigmoid(x)
    expected = p * q**gamma * ((2 * gamma + 1) * q + gamma * c * (gamma * p - q))
    torch.testing.assert_close(second, expected.detach(), rtol=1e-11, atol=1e-15)


def test_chunks_with_hard_and_soft_targets_agree_with_the_general_form(monkeypatch):
    monkeypatch.setattr(focal_chunk, "CHUNK", 8)
    monkeypatch.setattr(focal_chunk, "SMALLEST_CHUNK", 8)
    x = torch.randn(3, 9, generator=torch.Generator().manual_seed(1)).t().requires_grad_()
    y = torch.zeros(9, 3)
    y[2:] = 1
    y[5, 1] = 0.4  # the second of four chunks is soft
    gamma, alpha = torch.tensor(1.3), torch.tensor(0.2)
    loss = focal(x, y, gamma, alpha)
    expected, slope = focal_terms(x, y, gamma, alpha)
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    torch.testing.assert_close(gradient, slope.detach(), rtol=1e-5, atol=1e-7)


def test_infinite_logits_and_nan(monkeypatch):
    for path in paths(monkeypatch):
        x = as_dtype([math.inf, -math.inf, -math.inf, math.inf, math.nan], torch.float32)
        y = torch.tensor([1.0, 0, 1, 0, 1])
        for gamma in (0.0, 0.5, 2.0):
            loss = focal(x, y, torch.tensor(gamma))
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            assert loss[:2].tolist() == [0, 0], path
            assert (loss[2:4] > 3e38).all(), path
            assert gradient[:4].tolist() == [0, 0, -1, 1], path
            assert loss[4].isnan(), path
            assert gradient[4].isnan(), path


def test_memory_no_gradient_is_kept_when_none_is_wanted():
    def saved(x):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            focal(x, torch.ones_like(x), torch.tensor(2.0))
        return kept

    x = torch.randn(50, requires_grad=True)
    assert [t.data_ptr() for t in saved(x)].count(x.data_ptr()) == 1
    assert [t.numel() for t in saved(x)] == [50, 50, 50]  # x, y, gradient
    assert [t.numel() for t in saved(x.detach())] == []
    half = torch.randn(50, dtype=torch.bfloat16, requires_grad=True)
    assert [t.dtype for t in saved(half)] == [torch.bfloat16] * 2  # recomputed


def test_gradient_by_gamma_is_refused():
    x, gamma = torch.zeros(2, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    with pytest.raises(LosslabError, match="gamma or alpha"):
        focal(x, torch.ones(2), gamma).sum().backward()


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_margin_value_and_gradients(classes):
    generator = torch.Generator().manual_seed(classes)
    z = (4 * torch.randn(5, classes, 2, generator=generator, dtype=torch.float64)).requires_grad_()
    t = torch.randint(classes, (5, 2), generator=generator)
    found = margin(z, t)
    for i in range(5):
        for k in range(2):
            others = [z[i, j, k].item() for j in range(classes) if j != t[i, k]]
            expected = z[i, t[i, k], k].item() - math.log(sum(math.exp(v) for v in others))
            assert found[i, k].item() == pytest.approx(expected, rel=1e-13)
    assert torch.autograd.gradcheck(lambda z: margin(z, t), z)
    assert torch.autograd.gradgradcheck(lambda z: margin(z, t), z)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_margin_at_extremes(dtype):
    inf = math.inf
    rows = [
        [1e4, -1e4, 0],
        [-1e4, 1e4, 0],
        [0, -inf, -inf],
        [-inf, 0, 1],
        [0, 0, -inf],
        [inf, 0, 0],
    ]
    z = as_dtype(rows, dtype)
    found = margin(z, torch.zeros(6, dtype=torch.long))
    (gradient,) = torch.autograd.grad(found.sum(), z)
    assert found.isfinite().all()
    big, other = torch.tensor(1e4).to(dtype).item(), math.log(1 + math.e)
    largest = torch.finfo(found.dtype).max
    expected = torch.tensor([big, -2 * big, largest, -largest, 0, largest], dtype=found.dtype)
    torch.testing.assert_close(found.detach(), expected)
    assert gradient[3, 1].item() == pytest.approx(-math.exp(0 - other), rel=1e-2)
    assert gradient[4].tolist() == [1, -1, 0]
    assert (gradient.sum(1).abs() < 1e-2).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("gap", [-1e4, -50.0, -5.0, 0.0, 5.0, 17.0, 30.0, 1e4])
def test_focal_of_the_margin_against_mpmath(gamma, gap):
    # Three classes, target 0, z = (gap, 0, -1): u = gap - log(1 + 1/e).
    z = torch.tensor([[gap, 0.0, -1.0]], requires_grad=True)
    target = torch.tensor([0])
    loss = focal(margin(z, target), None, torch.tensor(gamma))
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    with mpmath.workdps(60):
        u = mpmath.mpf(gap) - mpmath.log(1 + mpmath.exp(-1))
        share = float(1 / (1 + mpmath.exp(-1)))
    value, slope = reference(u, gamma)
    # The margin is rounded to float32 once; its last bit moves exp((gamma + 1) u).
    close = {"rel": 2e-5, "abs": 1e-36}
    assert loss.item() == pytest.approx(value, **close)
    expected = [slope, -slope * share, -slope * (1 - share)]
    assert gradient[0].tolist() == [pytest.approx(v, **close) for v in expected]


def test_is_plain_sees_transforms():
    seen = []

    def look(x):
        seen.append(is_plain(x))
        return x.sum()

    x = torch.ones(2)
    look(x)
    torch.func.vmap(look)(x)
    torch.func.grad(look)(x)
    assert seen == [True, False, False]
