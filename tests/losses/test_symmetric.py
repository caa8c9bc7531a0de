"""Symmetric cross-entropy against the authors' code written out anew."""

import math

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad_and_value, vmap

from losslab.losses.symmetric import SymmetricCrossEntropy


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(8)


def authors(z, t, alpha, beta, floor):
    """Their two means, with targets clipped at `floor`, whose logarithm is A."""
    p = np.exp(z - z.max(1, keepdims=True))
    p = p / p.sum(1, keepdims=True)
    y = np.eye(z.shape[1])[t]
    forward = -(y * np.log(np.clip(p, 1e-300, 1))).sum(1)
    reverse = -(p * np.log(np.clip(y, floor, 1))).sum(1)
    return alpha * forward.mean() + beta * reverse.mean()


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 1.0), (6.0, 0.1), (0.0, 1.0), (1.0, 0.0)])
def test_softmax_against_the_authors_code(alpha, beta, draw):
    z = 2 * torch.randn(20, 5, generator=draw, dtype=torch.float64)
    t = torch.randint(5, (20,), generator=draw)
    loss = SymmetricCrossEntropy(link="softmax", alpha=alpha, beta=beta)(z, t)
    expected = authors(z.numpy(), t.numpy(), alpha, beta, math.exp(-4))
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    # Their code clips at 1e-4, A = -9.21: beta is to be 2.30 times as large.
    scaled = SymmetricCrossEntropy(link="softmax", alpha=alpha, beta=beta * math.log(1e4) / 4)(z, t)
    assert scaled.item() == pytest.approx(
        authors(z.numpy(), t.numpy(), alpha, beta, 1e-4), rel=1e-12
    )


def test_sigmoid_by_hand_and_with_soft_targets(draw):
    # p = 1/4: 2 log 4 + .5 * 4 * .75 for a positive, 2 log(4/3) + .5 * 4 * .25 for a negative.
    x = torch.full((2,), -math.log(3), dtype=torch.float64)
    loss = SymmetricCrossEntropy(alpha=2, beta=0.5, reduction="none")
    found = loss(x, torch.tensor([1, 0]))
    expected = [2 * math.log(4) + 1.5, 2 * math.log(4 / 3) + 0.5]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    mixed = loss(x, torch.full_like(x, 0.3))
    assert mixed.tolist() == pytest.approx([0.3 * expected[0] + 0.7 * expected[1]] * 2, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits(dtype):
    big = torch.tensor(1e4, dtype=dtype).item()
    loss = SymmetricCrossEntropy(alpha=0.5, beta=10, reduction="none")
    x = torch.tensor([big, -big], dtype=dtype, requires_grad=True)
    value = loss(x, torch.ones(2))
    assert value.tolist() == pytest.approx([0, 0.5 * big + 40], rel=1e-6)
    assert torch.autograd.grad(value.sum(), x)[0].tolist() == [0, -0.5]
    loss = SymmetricCrossEntropy(link="softmax", alpha=0.5, beta=10, reduction="none")
    z = torch.tensor([[0, big], [0, -big]], dtype=dtype, requires_grad=True)
    value = loss(z, torch.ones(2, dtype=torch.long))
    assert value.tolist() == pytest.approx([0, 0.5 * big + 40], rel=1e-6)
    assert torch.autograd.grad(value.sum(), z)[0].tolist() == [[0, 0], [0.5, -0.5]]


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_gradcheck_and_vmap(link, draw):
    x = torch.randn(5, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    y = torch.randint(2, (5, 3) if link == "sigmoid" else (5,), generator=draw)
    pairs = [(0.01, 10.0), (0.1, 1.0), (10.0, 0.1)]
    losses = [SymmetricCrossEntropy(link=link, alpha=a, beta=b) for a, b in pairs]
    assert torch.autograd.gradcheck(lambda x: losses[1](x, y), x)
    assert torch.autograd.gradgradcheck(lambda x: losses[1](x, y), x)
    stack = {
        name: torch.stack([getattr(loss, name) for loss in losses]) for name in ("alpha", "beta")
    }

    def call(values, x):
        return functional_call(losses[0], values, (x, y))

    slopes, values = vmap(grad_and_value(call, argnums=1), in_dims=(0, None))(stack, x)
    for i, loss in enumerate(losses):
        value = loss(x, y)
        torch.testing.assert_close(values[i], value, rtol=1e-12, atol=0)
        torch.testing.assert_close(slopes[i], torch.autograd.grad(value, x)[0], rtol=1e-11, atol=0)
