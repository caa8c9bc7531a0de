"""Focal and FL* against other libraries, the paper, and a plain Python evaluation."""

import fvcore.nn
import kornia
import monai.losses
import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losslab.errors import BadInput
from losslab.losses.balanced_cross_entropy import BalancedCrossEntropy
from losslab.losses.cross_entropy import CrossEntropy
from losslab.losses.focal import Focal, FocalStar

moderate = st.floats(-8, 8)
gammas = st.floats(0, 5)


@pytest.fixture
def detections():
    generator = torch.Generator().manual_seed(3)
    x = (4 * torch.randn(200, generator=generator, dtype=torch.float64)).clamp(-8, 8)
    return x, (torch.rand(200, generator=generator) < 0.2).to(torch.float64)


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("alpha", [0.25, 0.8])
def test_sigmoid_focal_against_fvcore_kornia_monai(gamma, alpha, detections):
    x, y = (t.float() for t in detections)
    found = Focal(gamma=gamma, alpha=alpha, reduction="none")(x, y)
    others = {
        "fvcore": fvcore.nn.sigmoid_focal_loss(x, y, alpha=alpha, gamma=gamma),
        "kornia": kornia.losses.binary_focal_loss_with_logits(
            x[:, None], y[:, None], alpha=alpha, gamma=gamma
        )[:, 0],
        "monai": monai.losses.FocalLoss(gamma=gamma, alpha=alpha, reduction="none")(
            x[:, None], y[:, None]
        )[:, 0],
    }
    for name, expected in others.items():
        torch.testing.assert_close(
            found, expected, rtol=2e-3, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_soft_targets_follow_kornia_not_torchvision():
    # At y = .6, x = .7, gamma 2, without alpha: kornia's linear mixture gives .2237, torchvision's
    # form .1486, QFL .0032.
    x, y = torch.tensor([0.7]), torch.tensor([0.6])
    assert 2 * Focal(gamma=2, alpha=0.5)(x, y).item() == pytest.approx(0.2237, abs=5e-5)
    expected = kornia.losses.binary_focal_loss_with_logits(
        x[:, None], y[:, None], alpha=0.5, gamma=2.0
    )
    assert Focal(gamma=2, alpha=0.5)(x, y).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_softmax_focal_against_monai(gamma):
    generator = torch.Generator().manual_seed(5)
    z = 2 * torch.randn(30, 4, generator=generator)
    t = torch.randint(4, (30,), generator=generator)
    found = Focal(link="softmax", gamma=gamma, reduction="none")(z, t)
    other = monai.losses.FocalLoss(
        gamma=gamma, use_softmax=True, to_onehot_y=True, reduction="none"
    )(z, t[:, None])
    # One-hot form: one non-zero column per example.
    torch.testing.assert_close(found, other.sum(1), rtol=1e-4, atol=1e-6)


def test_the_papers_numbers():
    # Section 3.2: at gamma 2 and p_t = .9 the loss is 100 times lower than CE, at about .968 1000.
    for p_t, factor in ((0.9, 100), (0.968, 1000)):
        x = torch.logit(torch.tensor([p_t], dtype=torch.float64))
        y = torch.ones(1)
        ratio = CrossEntropy()(x, y) / (Focal(gamma=2, alpha=1.0)(x, y))
        assert ratio.item() == pytest.approx(factor, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_extreme_logits(dtype, gamma, link):
    loss = Focal(
        link=link, gamma=gamma, reduction="sum", **{"alpha": 0.5} if link == "sigmoid" else {}
    )
    if link == "sigmoid":
        x = torch.tensor([1e4, -1e4, 1e4, -1e4], dtype=dtype, requires_grad=True)
        value = loss(x, torch.tensor([1.0, 0, 0, 1]))
        expected = 0.5 * 2 * x[0].item()
        slopes = [0, 0, 0.5, -0.5]
    else:
        x = torch.tensor([[1e4, 0.0, -1e4]] * 2, dtype=dtype, requires_grad=True)
        value = loss(x, torch.tensor([0, 2]))
        expected = 2 * x[0, 0].item()
        slopes = [[0, 0, 0], [1, 0, -1]]
    (gradient,) = torch.autograd.grad(value, x)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert gradient.dtype == dtype
    assert gradient.tolist() == slopes


@given(
    x=st.lists(st.floats(-50, 50), min_size=1, max_size=6),
    gamma=gammas,
    alpha=st.floats(0.01, 0.99),
    bits=st.integers(0, 63),
)
@settings(max_examples=50, deadline=None)
def test_two_class_softmax_is_sigmoid_of_the_difference(x, gamma, alpha, bits):
    z = torch.tensor([[0.5, 0.5 + v] for v in x], dtype=torch.float64)
    t = torch.tensor([bits >> i & 1 for i in range(len(x))])
    softmax = Focal(
        link="softmax", gamma=gamma, class_weights=[1 - alpha, alpha], reduction="weight_sum"
    )
    sigmoid = Focal(gamma=gamma, alpha=alpha, reduction="weight_sum")
    for reduction in ("none", "weight_sum", "positives"):
        softmax.reduction = sigmoid.reduction = reduction
        torch.testing.assert_close(
            softmax(z, t), sigmoid(z[:, 1] - z[:, 0], t), rtol=1e-9, atol=1e-300
        )


@given(x=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8), bits=st.integers(0, 255))
@settings(max_examples=40, deadline=None)
def test_gamma_zero_is_cross_entropy(x, bits):
    logits = torch.tensor(x, requires_grad=True)
    t = torch.tensor([bits >> i & 1 for i in range(len(x))])
    for focal, plain in (
        (Focal(gamma=0, alpha=0.3), BalancedCrossEntropy(alpha=0.3)),
        (Focal(link="softmax", gamma=0), CrossEntropy(link="softmax")),
    ):
        found = []
        for loss in (focal, plain):
            z = logits
            if loss.link == "softmax":
                z = torch.stack([logits, -2 * logits, logits + 1], 1)
            value = loss(z, t)
            found.append((value.item(), torch.autograd.grad(value, logits)[0].tolist()))
        assert found[0] == found[1]


@given(x=moderate, gamma=gammas, more=st.floats(0.1, 2))
@settings(max_examples=40, deadline=None)
def test_loss_falls_with_gamma_and_with_the_margin(x, gamma, more):
    y = torch.ones(1)

    def value(logit, g):
        logits = torch.tensor([logit], dtype=torch.float64)
        return Focal(gamma=g, alpha=1.0)(logits, y).item()

    assert value(x, gamma + more) < value(x, gamma)
    assert value(x + more, gamma) < value(x, gamma)


@pytest.mark.parametrize(("gamma", "beta"), [(2.0, 1.0), (4.0, 0.0), (0.5, -1.0)])
def test_focal_star_against_mpmath_and_its_published_derivative(gamma, beta):
    points = [-1e4, -30.0, -2.0, 0.0, 1.5, 8.0, 18.0, 1e4]
    x = torch.tensor(points * 2, requires_grad=True)
    y = torch.tensor([1.0] * 8 + [0.0] * 8)
    loss = FocalStar(gamma=gamma, beta=beta, alpha=0.3, reduction="none")(x, y)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    for i, (point, target) in enumerate(zip(points * 2, y.tolist(), strict=True)):
        sign, weight = (1, 0.3) if target else (-1, 0.7)
        with mpmath.workdps(60):
            v = gamma * sign * mpmath.mpf(point) + beta
            value = mpmath.log1p(mpmath.exp(-v)) if v > -500 else -v
            expected = float(weight * value / gamma)
            slope = float(-sign * weight * (1 / (1 + mpmath.exp(v))))  # y (p* - 1)
        assert loss[i].item() == pytest.approx(expected, rel=1e-5, abs=1e-36)
        assert gradient[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-36)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_focal_star_against_fvcore(beta, detections):
    x, y = (t.float() for t in detections)
    # fvcore has no beta; sigmoid(gamma x_t + beta) is its form on logits shifted by s beta / gamma.
    shifted = x + (2 * y - 1) * beta / 2
    expected = fvcore.nn.sigmoid_focal_loss_star(shifted, y, alpha=0.25, gamma=2.0)
    found = FocalStar(gamma=2, beta=beta, reduction="none")(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_focal_star_at_one_and_zero_is_balanced_cross_entropy_with_soft_targets_too():
    x = torch.linspace(-9, 9, 13, dtype=torch.float64)
    y = torch.linspace(0, 1, 13, dtype=torch.float64)
    one = FocalStar(gamma=1, beta=0, alpha=0.4, reduction="none")(x, y)
    two = BalancedCrossEntropy(alpha=0.4, reduction="none")(x, y)
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-15)


def test_search_spaces():
    assert list(Focal.declared("sigmoid")) == ["gamma", "alpha"]
    assert list(Focal.declared("softmax")) == ["gamma", "a"]
    assert {name: h.default for name, h in FocalStar.declared("sigmoid").items()} == {
        "gamma": 2.0,
        "beta": 1.0,
        "alpha": 0.25,
    }
    gamma, alpha = Focal.declared("sigmoid").values()
    assert (gamma.default, gamma.low, gamma.high, gamma.scale) == (2.0, 0.0, 5.0, "linear")
    assert (alpha.default, alpha.low, alpha.high, alpha.scale) == (0.25, 0.05, 0.95, "linear")
    with pytest.raises(BadInput, match=r"unknown link 'softmax'.*sigmoid"):
        FocalStar.declared("softmax")
    with pytest.raises(BadInput, match="class_counts is missing"):
        Focal(link="softmax", a=0.5)
    with pytest.raises(BadInput, match="gamma must be at least"):
        FocalStar(gamma=0)
