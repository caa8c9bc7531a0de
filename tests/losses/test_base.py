"""What the base owns: arguments, shapes, ignoring, weights, reductions, dtypes."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter
from losslab.losses import LOSSES
from losslab.losses.base import Loss
from losslab.losses.cross_entropy import CrossEntropy
from losslab.losses.focal import Focal
from losslab.losses.reduction import REDUCTIONS


class Squared(Loss):
    """A loss of ordinary torch code under both links, without thought for half or infinities."""

    hyperparameters = {"power": Hyperparameter(2.0, low=1.0, high=4.0, meaning="exponent")}  # noqa: RUF012

    def elementwise(self, logits, targets):
        assert logits.dtype in (torch.float32, torch.float64)
        if self.link == "softmax":
            return (1 - logits.softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)) ** self.power
        return (torch.sigmoid(logits) - targets).abs() ** self.power


def naive(reduction, values, weights, positives):
    """Plain Python over the elements that are kept; values are unweighted."""
    total = sum(v * w for v, w in zip(values, weights, strict=True))
    return {
        "sum": total,
        "mean": total / max(1, len(values)),
        "positives": total / max(1, sum(positives)),
        "weight_sum": total / sum(weights) if sum(weights) else 0.0,
    }[reduction]


@pytest.mark.parametrize("reduction", ["mean", "sum", "positives", "weight_sum"])
@pytest.mark.parametrize("ignored", [0, 3, 28])
def test_sigmoid_reductions_against_a_loop(reduction, ignored):
    generator = torch.Generator().manual_seed(ignored)
    x = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.rand(7, 4, generator=generator, dtype=torch.float64)
    y.view(-1)[torch.randperm(28, generator=generator)[:ignored]] = -100
    columns, alpha = [0.5, 1.0, 2.0, 0.0], 0.3
    values, weights, positives = [], [], []
    for i in range(7):
        for j in range(4):
            target, p = y[i, j].item(), 1 / (1 + math.exp(-x[i, j].item()))
            if target == -100:
                continue
            alpha_t = target * alpha + (1 - target) * (1 - alpha)
            hard = [-(p**2) * math.log(1 - p) * (1 - alpha), -((1 - p) ** 2) * math.log(p) * alpha]
            # naive() multiplies by the whole weight, so take alpha_t out of the value.
            values.append((target * hard[1] + (1 - target) * hard[0]) / alpha_t)
            weights.append(columns[j] * alpha_t)
            positives.append(target)
    loss = Focal(gamma=2, alpha=alpha, class_weights=columns, reduction=reduction)
    found = loss(x, y)
    assert found.item() == pytest.approx(naive(reduction, values, weights, positives), rel=1e-12)
    (gradient,) = torch.autograd.grad(found, x)
    assert gradient.isfinite().all()
    assert (gradient[y == -100] == 0).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "positives", "weight_sum"])
@pytest.mark.parametrize("ignored", [0, 2, 12])
def test_softmax_reductions_against_a_loop(reduction, ignored):
    generator = torch.Generator().manual_seed(ignored)
    z = torch.randn(6, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    t = torch.randint(3, (6, 2), generator=generator)
    t.view(-1)[torch.randperm(12, generator=generator)[:ignored]] = 255
    counts, fixed, a = [60, 30, 10], [1.0, 2.0, 0.5], 0.7
    raw = [n**-a for n in counts]
    by_class = [f * w * 3 / sum(raw) for f, w in zip(fixed, raw, strict=True)]
    values, weights, positives = [], [], []
    for i in range(6):
        for k in range(2):
            target = t[i, k].item()
            if target == 255:
                continue
            exponentials = [math.exp(v) for v in z[i, :, k].tolist()]
            p = exponentials[target] / sum(exponentials)
            values.append(-((1 - p) ** 1.5) * math.log(p))
            weights.append(by_class[target])
            positives.append(target != 0)
    loss = Focal(
        link="softmax",
        gamma=1.5,
        a=a,
        class_counts=counts,
        class_weights=fixed,
        reduction=reduction,
        ignore_index=255,
    )
    found = loss(z, t)
    assert found.item() == pytest.approx(naive(reduction, values, weights, positives), rel=1e-12)
    (gradient,) = torch.autograd.grad(found, z)
    assert gradient.isfinite().all()
    assert (gradient.transpose(1, 2)[t == 255] == 0).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ignoring_is_deleting_whatever_the_ignored_logit(case, make, batch, reduction):
    name, link = case
    x, y = batch(link)
    loss = make(name, link, reduction=reduction)
    keep = torch.tensor([True, False, True, True, False, False, True])
    expected_x = x[keep].clone().requires_grad_()
    expected = loss(expected_x, y[keep])
    dirty = x.clone()
    dirty[~keep] = torch.tensor([math.nan, math.inf, -math.inf, 1e300], dtype=x.dtype)
    dirty.requires_grad_()
    ignored = y.clone()
    ignored[~keep] = -100
    found = loss(dirty, ignored)
    if reduction == "none":
        assert (found[~keep] == 0).all()
        found = found[keep]
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    found.sum().backward()
    expected.sum().backward()
    assert (dirty.grad[~keep] == 0).all()
    torch.testing.assert_close(dirty.grad[keep], expected_x.grad, rtol=1e-13, atol=0)


def test_a_valid_class_can_be_ignored():
    z, t = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 1])
    loss = CrossEntropy(link="softmax", ignore_index=0)
    expected = F.cross_entropy(z, t, ignore_index=0)
    assert loss(z, t).item() == pytest.approx(expected.item(), rel=1e-5)
    assert CrossEntropy(link="softmax", ignore_index=None)(z, t).item() == pytest.approx(
        F.cross_entropy(z, t).item(), rel=1e-5
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "positives", "weight_sum"])
@pytest.mark.parametrize("empty", [True, False])
def test_nothing_left_is_zero_with_zero_gradient(case, make, reduction, empty):
    name, link = case
    x = torch.randn(0 if empty else 3, 4, requires_grad=True)
    y = torch.full(x.shape if link == "sigmoid" else x.shape[:1], -100)
    value = make(name, link, reduction=reduction)(x, y)
    value.backward()
    assert value.item() == 0
    assert x.grad.shape == x.shape
    assert (x.grad == 0).all()


@given(order=st.permutations(range(7)))
@settings(max_examples=20, deadline=None)
def test_permuting_the_batch_changes_nothing(order):
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(7, 4, generator=generator, dtype=torch.float64)
    y, t = (x > 1).long(), torch.tensor([0, 1, 2, 3, 0, -100, 2])
    sigmoid = Focal(reduction="positives")
    softmax = LOSSES.create(
        "balanced_ce", link="softmax", class_counts=[9, 5, 2, 1], reduction="weight_sum"
    )
    for loss, targets in ((sigmoid, y), (softmax, t)):
        value, permuted = loss(x, targets).item(), loss(x[order], targets[order]).item()
        assert permuted == pytest.approx(value, rel=1e-13)


def test_target_dtypes_agree(batch):
    x, y = batch("sigmoid")
    expected = Focal()(x, y).item()
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.float32):
        assert Focal()(x, y.to(dtype)).item() == expected
    z, t = batch("softmax")
    for dtype in (torch.uint8, torch.int32):
        assert CrossEntropy(link="softmax")(z, t.to(dtype)).item() == pytest.approx(
            CrossEntropy(link="softmax")(z, t).item(), rel=1e-15
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_the_float32_result_at_the_same_logits(case, make, batch, dtype):
    name, link = case
    x, y = batch(link, dtype)
    half, single = x.clone().requires_grad_(), x.float().requires_grad_()
    values = [make(name, link)(logits, y) for logits in (half, single)]
    for value in values:
        value.backward()
    assert values[0].dtype == torch.float32
    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(half.grad, single.grad.to(dtype), rtol=2e-2, atol=1e-7)


def test_half_sums_do_not_overflow_or_stall():
    # 65 504 is float16's largest number, and above 2048 it no longer counts by ones.
    x = torch.zeros(200_000, dtype=torch.float16)
    found = CrossEntropy(reduction="sum")(x, torch.ones(200_000))
    assert found.item() == pytest.approx(200_000 * math.log(2), rel=1e-5)


def test_a_loss_of_ordinary_torch_code_gets_everything(batch):
    for link in ("sigmoid", "softmax"):
        x, y = batch(link, torch.float16)
        y[0] = -100
        x[0] = math.nan
        x.requires_grad_()
        value = Squared(link=link, power=3, reduction="sum")(x, y)
        value.backward()
        p = x[1:].detach().float()
        if link == "sigmoid":
            expected = (p.sigmoid() - y[1:]).abs().pow(3).sum()
        else:
            expected = sum((1 - row.softmax(0)[t]) ** 3 for row, t in zip(p, y[1:], strict=True))
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        assert x.grad.dtype == torch.float16
        assert (x.grad[0] == 0).all()


def test_every_mistake_is_told_at_once():
    with pytest.raises(BadInput) as caught:
        Focal(
            link="softmax",
            reduction="avg",
            class_counts=[3, -1],
            class_weights=[[1.0]],
            ignore_index=1.5,
            gama=2,
            gamma=-1,
            alpha=0.5,
        )
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 7
    for part in (
        "unknown reduction 'avg' (known: none, mean, sum, positives, weight_sum)",
        "no hyper-parameter 'gama'; did you mean 'gamma'?",
        "no hyper-parameter 'alpha'",
        "gamma must be at least 0.0, got -1",
        "class_counts must be finite, >= 0 and not all 0",
        "class_weights must have shape (C,), got (1, 1)",
        "ignore_index must be a whole number or None",
    ):
        assert part in told
    with pytest.raises(BadInput, match=r"unknown link 'sigmod'; did you mean 'sigmoid'\?"):
        Focal(link="sigmod")
    with pytest.raises(BadInput, match="would ignore one of the two classes"):
        Focal(ignore_index=0)
    with pytest.raises(BadInput, match="whole numbers"):
        Focal(link="softmax", class_counts=[1.5, 2])


@pytest.mark.parametrize(
    ("link", "x", "y", "told"),
    [
        ("sigmoid", (4, 1), (4,), r"shape of the logits; got logits \(4, 1\) and targets \(4,\)"),
        ("softmax", (4, 3), (3,), r"\(N, C, ...\).*got logits \(4, 3\) and targets \(3,\)"),
        ("softmax", (4,), (4,), r"\(N, C, ...\).*got logits \(4,\) and targets \(4,\)"),
        ("softmax", (2, 3, 5), (2, 4), r"got logits \(2, 3, 5\) and targets \(2, 4\)"),
        ("softmax", (4, 1), (4,), "at least two classes.*link='sigmoid'"),
    ],
)
def test_wrong_shapes(link, x, y, told):
    with pytest.raises(BadInput, match=told):
        CrossEntropy(link=link)(torch.zeros(x), torch.zeros(y, dtype=torch.long))


def test_wrong_dtypes_values_and_lengths():
    softmax = CrossEntropy(link="softmax", class_counts=[1, 2, 3])
    with pytest.raises(BadInput, match="integer class indices"):
        softmax(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(BadInput, match="floating-point logits"):
        CrossEntropy()(torch.zeros(2, dtype=torch.long), torch.zeros(2))
    with pytest.raises(BadInput, match=r"class_counts has 3 entries, but the logits have 4"):
        softmax(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(BadInput, match=r"class indices from 0 to 2 or ignore_index=-100, got 3"):
        softmax(torch.zeros(2, 3), torch.tensor([-100, 3]))
    for wrong in (1.5, -1.0, math.nan):
        with pytest.raises(BadInput, match=r"targets from 0 to 1 .*got"):
            CrossEntropy()(torch.zeros(2), torch.tensor([-100, wrong]))
    with pytest.raises(BadInput, match="class_weights has 2 entries"):
        CrossEntropy(class_weights=[1, 2])(torch.zeros(4), torch.zeros(4))


def test_hyper_parameters_keep_float64_and_stay_out_of_the_state_dict(case, make):
    name, link = case
    loss = make(name, link, class_weights=[0.1, 0.2, 0.3, 0.4])
    before = loss.hyperparameter_values
    assert loss.state_dict() == {}
    if "alpha" in before:
        loss = make(name, link, alpha=0.1)
        before = loss.hyperparameter_values
        assert before["alpha"] == 0.1
    for cast in (loss.half, loss.bfloat16, lambda: loss.to(torch.float16), loss.double):
        cast()
        assert loss.hyperparameter_values == before
        assert all(b.dtype in (torch.float64, torch.int64) for b in loss.buffers())
    assert list(loss.parameters()) == []
    assert {b.device.type for b in copy.deepcopy(loss).to("meta").buffers()} <= {"meta"}
    again = pickle.loads(pickle.dumps(loss))
    assert again.hyperparameter_values == before
    assert repr(again) == repr(loss)


def test_repr():
    assert repr(Focal(gamma=0.5, reduction="positives")) == (
        "Focal(link='sigmoid', reduction='positives', gamma=0.5, alpha=0.25)"
    )
    assert repr(CrossEntropy(link="softmax", ignore_index=None)) == (
        "CrossEntropy(link='softmax', reduction='mean', ignore_index=None)"
    )
