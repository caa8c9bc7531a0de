"""Quality focal and varifocal loss against mpmath, mmdet's forms and hand values."""

import math

import mpmath
import pytest
import torch
from torch.func import functional_call, vmap

from losslab.errors import BadInput
from losslab.losses.cross_entropy import CrossEntropy
from losslab.losses.focal import Focal
from losslab.losses.quality import QualityFocal, Varifocal

KINDS = (QualityFocal, Varifocal)


def draw(seed=0, shape=(40, 3)):
    """Logits, and qualities of which most are 0 and some 1."""
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    y = (1.6 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 0.5).clamp(0, 1)
    return x, y


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 2.0, 4.0])
def test_quality_focal_against_mpmath(beta):
    points = [(x, y) for x in (-30.0, -3.0, 0.0, 0.7, 20.0) for y in (0.0, 0.1, 0.6, 1.0)]
    x, y = (torch.tensor(v, dtype=torch.float64) for v in zip(*points, strict=True))
    x.requires_grad_()
    loss = QualityFocal(beta=beta, reduction="none")(x, y)
    (slope,) = torch.autograd.grad(loss.sum(), x)

    def exact(at, target):
        p, q = 1 / (1 + mpmath.exp(-at)), 1 / (1 + mpmath.exp(at))
        entropy = -target * mpmath.log(p) - (1 - target) * mpmath.log(q)
        return abs((1 - target) * p - target * q) ** mpmath.mpf(beta) * entropy

    with mpmath.workdps(50):
        for i, (at, target) in enumerate(points):
            target = mpmath.mpf(target)
            value = float(exact(mpmath.mpf(at), target))
            assert loss[i].item() == pytest.approx(value, rel=1e-12, abs=0)
            expected = float(mpmath.diff(lambda v, t=target: exact(v, t), mpmath.mpf(at)))
            assert slope[i].item() == pytest.approx(expected, rel=1e-9, abs=0)


def test_the_value_in_use_at_a_soft_target():
    # At y = .6, x = .7: torchvision's focal form has .1486, kornia's mixture .2237.
    loss = QualityFocal()(torch.tensor([0.7]), torch.tensor([0.6]))
    assert loss.item() == pytest.approx(0.0032, abs=5e-5)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0, 2.0])
def test_a_prediction_that_meets_its_target_has_no_loss_and_no_slope(beta):
    y = torch.tensor([0.5, 0.5], dtype=torch.float64)
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # sigmoid(0) is exactly .5
    loss = QualityFocal(beta=beta, reduction="none")(x, y)
    (slope,) = torch.autograd.grad(loss.sum(), x)
    assert slope.tolist() == [0, 0]
    assert loss.tolist() == pytest.approx([0 if beta else math.log(2)] * 2)


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.0, 4.0])
def test_quality_focal_is_least_where_the_prediction_is_the_target(beta):
    for target in (0.05, 0.4, 0.9):
        x = torch.linspace(-8, 8, 801, dtype=torch.float64)
        values = QualityFocal(beta=beta, reduction="none")(x, torch.full_like(x, target))
        assert torch.sigmoid(x[values.argmin()]).item() == pytest.approx(target, abs=0.01)


def test_on_hard_targets_quality_focal_is_twice_focal_at_alpha_one_half():
    x, y = draw(1)
    y = (y > 0.5).double()
    for beta in (0.0, 0.5, 3.0):
        found = QualityFocal(beta=beta, reduction="none")(x, y)
        expected = 2 * Focal(gamma=beta, alpha=0.5, reduction="none")(x, y)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-18)


def test_beta_zero_is_cross_entropy_for_every_quality():
    x, y = draw(2)
    assert torch.equal(
        QualityFocal(beta=0, reduction="none")(x, y), CrossEntropy(reduction="none")(x, y)
    )


def test_quality_focal_against_the_form_of_mmdet():
    # One quality per row at its label, background rows all 0; power of |score - sigmoid|.
    x, _ = draw(3, (30, 5))
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(6, (30,), generator=generator)  # 5 is background
    score = torch.rand(30, generator=generator, dtype=torch.float64)
    expected = torch.nn.functional.softplus(x) * torch.sigmoid(x) ** 2
    y = torch.zeros_like(x)
    for i, label in enumerate(labels.tolist()):
        if label < 5:
            y[i, label] = score[i]
            entropy = torch.nn.functional.binary_cross_entropy_with_logits(x[i, label], score[i])
            expected[i, label] = entropy * (score[i] - torch.sigmoid(x[i, label])).abs() ** 2
    torch.testing.assert_close(QualityFocal(reduction="none")(x, y), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.75, 2.0), (0.1, 0.0), (2.0, 4.0), (1.0, 0.3)])
