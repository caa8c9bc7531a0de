"""Asymmetric losses against mpmath, the authors' code written out anew, and their gradients."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.losses.asymmetric import AsymmetricLoss, AsymmetricSingleLabel
from losslab.losses.cross_entropy import CrossEntropy

POINTS = [-1e4, -110.0, -90.0, -30.0, -3.0, -2.9, -1.0, 0.0, 2.0, 9.0, 18.0, 95.0, 1e4]


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(9)


def authors(x, y, gamma_neg, gamma_pos, clip):
    """`AsymmetricLoss` of the authors' code, in NumPy, per element."""
    p = 1 / (1 + np.exp(-x))
    rest = np.minimum(1 - p + clip, 1)
    p_t = p * y + rest * (1 - y)
    gamma = gamma_pos * y + gamma_neg * (1 - y)
    return -((1 - p_t) ** gamma) * (y * np.log(p) + (1 - y) * np.log(rest))


def negative_side(x, gamma, clip):
    """Loss of a negative and its slope, to 60 digits: the reference's formula."""
    with mpmath.workdps(60):
        p = 1 / (1 + mpmath.exp(-mpmath.mpf(x)))
        q = 1 / (1 + mpmath.exp(mpmath.mpf(x)))
        # 1 - p_m is q + clip, which p - clip could not tell from 0 at 60 digits.
        p_m, rest = p - clip, q + clip
        if p_m <= 0:
            return 0.0, 0.0
        log_rest = mpmath.log(rest)
        slope = p * q * (p_m**gamma / rest - gamma * p_m ** (gamma - 1) * log_rest)
        return float(-(p_m**gamma) * log_rest), float(slope)


def positive_side(x, gamma):
    with mpmath.workdps(60):
        p = 1 / (1 + mpmath.exp(-mpmath.mpf(x)))
        q = 1 / (1 + mpmath.exp(mpmath.mpf(x)))
        log_p = -mpmath.log1p(mpmath.exp(-mpmath.mpf(x)))
        return float(-(q**gamma) * log_p), float(-(q**gamma) * (q - gamma * p * log_p))


