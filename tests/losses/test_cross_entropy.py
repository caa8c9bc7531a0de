"""Cross-entropy, plain and balanced, against torch and written-out numbers."""

import pytest
import torch
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.losses.balanced_cross_entropy import BalancedCrossEntropy
from losslab.losses.cross_entropy import CrossEntropy
from losslab.losses.weighting import class_weights_from_counts

DTYPES = [torch.float32, torch.float64]


def both(loss, expected, x, rtol):
    value, wanted = loss(x), expected(x)
    torch.testing.assert_close(value, wanted, rtol=rtol, atol=1e-12)
    gradients = [torch.autograd.grad(v, x)[0] for v in (value, wanted)]
    torch.testing.assert_close(*gradients, rtol=20 * rtol, atol=5e-7 if rtol > 1e-9 else 1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("soft", [False, True])
def test_sigmoid_against_torch(dtype, soft):
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(40, 3, generator=generator, dtype=dtype)).requires_grad_()
    y = torch.rand(40, 3, generator=generator, dtype=dtype)
    y = y if soft else y.round()
    rtol = 1e-6 if dtype == torch.float32 else 1e-13
    both(
        lambda x: CrossEntropy()(x, y), lambda x: F.binary_cross_entropy_with_logits(x, y), x, rtol
    )
    # torch's pos_weight w leaves the negatives alone: alpha = w / (1 + w), times 1 + w.
    both(
        lambda x: 4 * BalancedCrossEntropy(alpha=0.75, reduction="sum")(x, y),
        lambda x: F.binary_cross_entropy_with_logits(
            x, y, pos_weight=torch.tensor(3.0, dtype=dtype), reduction="sum"
        ),
        x,
        rtol,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 2), (12, 5), (3, 4, 2, 3)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_softmax_against_torch(dtype, shape, reduction):
    generator = torch.Generator().manual_seed(1)
    z = (3 * torch.randn(shape, generator=generator, dtype=dtype)).requires_grad_()
    t = torch.randint(shape[1], shape[:1] + shape[2:], generator=generator)
    t.view(-1)[::4] = -100
    rtol = 2e-6 if dtype == torch.float32 else 1e-12
    scale = torch.randn(t.shape, generator=generator, dtype=dtype) if reduction == "none" else 1.0
    both(
        lambda z: (CrossEntropy(link="softmax", reduction=reduction)(z, t) * scale).sum(),
        lambda z: (F.cross_entropy(z, t, reduction=reduction) * scale).sum(),
        z,
        rtol,
    )


@pytest.mark.parametrize("a", [0.0, 0.5, 1.0, 1.5])
def test_balanced_softmax_weight_sum_is_torchs_weighted_mean(a):
    counts = [100, 10, 1]
    weights = torch.tensor([n**-a for n in counts], dtype=torch.float64)
    weights = weights / weights.mean()
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(30, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    t = torch.randint(3, (30,), generator=generator)
    t[:3] = -100
    for reduction, ours in (("mean", "weight_sum"), ("sum", "sum")):
        loss = BalancedCrossEntropy(link="softmax", a=a, class_counts=counts, reduction=ours)
        both(
            lambda z, loss=loss: loss(z, t),
            lambda z, reduction=reduction: F.cross_entropy(z, t, weights, reduction=reduction),
            z,
            1e-12,
        )


def test_written_out_numbers():
    x, y = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64), torch.tensor([1, 0, 1])
    # log 2, log 2, log(1 + e^-2); alpha .75 by default.
    terms = [0.75 * 0.6931471805599453, 0.25 * 0.6931471805599453, 0.75 * 0.1269280110429726]
    found = BalancedCrossEntropy(reduction="none")(x, y)
    assert found.tolist() == pytest.approx(terms, rel=1e-14)
    found = BalancedCrossEntropy(reduction="weight_sum")(x, y)
    assert found.item() == pytest.approx(sum(terms) / 1.75, rel=1e-14)
    found = BalancedCrossEntropy(reduction="positives")(x, y)
    assert found.item() == pytest.approx(sum(terms) / 2, rel=1e-14)


def test_class_weights_from_counts():
    counts = torch.tensor([1000, 100, 10, 0])
    # Mean 1 over the classes that occur; the absent one as if it had one example.
    raw = [1000**-0.5, 100**-0.5, 10**-0.5, 1.0]
    expected = [w * 3 / sum(raw[:3]) for w in raw]
    found = class_weights_from_counts(counts, 0.5)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-14)
    exponents = torch.tensor([0.0, 0.5, 1.5], dtype=torch.float64)
    stacked = torch.func.vmap(lambda a: class_weights_from_counts(counts, a))(exponents)
    assert stacked[1].tolist() == pytest.approx(expected, rel=1e-14)
    assert stacked[0].tolist() == [1, 1, 1, 1]


def test_search_spaces():
    (alpha,) = BalancedCrossEntropy.declared("sigmoid").values()
    assert (alpha.default, alpha.low, alpha.high) == (0.75, 0.05, 0.95)
    (a,) = BalancedCrossEntropy.declared("softmax").values()
    assert (a.default, a.low, a.high) == (1.0, 0.0, 1.5)
    assert CrossEntropy.declared("sigmoid") == CrossEntropy.declared("softmax") == {}
    with pytest.raises(BadInput, match="class_counts is missing"):
        BalancedCrossEntropy(link="softmax")
