"""Poly-1 losses against mpmath, the paper's code written out anew, and their gradients."""

import math

import mpmath
import pytest
import torch
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.losses.poly import Poly1CrossEntropy, Poly1Focal
from losslab.losses.weighting import class_weights_from_counts

POINTS = [-1e4, -300.0, -30.0, -2.0, 0.0, 1.5, 8.0, 18.0, 60.0, 1e4]


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(6)


def exact(u, gamma, epsilon):
    """Poly-1 focal loss and its slope at the margin u, to 60 digits."""
    with mpmath.workdps(60):
        u = mpmath.mpf(u)
        p, q = 1 / (1 + mpmath.exp(-u)), 1 / (1 + mpmath.exp(u))
        log_p = -mpmath.log1p(mpmath.exp(-u))
        value = q**gamma * -log_p + epsilon * q ** (gamma + 1)
        slope = -(q**gamma) * (q - gamma * p * log_p) - epsilon * (gamma + 1) * p * q ** (gamma + 1)
        return float(value), float(slope)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("epsilon", [-1.0, -0.5, 0.0, 2.0, 6.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_links_against_mpmath(gamma, epsilon, dtype):
    x = torch.tensor(POINTS * 2, dtype=dtype, requires_grad=True)
    y = torch.tensor([1.0] * 10 + [0.0] * 10)
    loss = Poly1Focal(gamma=gamma, epsilon=epsilon, alpha=0.3, reduction="none")(x, y)
    z = torch.stack([torch.zeros_like(x), x], 1)
    softmax = Poly1Focal(link="softmax", gamma=gamma, epsilon=epsilon, reduction="none")(
        z, y.long()
    )
    slopes = [torch.autograd.grad(value.sum(), x)[0].tolist() for value in (loss, softmax)]
    # At epsilon -1 two equal leading terms cancel; what is left is compared with them.
    precision = 100 * torch.finfo(dtype).eps
    for i, target in enumerate(y.tolist()):
        sign, weight = (1, 0.3) if target else (-1, 0.7)
        value, slope = exact(sign * x[i].item(), gamma, epsilon)
        size = exact(sign * x[i].item(), gamma, abs(epsilon))
        close = [max(precision * abs(part), 1e-37) for part in size]
        assert loss[i].item() == pytest.approx(weight * value, abs=close[0])
        assert softmax[i].item() == pytest.approx(value, abs=close[0])
        assert slopes[0][i] == pytest.approx(sign * weight * slope, abs=close[1])
        assert slopes[1][i] == pytest.approx(sign * slope, abs=close[1])


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, 2.0, 6.0])
def test_cross_entropy_as_the_papers_code_writes_it(epsilon, draw):
    z = (2 * torch.randn(20, 5, generator=draw, dtype=torch.float64)).requires_grad_()
    t = torch.randint(5, (20,), generator=draw)
    t[2] = -100
    kept = t >= 0
    p_t = z.softmax(1).gather(1, t.clamp(min=0)[:, None])[:, 0]
    expected = F.cross_entropy(z, t, reduction="none") + epsilon * torch.where(kept, 1 - p_t, 0)
    loss = Poly1CrossEntropy(link="softmax", epsilon=epsilon, reduction="none")
    found = loss(z, t)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
    # dL/dz_j = (1 + epsilon P_t) (P_j - [j = t])
    (slope,) = torch.autograd.grad(found.sum(), z)
    target = F.one_hot(t.clamp(min=0), 5)
    wanted = (1 + epsilon * p_t)[:, None] * (z.softmax(1) - target) * kept[:, None]
    torch.testing.assert_close(slope, wanted.detach(), rtol=1e-11, atol=1e-13)


def test_focal_as_the_papers_code_writes_it_alpha_on_both_terms(draw):
    x = 2 * torch.randn(20, 3, generator=draw, dtype=torch.float64)
    y = (torch.rand(20, 3, generator=draw) < 0.4).double()
    p = torch.sigmoid(x)
    p_t = y * p + (1 - y) * (1 - p)
    weight = 0.25 * y + 0.75 * (1 - y)
    expected = weight * ((1 - p_t) ** 2 * -p_t.log() - 1 * (1 - p_t) ** 3)
    found = Poly1Focal(reduction="none")(x, y)  # the defaults: gamma 2, alpha .25, epsilon -1
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    found = Poly1Focal(reduction="weight_sum")(x, y)
    torch.testing.assert_close(found, expected.sum() / weight.sum(), rtol=1e-9, atol=0)
    counts = [50, 30, 5]
    t = torch.randint(3, (20,), generator=draw)
    p_t = x.softmax(1).gather(1, t[:, None])[:, 0]
    weight = class_weights_from_counts(torch.tensor(counts), 0.7)[t]
    expected = weight * ((1 - p_t) ** 2 * -p_t.log() + 3 * (1 - p_t) ** 3)
    found = Poly1Focal(link="softmax", a=0.7, epsilon=3, class_counts=counts, reduction="none")
    torch.testing.assert_close(found(x, t), expected, rtol=1e-9, atol=1e-12)


