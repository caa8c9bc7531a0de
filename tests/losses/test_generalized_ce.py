"""Generalised cross-entropy, plain and truncated, against mpmath and others' code."""

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.losses.cross_entropy import CrossEntropy
from losslab.losses.generalized_ce import (
    GeneralizedCrossEntropy,
    TruncatedGeneralizedCrossEntropy,
)

POINTS = [-200.0, -60.0, -20.0, -5.0, -0.3, 0.0, 2.0, 9.0, 17.0, 60.0]


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("q", [1e-6, 0.05, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_against_mpmath(q, dtype):
    x = torch.tensor(POINTS, dtype=dtype, requires_grad=True)
    exponent = torch.tensor(q, dtype=dtype).item()  # q as the loss sees it
    loss = GeneralizedCrossEntropy(q=q, reduction="none")
    z = torch.stack([torch.zeros_like(x), x], 1)
    softmax = GeneralizedCrossEntropy(link="softmax", q=q, reduction="none")
    found = [loss(x, torch.ones(10)), loss(-x, torch.zeros(10)), softmax(z, torch.ones(10).long())]
    slopes = [torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for value in found]
    rel = 50 * torch.finfo(dtype).eps
    for i, point in enumerate(POINTS):
        with mpmath.workdps(60):
            p = 1 / (1 + mpmath.exp(-mpmath.mpf(point)))
            value = float((1 - p**exponent) / exponent)
            slope = float(-(p**exponent) * (1 - p))
        for values, gradients in zip(found, slopes, strict=True):
            assert values[i].item() == pytest.approx(value, rel=rel)
            # Relative: torch's own slope of expm1 has no digits where p^q is below 1e-7.
            assert gradients[i].item() == pytest.approx(slope, rel=rel * 200, abs=1e-37)


@pytest.mark.parametrize("q", [0.05, 0.7, 1.0])
def test_softmax_as_the_paper_writes_it(q, draw):
    z = (2 * torch.randn(20, 5, generator=draw, dtype=torch.float64)).requires_grad_()
    t = torch.randint(5, (20,), generator=draw)
    p_t = z.softmax(1).gather(1, t[:, None])
    loss = GeneralizedCrossEntropy(link="softmax", q=q, reduction="none")(z, t)
    torch.testing.assert_close(loss, (1 - p_t[:, 0] ** q) / q, rtol=1e-11, atol=1e-13)
    (slope,) = torch.autograd.grad(loss.sum(), z)
    expected = p_t**q * (z.softmax(1) - F.one_hot(t, 5))
    torch.testing.assert_close(slope, expected.detach(), rtol=1e-10, atol=1e-13)


@given(x=st.lists(st.floats(-30, 30), min_size=1, max_size=6), bits=st.integers(0, 63))
@settings(max_examples=40, deadline=None)
def test_between_cross_entropy_and_absolute_error(x, bits):
    x = torch.tensor(x, dtype=torch.float64)
    y = torch.tensor([bits >> i & 1 for i in range(len(x))])
    one = GeneralizedCrossEntropy(q=1, reduction="none")(x, y)
    torch.testing.assert_close(one, (torch.sigmoid(x) - y).abs(), rtol=1e-9, atol=1e-13)
    # (1 - e^(-q c)) / q = c (1 - q c / 2 + ...)
    cross_entropy = CrossEntropy(reduction="none")(x, y)
    nearly = GeneralizedCrossEntropy(q=1e-6, reduction="none")(x, y)
    torch.testing.assert_close(
        nearly, cross_entropy * (1 - 5e-7 * cross_entropy), rtol=1e-8, atol=0
    )
    middle = GeneralizedCrossEntropy(q=0.5, reduction="none")(x, y)
    assert (one <= middle + 1e-12).all()
    assert (middle <= cross_entropy + 1e-12).all()


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_truncation_against_the_unofficial_code(link, draw):
    q, k = 0.7, 0.4
    t = torch.randint(3, (40,), generator=draw)
    if link == "softmax":
        x = (2 * torch.randn(40, 3, generator=draw, dtype=torch.float64)).requires_grad_()
        p_t = x.softmax(1).gather(1, t[:, None])[:, 0]
    else:
        x = (2 * torch.randn(40, generator=draw, dtype=torch.float64)).requires_grad_()
        t = (t == 0).long()
        p_t = torch.sigmoid((2 * t - 1) * x)
    loss = TruncatedGeneralizedCrossEntropy(link=link, q=q, k=k, start=0.5, reduction="none")
    plain = GeneralizedCrossEntropy(link=link, q=q, reduction="none")(x, t)
    loss.set_progress(0.499)
    assert torch.equal(loss(x, t), plain)
    loss.set_progress(0.5)
    found = loss(x, t)
    # AlanChou/Truncated-Loss keeps an element while its loss is below that at k, and takes the
    # latter off, w (L - L_k); here the constant stays, L_k + w (L - L_k).
    at_k = (1 - k**q) / q
    kept = plain < at_k
    assert 5 < kept.sum() < 35
    expected = at_k + kept * ((1 - p_t**q) / q - at_k)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
    slopes = [torch.autograd.grad(v.sum(), x, retain_graph=True)[0] for v in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-14)
    assert (slopes[0][~kept] == 0).all()


def test_an_untrained_model_would_learn_nothing_from_the_start():
    # Ten classes, all at P = .1 < k: which is why `start` is there, by default a third.
    z = torch.zeros(4, 10, requires_grad=True)
    loss = TruncatedGeneralizedCrossEntropy(link="softmax")
    assert TruncatedGeneralizedCrossEntropy.last_change({}) == pytest.approx(1 / 3)
    assert TruncatedGeneralizedCrossEntropy.last_change(
        loss.hyperparameter_values
    ) == pytest.approx(1 / 3)
    for progress, learns in ((0.0, True), (0.3, True), (0.34, False), (1.0, False)):
        loss.set_progress(progress)
        (slope,) = torch.autograd.grad(loss(z, torch.arange(4)), z)
        assert bool((slope != 0).any()) == learns


def test_truncation_by_hand():
    # p = .04, .25, .81 with q = 1/2, k = 1/4: 2 (1 - .5), 2 (1 - .5), 2 (1 - .9).
    loss = TruncatedGeneralizedCrossEntropy(q=0.5, k=0.25, reduction="none")
    loss.set_progress(1.0)
    x = torch.logit(torch.tensor([0.04, 0.25, 0.81], dtype=torch.float64))
    assert loss(x, torch.ones(3)).tolist() == pytest.approx([1, 1, 0.2], rel=1e-12)
    # k = 0 truncates nothing.
    loss = TruncatedGeneralizedCrossEntropy(q=0.5, k=0, start=0, reduction="none")
    assert loss(x, torch.ones(3)).tolist() == pytest.approx([1.6, 1, 0.2], rel=1e-12)


@pytest.mark.parametrize("kind", [GeneralizedCrossEntropy, TruncatedGeneralizedCrossEntropy])
def test_soft_targets_mix_both_losses(kind, draw):
    x = 2 * torch.randn(9, generator=draw, dtype=torch.float64)
    y = torch.rand(9, generator=draw, dtype=torch.float64)
    loss = kind(reduction="none")
    loss.set_progress(1.0)
    mixed = y * loss(x, torch.ones(9)) + (1 - y) * loss(x, torch.zeros(9))
    torch.testing.assert_close(loss(x, y), mixed, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
@pytest.mark.parametrize("q", [0.05, 1.0])
@pytest.mark.parametrize("k", [None, 0.0, 0.8])
def test_extreme_logits(dtype, link, q, k):
    if link == "sigmoid":
        x = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    else:
        x = torch.tensor([[0, 1e4], [0, -1e4]], dtype=dtype, requires_grad=True)
    if k is None:
        loss = GeneralizedCrossEntropy(link=link, q=q, reduction="none")
    else:
        loss = TruncatedGeneralizedCrossEntropy(link=link, q=q, k=k, start=0, reduction="none")
    value = loss(x, torch.ones(2, dtype=torch.long))
    assert value.tolist() == pytest.approx([0, (1 - (k or 0) ** q) / q], rel=1e-6)
    assert (torch.autograd.grad(value.sum(), x)[0] == 0).all()


@pytest.mark.parametrize("kind", [GeneralizedCrossEntropy, TruncatedGeneralizedCrossEntropy])
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_gradcheck_and_vmap_over_progress_too(kind, link, draw):
    x = torch.randn(5, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    y = torch.randint(2, (5, 3) if link == "sigmoid" else (5,), generator=draw)
    losses = []
    for i in range(3):
        declared = kind.declared(link).items()
        values = {name: h.low + (h.high - h.low) * i / 2 for name, h in declared}
        losses.append(kind(link=link, **values))
        losses[-1].set_progress((0.05, 1.0, 0.7)[i])
    assert torch.autograd.gradcheck(lambda x: losses[1](x, y), x)
    assert torch.autograd.gradgradcheck(lambda x: losses[1](x, y), x)
    buffers = [dict(loss.named_buffers()) for loss in losses]
    stack = {name: torch.stack([each[name] for each in buffers]) for name in buffers[0]}

    def call(values, x):
        return functional_call(losses[0], values, (x, y))

    slopes, values = vmap(grad_and_value(call, argnums=1), in_dims=(0, None))(stack, x)
    for i, loss in enumerate(losses):
        value = loss(x, y)
        torch.testing.assert_close(values[i], value, rtol=1e-12, atol=0)
        torch.testing.assert_close(slopes[i], torch.autograd.grad(value, x)[0], rtol=1e-11, atol=0)


def test_search_spaces():
    (q,) = GeneralizedCrossEntropy.declared("softmax").values()
    assert (q.default, q.low, q.high) == (0.7, 0.05, 1.0)
    declared = TruncatedGeneralizedCrossEntropy.declared("sigmoid")
    assert list(declared) == ["q", "k", "start"]
    assert (declared["k"].default, declared["k"].low, declared["k"].high) == (0.5, 0.0, 0.8)
    for wrong in ({"q": 0}, {"q": 1.5}, {"k": 1}):
        with pytest.raises(BadInput, match="must be at"):
            TruncatedGeneralizedCrossEntropy(**wrong)