@pytest.mark.parametrize("gamma_neg", [0.0, 0.5, 4.0, 8.0])
@pytest.mark.parametrize("gamma_pos", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("clip", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_against_mpmath(gamma_neg, gamma_pos, clip, dtype):
    x = torch.tensor(POINTS, dtype=dtype, requires_grad=True)
    loss = AsymmetricLoss(gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip, reduction="none")
    m = torch.tensor(clip, dtype=dtype).item()
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    for target in (0.0, 1.0):
        value = loss(x, torch.full_like(x, target).detach())
        (slopes,) = torch.autograd.grad(value.sum(), x)
        for i, point in enumerate(x.tolist()):
            if target:
                wanted = positive_side(point, gamma_pos)
            else:
                wanted = negative_side(point, gamma_neg, m)
            # Close to the clip p - m has lost digits: by p / (p - m) of them.
            p = 1 / (1 + math.exp(-point)) if point > -700 else 0.0
            lost = p / (p - m) if p > m else 1.0
            rel = 60 * eps * max(1.0, abs(point) * max(gamma_neg, gamma_pos)) * (1 + lost)
            assert value[i].item() == pytest.approx(wanted[0], rel=rel, abs=8 * tiny)
            assert slopes[i].item() == pytest.approx(wanted[1], rel=rel, abs=8 * tiny)


@pytest.mark.parametrize(("gamma_neg", "gamma_pos"), [(4, 0), (4, 1), (2, 2), (0, 0), (8, 0.5)])
@pytest.mark.parametrize("clip", [0.0, 0.05, 0.2])
def test_against_the_authors_code(gamma_neg, gamma_pos, clip, draw):
    x = 2 * torch.randn(50, 4, generator=draw, dtype=torch.float64)
    y = (torch.rand(50, 4, generator=draw) < 0.3).double()
    expected = authors(x.numpy(), y.numpy(), gamma_neg, gamma_pos, clip)
    values = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip}
    for detach_weight in (False, True):
        loss = AsymmetricLoss(**values, reduction="none", detach_weight=detach_weight)
        np.testing.assert_allclose(loss(x, y).numpy(), expected, rtol=1e-9, atol=1e-13)
    summed = AsymmetricLoss(**values, reduction="sum")(x, y)  # their reduction
    assert summed.item() == pytest.approx(expected.sum(), rel=1e-9)


def test_negatives_below_the_clip_have_neither_loss_nor_gradient():
    x = torch.logit(torch.tensor([0.01, 0.0499, 0.0501, 0.3], dtype=torch.float64)).requires_grad_()
    loss = AsymmetricLoss(gamma_neg=1, clip=0.05, reduction="none")
    value = loss(x, torch.zeros(4))
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert value[:2].tolist() == [0, 0]
    assert slope[:2].tolist() == [0, 0]
    assert (value[2:] > 0).all()
    assert value[3].item() == pytest.approx(-0.25 * math.log(0.75), rel=1e-12)
    # p q (p_m / (1 - p_m) - log(1 - p_m)) at p = .3
    expected = 0.3 * 0.7 * (0.25 / 0.75 - math.log(0.75))
    assert slope[3].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_detached_weights_leave_the_cross_entropys_gradient(clip, draw):
    x = (2 * torch.randn(40, generator=draw, dtype=torch.float64)).requires_grad_()
    y = torch.rand(40, generator=draw, dtype=torch.float64)
    values = {"gamma_neg": 3.0, "gamma_pos": 1.0, "clip": clip, "reduction": "sum"}
    found, full = (
        torch.autograd.grad(AsymmetricLoss(**values, detach_weight=d)(x, y), x)[0]
        for d in (True, False)
    )
    p = torch.sigmoid(x.detach())
    p_m = (p - clip).clamp(min=0)
    # d/dx of -log p is p - 1, of -log(1 - p_m) is p (1 - p) / (1 - p_m) where p > m.
    on, off = p - 1, p * (1 - p) / (1 - p_m) * (p > clip)
    expected = y * (1 - p) * on + (1 - y) * p_m**3 * off
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    assert (found - full).abs().max() > 0.05


@pytest.mark.parametrize("detach_weight", [False, True])
def test_zeros_are_cross_entropy_and_soft_targets_mix(detach_weight, draw):
    x = torch.cat([4 * torch.randn(30, generator=draw, dtype=torch.float64), torch.tensor(POINTS)])
    x = x.double().requires_grad_()
    y = torch.rand(len(x), generator=draw, dtype=torch.float64)
    loss = AsymmetricLoss(
        gamma_neg=0, gamma_pos=0, clip=0, reduction="none", detach_weight=detach_weight
    )
    plain = CrossEntropy(reduction="none")(x, y)
    torch.testing.assert_close(loss(x, y), plain, rtol=1e-13, atol=0)
    slopes = [torch.autograd.grad(value.sum(), x)[0] for value in (loss(x, y), plain)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-300)
    loss = AsymmetricLoss(reduction="none", detach_weight=detach_weight)
    mixed = y * loss(x, torch.ones_like(y)) + (1 - y) * loss(x, torch.zeros_like(y))
    torch.testing.assert_close(loss(x, y), mixed, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("detach_weight", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 8.0])
@pytest.mark.parametrize("clip", [0.0, 0.05, 0.2])
def test_extreme_logits(dtype, detach_weight, gamma, clip):
    big = torch.tensor(1e4, dtype=dtype).item()
    x = torch.tensor([big, -big, big, -big], dtype=dtype, requires_grad=True)
    loss = AsymmetricLoss(
        gamma_neg=gamma,
        gamma_pos=gamma / 4,
        clip=clip,
        detach_weight=detach_weight,
        reduction="none",
    )
    value = loss(x, torch.tensor([1, 1, 0, 0]))
    # A negative at p = 1 costs (1 - m)^gamma (-log m), without clip its logit.
    wrong = -((1 - clip) ** gamma) * math.log(clip) if clip else big
    assert value.tolist() == pytest.approx([0, big, wrong, 0], rel=1e-5)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    assert slope.tolist() == pytest.approx([0, -1, 0 if clip else 1, 0], abs=1e-6)
    if not detach_weight:
        assert torch.autograd.grad(slope.float().sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("detach_weight", [False, True])
def test_gradcheck_and_vmap(detach_weight, draw):
    x = (2 * torch.randn(12, generator=draw, dtype=torch.float64)).requires_grad_()
    y = torch.rand(12, generator=draw, dtype=torch.float64).round()
    losses = []
    for values in ((0.0, 0.0, 0.0), (4.0, 1.0, 0.05), (8.0, 2.0, 0.2), (0.5, 0.5, 0.0)):
        named = dict(zip(("gamma_neg", "gamma_pos", "clip"), values, strict=True))
        losses.append(AsymmetricLoss(**named, detach_weight=detach_weight))
    if not detach_weight:
        for loss in losses:
            assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, y), x)
            assert torch.autograd.gradgradcheck(lambda x, loss=loss: loss(x, y), x)
    names = list(losses[0].hyperparameter_values)
    stack = {name: torch.stack([getattr(loss, name) for loss in losses]) for name in names}

    def call(values, x):
        return functional_call(losses[0], values, (x, y))

    slopes, values = vmap(grad_and_value(call, argnums=1), in_dims=(0, None))(stack, x)
    for i, loss in enumerate(losses):
        value = loss(x, y)
        torch.testing.assert_close(values[i], value, rtol=1e-12, atol=0)
        torch.testing.assert_close(slopes[i], torch.autograd.grad(value, x)[0], rtol=1e-11, atol=0)


