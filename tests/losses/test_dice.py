"""Dice and Jaccard against MONAI, kornia, and each other."""

import kornia
import monai.losses
import numpy as np
import pytest
import torch

from losslab.losses.dice import Dice, Jaccard
from losslab.losses.tversky import Tversky


@pytest.fixture
def volumes():
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(3, 4, 6, 5, generator=generator, dtype=torch.float64)
    return z, torch.randint(4, (3, 6, 5), generator=generator)


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("cls", ["dice 1", "dice 2", "jaccard"])
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_against_monai(cls, per, link, volumes):
    # MONAI smooths both sides of 2 TP + FP + FN, for its Jaccard of 2 TP + 2 FP + 2 FN: ours is
    # then half.
    z, t = volumes
    arguments = {"link": link, "per": per, "average": "macro"}
    theirs = {"smooth_nr": 0.1, "smooth_dr": 0.1, "batch": per == "batch", link: True}
    if cls == "jaccard":
        loss, theirs = Jaccard(smooth=0.05, **arguments), {**theirs, "jaccard": True}
    else:
        power = int(cls[-1])
        loss = Dice(smooth=0.1, power=power, **arguments)
        theirs["squared_pred"] = power == 2
    if link == "sigmoid":
        t = (torch.rand(z.shape) < 0.3).double()
        expected = monai.losses.DiceLoss(**theirs)(z, t)
    else:
        expected = monai.losses.DiceLoss(to_onehot_y=True, **theirs)(z, t[:, None])
    assert loss(z, t).item() == pytest.approx(expected.item(), rel=1e-7)


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_against_kornia(average, volumes):
    # kornia smooths the denominator alone, so both are taken nearly without; its macro leaves
    # absent classes out, within every example, as ours does over the classes of a single one.
    z, t = volumes
    t[:, 0, :2] = -100
    t[t == 3] = 0
    for i in range(3):
        loss = Dice(
            link="softmax", power=1, smooth=1e-8, per="sample", average=average, absent="skip"
        )
        expected = kornia.losses.dice_loss(z[i : i + 1], t[i : i + 1], average=average, eps=1e-8)
        assert loss(z[i : i + 1], t[i : i + 1]).item() == pytest.approx(expected.item(), rel=1e-7)


def test_the_v_net_gradient(volumes):
    # Milletari et al. 2016: dD/dp_j = 2 [y_j (S + Y) - 2 p_j sum p y] / (S + Y)^2, S = sum p^2.
    z, _ = volumes
    x = z[0, 0].flatten().requires_grad_()
    y = (torch.arange(30) % 3 == 0).double()
    (found,) = torch.autograd.grad(Dice(smooth=1e-8)(x, y), x)
    p, y = 1 / (1 + np.exp(-x.detach().numpy())), y.numpy()
    square = (p * p).sum() + (y * y).sum()
    by_p = 2 * (y * square - 2 * p * (p * y).sum()) / square**2
    np.testing.assert_allclose(found.numpy(), -by_p * p * (1 - p), rtol=1e-6)


@pytest.mark.parametrize("average", ["micro", "macro"])
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_jaccard_is_a_function_of_dice_and_dice_is_tversky(link, average, volumes):
    z, t = volumes
    if link == "sigmoid":
        t = torch.rand(z.shape, dtype=torch.float64)  # for soft targets too
    arguments = {"link": link, "average": average, "reduction": "none"}
    dice = Dice(power=1, smooth=0.2, **arguments)(z, t)
    jaccard = Jaccard(smooth=0.1, **arguments)(z, t)
    coefficient = 1 - dice
    torch.testing.assert_close(1 - jaccard, coefficient / (2 - coefficient))
    tversky = Tversky(fn_weight=0.5, smooth=0.1, **arguments)(z, t)
    torch.testing.assert_close(tversky, dice, rtol=1e-12, atol=0)
    for identity in (*Dice.identities, *Tversky.identities):
        classes = {"dice": Dice, "tversky": Tversky}
        first = Dice if identity in Dice.identities else Tversky
        one = first(**identity.values, **arguments)(z, t)
        two = classes[identity.other](**identity.other_values, **arguments)(z, t)
        torch.testing.assert_close(one, two, rtol=1e-12, atol=0)


def test_power_two_is_least_at_soft_targets_and_power_one_is_not():
    y = torch.tensor([0.2, 0.7, 0.9], dtype=torch.float64)
    x = torch.logit(y).requires_grad_()
    at_targets = Dice()(x, y)
    assert at_targets.item() == pytest.approx(0, abs=1e-15)
    (slope,) = torch.autograd.grad(Dice(power=1)(x, y), x)
    assert slope.abs().max() > 0.01


def test_a_nearly_perfect_prediction_keeps_its_digits_in_float32():
    # 1 - Dice is about 2e-9 / 4 here; as a difference from 1 it would be 0 in float32.
    x = torch.tensor([20.0, 20.0, -20.0, -20.0], requires_grad=True)
    y = torch.tensor([1, 1, 0, 0])
    q = 1 / (1 + np.exp(20.0))
    value = Dice(power=1, smooth=1e-8)(x, y)
    assert value.item() == pytest.approx(4 * q / 4, rel=1e-5)
    (slope,) = torch.autograd.grad(value, x)
    np.testing.assert_allclose(slope.numpy(), [-q / 4, -q / 4, q / 4, q / 4], rtol=1e-5)
    z = torch.tensor([[0.0, 20.0], [20.0, 0.0]])
    value = Dice(link="softmax", power=1, smooth=1e-8)(z, torch.tensor([1, 0]))
    assert value.item() == pytest.approx(q, rel=1e-5)
