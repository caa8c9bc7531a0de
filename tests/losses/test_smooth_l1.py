"""Smooth L1 against torch and fvcore; balanced L1 against the paper's slope and value."""

import math

import fvcore.nn
import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.losses.smooth_l1 import BalancedL1, SmoothL1

BETAS = [0.01, 1 / 9, 1.0, 10.0]


@pytest.fixture
def offsets():
    generator = torch.Generator().manual_seed(3)
    predicted = 3 * torch.randn(40, 4, generator=generator, dtype=torch.float64)
    predicted[0] = torch.tensor([0.0, 1.0, -1.0, 1e-9])
    true = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    true[0] = 0
    return predicted, true


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("beta", BETAS)
def test_smooth_l1_against_torch_and_fvcore(beta, reduction, offsets):
    loss = SmoothL1(link="identity", beta=beta, reduction=reduction)
    found = loss(*offsets)
    torch.testing.assert_close(found, F.smooth_l1_loss(*offsets, beta=beta, reduction=reduction))
    torch.testing.assert_close(
        found, fvcore.nn.smooth_l1_loss(*offsets, beta=beta, reduction=reduction)
    )
    slopes = []
    for function in (loss, lambda p, t: F.smooth_l1_loss(p, t, beta=beta, reduction=reduction)):
        predicted = offsets[0].clone().requires_grad_()
        slopes.append(torch.autograd.grad(function(predicted, offsets[1]).sum(), predicted)[0])
    torch.testing.assert_close(*slopes)


def test_beta_zero_is_l1(offsets):
    predicted = offsets[0].requires_grad_()
    value = SmoothL1(link="identity", beta=0)(predicted, offsets[1])
    expected = F.l1_loss(*offsets)
    assert value.item() == pytest.approx(expected.item(), rel=1e-15)
    (slope,) = torch.autograd.grad(value, predicted, retain_graph=True)
    assert torch.equal(slope, torch.autograd.grad(expected, predicted)[0])
    assert slope[0, 0] == 0  # at no error


def paper(distance, alpha, gamma):
    """Pang et al. 2019 at beta = 1, with the constant that makes it continuous."""
    b = math.exp(gamma / alpha) - 1
    if distance < 1:
        return alpha / b * (b * distance + 1) * math.log(b * distance + 1) - alpha * distance
    return gamma * distance + gamma / b - alpha


@pytest.mark.parametrize(("alpha", "gamma"), [(0.5, 1.5), (0.2, 1.0), (1.0, 2.0), (0.3, 2.0)])
def test_balanced_l1_against_the_paper(alpha, gamma, offsets):
    found = BalancedL1(link="identity", alpha=alpha, gamma=gamma, reduction="none")(*offsets)
    distances = (offsets[0] - offsets[1]).abs().flatten().tolist()
    expected = [paper(d, alpha, gamma) for d in distances]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("alpha", "gamma"), [(0.5, 1.5), (0.2, 2.0), (0.05, 4.0)])
def test_balanced_l1_has_the_slope_it_is_made_for(alpha, gamma, beta):
    distances = [-7.0 * beta, -0.5 * beta, 1e-3 * beta, 0.3 * beta, beta, 1.001 * beta, 5.0 * beta]
    x = torch.tensor(distances, dtype=torch.float64, requires_grad=True)
    loss = BalancedL1(link="identity", alpha=alpha, gamma=gamma, beta=beta, reduction="none")
    (slope,) = torch.autograd.grad(loss(x, torch.zeros(7)).sum(), x)
    b = math.expm1(gamma / alpha)
    expected = [
        math.copysign(alpha * math.log1p(b * abs(d) / beta) if abs(d) < beta else gamma, d)
        for d in distances
    ]
    assert slope.tolist() == pytest.approx(expected, rel=1e-9)
    # Continuous where the pieces meet.
    around = loss(torch.tensor([1 - 1e-9, 1 + 1e-9]).double() * beta, torch.zeros(2))
    assert around[0].item() == pytest.approx(around[1].item(), rel=1e-7)


