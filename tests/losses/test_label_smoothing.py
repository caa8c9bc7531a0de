"""Label smoothing against torch, its published gradient and written-out numbers."""

import math

import pytest
import torch
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.losses.label_smoothing import LabelSmoothing


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", [(20, 2), (12, 5), (3, 4, 2, 3)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3, 1.0])
def test_softmax_against_torch(shape, reduction, eps, draw):
    z = (3 * torch.randn(shape, generator=draw, dtype=torch.float64)).requires_grad_()
    t = torch.randint(shape[1], shape[:1] + shape[2:], generator=draw)
    t.view(-1)[::4] = -100
    found = LabelSmoothing(link="softmax", eps=eps, reduction=reduction)(z, t)
    expected = F.cross_entropy(z, t, label_smoothing=eps, reduction=reduction)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    slopes = [torch.autograd.grad(value.sum(), z)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-15)


def test_the_published_gradient(draw):
    z = torch.randn(6, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    t = torch.randint(4, (6,), generator=draw)
    loss = LabelSmoothing(link="softmax", eps=0.2, reduction="sum")(z, t)
    # P_j - (1 - eps) [j = t] - eps / C
    expected = z.softmax(1) - 0.8 * F.one_hot(t, 4).double() - 0.2 / 4
    torch.testing.assert_close(
        torch.autograd.grad(loss, z)[0], expected.detach(), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3])
def test_sigmoid_is_bce_of_smoothed_targets(eps, draw):
    x = (3 * torch.randn(30, 3, generator=draw, dtype=torch.float64)).requires_grad_()
    y = torch.rand(30, 3, generator=draw, dtype=torch.float64)
    y[::2] = y[::2].round()
    found = LabelSmoothing(eps=eps)(x, y)
    expected = F.binary_cross_entropy_with_logits(x, y * (1 - eps) + eps / 2)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    slopes = [torch.autograd.grad(value, x)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-15)


def test_a_class_weight_is_the_targets_and_not_the_terms(draw):
    z = torch.randn(9, 3, generator=draw, dtype=torch.float64)
    t = torch.arange(9) % 3
    weights, eps = [0.5, 1.0, 3.0], 0.3
    log_p = z.log_softmax(1).tolist()
    ours, torchs = [], []
    for row, target in zip(log_p, t.tolist(), strict=True):
        share = [eps / 3 + (1 - eps) * (j == target) for j in range(3)]
        ours.append(-weights[target] * sum(s * v for s, v in zip(share, row, strict=True)))
        torchs.append(-sum(w * s * v for w, s, v in zip(weights, share, row, strict=True)))
    loss = LabelSmoothing(link="softmax", eps=eps, class_weights=weights, reduction="none")
    assert loss(z, t).tolist() == pytest.approx(ours, rel=1e-12)
    found = F.cross_entropy(
        z, t, torch.tensor(weights, dtype=z.dtype), label_smoothing=eps, reduction="none"
    )
    assert found.tolist() == pytest.approx(torchs, rel=1e-12)
    assert max(abs(a - b) for a, b in zip(ours, torchs, strict=True)) > 0.1
    # Of one and the same divisor, torch's: the sum of the weights of the targets.
    loss.reduction = "weight_sum"
    assert loss(z, t).item() == pytest.approx(sum(ours) / 13.5, rel=1e-12)


def test_positives_counts_the_targets_as_they_come():
    loss = LabelSmoothing(eps=0.2, reduction="positives")
    found = loss(torch.zeros(4), torch.tensor([1, 1, 0, 0]))
    assert found.item() == pytest.approx(4 * math.log(2) / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3])
def test_extreme_logits(dtype, eps):
    # 1e4 in this dtype; the three logits have mean 0.
    big = torch.tensor(1e4, dtype=dtype).item()
    z = torch.tensor([[big, 0.0, -big]] * 3, dtype=dtype, requires_grad=True)
    loss = LabelSmoothing(link="softmax", eps=eps, reduction="none")(z, torch.arange(3))
    # -log P is 0, 1e4 and 2e4; smoothing adds eps (z_t - mean).
    expected = [eps * big, big, (2 - eps) * big]
    assert loss.tolist() == pytest.approx(expected, rel=1e-6)
    (slopes,) = torch.autograd.grad(loss.sum(), z)
    assert slopes.dtype == dtype
    for i, row in enumerate(slopes.tolist()):
        wanted = [(j == 0) - (1 - eps) * (j == i) - eps / 3 for j in range(3)]
        assert row == pytest.approx(wanted, rel=1e-2, abs=1e-7)
    x = torch.tensor([big, -big], dtype=dtype, requires_grad=True)
    loss = LabelSmoothing(eps=eps, reduction="none")(x, torch.ones(2))
    assert loss.tolist() == pytest.approx([eps / 2 * big, (1 - eps / 2) * big], rel=1e-6)
    (slopes,) = torch.autograd.grad(loss.sum(), x)
    assert slopes.tolist() == pytest.approx([eps / 2, eps / 2 - 1], rel=1e-2, abs=1e-7)


def test_a_class_that_is_masked_out_gets_no_gradient():
    z = torch.tensor([[1.0, 0.0, -math.inf, -math.inf]], requires_grad=True)
    loss = LabelSmoothing(link="softmax")(z, torch.tensor([0]))
    (slope,) = torch.autograd.grad(loss, z)
    assert loss.isfinite()
    assert slope[0, 2:].tolist() == [0, 0]
    # P_0 - .9 - .1 / 4 and P_1 - .1 / 4
    p = 1 / (1 + math.exp(-1))
    assert slope[0, :2].tolist() == pytest.approx([p - 0.925, 1 - p - 0.025], rel=1e-5)


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_gradcheck_and_vmap(link, draw):
    x = torch.randn(5, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    y = torch.randint(2, (5, 3) if link == "sigmoid" else (5,), generator=draw)
    losses = [LabelSmoothing(link=link, eps=eps) for eps in (0.0, 0.1, 0.3)]
    assert torch.autograd.gradcheck(lambda x: losses[1](x, y), x)
    assert torch.autograd.gradgradcheck(lambda x: losses[1](x, y), x)
    stack = {"eps": torch.stack([loss.eps for loss in losses])}

    def call(values, x):
        return functional_call(losses[0], values, (x, y))

    slopes, values = vmap(grad_and_value(call, argnums=1), in_dims=(0, None))(stack, x)
    for i, loss in enumerate(losses):
        value = loss(x, y)
        torch.testing.assert_close(values[i], value, rtol=1e-13, atol=0)
        torch.testing.assert_close(slopes[i], torch.autograd.grad(value, x)[0], rtol=1e-12, atol=0)


def test_eps_is_a_share():
    with pytest.raises(BadInput, match=r"eps must be at most 1.0, got 1.5"):
        LabelSmoothing(eps=1.5)
    entry = LabelSmoothing.declared("softmax")["eps"]
    assert (entry.default, entry.low, entry.high) == (0.1, 0.0, 0.3)
