"""Squared error of probabilities against torch's and scikit-learn's."""

import pytest
import torch
from sklearn.metrics import brier_score_loss
from torch.nn import functional as F

from losslab.losses.squared_error import SquaredError


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(5)


def test_sigmoid_is_mse_of_the_probabilities(draw):
    x = 3 * torch.randn(30, generator=draw, dtype=torch.float64)
    y = (torch.rand(30, generator=draw) < 0.3).double()
    value = SquaredError()(x, y)
    torch.testing.assert_close(value, F.mse_loss(x.sigmoid(), y))
    assert value.item() == pytest.approx(brier_score_loss(y.numpy(), x.sigmoid().numpy()))


def test_softmax_is_half_of_briers_score_and_its_gradient(draw):
    z = (3 * torch.randn(30, 5, generator=draw, dtype=torch.float64)).requires_grad_()
    t = torch.randint(5, (30,), generator=draw)
    brier = (z.softmax(1) - F.one_hot(t, 5)).square().sum(1)
    value = SquaredError(link="softmax", reduction="none")(z, t)
    torch.testing.assert_close(2 * value, brier)
    (ours,) = torch.autograd.grad(value.sum(), z)
    p, e = z.detach().softmax(1), z.detach().softmax(1) - F.one_hot(t, 5)
    torch.testing.assert_close(ours, p * (e - (p * e).sum(1, keepdim=True)))


def test_its_gradient_has_the_factor_that_cross_entropys_cancels():
    x = torch.tensor([-12.0, -5.0, 0.0, 4.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(SquaredError(reduction="sum")(x, torch.ones(4)), x)
    p = x.detach().sigmoid()
    torch.testing.assert_close(slope, 2 * (p - 1) * p * (1 - p))
    assert slope[0].abs() < 2e-5 < 0.99 < (1 - p)[0]  # wrong with certainty: next to no gradient


def test_soft_targets_differ_from_mse_by_a_constant(draw):
    x = torch.randn(8, generator=draw, dtype=torch.float64)
    y = torch.rand(8, generator=draw, dtype=torch.float64)
    value = SquaredError(reduction="none")(x, y)
    torch.testing.assert_close(value, (x.sigmoid() - y).square() + y * (1 - y))