def test_numbers_by_hand():
    # p = 1/4 at x = -log 3.
    x = torch.tensor([-math.log(3)] * 2, dtype=torch.float64)
    y = torch.tensor([1, 0])
    found = Poly1CrossEntropy(epsilon=2, reduction="none")(x, y)
    expected = [math.log(4) + 2 * 0.75, math.log(4 / 3) + 2 * 0.25]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    found = Poly1Focal(gamma=1, epsilon=2, alpha=0.25, reduction="none")(x, y)
    expected = [
        0.25 * (0.75 * math.log(4) + 2 * 0.75**2),
        0.75 * (0.25 * math.log(4 / 3) + 2 * 0.25**2),
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", [Poly1CrossEntropy, Poly1Focal])
def test_soft_targets_mix_both_losses(kind, draw):
    x = torch.randn(9, generator=draw, dtype=torch.float64)
    y = torch.rand(9, generator=draw, dtype=torch.float64)
    loss = kind(epsilon=2, reduction="none")
    mixed = y * loss(x, torch.ones(9)) + (1 - y) * loss(x, torch.zeros(9))
    torch.testing.assert_close(loss(x, y), mixed, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("epsilon", [-1.0, 6.0])
def test_extreme_logits(dtype, link, gamma, epsilon):
    big = torch.tensor(1e4, dtype=dtype).item()
    if link == "sigmoid":
        x = torch.tensor([big, -big], dtype=dtype, requires_grad=True)
        weight = 0.25
    else:
        x = torch.tensor([[0, big], [0, -big]], dtype=dtype, requires_grad=True)
        weight = 1
    loss = Poly1Focal(link=link, gamma=gamma, epsilon=epsilon, reduction="none")
    value = loss(x, torch.ones(2, dtype=torch.long))
    assert value.tolist() == pytest.approx([0, weight * (big + epsilon)], rel=1e-6)
    (slope,) = torch.autograd.grad(value.sum(), x)
    right, wrong = slope.tolist()
    assert (right, wrong) == ((0, -0.25) if link == "sigmoid" else ([0, 0], [1, -1]))


@pytest.mark.parametrize("kind", [Poly1CrossEntropy, Poly1Focal])
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_gradcheck_and_vmap(kind, link, draw):
    x = torch.randn(5, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    y = torch.randint(2, (5, 3) if link == "sigmoid" else (5,), generator=draw)
    declared = kind.declared(link)
    losses = [
        kind(
            link=link,
            class_counts=[7, 5, 2] if link == "softmax" else None,
            **{name: h.low + (h.high - h.low) * i / 2 for name, h in declared.items()},
        )
        for i in range(3)
    ]
    assert torch.autograd.gradcheck(lambda x: losses[1](x, y), x)
    assert torch.autograd.gradgradcheck(lambda x: losses[1](x, y), x)
    stack = {name: torch.stack([getattr(loss, name) for loss in losses]) for name in declared}

    def call(values, x):
        return functional_call(losses[0], values, (x, y))

    slopes, values = vmap(grad_and_value(call, argnums=1), in_dims=(0, None))(stack, x)
    for i, loss in enumerate(losses):
        value = loss(x, y)
        torch.testing.assert_close(values[i], value, rtol=1e-11, atol=0)
        torch.testing.assert_close(
            slopes[i], torch.autograd.grad(value, x)[0], rtol=1e-10, atol=1e-15
        )


def test_search_spaces():
    assert list(Poly1CrossEntropy.declared("sigmoid")) == ["epsilon"]
    assert list(Poly1Focal.declared("sigmoid")) == ["gamma", "epsilon", "alpha"]
    assert list(Poly1Focal.declared("softmax")) == ["gamma", "epsilon", "a"]
    assert [k.hyperparameters["epsilon"].default for k in (Poly1CrossEntropy, Poly1Focal)] == [
        2,
        -1,
    ]
    with pytest.raises(BadInput, match=r"epsilon must be at least -1.0, got -2"):
        Poly1CrossEntropy(epsilon=-2)
    with pytest.raises(BadInput, match="class_counts is missing"):
        Poly1Focal(link="softmax", a=0.5)
