"""The detector: sizes against published ones, structure against plain formulas."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from losslab.errors import BadInput
from losslab.experiments.detection.anchors import make_anchors
from losslab.experiments.models.batch_norm import FrozenBatchNorm
from losslab.experiments.models.fpn import FPN
from losslab.experiments.models.resnet import ResNet
from losslab.experiments.models.retinanet import build


@pytest.fixture(autouse=True)
def seeded():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several are slower on tensors as small as these
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


def small(**options):
    return build((3, 40, 48), 2, **{"width": 8, "channels": 8, "head_depth": 1, **options})


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("block", "blocks", "published"),
    [
        ("basic", (2, 2, 2, 2), 11_689_512 - 513_000),
        ("bottleneck", (3, 4, 6, 3), 25_557_032 - 2_049_000),
    ],
    ids=["ResNet-18", "ResNet-50"],
)
def test_backbones_have_the_published_sizes(block, blocks, published):
    """torchvision's counts without the classifier; its stem is 7 × 7, ours 3 × 3."""
    model = ResNet(width=64, blocks=blocks, block=block)
    assert count(model) == published - 3 * 64 * (49 - 9)
    assert model.strides == [4, 8, 16, 32]


@pytest.mark.parametrize("shape", [(64, 64), (50, 37)])
def test_maps_and_strides(shape):
    maps = ResNet(width=8)(torch.zeros(1, 3, *shape))
    assert [m.shape[1] for m in maps] == [8, 16, 32, 64]
    assert [tuple(m.shape[-2:]) for m in maps] == [
        tuple(math.ceil(side / stride) for side in shape) for stride in (4, 8, 16, 32)
    ]


def test_a_residual_block_by_hand():
    block = ResNet(width=8).stages[1][0].eval()
    x = torch.randn(2, 8, 6, 6)
    first, norm, _, second, last = block.branch
    inner = F.relu(norm(F.conv2d(x, first.weight, stride=2, padding=1)))
    inner = last(F.conv2d(inner, second.weight, padding=1))
    short = block.shortcut[1](F.conv2d(x, block.shortcut[0].weight, stride=2))
    assert_close(block(x), F.relu(inner + short))


def test_frozen_norm_is_batch_norm_that_stands_still():
    plain = nn.BatchNorm2d(4)
    plain(3 + 2 * torch.randn(8, 4, 5, 5))
    with torch.no_grad():
        plain.weight.uniform_(0.5, 2)
        plain.bias.normal_()
    frozen = FrozenBatchNorm(4)
    unknown = frozen.load_state_dict(plain.state_dict(), strict=False)
    assert unknown.unexpected_keys == ["num_batches_tracked"]
    assert not unknown.missing_keys
    x = torch.randn(2, 4, 5, 5)
    before = frozen.running_mean.clone()
    assert_close(frozen.train()(x), plain.eval()(x))
    assert torch.equal(frozen.running_mean, before)
    assert not list(frozen.parameters())


def test_norm_modes():
    x = torch.randint(0, 256, (4, 3, 40, 48), dtype=torch.uint8)
    for mode, depends in (("train", True), ("frozen", False), ("group", False)):
        model = small(norm=mode).train()
        same = torch.allclose(model(x)[0][:1], model(x[:1])[0], atol=1e-6)
        assert same != depends, mode
    kinds = {type(m) for m in small(norm="group").modules()}
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm2d not in kinds


def test_the_pyramid_by_hand():
    pyramid = FPN([3, 5], 4, extra=2)
    fine, coarse = torch.randn(1, 3, 5, 7), torch.randn(1, 5, 3, 4)
    top = pyramid.lateral[1](coarse)
    enlarged = torch.empty(1, 4, 5, 7)
    for i in range(5):
        for j in range(7):  # the nearest centre
            at = int((i + 0.5) * 3 / 5), int((j + 0.5) * 4 / 7)
            enlarged[:, :, i, j] = top[:, :, at[0], at[1]]
    expected = [
        pyramid.smooth[0](pyramid.lateral[0](fine) + enlarged),
        pyramid.smooth[1](top),
        pyramid.extra[0](coarse),
    ]
    expected.append(pyramid.extra[1](F.relu(expected[2])))
    found = pyramid([fine, coarse])
    assert len(found) == 4
    for level, wanted in zip(found, expected, strict=True):
        assert_close(level, wanted)


