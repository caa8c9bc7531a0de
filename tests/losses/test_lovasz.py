"""Lovász losses against kornia, and the extension against the Jaccard loss of sets."""

import kornia
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losslab.losses.lovasz import Lovasz, lovasz_extension


def test_hinge_against_kornia():
    # kornia's is per image, as the authors' default.
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(4, 1, 5, 6, generator=generator, dtype=torch.float64)
    y = (torch.rand(4, 5, 6, generator=generator) < 0.3).double()
    y[2] = 0  # an image without foreground
    found = Lovasz(per="sample")(x[:, 0], y)
    expected = kornia.losses.lovasz_hinge_loss(x, y)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    slopes = []
    for loss in (Lovasz(per="sample"), kornia.losses.lovasz_hinge_loss):
        logits = x.clone().requires_grad_()
        value = loss(logits[:, 0] if isinstance(loss, Lovasz) else logits, y)
        slopes.append(torch.autograd.grad(value, logits)[0])
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-15)


def test_softmax_against_kornia():
    # kornia takes every image by itself and keeps absent classes; the authors skip them.
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64)
    t = torch.randint(3, (4, 5, 6), generator=generator)
    t[1] = 0
    weights = [1.0, 2.0, 0.5]
    found = Lovasz(link="softmax", per="sample", absent="keep", class_weights=weights)(z, t)
    expected = kornia.losses.lovasz_softmax_loss(z, t, torch.tensor(weights).double())
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    kept = Lovasz(link="softmax", per="sample", absent="keep", reduction="none")(z, t)
    present = torch.tensor([[True] * 3, [True, False, False], [True] * 3, [True] * 3])
    skipped = Lovasz(link="softmax", per="sample")(z, t)
    assert skipped.item() == pytest.approx(kept[present].mean().item(), rel=1e-12)


def test_absent_defaults_follow_the_authors():
    assert Lovasz().absent == "keep"
    assert Lovasz(link="softmax").absent == "skip"
    assert Lovasz(link="softmax", absent="keep").absent == "keep"


@given(
    wrong=st.lists(st.booleans(), min_size=1, max_size=9),
    bits=st.integers(0, 511),
    zero=st.integers(0, 511),
)
@settings(max_examples=60, deadline=None)
def test_at_sets_the_extension_is_the_jaccard_loss(wrong, bits, zero):
    n = len(wrong)
    truth = [bits >> i & 1 for i in range(n)]
    weights = [0.0 if zero >> i & 1 else 1.0 + i / 8 for i in range(n)]
    predicted = [t ^ w for t, w in zip(truth, wrong, strict=True)]
    both = sum(w for t, p, w in zip(truth, predicted, weights, strict=True) if t and p)
    either = sum(w for t, p, w in zip(truth, predicted, weights, strict=True) if t or p)
    found = lovasz_extension(*(torch.tensor(each).double() for each in (wrong, truth, weights)))
    assert found.item() == pytest.approx(1 - both / either if either else 0.0, abs=1e-12)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_extension_is_convex_and_of_degree_one(data):
    n = data.draw(st.integers(1, 7))
    numbers = st.lists(st.floats(0, 5), min_size=n, max_size=n)
    a, b = (torch.tensor(data.draw(numbers), dtype=torch.float64) for _ in range(2))
    y = torch.tensor([data.draw(st.integers(0, 1)) for _ in range(n)]).double()
    w = torch.ones(n, dtype=torch.float64)
    at_a, at_b = lovasz_extension(a, y, w), lovasz_extension(b, y, w)
    assert lovasz_extension((a + b) / 2, y, w) <= (at_a + at_b) / 2 + 1e-12
    assert lovasz_extension(3 * a, y, w).item() == pytest.approx(3 * at_a.item(), abs=1e-12)


def test_hinge_by_hand():
    # Logits +-1: errors 2 where the sign is wrong and 0 elsewhere, so 2 (1 - IoU) = 2 (1 - 1/3).
    x = torch.tensor([1.0, 1.0, -1.0, -1.0])
    y = torch.tensor([1, 0, 1, 0])
    assert Lovasz()(x, y).item() == pytest.approx(4 / 3)
    assert Lovasz()(torch.tensor([1.0, -1.5]), torch.tensor([1, 0])).item() == 0
    # No positives: J jumps to 1 at the largest error, 1 + 3.
    assert Lovasz()(torch.tensor([0.5, 3.0, -9.0]), torch.zeros(3)).item() == 4


def test_a_million_elements_in_float32():
    # Steps of about 1e-6, which as differences of J near 1 would be wrong by some per cent. The
    # errors are whole numbers, all different, so that both precisions have them in one order.
    n = 1_000_000
    generator = torch.Generator().manual_seed(0)
    errors = torch.randperm(n, generator=generator)
    y = torch.rand(n, generator=generator) < 0.05
    slopes = []
    for dtype in (torch.float32, torch.float64):
        each = errors.to(dtype).requires_grad_()
        value = lovasz_extension(each, y.to(dtype), torch.ones(n, dtype=dtype))
        slopes.append(torch.autograd.grad(value, each)[0].double())
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=0)
    assert slopes[1].sum().item() == pytest.approx(1)  # J of everything wrong


def test_ties_have_one_answer():
    x = torch.zeros(6, requires_grad=True)
    y = torch.tensor([1, 0, 1, 0, 0, 1])
    first = torch.autograd.grad(Lovasz()(x, y), x)[0]
    again = torch.autograd.grad(Lovasz()(x, y), x)[0]
    assert torch.equal(first, again)
    assert Lovasz()(x, y).item() == pytest.approx(1.0)  # every error 1: J of everything wrong
