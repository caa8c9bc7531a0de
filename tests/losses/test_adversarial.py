"""Adversarial losses against torch's own losses and their derivatives."""

import pytest
import torch
from torch.nn import functional as F

from losslab.errors import UnknownName
from losslab.losses import ADVERSARIAL, LOSSES
from losslab.losses.adversarial import AdversarialLoss

REAL = torch.tensor([-3.0, 0.2, 4.0], dtype=torch.float64)
MADE = torch.tensor([-30.0, -0.5, 2.0], dtype=torch.float64)
ONES, ZEROS = torch.ones_like(REAL), torch.zeros_like(REAL)
EXPECTED = {
    "non_saturating": (
        lambda: (
            F.binary_cross_entropy_with_logits(REAL, ONES)
            + F.binary_cross_entropy_with_logits(MADE, ZEROS)
        ),
        lambda: F.binary_cross_entropy_with_logits(MADE, ONES),
    ),
    "least_squares": (
        lambda: 0.5 * (F.mse_loss(REAL, ONES) + F.mse_loss(MADE, ZEROS)),
        lambda: 0.5 * F.mse_loss(MADE, ONES),
    ),
    "hinge": (
        # torch's multi-class hinge of [x, 0] for class 0 is max(0, 1 - x) / 2
        lambda: (
            2 * F.multi_margin_loss(torch.stack([REAL, ZEROS], 1), torch.zeros(3).long())
            + 2 * F.multi_margin_loss(torch.stack([-MADE, ZEROS], 1), torch.zeros(3).long())
        ),
        lambda: -(-30 - 0.5 + 2) / torch.tensor(3.0, dtype=torch.float64),
    ),
}


@pytest.mark.parametrize("name", ADVERSARIAL.names())
def test_both_players_losses_are_torchs(name):
    loss, (discriminator, generator) = ADVERSARIAL.create(name), EXPECTED[name]
    torch.testing.assert_close(loss.discriminator(REAL, MADE), discriminator())
    torch.testing.assert_close(loss.generator(MADE), generator())


def test_what_pulls_a_generator_whose_samples_are_seen_through():
    """At scores of -30: the saturating loss log(1 - s) has no gradient left, these have one."""
    gradients = {}
    for name in ADVERSARIAL.names():
        score = torch.tensor([-30.0], requires_grad=True)
        (gradients[name],) = torch.autograd.grad(ADVERSARIAL.create(name).generator(score), score)
    assert {name: g.item() for name, g in gradients.items()} == pytest.approx(
        {"non_saturating": -1.0, "least_squares": -31.0, "hinge": -1.0}
    )
    score = torch.tensor([-30.0], requires_grad=True)
    (saturated,) = torch.autograd.grad(F.logsigmoid(-score), score)
    assert abs(saturated.item()) < 1e-12


def test_they_stand_beside_the_losses_of_classes():
    assert not set(ADVERSARIAL.names()) & set(LOSSES.names())
    assert all(issubclass(ADVERSARIAL.get(name), AdversarialLoss) for name in ADVERSARIAL.names())
    assert all(ADVERSARIAL.get(name).formula for name in ADVERSARIAL.names())
    with pytest.raises(UnknownName, match="unknown adversarial loss 'hing'; did you mean 'hinge'"):
        ADVERSARIAL.get("hing")