@pytest.mark.parametrize("shape", [(64, 64), (50, 37)])
@pytest.mark.parametrize("strides", [[4, 8, 16, 32], [8, 16], [16, 32, 64]])
def test_one_output_for_every_anchor(shape, strides):
    blocks = [1, 1, 1] if strides[-1] >= 16 else [1, 1]
    model = small(strides=strides, blocks=blocks, scales=2, aspects=[1.0])
    anchors = make_anchors(model.anchor_settings, *shape)
    logits, offsets = model(torch.zeros(2, 3, *shape))
    assert logits.shape == (2, len(anchors), 2)
    assert offsets.shape == (2, len(anchors), 4)


def test_outputs_stand_in_the_order_of_the_anchors():
    model = small().eval()
    maps = []
    model.class_subnet.register_forward_hook(lambda _, __, found: maps.append(found))
    logits, _ = model(torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8))
    anchors = make_anchors(model.anchor_settings, 40, 48)
    index = 0
    for stride, level in zip(model.anchor_settings.strides, maps, strict=True):
        for i in range(level.shape[2]):
            for j in range(level.shape[3]):
                for a in range(9):
                    assert torch.equal(logits[:, index], level[:, 2 * a : 2 * a + 2, i, j])
                    x1, y1, x2, y2 = anchors.boxes[index]
                    assert (x1 + x2, y1 + y2) == pytest.approx(
                        ((2 * j + 1) * stride, (2 * i + 1) * stride), abs=1e-3
                    )
                    index += 1
    assert index == len(anchors)


def test_initial_weights():
    model = build((3, 64, 64), 5, channels=64, head_depth=4, head_std=0.01)
    shares = torch.tensor([0.01, 0.02, 0.01, 0.1, 0.5])
    model.set_prior(shares)
    for subnet in (model.class_subnet, model.box_subnet):
        for layer in subnet:
            if isinstance(layer, nn.Conv2d):
                assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
    last = model.class_subnet[-1].bias
    assert torch.sigmoid(last).tolist() == pytest.approx(shares.tolist() * 9)
    others = [p for n, p in model.named_parameters() if "subnet" in n and n.endswith("bias")]
    assert [bool(p.any()) for p in others].count(True) == 1
    assert not build((3, 64, 64), 5).class_subnet[-1].bias.any()


def test_memory_formats_and_image_types_agree():
    x = torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8)
    fast, plain = small(), small(channels_last=False)
    plain.load_state_dict(fast.state_dict())
    for other in (plain(x), fast(x.float() / 127.5 - 1), fast.double()(x)):
        assert_close(other[0].float(), plain(x)[0], atol=1e-5, rtol=1e-4)
        assert_close(other[1].float(), plain(x)[1], atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_parameter():
    model = small(strides=[8, 16, 32], head_std=0.1)
    logits, offsets = model(torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8))
    (logits.square().sum() + offsets.square().sum()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"strides": [8, 32]}, "strides: must begin with one of the backbone's, [4, 8, 16]"),
        ({"strides": [32, 64]}, "strides: must begin"),
        ({"strides": [4, 8]}, "blocks: 3 stages reach stride 16"),
        ({"norm": "group", "width": 12}, "width: norm group needs a multiple of 8"),
        ({"blocks": []}, "blocks: give one or more stages"),
    ],
)
def test_mistakes(options, told):
    with pytest.raises(BadInput) as error:
        small(**options)
    assert told in str(error.value)


def test_rows_are_no_images():
    with pytest.raises(BadInput, match="retinanet needs images"):
        build((30,), 2)