def authors_single_label(z, t, gamma_neg, gamma_pos, eps):
    """`ASLSingleLabel` of the authors' code, in NumPy, per example."""
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    y = np.eye(z.shape[1])[t]
    p_t = np.exp(log_p) * y + (1 - np.exp(log_p)) * (1 - y)
    weight = (1 - p_t) ** (gamma_pos * y + gamma_neg * (1 - y))
    return -((y * (1 - eps) + eps / z.shape[1]) * log_p * weight).sum(1)


@pytest.mark.parametrize("gammas", [(4.0, 0.0), (0.0, 0.0), (2.0, 1.0), (0.5, 0.5), (8.0, 2.0)])
@pytest.mark.parametrize("eps", [0.02, 0.1, 0.3])
def test_single_label_against_the_authors_code(gammas, eps, draw):
    z = 2 * torch.randn(20, 5, generator=draw, dtype=torch.float64)
    t = torch.randint(5, (20,), generator=draw)
    loss = AsymmetricSingleLabel(
        link="softmax", gamma_neg=gammas[0], gamma_pos=gammas[1], eps=eps, reduction="none"
    )
    expected = authors_single_label(z.numpy(), t.numpy(), *gammas, eps)
    np.testing.assert_allclose(loss(z, t).numpy(), expected, rtol=1e-9, atol=1e-13)
    # Positions in a further dimension are examples.
    dense = loss(z.reshape(4, 5, 5).transpose(1, 2), t.reshape(4, 5))
    np.testing.assert_allclose(dense.numpy().ravel(), expected, rtol=1e-9, atol=1e-13)


