"""Tversky and focal Tversky against MONAI, kornia, mpmath, and which weight is whose."""

import kornia
import monai.losses
import mpmath
import pytest
import torch

from losslab.losses.tversky import FocalTversky, Tversky


@pytest.fixture
def volumes():
    generator = torch.Generator().manual_seed(7)
    z = torch.randn(3, 4, 6, 5, generator=generator, dtype=torch.float64)
    return z, torch.randint(4, (3, 6, 5), generator=generator)


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("fn_weight", [0.5, 0.7, 0.95])
def test_against_monai(per, fn_weight, volumes):
    # MONAI's alpha weighs the false positives, its beta the false negatives, as in the paper.
    z, t = volumes
    found = Tversky(link="softmax", fn_weight=fn_weight, smooth=0.1, per=per)(z, t)
    expected = monai.losses.TverskyLoss(
        softmax=True,
        to_onehot_y=True,
        alpha=1 - fn_weight,
        beta=fn_weight,
        smooth_nr=0.1,
        smooth_dr=0.1,
        batch=per == "batch",
    )(z, t[:, None])
    assert found.item() == pytest.approx(expected.item(), rel=1e-7)


def test_against_kornia(volumes):
    # Nearly without smooth, which kornia has in the denominator alone; absent classes left out.
    z, t = volumes
    t[:, 1] = -100
    t[t == 2] = 0
    for i in range(3):
        one = slice(i, i + 1)
        found = Tversky(link="softmax", smooth=1e-8, per="sample", absent="skip")(z[one], t[one])
        expected = kornia.losses.tversky_loss(z[one], t[one], alpha=0.3, beta=0.7)
        assert found.item() == pytest.approx(expected.item(), rel=1e-7)


def test_search_spaces():
    fn_weight, smooth = Tversky.declared("softmax").values()
    assert (fn_weight.default, fn_weight.low, fn_weight.high) == (0.7, 0.5, 0.95)
    assert (smooth.default, smooth.low, smooth.high, smooth.scale) == (1e-5, 1e-6, 1.0, "log")
    exponent = FocalTversky.declared("sigmoid")["exponent"]
    assert (exponent.default, exponent.low, exponent.high) == (0.75, 0.5, 2.0)


def test_fn_weight_weighs_the_false_negatives():
    # p = 1/2 at three elements. One positive: TP .5, FN .5, FP 1. Two: TP 1, FN 1, FP .5.
    x = torch.zeros(3, dtype=torch.float64)
    for targets, (tp, fp, fn) in (([1, 0, 0], (0.5, 1, 0.5)), ([1, 1, 0], (1, 0.5, 1))):
        for weight in (0.5, 0.7, 0.95):
            expected = 1 - tp / (tp + (1 - weight) * fp + weight * fn)
            found = Tversky(fn_weight=weight, smooth=1e-8)(x, torch.tensor(targets))
            assert found.item() == pytest.approx(expected, rel=1e-6)
    missed, alarmed = torch.tensor([-9.0, -9.0]), torch.tensor([9.0, 9.0])
    y = torch.tensor([1, 0])
    low, high = Tversky(fn_weight=0.5), Tversky(fn_weight=0.9)
    assert high(missed, y) > low(missed, y)
    assert high(alarmed, y) < low(alarmed, y)


def test_the_focal_power_is_taken_of_every_class_and_not_of_the_mean(volumes):
    z, t = volumes
    plain = Tversky(link="softmax", reduction="none")(z, t)
    found = FocalTversky(link="softmax")(z, t).item()
    assert found == pytest.approx((plain**0.75).mean().item(), rel=1e-12)
    assert abs(found - plain.mean().item() ** 0.75) > 1e-5
    (identity,) = FocalTversky.identities
    one = FocalTversky(link="softmax", **identity.values)(z, t)
    two = Tversky(link="softmax", **identity.other_values)(z, t)
    assert one.item() == pytest.approx(two.item(), rel=1e-12)


@pytest.mark.parametrize("exponent", [0.25, 0.5, 0.75, 2.0])
def test_slopes_where_the_index_is_nearly_one(exponent):
    # One positive and one negative at margin m, p = sigmoid(m) and q = 1 - p, weights 1/2 and
    # smooth 1: 1 - TI = W = q / (p + q + 1) = q / 2, and dW/dx = -+pq/4 - pq^2/8.
    loss = FocalTversky(exponent=exponent, fn_weight=0.5, smooth=1.0)
    for margin in (3.0, 17.0, 30.0, 42.0, 43.0, 44.0, 60.0, 88.0, 100.0, 104.0, 200.0, 1e4):
        x = torch.tensor([margin, -margin], requires_grad=True)
        value = loss(x, torch.tensor([1, 0]))
        slope = torch.autograd.grad(value, x)[0]
        assert slope.isfinite().all()
        with mpmath.workdps(40):
            q = 1 / (1 + mpmath.exp(margin))
            p, wrong = 1 - q, q / 2
            exact = wrong**exponent
            outer = exponent * wrong ** (exponent - 1)
            slopes = [float(outer * (sign * p * q / 4 - p * q * q / 8)) for sign in (-1, 1)]
        if margin <= 42:
            assert value.item() == pytest.approx(float(exact), rel=1e-4)
            assert slope.tolist() == pytest.approx(slopes, rel=1e-4, abs=1e-37)
        elif margin >= 44:  # below the floor of 1e-19
            assert value.item() == 0
            assert slope.tolist() == [0, 0]


def test_second_derivatives_stay_finite_near_one():
    loss = FocalTversky(exponent=0.5, smooth=1.0)
    for margin in (20.0, 40.0, 43.0, 60.0, 110.0):
        x = torch.tensor([margin, -margin], requires_grad=True)
        (slope,) = torch.autograd.grad(loss(x, torch.tensor([1, 0])), x, create_graph=True)
        assert torch.autograd.grad(slope.sum(), x)[0].isfinite().all()
