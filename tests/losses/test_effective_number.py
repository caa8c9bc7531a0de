"""Class-balanced losses against mpmath, torch and the authors' code written out anew."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.losses.effective_number import (
    ClassBalancedCrossEntropy,
    ClassBalancedFocal,
    effective_number_weights,
)

COUNTS = [500, 80, 11, 2]


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(1)


def authors_weights(counts, beta):
    effective = 1 - np.power(beta, counts)
    weights = (1 - beta) / effective
    return weights / weights.sum() * len(counts)


def authors_loss(x, labels, counts, beta, gamma):
    """Class-balanced sigmoid focal loss of the authors' code, in NumPy, for one label a row."""
    x, y = x.numpy(), np.eye(len(counts))[labels.numpy()]
    weight = (authors_weights(counts, beta) * y).sum(1, keepdims=True)
    cross_entropy = np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))
    modulator = np.exp(-gamma * y * x - gamma * np.log1p(np.exp(-x)))
    return (weight * modulator * cross_entropy).sum() / y.sum()


@given(
    counts=st.lists(st.integers(1, 10**7), min_size=2, max_size=6),
    exponent=st.floats(-12, 0),
)
@settings(max_examples=60, deadline=None)
def test_weights_against_mpmath(counts, exponent):
    one_minus_beta = 10**exponent
    with mpmath.workdps(60):
        rate = mpmath.mpf(one_minus_beta)
        raw = [rate / (1 - (1 - rate) ** n) for n in counts]
        expected = [float(w * len(counts) / sum(raw)) for w in raw]
    found = effective_number_weights(torch.tensor(counts), one_minus_beta)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_weights_are_the_authors_where_theirs_have_digits():
    for beta in (0.9, 0.99, 0.999, 0.9999):
        found = effective_number_weights(torch.tensor(COUNTS), 1 - beta)
        assert found.tolist() == pytest.approx(authors_weights(COUNTS, beta).tolist(), rel=1e-9)
    # In float32, 1 - beta = 1e-8 gives beta = 1: 0 / 0.
    with np.errstate(invalid="ignore"):
        naive = authors_weights(np.array(COUNTS), np.float32(1 - 1e-8))
    assert not np.isfinite(naive).all()
    assert effective_number_weights(torch.tensor(COUNTS), 1e-8).isfinite().all()


def test_limits_of_the_weights():
    counts = torch.tensor(COUNTS)
    assert effective_number_weights(counts, 1.0).tolist() == [1, 1, 1, 1]
    inverse = 1 / counts.double()
    found = effective_number_weights(counts, 1e-12)
    torch.testing.assert_close(found, inverse / inverse.mean(), rtol=1e-9, atol=0)


def test_a_class_without_examples_counts_as_one_and_shrinks_nobody():
    # beta .5: n = 2 gives .5 / .75, n = 1 and n = 0 give 1; the mean over the two that occur.
    found = effective_number_weights(torch.tensor([2, 1, 0]), 0.5)
    assert found.tolist() == pytest.approx([0.8, 1.2, 1.2])


@pytest.mark.parametrize("one_minus_beta", [1e-4, 1e-2, 0.1])
def test_softmax_against_torchs_weighted_cross_entropy(one_minus_beta, draw):
    z = (2 * torch.randn(25, 4, generator=draw, dtype=torch.float64)).requires_grad_()
    t = torch.randint(4, (25,), generator=draw)
    t[3] = -100
    weights = torch.from_numpy(authors_weights(COUNTS, 1 - one_minus_beta))
    arguments = {
        "link": "softmax",
        "class_counts": COUNTS,
        "one_minus_beta": one_minus_beta,
    }
    for reduction, torchs in (("sum", "sum"), ("weight_sum", "mean")):
        found = ClassBalancedCrossEntropy(**arguments, reduction=reduction)(z, t)
        expected = F.cross_entropy(z, t, weights, reduction=torchs)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
        slopes = [torch.autograd.grad(value, z)[0] for value in (found, expected)]
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-14)
    # Focal: the weight stays out of p_t.
    kept = t != -100
    p = z.detach().softmax(1)[kept].gather(1, t[kept, None])[:, 0]
    expected = (weights[t[kept]] * (1 - p) ** 0.5 * -p.log()).sum()
    found = ClassBalancedFocal(**arguments, gamma=0.5, reduction="sum")(z, t)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_sigmoid_with_columns_is_the_authors_code(gamma, draw):
    x = 2 * torch.randn(30, 4, generator=draw, dtype=torch.float64)
    labels = torch.randint(4, (30,), generator=draw)
    loss = ClassBalancedFocal(
        gamma=gamma, one_minus_beta=0.01, class_counts=COUNTS, reduction="positives"
    )
    expected = authors_loss(x, labels, COUNTS, 0.99, gamma)
    found = loss(x, F.one_hot(labels, 4))
    assert found.item() == pytest.approx(expected, rel=1e-9)
    if gamma == 0:
        plain = ClassBalancedCrossEntropy(
            one_minus_beta=0.01, class_counts=COUNTS, reduction="positives"
        )
        assert plain(x, F.one_hot(labels, 4)).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(8, 4), (3, 4, 5)])