def test_the_authors_code_agrees_at_beta_one_alone():
    # mmdetection: log(b d / beta + 1) beside (b d + 1).
    def theirs(d, beta, alpha=0.5, gamma=1.5):
        b = np.e ** (gamma / alpha) - 1
        return alpha / b * (b * d + 1) * np.log(b * d / beta + 1) - alpha * d

    d = torch.tensor([0.05], dtype=torch.float64)
    for beta, same in ((1.0, True), (0.11, False)):
        found = BalancedL1(link="identity", beta=beta)(d, torch.zeros(1)).item()
        assert (found == pytest.approx(theirs(0.05, beta), rel=1e-9)) == same


@pytest.mark.parametrize("cls", [SmoothL1, BalancedL1])
def test_gradients(cls, offsets):
    predicted, true = (each[1:6].clone() for each in offsets)
    loss = cls(link="identity", beta=0.7)
    assert torch.autograd.gradcheck(lambda x: loss(x, true), predicted.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda x: loss(x, true), predicted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("corner", [0, 1, "minimum", "steepest"])
@pytest.mark.parametrize("cls", [SmoothL1, BalancedL1])
def test_extremes(cls, dtype, corner):
    if corner in (0, 1):
        values = {k: (h.low, h.high)[corner] for k, h in cls.hyperparameters.items()}
    else:
        values = {k: h.minimum for k, h in cls.hyperparameters.items()}
        if corner == "steepest" and cls is BalancedL1:
            values["gamma"] = cls.hyperparameters["gamma"].maximum
    points = [1e4, -1e4, 0.0, 1e-6, -1e-3, 1.0]
    x = torch.tensor(points, dtype=dtype, requires_grad=True)
    value = cls(link="identity", reduction="none", **values)(x, torch.zeros(6, dtype=dtype))
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert value.dtype == torch.float32
    assert slope.dtype == dtype
    assert value.isfinite().all()
    assert value[2] == slope[2] == 0
    steepest = values.get("gamma", 1.0)
    expected = torch.tensor([steepest, -steepest]).to(dtype)
    torch.testing.assert_close(slope[:2], expected)
    assert (slope.abs() <= steepest * 1.01).all()


@pytest.mark.parametrize("cls", [SmoothL1, BalancedL1])
def test_nan_stays_nan(cls):
    x = torch.tensor([float("nan"), 1.0])
    found = cls(link="identity", reduction="none")(x, torch.zeros(2))
    assert found[0].isnan()
    assert found[1].isfinite()
    assert cls(link="identity")(x, torch.zeros(2)).isnan()
    assert cls(link="identity")(torch.zeros(0, 4), torch.zeros(0, 4)).item() == 0


@pytest.mark.parametrize("cls", [SmoothL1, BalancedL1])
def test_vmap_over_hyper_parameters_is_the_loop(cls, offsets):
    losses = []
    for i in range(3):
        values = {k: h.low + (h.high - h.low) * i / 2 for k, h in cls.hyperparameters.items()}
        losses.append(cls(link="identity", **values))
    stacked = {
        name: torch.stack([getattr(loss, name) for loss in losses])
        for name in losses[0].hyperparameter_values
    }
    if cls is SmoothL1:
        stacked["beta"][0], losses[0] = 0.0, cls(link="identity", beta=0)

    def call(values, x):
        return functional_call(losses[0], values, (x, offsets[1]))

    found = vmap(call, in_dims=(0, None))(stacked, offsets[0])
    slopes = vmap(grad(call, argnums=1), in_dims=(0, None))(stacked, offsets[0])
    for i, loss in enumerate(losses):
        x = offsets[0].clone().requires_grad_()
        value = loss(x, offsets[1])
        assert found[i].item() == pytest.approx(value.item(), rel=1e-12)
        torch.testing.assert_close(slopes[i], torch.autograd.grad(value, x)[0])


def test_wrong_arguments_are_told():
    with pytest.raises(BadInput, match="unknown link 'sigmoid'"):
        SmoothL1(link="sigmoid")
    with pytest.raises(BadInput, match="beta must be at least"):
        BalancedL1(link="identity", beta=0)
    with pytest.raises(BadInput, match="unknown reduction 'positives'"):
        SmoothL1(link="identity", reduction="positives")
    with pytest.raises(BadInput, match="targets of the shape of the predictions"):
        SmoothL1(link="identity")(torch.zeros(3, 4), torch.zeros(3))
