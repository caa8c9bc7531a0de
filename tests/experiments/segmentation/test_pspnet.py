import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from losslab.errors import BadInput
from losslab.experiments.building import set_prior_bias
from losslab.experiments.models.pspnet import Pyramid, build
from losslab.experiments.models.resnet import ResNet
from losslab.experiments.tasks.base import WithAuxiliary

SHAPE = (3, 48, 40)


@pytest.fixture(autouse=True)
def one_thread():
    """As in trainings; more threads wait for each other where others compute."""
    torch.set_num_threads(1)


def network(seed=0, **options):
    torch.manual_seed(seed)
    return build(SHAPE, 4, **{"width": 4, "channels": 8, **options})


def images(count=3):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def flops(model):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images())
    return counter.get_total_flops()


def test_the_auxiliary_head_costs_nothing_at_inference():
    with_head, without = network(auxiliary_weight=0.4).eval(), network(auxiliary_weight=0).eval()
    assert sum(p.numel() for p in with_head.parameters()) > sum(
        p.numel() for p in without.parameters()
    )
    assert flops(with_head) == flops(without) > 0
    # Drawn last, it leaves all other weights as they are without it: the outputs are equal.
    torch.testing.assert_close(with_head(images()), without(images()), rtol=0, atol=0)
    own = {n: w for n, w in with_head.state_dict().items() if not n.startswith("auxiliary.")}
    assert own.keys() == without.state_dict().keys()
    assert with_head(images()).shape == (3, 4, 48, 40)
    assert flops(with_head.train()) > flops(without.train())
    assert isinstance(with_head(images()), WithAuxiliary)
    assert isinstance(without(images()), torch.Tensor)


def test_gradients_in_training_are_those_of_two_losses_added_by_hand():
    model = network(auxiliary_weight=0.3).double()
    targets = torch.randint(0, 4, (3, 48, 40), generator=torch.Generator().manual_seed(2))
    pixels = images().double()

    def gradients(of):
        own = copy.deepcopy(model).train()
        of(own).backward()
        return {n: torch.zeros_like(p) if p.grad is None else p.grad
                for n, p in own.named_parameters()}  # fmt: skip

    def head(name):
        def loss(own):
            maps = own.backbone(pixels)
            rough = own.head(own.pyramid(maps[-1])) if name == "main" else own.auxiliary(maps[-2])
            full = F.interpolate(rough, SHAPE[1:], mode="bilinear", align_corners=False)
            return F.cross_entropy(full, targets)

        return gradients(loss)

    def both(own):
        given = own(pixels)
        return F.cross_entropy(given.main, targets) + given.weight * F.cross_entropy(
            given.auxiliary, targets
        )

    main, auxiliary = head("main"), head("auxiliary")
    for name, gradient in gradients(both).items():
        torch.testing.assert_close(gradient, main[name] + 0.3 * auxiliary[name])
    # The last stage and the head see the main loss alone; earlier ones see both.
    assert all((auxiliary[n] == 0).all() for n in auxiliary if n.startswith(("backbone.stages.3",
                                                                             "head.")))  # fmt: skip
    assert any((auxiliary[n] != 0).any() for n in auxiliary if n.startswith("backbone.stages.0"))


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_the_pyramid_pools_each_bin_of_its_map(pooling):
    pyramid = Pyramid(2, [1, 2, 3], pooling, reduce=False, norm="train")
    features = torch.randn(1, 2, 7, 6, generator=torch.Generator().manual_seed(0))
    out = pyramid(features)
    assert pyramid.channels == out.shape[1] == 8
    torch.testing.assert_close(out[:, :2], features)
    pool = np.mean if pooling == "average" else np.max
    for place, side in enumerate((1, 2, 3)):
        pooled = np.empty((1, 2, side, side), np.float32)
        for i in range(side):
            for j in range(side):
                rows = slice(i * 7 // side, -(-(i + 1) * 7 // side))
                columns = slice(j * 6 // side, -(-(j + 1) * 6 // side))
                pooled[..., i, j] = pool(features[..., rows, columns].numpy(), axis=(2, 3))
        wanted = F.interpolate(torch.from_numpy(pooled), (7, 6), mode="bilinear")
        torch.testing.assert_close(out[:, 2 + 2 * place : 4 + 2 * place], wanted)


def test_reduced_levels_share_the_maps_channels():
    assert Pyramid(16, [1, 2, 3, 6], "max", reduce=True, norm="train").channels == 32
    assert Pyramid(16, [], "max", reduce=True, norm="train").channels == 16


def test_stages_beyond_the_output_stride_are_dilated_and_keep_their_size():
    kernels = {}
    for stride in (4, 8, 32):
        backbone = ResNet(3, width=4, blocks=[1, 1, 1, 2], output_stride=stride).eval()
        sizes = [tuple(m.shape[2:]) for m in backbone(torch.zeros(1, 3, 64, 64))]
        assert sizes == [(64 // s, 64 // s) for s in backbone.strides]
        kernels[stride] = [
            {c.dilation[0] for c in stage.modules()
             if isinstance(c, torch.nn.Conv2d) and c.kernel_size == (3, 3)}
            for stage in backbone.stages
        ]  # fmt: skip
    # PSPNet's, at stride 8: 2 in the third stage and 4 in the fourth.
    assert kernels == {4: [{1}, {2}, {4}, {8}], 8: [{1}, {1}, {2}, {4}], 32: [{1}] * 4}


def test_a_dilated_stage_sees_what_the_strided_one_sees():
    # At every second place a convolution of dilation 2 reads what the strided network's next
    # convolution reads; here with the second stage's first convolution of stride 2 at both.
    layer = torch.nn.Conv2d(2, 2, 3, padding=1, bias=False)
    dilated = torch.nn.Conv2d(2, 2, 3, padding=2, dilation=2, bias=False)
    dilated.weight = layer.weight
    features = torch.randn(1, 2, 12, 12)
    torch.testing.assert_close(dilated(features)[..., ::2, ::2], layer(features[..., ::2, ::2]))
    resnet = ResNet(2, width=4, blocks=[1, 1, 1], output_stride=8)
    convolution = resnet.stages[2][0].branch[0]
    assert (convolution.dilation, convolution.padding, convolution.stride) == (
        (2, 2), (2, 2), (1, 1),
    )  # fmt: skip


def test_a_prior_is_set_on_the_main_head():
    model = network(auxiliary_weight=0.4)
    set_prior_bias(model, 4, "softmax", np.array([70, 10, 10, 10]), None)
    torch.testing.assert_close(
        model.head[-1].bias.detach(), torch.tensor([0.7, 0.1, 0.1, 0.1]).log()
    )


def test_mistakes_are_told_together():
    with pytest.raises(BadInput) as told:
        build((4,), 3, output_stride=6, bins=[2, 2], channels=0, auxiliary_weight=-1)
    assert [line.split(":")[0] for line in told.value.problems] == [
        "name", "output_stride", "bins", "channels", "auxiliary_weight",
    ]  # fmt: skip
