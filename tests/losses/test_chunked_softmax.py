"""Softmax focal loss on plain CPU tensors: accuracy, layouts, extreme and masked logits."""

import math

import mpmath
import pytest
import torch
from torch.nn import functional as F

from losslab.losses import chunked_softmax
from losslab.losses.closed_form import focal, margin, softmax_focal

INF = math.inf


def reference(row, target, gamma):
    """Loss and gradient of one row of logits, in 60 digits."""
    with mpmath.workdps(60):
        e = [mpmath.exp(mpmath.mpf(z)) for z in row]
        p = e[target] / sum(e)
        q = sum(value for j, value in enumerate(e) if j != target) / sum(e)
        others = sum(value for j, value in enumerate(e) if j != target)
        cost = -mpmath.log(p) if p < 0.5 else -mpmath.log1p(-q)
        slope = q**gamma * (q + gamma * p * cost)
        gradient = [slope * value / others for value in e]
        gradient[target] = -slope
        return float(q**gamma * cost), [float(value) for value in gradient]


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("offset", [0.0, 100.0, -1000.0])
def test_float32_to_two_millionths_of_mpmath(gamma, offset):
    generator = torch.Generator().manual_seed(1)
    z = 4 * torch.randn(200, 5, generator=generator)
    t = torch.randint(5, (200,), generator=generator)
    # Margins from -100 to 28 and beyond.
    wanted = torch.linspace(-100, 30, 200)
    z.scatter_(1, t[:, None], (wanted + z.scatter(1, t[:, None], -INF).logsumexp(1))[:, None])
    z = (z + offset).requires_grad_()
    loss = softmax_focal(z, t, torch.tensor(gamma))
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    for row, target, value, slopes in zip(
        z.tolist(), t.tolist(), loss.tolist(), gradient.tolist(), strict=True
    ):
        expected, slope = reference(row, target, gamma)
        assert value == pytest.approx(expected, rel=2e-6, abs=2e-38), row
        # Shares of the gradient below a millionth may carry the rounding of the logits.
        least = max(2e-38, 1e-6 * max(map(abs, slope)) if offset else 0)
        assert slopes == pytest.approx(slope, rel=2e-6, abs=least), row


@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 1.7, 2.0])
@pytest.mark.parametrize("shape", [(9, 4), (5, 3, 7), (2, 3, 4, 5), (1, 2, 6, 1)])
@pytest.mark.parametrize("chunk", [1 << 18, 24, 1])
def test_equals_the_focal_loss_of_the_margin(gamma, shape, chunk, monkeypatch):
    monkeypatch.setattr(chunked_softmax, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    z = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    t = torch.randint(shape[1], shape[:1] + shape[2:], generator=generator)
    number = None if gamma is None else torch.tensor(gamma)
    upstream = torch.randn(t.shape, generator=generator, dtype=torch.float64)
    results = []
    last = z.detach().movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
    for logits, loss in (
        (z, softmax_focal(z, t, number)),
        (last, softmax_focal(last, t, number)),
        (z, focal(margin(z, t), None, number)),
    ):
        assert loss.shape == t.shape
        results.append((loss, torch.autograd.grad(loss, logits, upstream)[0]))
    for loss, gradient in results[:2]:
        torch.testing.assert_close(loss, results[2][0], rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, results[2][1], rtol=1e-11, atol=1e-15)


def test_gamma_zero_is_torch_cross_entropy():
    z = torch.randn(6, 5, 3, dtype=torch.float64, requires_grad=True)
    t = torch.randint(5, (6, 3))
    found, expected = softmax_focal(z, t), F.cross_entropy(z, t, reduction="none")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), z), torch.autograd.grad(expected.sum(), z)
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_masked_out_classes_and_infinities(gamma):
    z = torch.tensor(
        [
            [1.0, -INF, 2.0],  # a class masked out
            [-INF, -INF, 3.0],  # the only class left is the target
            [-INF, 0.0, 3.0],  # the target itself is masked out
            [INF, 0.0, 1.0],
            [0.0, INF, 1.0],
            [-INF, -INF, -INF],
            [1e38, -1e38, 3e38],
        ],
        requires_grad=True,
    )
    t = torch.tensor([0, 2, 0, 0, 0, 0, 1])
    loss = softmax_focal(z, t, torch.tensor(gamma))
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient[0, 1] == 0
    assert gradient[1].tolist() == [0, 0, 0]
    assert loss[1] == 0
    assert loss[2] > 3e38
    assert gradient[2].tolist() == pytest.approx([-1, 0.04742587, 0.95257413])
    assert loss[3] == 0
    assert loss[4] > 3e38
    assert gradient[4].tolist() == [-1, 1, 0]
    assert gradient[6].tolist() == [0, -1, 1]
    short = z.detach()[:1, [0, 2]].requires_grad_()
    alone = softmax_focal(short, torch.tensor([0]), torch.tensor(gamma))
    assert loss[0].item() == pytest.approx(alone.item(), rel=1e-6)


def test_nan_stays_in_its_row():
    z = torch.tensor([[math.nan, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = softmax_focal(z, torch.tensor([1, 1]), torch.tensor(2.0))
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert loss.isnan().tolist() == [True, False]
    assert gradient.isnan().tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("gamma", [None, 0.3, 2.0])
def test_repeated_and_second_order_backward(gamma):
    z = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    t = torch.randint(3, (4, 2))
    number = None if gamma is None else torch.tensor(gamma)
    assert torch.autograd.gradcheck(lambda z: softmax_focal(z, t, number), z)
    assert torch.autograd.gradgradcheck(lambda z: softmax_focal(z, t, number), z)
    loss = softmax_focal(z, t, number).sum()
    (first,) = torch.autograd.grad(loss, z, retain_graph=True)
    kept = first.clone()
    first.mul_(2)
    assert torch.equal(torch.autograd.grad(loss, z)[0], kept)


def test_nothing_is_kept_without_need():
    kept = []
    z, t = torch.randn(5, 3), torch.randint(3, (5,))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        softmax_focal(z, t)
        assert kept == []
        softmax_focal(z.requires_grad_(), t)
    assert [tensor.shape for tensor in kept] == [z.shape, t.shape, z.shape]
    empty = softmax_focal(torch.ones(0, 3, requires_grad=True), torch.ones(0, dtype=torch.long))
    assert empty.shape == (0,)
    empty.sum().backward()
