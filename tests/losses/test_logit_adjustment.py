"""Logit adjustment, balanced softmax and VS loss against torch, the papers and their optimum."""

import math

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.losses.cross_entropy import CrossEntropy
from losslab.losses.logit_adjustment import (
    BalancedSoftmax,
    LogitAdjustment,
    VectorScaling,
    adjust_logits,
)
from losslab.losses.weighting import prior_log_odds

COUNTS = [600, 250, 100, 50]
PRIOR = torch.tensor([0.6, 0.25, 0.1, 0.05], dtype=torch.float64)


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(4)


def agree(found, expected, z, rtol=1e-12):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-14)
    slopes = [torch.autograd.grad(value.sum(), z)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=10 * rtol, atol=1e-14)


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0, 2.5])
@pytest.mark.parametrize("shape", [(12, 4), (3, 4, 5)])
def test_softmax_is_cross_entropy_with_tau_log_prior(tau, shape, draw):
    z = (2 * torch.randn(shape, generator=draw, dtype=torch.float64)).requires_grad_()
    t = torch.randint(4, shape[:1] + shape[2:], generator=draw)
    shift = tau * PRIOR.log().reshape(4, *[1] * (len(shape) - 2))
    loss = LogitAdjustment(link="softmax", tau=tau, class_counts=COUNTS, reduction="none")
    agree(loss(z, t), F.cross_entropy(z + shift, t, reduction="none"), z)


@pytest.mark.parametrize("tau", [0.0, 1.0, 2.5])
def test_sigmoid_adds_the_log_odds_of_each_column(tau, draw):
    x = (2 * torch.randn(9, 4, generator=draw, dtype=torch.float64)).requires_grad_()
    y = torch.rand(9, 4, generator=draw, dtype=torch.float64)
    loss = LogitAdjustment(tau=tau, class_counts=COUNTS, reduction="none")
    odds = (PRIOR / (1 - PRIOR)).log()
    expected = F.binary_cross_entropy_with_logits(x + tau * odds, y, reduction="none")
    agree(loss(x, y), expected, x)
    # Two counts: one binary output, whatever the shape.
    loss = LogitAdjustment(tau=tau, class_counts=[80, 20], reduction="none")
    for logits, targets in ((x, y), (x[:, 0], y[:, 0])):
        expected = F.binary_cross_entropy_with_logits(
            logits - tau * math.log(4), targets, reduction="none"
        )
        agree(loss(logits, targets), expected, x)


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_raw_logits_of_the_optimum_are_balanced(link):
    # Five values of x, two classes of prior 9 to 1; the loss expected over both is stationary
    # where the raw logits are log p(x | j): the prior has gone.
    given_negative = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)
    given_positive = given_negative.flip(0)
    joint = torch.stack([0.9 * given_negative, 0.1 * given_positive], 1)
    evidence = torch.stack([given_negative.log(), given_positive.log()], 1)
    z = evidence if link == "softmax" else evidence[:, 1] - evidence[:, 0]
    z.requires_grad_()
    loss = LogitAdjustment(link=link, class_counts=[900, 100], reduction="none")
    total = sum((joint[:, j] * loss(z, torch.full((5,), j))).sum() for j in (0, 1))
    (slope,) = torch.autograd.grad(total, z)
    assert slope.abs().max() < 1e-14
    plain = CrossEntropy(link=link, reduction="none")
    total = sum((joint[:, j] * plain(z, torch.full((5,), j))).sum() for j in (0, 1))
    assert torch.autograd.grad(total, z)[0].abs().max() > 0.03
    # And the logits that minimise the plain one are the balanced ones after the post-hoc rule.
    posterior = joint.log() if link == "softmax" else joint[:, 1].log() - joint[:, 0].log()
    adjusted = adjust_logits(posterior, [900, 100], 1.0, link)
    torch.testing.assert_close(adjusted, z.detach(), rtol=1e-12, atol=1e-12)
    assert all(kind.prior_shifted for kind in (LogitAdjustment, BalancedSoftmax, VectorScaling))