def test_varifocal_against_the_form_of_mmdet(alpha, gamma):
    x, y = draw(4)
    assert 20 < (y == 0).sum() < 60
    p = torch.sigmoid(x)
    weight = torch.where(y > 0, y, alpha * (p - y).abs() ** gamma)
    expected = weight * torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")
    loss = Varifocal(alpha=alpha, gamma=gamma, reduction="none")
    torch.testing.assert_close(loss(x, y), expected, rtol=1e-9, atol=1e-15)
    loss.reduction = "weight_sum"
    total = torch.where(y > 0, y, alpha).sum()
    assert loss(x, y).item() == pytest.approx((expected.sum() / total).item())


def test_varifocal_by_hand_and_as_cross_entropy():
    # Negatives: .75 * .25 log 2; positives: q BCE = q log 2 at x = 0.
    values = Varifocal(reduction="none")(torch.zeros(3), torch.tensor([0.0, 0.25, 1.0]))
    assert (values / math.log(2)).tolist() == pytest.approx([0.1875, 0.25, 1.0])
    x, y = draw(5)
    hard = (y > 0.5).double()
    found = Varifocal(alpha=1, gamma=0, reduction="none")(x, hard)
    torch.testing.assert_close(found, CrossEntropy(reduction="none")(x, hard))
    # Alpha does not touch the positives.
    one, two = (Varifocal(alpha=a, reduction="none")(x, y) for a in (0.5, 1.5))
    assert torch.equal(one[y > 0], two[y > 0])
    torch.testing.assert_close(3 * one[y == 0], two[y == 0])


@pytest.mark.parametrize("kind", KINDS)
def test_gradient(kind):
    x, y = draw(6, (8, 2))
    x.requires_grad_()
    for values in ({}, {"beta" if kind is QualityFocal else "gamma": 0.4}):
        loss = kind(**values)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, y), x)
        assert torch.autograd.gradgradcheck(lambda x, loss=loss: loss(x, y), x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_over_the_search_space(kind, dtype):
    y = torch.tensor([0.0, 1.0, 0.5, 1e-4])
    points = [-1e4, -120.0, -90.0, -40.0, -17.0, 0.0, 17.0, 40.0, 90.0, 120.0, 1e4]
    x = torch.tensor(points, dtype=dtype)[:, None].repeat(1, 4)
    name = "beta" if kind is QualityFocal else "gamma"
    for value in (0.0, 0.02, 0.1, 0.5, 1.0, 2.0, 4.0):
        loss = kind(reduction="none", **{name: value})
        for targets in (y.expand_as(x), y.expand_as(x).to(dtype)):
            logits = x.clone().requires_grad_()
            values = loss(logits, targets)
            (slope,) = torch.autograd.grad(values.sum(), logits, create_graph=True)
            assert values.isfinite().all()
            assert slope.isfinite().all()
            assert slope.dtype == dtype
            (curvature,) = torch.autograd.grad(slope.sum(), logits)
            assert curvature.isfinite().all()
    # Confidently wrong: the loss is the logit, times the weight of the side.
    weight = 1.0 if kind is QualityFocal else 0.75
    assert values[-1, 0].item() == pytest.approx(weight * x[-1, 0].item(), rel=1e-6)
    assert values[0, 1].item() == pytest.approx(-x[0, 0].item(), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_infinite_logits_count_as_the_largest_number(kind):
    x = torch.tensor([float("inf"), float("-inf")] * 2, requires_grad=True)
    values = kind(reduction="none")(x, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert values[:2].tolist() == [0, 0]
    assert values.isfinite().all()
    values.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_hyper_parameters_is_the_loop(kind):
    spaces = kind.declared("sigmoid")
    losses = [
        kind(**{k: h.low + f * (h.high - h.low) for k, h in spaces.items()})
        for f in (0.0, 0.3, 1.0)
    ]
    stack = {k: torch.stack([getattr(loss, k) for loss in losses]) for k in spaces}
    xs, ys = (torch.stack(parts) for parts in zip(*(draw(i) for i in range(3)), strict=True))
    ys[1, 3] = -100
    found = vmap(lambda state, x, y: functional_call(losses[0], state, (x, y)))(stack, xs, ys)
    expected = torch.stack([loss(x, y) for loss, x, y in zip(losses, xs, ys, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_fullgraph(kind):
    torch._dynamo.reset()
    loss = kind()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*draw(7)), loss(*draw(7)), rtol=1e-12, atol=0)


def test_errors():
    for kind in KINDS:
        with pytest.raises(BadInput, match="unknown link 'softmax'"):
            kind(link="softmax")
        with pytest.raises(BadInput, match="targets from 0 to 1"):
            kind()(torch.zeros(1), torch.tensor([1.2]))
    with pytest.raises(BadInput, match=r"beta must be at least 0\.0"):
        QualityFocal(beta=-0.1)
