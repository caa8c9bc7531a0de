"""LDAM against the authors' code written out anew, and its deferred re-weighting."""

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.losses.effective_number import effective_number_weights
from losslab.losses.ldam import LDAM, label_margins

COUNTS = [4000, 900, 60, 7]


@pytest.fixture
def cosines():
    draw = torch.Generator().manual_seed(2)
    z = 2 * torch.rand(30, 4, generator=draw, dtype=torch.float64) - 1
    return z, torch.randint(4, (30,), generator=draw)


def authors(z, t, counts, max_margin, scale, weights=None):
    """Value of the authors' `LDAMLoss`; `weights` None is their first stage."""
    margins = 1 / np.sqrt(np.sqrt(counts))
    margins = torch.from_numpy(margins * (max_margin / margins.max()))
    index = F.one_hot(t, len(counts)).bool()
    return F.cross_entropy(scale * torch.where(index, z - margins, z), t, weight=weights)


@pytest.mark.parametrize("max_margin", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("scale", [5.0, 30.0, 64.0])
def test_both_stages_against_the_authors_code(max_margin, scale, cosines):
    z, t = cosines[0].requires_grad_(), cosines[1]
    loss = LDAM(
        link="softmax",
        class_counts=COUNTS,
        max_margin=max_margin,
        scale=scale,
        reduction="weight_sum",
    )
    effective = 1 - np.power(0.9999, COUNTS)
    weights = (1 - 0.9999) / effective
    weights = torch.from_numpy(weights / weights.sum() * len(COUNTS))
    for epoch in (0, 100, 159, 160, 199):  # of 200, as in their code: epoch // 160
        loss.set_progress(epoch / 200)
        found = loss(z, t)
        expected = authors(z, t, COUNTS, max_margin, scale, weights if epoch >= 160 else None)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
        slopes = [torch.autograd.grad(value, z)[0] for value in (found, expected)]
        torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-13)


def test_the_published_gradient(cosines):
    z, t = cosines[0].requires_grad_(), cosines[1]
    loss = LDAM(link="softmax", class_counts=COUNTS, scale=10, reduction="sum")
    (slope,) = torch.autograd.grad(loss(z, t), z)
    # s (P'_j - [j = t]), P' the softmax with the target's margin.
    target = F.one_hot(t, 4)
    shifted = 10 * (z - target * label_margins(torch.tensor(COUNTS), 0.5))
    torch.testing.assert_close(slope, 10 * (shifted.softmax(1) - target), rtol=1e-10, atol=1e-13)


def test_margins_by_hand():
    # (n / 16)^(-1/4) for n = 16, 81, 256: 1, 2/3, 1/2.
    found = label_margins(torch.tensor([16, 81, 256]), 0.6)
    assert found.tolist() == pytest.approx([0.6, 0.4, 0.3], rel=1e-12)
    # A class without examples has the largest margin, and takes no part in the scaling.
    assert label_margins(torch.tensor([0, 81, 16]), 0.6).tolist() == pytest.approx([0.6, 0.4, 0.6])


def test_weights_come_late_and_are_the_effective_numbers(cosines):
    z, t = cosines
    loss = LDAM(
        link="softmax", class_counts=COUNTS, drw_start=0.6, one_minus_beta=0.01, reduction="none"
    )
    early = loss(z, t)
    loss.set_progress(0.599)
    assert torch.equal(loss(z, t), early)
    loss.set_progress(0.6)
    weights = effective_number_weights(torch.tensor(COUNTS), 0.01)
    torch.testing.assert_close(loss(z, t), early * weights[t], rtol=1e-14, atol=0)
    assert LDAM.last_change(loss.hyperparameter_values) == 0.6
    assert LDAM.last_change({}) == 0.8
    assert LDAM.head == "cosine"
    assert not LDAM.prior_shifted


def test_vmap_over_hyper_parameters_counts_and_progress(cosines):
    z, t = cosines[0].requires_grad_(), cosines[1]
    losses = []
    for i, counts in enumerate((COUNTS, COUNTS[::-1], [5, 0, 5, 80])):
        loss = LDAM(
            link="softmax",
            class_counts=counts,
            max_margin=0.2 * (i + 1),
            scale=5.0 * (i + 1),
            drw_start=0.5 + 0.2 * i,
        )
        loss.set_progress((0.3, 0.6, 0.95)[i])  # before, before, after
        losses.append(loss)
    assert [(loss.class_weighting() != 1).any().item() for loss in losses] == [False, False, True]
    buffers = [dict(loss.named_buffers()) for loss in losses]
    stack = {name: torch.stack([each[name] for each in buffers]) for name in buffers[0]}

    def call(values, z):
        return functional_call(losses[0], values, (z, t))

    slopes, values = vmap(grad_and_value(call, argnums=1), in_dims=(0, None))(stack, z)
    for i, loss in enumerate(losses):
        value = loss(z, t)
        torch.testing.assert_close(values[i], value, rtol=1e-12, atol=0)
        torch.testing.assert_close(slopes[i], torch.autograd.grad(value, z)[0], rtol=1e-10, atol=0)


def test_gradcheck(cosines):
    z, t = cosines[0][:5].clone().requires_grad_(), cosines[1][:5]
    loss = LDAM(link="softmax", class_counts=COUNTS, scale=6)
    loss.set_progress(0.9)
    assert torch.autograd.gradcheck(lambda z: loss(z, t), z)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, t), z)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [5.0, 64.0])
def test_extreme_logits(dtype, scale):
    big = torch.tensor(1e4, dtype=dtype).item()
    z = torch.tensor([[big, 0.0], [big, 0.0]], dtype=dtype, requires_grad=True)
    loss = LDAM(link="softmax", class_counts=[16, 1], scale=scale, reduction="none")
    value = loss(z, torch.arange(2))
    assert value.tolist() == pytest.approx([0, scale * (big + 0.5)], rel=1e-6)
    (slope,) = torch.autograd.grad(value.sum(), z)
    assert slope.tolist() == [[0, 0], [scale, -scale]]


def test_what_it_needs():
    with pytest.raises(BadInput, match="class_counts is missing"):
        LDAM(link="softmax")
    with pytest.raises(BadInput, match=r"unknown link 'sigmoid'"):
        LDAM(link="sigmoid", class_counts=COUNTS)
    ranges = {n: (h.default, h.low, h.high) for n, h in LDAM.declared("softmax").items()}
    assert ranges == {
        "max_margin": (0.5, 0.1, 1.0),
        "scale": (30.0, 5.0, 64.0),
        "drw_start": (0.8, 0.5, 0.9),
        "one_minus_beta": (1e-4, 1e-5, 1e-1),
    }