def test_balanced_softmax_as_its_paper_writes_it(draw):
    z = torch.randn(20, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    t = torch.randint(4, (20,), generator=draw)
    weighted = torch.tensor(COUNTS, dtype=torch.float64) * z.exp()
    expected = -(weighted.gather(1, t[:, None])[:, 0] / weighted.sum(1)).log()
    loss = BalancedSoftmax(link="softmax", class_counts=COUNTS, reduction="none")
    agree(loss(z, t), expected, z)
    assert BalancedSoftmax.declared("softmax") == {}


@pytest.mark.parametrize("gamma", [0.0, 0.15, 0.3, 0.4])
@pytest.mark.parametrize("tau", [0.0, 1.0, 2.5])
def test_vs_against_the_authors_code(gamma, tau, draw):
    z = (3 * torch.randn(20, 4, generator=draw, dtype=torch.float64)).requires_grad_()
    t = torch.randint(4, (20,), generator=draw)
    # They divide by (n_max / n_j)^gamma.
    temperature = (1 / np.array(COUNTS)) ** gamma
    temperature = torch.from_numpy(temperature / temperature.min())
    expected = F.cross_entropy(z / temperature + tau * PRIOR.log(), t, reduction="none")
    loss = VectorScaling(
        link="softmax", gamma=gamma, tau=tau, class_counts=COUNTS, reduction="none"
    )
    agree(loss(z, t), expected, z)


@pytest.mark.parametrize("kind", [LogitAdjustment, BalancedSoftmax, VectorScaling])
def test_a_class_without_examples_counts_as_having_one(kind):
    z, t = torch.zeros(3, 3, dtype=torch.float64), torch.arange(3)
    values = {"gamma": 0} if kind is VectorScaling else {}
    loss = kind(link="softmax", class_counts=[8, 1, 0], reduction="none", **values)
    expected = [-math.log(0.8), -math.log(0.1), -math.log(0.1)]
    assert loss(z, t).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("link", "counts", "shape"),
    [
        ("softmax", COUNTS, (5, 4)),
        ("softmax", [3, 0, 1, 9], (5, 4, 2)),
        ("sigmoid", COUNTS, (5, 4)),
        ("sigmoid", [80, 20], (5, 4)),
        ("sigmoid", [80, 20], (5,)),
    ],
)
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.5])
def test_adjusting_afterwards_undoes_the_training_shift(link, counts, shape, tau, draw):
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    targets = torch.randint(2, shape if link == "sigmoid" else shape[:1] + shape[2:])
    loss = LogitAdjustment(link=link, tau=tau, class_counts=counts, reduction="none")
    plain = CrossEntropy(link=link, reduction="none")
    adjusted = adjust_logits(x, counts, tau, link)
    torch.testing.assert_close(loss(adjusted, targets), plain(x, targets), rtol=1e-12, atol=1e-13)
    assert torch.equal(adjust_logits(x, torch.tensor(counts), 0.0, link), x)


def test_adjusting_by_hand_in_half_precision_and_with_tensors():
    x = torch.tensor([0.5, -4.0], dtype=torch.bfloat16)
    found = adjust_logits(x, [90, 10], torch.tensor(2.0), "sigmoid")
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([0.5 + 4 * math.log(3), -4 + 4 * math.log(3)], rel=1e-6)
    odds = prior_log_odds(torch.tensor(COUNTS))
    found = adjust_logits(torch.zeros(1, 4, dtype=torch.float64), COUNTS, 1.0, "sigmoid")
    assert torch.equal(found[0], -odds)


@pytest.mark.parametrize(
    ("shape", "counts", "link", "told"),
    [
        ((5, 3), COUNTS, "softmax", r"4 class_counts do not fit logits of shape \(5, 3\)"),
        ((5,), [3, 4], "softmax", r"2 class_counts do not fit logits of shape \(5,\)"),
        ((5, 3), COUNTS, "sigmoid", "4 class_counts do not fit"),
        ((5, 2), [3, -4], "softmax", "class_counts must be finite"),
        ((5, 2), [3, 4], "softmacks", "unknown link 'softmacks'; did you mean 'softmax'"),
    ],
)
def test_adjusting_refuses_what_does_not_fit(shape, counts, link, told):
    with pytest.raises(BadInput, match=told):
        adjust_logits(torch.zeros(shape), counts, 1.0, link)


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (LogitAdjustment, "sigmoid"),
        (LogitAdjustment, "softmax"),
        (BalancedSoftmax, "softmax"),
        (VectorScaling, "softmax"),
    ],
)
def test_gradcheck_vmap_and_extremes(kind, link, draw):
    x = torch.randn(5, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    y = torch.randint(2, (5, 4) if link == "sigmoid" else (5,), generator=draw)
    losses = []
    for i, counts in enumerate((COUNTS, COUNTS[::-1], [3, 0, 10**6, 1])):
        declared = kind.declared(link)
        values = {name: h.low + (h.high - h.low) * i / 2 for name, h in declared.items()}
        losses.append(kind(link=link, class_counts=counts, **values))
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
        torch.testing.assert_close(slopes[i], torch.autograd.grad(value, x)[0], rtol=1e-10, atol=0)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for loss in losses:
            big = torch.tensor([[1e4, -1e4, 0, 0]] * 5, dtype=dtype, requires_grad=True)
            value = loss(big, y)
            (slope,) = torch.autograd.grad(value, big)
            assert value.isfinite()
            assert slope.isfinite().all()


def test_extremes_by_hand():
    # Raw 1e4 with prior 9 to 1: log 9 more against the rare class, tau times.
    z = torch.tensor([[1e4, 0.0]], requires_grad=True)
    loss = LogitAdjustment(link="softmax", tau=2, class_counts=[90, 10])
    value = loss(z, torch.tensor([1]))
    assert value.item() == pytest.approx(1e4 + 2 * math.log(9), rel=1e-6)
    assert torch.autograd.grad(value, z)[0].tolist() == [[1, -1]]


def test_what_they_need():
    for kind in (LogitAdjustment, BalancedSoftmax, VectorScaling):
        with pytest.raises(BadInput, match="class_counts is missing"):
            kind(link="softmax")
    with pytest.raises(BadInput, match="unknown link 'sigmoid'"):
        VectorScaling(link="sigmoid", class_counts=COUNTS)
    with pytest.raises(BadInput, match="tau must be at least 0"):
        LogitAdjustment(class_counts=COUNTS, tau=-1)