@pytest.mark.parametrize("reduction", ["sum", "mean", "weight_sum", "positives"])
def test_rows_of_several_and_of_no_classes_against_a_loop(shape, reduction, draw):
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    y = (torch.rand(shape, generator=draw) < 0.3).double()
    y[0] = 0
    y[1, 0] = 0.5  # a soft target
    y[2, 1] = -100
    weights = authors_weights(COUNTS, 0.95).tolist()
    rows, targets = (t.movedim(1, -1).reshape(-1, 4).tolist() for t in (x, y))
    total = count = weight_sum = positives = 0.0
    for logits, labels in zip(rows, targets, strict=True):
        true = {k: label for k, label in enumerate(labels) if label > 0}
        weight = sum(weights[k] * s for k, s in true.items()) / sum(true.values()) if true else 1.0
        for logit, label in zip(logits, labels, strict=True):
            if label == -100:
                continue
            p = 1 / (1 + math.exp(-logit))
            one, zero = -((1 - p) ** 1.5) * math.log(p), -(p**1.5) * math.log(1 - p)
            total += weight * (label * one + (1 - label) * zero)
            count, weight_sum, positives = count + 1, weight_sum + weight, positives + label
    divisor = {"sum": 1, "mean": count, "weight_sum": weight_sum, "positives": positives}
    loss = ClassBalancedFocal(
        gamma=1.5, one_minus_beta=0.05, class_counts=COUNTS, reduction=reduction
    )
    assert loss(x, y).item() == pytest.approx(total / divisor[reduction], rel=1e-9)


def test_one_binary_output_weights_each_element_by_its_class():
    # Two counts, 2 and 1, at beta .5: weights .8 and 1.2, whatever the shape of the logits.
    loss = ClassBalancedCrossEntropy(one_minus_beta=0.5, class_counts=[2, 1], reduction="none")
    x = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[0, 1], [1, 0]])
    softplus = [math.log1p(math.exp(v)) for v in (0.5, 1.0, -2.0, 0.0)]
    expected = [w * v for w, v in zip((0.8, 1.2, 1.2, 0.8), softplus, strict=True)]
    assert loss(x, y).flatten().tolist() == pytest.approx(expected, rel=1e-12)
    soft = loss(x, torch.full_like(x, 0.25))
    mixed = 0.25 * loss(x, torch.ones_like(x)) + 0.75 * loss(x, torch.zeros_like(x))
    torch.testing.assert_close(soft, mixed, rtol=1e-12, atol=0)
    loss.reduction = "weight_sum"
    assert loss(x, y).item() == pytest.approx(sum(expected) / 4, rel=1e-12)


@pytest.mark.parametrize("kind", [ClassBalancedCrossEntropy, ClassBalancedFocal])
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_gradcheck_and_vmap_over_counts_too(kind, link, draw):
    x = torch.randn(5, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    y = torch.randint(2, (5, 4) if link == "sigmoid" else (5,), generator=draw)
    losses = []
    for i, counts in enumerate((COUNTS, COUNTS[::-1], [3, 0, 5, 5])):
        values = {"one_minus_beta": 10.0 ** (i - 4)}
        if kind is ClassBalancedFocal:
            values["gamma"] = 0.5 * i
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
        torch.testing.assert_close(slopes[i], torch.autograd.grad(value, x)[0], rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("one_minus_beta", [1e-5, 1e-1])
def test_extreme_logits(dtype, gamma, one_minus_beta):
    big = torch.tensor(1e4, dtype=dtype).item()
    values = {"gamma": gamma, "one_minus_beta": one_minus_beta, "reduction": "none"}
    weights = authors_weights([90, 10], 1 - one_minus_beta).tolist()
    x = torch.tensor([big, -big, big, -big], dtype=dtype, requires_grad=True)
    loss = ClassBalancedFocal(class_counts=[90, 10], **values)(x, torch.tensor([0, 1, 1, 0]))
    assert loss.tolist() == pytest.approx([weights[0] * big, weights[1] * big, 0, 0], rel=1e-6)
    (slope,) = torch.autograd.grad(loss.sum(), x)
    assert slope.tolist() == pytest.approx([weights[0], -weights[1], 0, 0], rel=1e-2)
    z = torch.tensor([[big, 0.0], [big, 0.0]], dtype=dtype, requires_grad=True)
    loss = ClassBalancedFocal(link="softmax", class_counts=[90, 10], **values)(z, torch.arange(2))
    assert loss.tolist() == pytest.approx([0, weights[1] * big], rel=1e-6)
    (slope,) = torch.autograd.grad(loss.sum(), z)
    assert slope[1].tolist() == pytest.approx([weights[1], -weights[1]], rel=1e-2)


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_counts_are_needed_and_beta_is_below_one(link):
    with pytest.raises(BadInput, match="class_counts is missing"):
        ClassBalancedCrossEntropy(link=link)
    with pytest.raises(BadInput, match="one_minus_beta must be at least 1e-12"):
        ClassBalancedFocal(link=link, class_counts=[2, 1], one_minus_beta=0)
    declared = ClassBalancedFocal.declared(link)
    assert list(declared) == ["one_minus_beta", "gamma"]
    entry = declared["one_minus_beta"]
    assert (entry.default, entry.low, entry.high, entry.scale) == (1e-4, 1e-5, 1e-1, "log")
