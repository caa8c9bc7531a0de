"""Batch norm: torch's semantics in all modes, and the setting against plain formulas."""

import itertools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from losslab.errors import BadInput
from losslab.experiments.models.batch_norm import (
    BatchNorm,
    FrozenBatchNorm,
    apply,
    running_statistics,
)
from losslab.experiments.models.cnn import build as cnn
from losslab.experiments.models.mlp import build as mlp
from losslab.experiments.models.resnet_classifier import build as resnet

EPS = 1e-5


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def batch_of(rows=12, channels=3):
    return 2 + 3 * torch.randn(rows, channels)


def normalised(x, mean, variance):
    return (x - mean) / torch.sqrt(variance + EPS)


# Torch's semantics


def torch_norm(tracking):
    """A norm whose running statistics are neither fresh nor those of the next batch."""
    norm = nn.BatchNorm1d(3, track_running_stats=tracking != "never")
    if tracking != "never":
        norm.running_mean.copy_(torch.tensor([1.0, -1.0, 0.5]))
        norm.running_var.copy_(torch.tensor([2.0, 0.5, 1.5]))
    if tracking == "no longer":
        norm.track_running_stats = False
    return norm


@pytest.mark.parametrize(
    ("training", "tracking", "uses", "moves"),
    [
        (True, "always", "batch", True),
        (True, "never", "batch", False),
        (False, "always", "running", False),
        (False, "never", "batch", False),
        # Set on a norm that has statistics, it ends their moving, and nothing else.
        (True, "no longer", "batch", False),
        (False, "no longer", "running", False),
    ],
)
def test_what_torch_normalises_with_and_what_it_moves(training, tracking, uses, moves):
    norm, x = torch_norm(tracking).train(training), batch_of()
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    mean, variance = x.mean(0), x.var(0, unbiased=False)
    if uses == "running":
        mean, variance = before["running_mean"], before["running_var"]
    assert_close(norm(x), normalised(x, mean, variance))
    if not moves:
        assert all(torch.equal(b, before[name]) for name, b in norm.named_buffers())
        return
    # The batch is normalised with the biased variance; what is kept is the unbiased one.
    assert_close(norm.running_mean, 0.9 * before["running_mean"] + 0.1 * x.mean(0))
    assert_close(norm.running_var, 0.9 * before["running_var"] + 0.1 * x.var(0, unbiased=True))


def test_momentum_none_is_the_average_over_all_batches():
    norm, batches = nn.BatchNorm1d(3, momentum=None), [batch_of(rows) for rows in (4, 9, 6)]
    for x in batches:
        norm(x)
    assert_close(norm.running_mean, torch.stack([x.mean(0) for x in batches]).mean(0))
    assert_close(norm.running_var, torch.stack([x.var(0) for x in batches]).mean(0))


def test_statistics_move_in_forward_and_not_in_step():
    norm = nn.BatchNorm1d(3)
    optimizer = torch.optim.SGD(norm.parameters(), lr=1.0)
    fresh = norm.running_mean.clone()
    output = norm(batch_of())
    moved = norm.running_mean.clone()
    assert not torch.equal(moved, fresh)
    (output**3).sum().backward()
    optimizer.step()
    assert torch.equal(norm.running_mean, moved)
    assert not torch.equal(norm.weight, torch.ones(3))


def test_neither_no_grad_nor_requires_grad_nor_an_eval_that_is_undone_holds_them():
    norm = nn.BatchNorm1d(3).requires_grad_(False)
    model = nn.Sequential(norm)
    for hold in (lambda: None, norm.eval):
        hold()
        model.train()  # what every training loop does before an epoch
        before = norm.running_mean.clone()
        with torch.no_grad():
            model(batch_of())
        assert not torch.equal(norm.running_mean, before)
    norm.eval()
    before = norm.running_mean.clone()
    model(batch_of())
    assert torch.equal(norm.running_mean, before)


def test_evaluation_mode_alone_lets_weight_and_bias_train():
    norm = nn.BatchNorm1d(3).eval()
    norm(batch_of()).square().sum().backward()
    assert float(norm.weight.grad.norm()) > 0


# The setting


def test_batch_mode_is_torchs_own():
    for tracked, momentum in itertools.product((True, False), (0.3, None)):
        ours = BatchNorm(3, momentum=momentum, tracked=tracked)
        theirs = nn.BatchNorm1d(3, momentum=momentum, track_running_stats=tracked)
        for x in (batch_of(), batch_of()):
            assert torch.equal(ours(x), theirs(x))
        assert torch.equal(ours.eval()(x), theirs.eval()(x))
        assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("tracked", [True, False])