def test_single_label_gamma_neg_acts_through_the_smoothing_alone(draw):
    z = 2 * torch.randn(20, 5, generator=draw, dtype=torch.float64)
    t = torch.randint(5, (20,), generator=draw)
    bare = [authors_single_label(z.numpy(), t.numpy(), g, 1.0, 0.0) for g in (0.0, 4.0)]
    np.testing.assert_array_equal(*bare)
    with pytest.raises(BadInput, match=r"eps must be at least 0.001, got 0"):
        AsymmetricSingleLabel(link="softmax", eps=0)
    values = [AsymmetricSingleLabel(link="softmax", gamma_neg=g)(z, t).item() for g in (0.0, 4.0)]
    assert abs(values[0] - values[1]) > 0.05
    smoothed = F.cross_entropy(z, t, label_smoothing=0.1)
    assert AsymmetricSingleLabel(link="softmax", gamma_neg=0)(z, t).item() == pytest.approx(
        smoothed.item(), rel=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gamma_neg", [0.0, 0.5, 8.0])
def test_single_label_extreme_logits(dtype, gamma_neg):
    big = torch.tensor(1e4, dtype=dtype).item()
    z = torch.tensor([[big, 0.0], [big, 0.0]], dtype=dtype, requires_grad=True)
    loss = AsymmetricSingleLabel(
        link="softmax", gamma_neg=gamma_neg, gamma_pos=0.5, eps=0.2, reduction="none"
    )
    value = loss(z, torch.arange(2))
    # The other class at P = e^-1e4 costs eps / C times its logit at gamma 0, else nothing.
    expected = [0.1 * big if gamma_neg == 0 else 0, 0.9 * big]
    assert value.tolist() == pytest.approx(expected, rel=1e-6)
    (slope,) = torch.autograd.grad(value.sum(), z)
    first = 0.1 if gamma_neg == 0 else 0
    assert slope[0].tolist() == pytest.approx([first, -first], rel=1e-2)
    assert slope[1].tolist() == pytest.approx([0.9, -0.9], rel=1e-2)


def test_single_label_with_a_class_masked_out():
    z = torch.tensor([[1.0, 0.0, -math.inf]], requires_grad=True)
    loss = AsymmetricSingleLabel(link="softmax")(z, torch.tensor([0]))
    assert loss.isfinite()
    slope = torch.autograd.grad(loss, z)[0][0]
    assert slope.isfinite().all()
    assert slope[2] == 0


def test_single_label_gradcheck_and_vmap(draw):
    z = torch.randn(5, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    t = torch.randint(3, (5,), generator=draw)
    losses = []
    for values in ((0.0, 0.0, 0.02), (4.0, 1.0, 0.1), (8.0, 2.0, 0.3)):
        named = dict(zip(("gamma_neg", "gamma_pos", "eps"), values, strict=True))
        losses.append(AsymmetricSingleLabel(link="softmax", **named))
    assert torch.autograd.gradcheck(lambda z: losses[1](z, t), z)
    assert torch.autograd.gradgradcheck(lambda z: losses[1](z, t), z)
    names = list(losses[0].hyperparameter_values)
    stack = {name: torch.stack([getattr(loss, name) for loss in losses]) for name in names}

    def call(values, z):
        return functional_call(losses[0], values, (z, t))

    slopes, values = vmap(grad_and_value(call, argnums=1), in_dims=(0, None))(stack, z)
    for i, loss in enumerate(losses):
        value = loss(z, t)
        torch.testing.assert_close(values[i], value, rtol=1e-12, atol=0)
        torch.testing.assert_close(slopes[i], torch.autograd.grad(value, z)[0], rtol=1e-11, atol=0)


def test_options_and_search_spaces():
    declared = AsymmetricLoss.declared("sigmoid")
    ranges = {name: (h.default, h.low, h.high) for name, h in declared.items()}
    assert ranges == {
        "gamma_neg": (4.0, 0.0, 8.0),
        "gamma_pos": (0.0, 0.0, 2.0),
        "clip": (0.05, 0.0, 0.2),
    }
    assert "detach_weight=True" in repr(AsymmetricLoss(detach_weight=True))
    with pytest.raises(BadInput, match="detach_weight must be true or false, got 'yes'"):
        AsymmetricLoss(detach_weight="yes")
    for kind, link in ((AsymmetricLoss, "softmax"), (AsymmetricSingleLabel, "sigmoid")):
        with pytest.raises(BadInput, match="unknown link"):
            kind(link=link)
