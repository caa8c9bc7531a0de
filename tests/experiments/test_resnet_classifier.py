"""The residual classifier: its size as published, and what leaving out shortcuts leaves."""

import pytest
import torch
from torch import nn

from losslab.errors import BadInput
from losslab.experiments.models import MODELS
from losslab.experiments.models.resnet import Residual, norm_of


def _network(**options):
    return MODELS.create("resnet", input_shape=(3, 32, 32), outputs=10, **options)


def _size(model):
    return sum(p.numel() for p in model.parameters())


def test_the_plain_network_has_the_published_size():
    """ResNet-20 and -56 of He et al. on CIFAR-10, whose shortcuts have no parameters."""
    assert _size(_network(width=16, shortcuts=False)) == 269_722
    assert _size(_network(width=16, shortcuts=False, blocks=[9, 9, 9])) == 853_018


def test_shortcuts_add_a_projection_at_each_change_of_shape():
    with_shortcuts, plain = _network(width=16), _network(width=16, shortcuts=False)
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert _size(with_shortcuts) - _size(plain) == projections
    assert not any("shortcut" in name for name, _ in plain.named_parameters())


@pytest.mark.parametrize("shortcuts", [True, False])
def test_a_block_is_its_branch_with_or_without_its_input(shortcuts):
    block = Residual(4, 4, 1, "basic", norm_of("train"), shortcuts).eval()
    x = torch.randn(2, 4, 5, 5)
    first, _, _, second, _ = block.branch
    torch.testing.assert_close(
        block(x),
        torch.relu(
            nn.functional.conv2d(
                torch.relu(nn.functional.conv2d(x, first.weight, padding=1) / (1 + 1e-5) ** 0.5),
                second.weight,
                padding=1,
            )
            / (1 + 1e-5) ** 0.5
            + shortcuts * x
        ),
    )


def test_the_options_fit_small_images():
    for options in (
        {"block": "bottleneck", "blocks": [1, 2]},
        {"norm": "group"},
        {"head": "cosine"},
    ):
        model = MODELS.create("resnet", input_shape=(1, 8, 8), outputs=3, **options)
        assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_mistakes_are_told_together():
    with pytest.raises(BadInput) as found:
        MODELS.create("resnet", input_shape=(64,), outputs=3, blocks=[], width=0)
    told = str(found.value)
    assert "as_images" in told
    assert "blocks" in told
    assert "width" in told