def test_running_mode_by_hand(tracked):
    norm = BatchNorm(3, statistics="running", tracked=tracked)
    mean, variance = torch.zeros(3), torch.ones(3)
    for x in (batch_of(), batch_of()):
        x.requires_grad_()
        if tracked:
            mean = 0.9 * mean + 0.1 * x.detach().mean(0)
            variance = 0.9 * variance + 0.1 * x.detach().var(0)
        found = norm(x)
        assert_close(found, normalised(x, mean, variance))
        assert_close(norm.running_var, variance)
        # Constants to the gradient, which is that of a scale, row by row.
        upstream = torch.randn_like(found)
        (gradient,) = torch.autograd.grad(found, x, upstream)
        assert_close(gradient, upstream / torch.sqrt(variance + EPS))
    assert_close(norm.eval()(x), normalised(x, mean, variance))
    assert len(list(norm.parameters())) == 2


def test_two_batches_before_one_backward():
    """As the two forward passes of an adversarial discriminator are."""
    norm = BatchNorm(3, statistics="running")
    (norm(batch_of()).sum() + norm(batch_of()).sum()).backward()


def test_frozen_stays_through_train_and_step():
    source = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
    for _ in range(3):
        source(batch_of())
    with torch.no_grad():
        source[1].weight.uniform_(0.5, 2)
    x = batch_of()
    wanted = source.eval()(x)
    model = apply(source, mode="frozen").train()
    assert_close(model(x), wanted)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    trained = [name for name, _ in model.named_parameters()]
    assert trained == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert_close(apply(model, mode="frozen", affine=False)[1].weight, torch.ones(4))
    # And back: what had been frozen trains on from there.
    thawed = apply(model, momentum=0.5)[1]
    assert torch.equal(thawed.running_mean, before["1.running_mean"])
    assert thawed.weight.requires_grad


def test_norms_keep_what_they_have():
    model = resnet((1, 8, 8), 3, blocks=[1, 1])
    weights = {name: p.clone() for name, p in model.named_parameters()}
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    for options in ({"mode": "running"}, {"tracked": False}, {"affine": False}, {"mode": "frozen"}):
        apply(model, **options)
        kind = FrozenBatchNorm if options.get("mode") == "frozen" else BatchNorm
        found = [module for module in model.modules() if isinstance(module, kind)]
        assert len(found) == norms
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, weights[name])
        model(torch.randn(4, 1, 8, 8)).sum().backward()


def hidden_of(model, x):
    """What comes into every activation."""
    found = []
    hooks = [
        module.register_forward_pre_hook(lambda _, given: found.append(given[0].detach()))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(
    ("model", "x", "over"),
    [
        (mlp((5,), 2, hidden=[6, 4]), torch.randn(30, 5), (0,)),
        (mlp((7, 5), 2, hidden=[6, 4]), torch.randn(9, 7, 5), (0, 1)),  # rows are anchors
        (cnn((1, 8, 8), 2), torch.randn(9, 1, 8, 8), (0, 2, 3)),
    ],
    ids=["rows", "anchors", "images"],
)
def test_a_model_without_norms_gets_one_behind_every_hidden_layer(model, x, over):
    before = [p.clone() for p in model.parameters() if p.ndim > 1]
    model = apply(model)
    hidden = hidden_of(model, x)
    assert len(hidden) == 2
    for inputs in hidden:
        rest = inputs.mean(over)
        assert_close(rest, torch.zeros_like(rest), atol=1e-5, rtol=0)
        rest = inputs.var(over, unbiased=False)
        assert_close(rest, torch.ones_like(rest), atol=1e-2, rtol=0)
    after = [p for p in model.parameters() if p.ndim > 1]
    assert all(torch.equal(*pair) for pair in zip(after, before, strict=True))
    assert sum(p.ndim == 1 for p in model.parameters()) == 2 * 2 + 1  # the last layer's bias


def test_fitted_statistics_are_those_of_the_activations():
    x = 3 + 2 * torch.randn(40, 5)
    model = apply(mlp((5,), 2, hidden=[6, 4]), x, mode="frozen", fitted=True)
    first, second = running_statistics(model).values()
    codes = x @ model[0].layer.weight.T
    assert_close(first, (codes.mean(0), codes.var(0)))
    codes = torch.relu(normalised(codes, codes.mean(0), codes.var(0, unbiased=False)))
    codes = codes @ model[2].layer.weight.T
    assert_close(second, (codes.mean(0), codes.var(0)))
    assert model.training


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2)), {}, "no batch norm, and no linear layer"),
        (mlp((5,), 2), {"fitted": True}, "fitted: needs the training examples"),
        (mlp((5,), 2), {"momentum": 0.0}, "momentum: must be above 0 and at most 1, or null"),
    ],
)
def test_what_cannot_be(model, options, message):
    with pytest.raises(BadInput, match=message):
        apply(model, **options)
