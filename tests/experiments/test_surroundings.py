"""What surrounds a loss: activations, initial weights, scaling, dropout, pretraining, L1."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import nn

from losslab.errors import BadInput
from losslab.experiments.building import add_l1
from losslab.experiments.config import load_study
from losslab.experiments.models import MODELS, pretraining
from losslab.experiments.models.activations import ACTIVATIONS, KINDS, SLOPES
from losslab.experiments.models.settings import SETTINGS
from losslab.experiments.stacked import advance_stack
from losslab.experiments.stacking import plan_of
from losslab.experiments.states import Job
from losslab.experiments.training import advance, batches, prepare, start

DATA = {"name": "clusters", "examples": 200, "validation_examples": 40, "test_examples": 40,
        "dimensions": 5, "imbalance_ratio": 4}  # fmt: skip


def job_of(model=None, dataset=None, run_seed=3, **training):
    study = load_study(
        {
            "dataset": {**DATA, **(dataset or {})} if "name" not in (dataset or {}) else dataset,
            "model": {"name": "mlp", **(model or {})},
            "training": {"epochs": 2, "batch_size": 32, "learning_rate": 0.01, "weight_decay": 0.01,
                         "precision": "float64", **training},
            "arms": ["ce"],
        }
    )  # fmt: skip
    arm = study.arms["ce"]
    return Job(arm.configure(arm.defaults), 0, run_seed, ("log_loss",), maximize=False)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Activations


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_stay_in_their_stated_range_and_reach_its_ends(name):
    activation = ACTIVATIONS[name]()

    def slope(x):
        leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(activation(leaf), leaf)[0].item()

    grid = np.linspace(-30, 30, 2001)
    slopes = [slope(x) for x in grid]
    ends = []
    for sign, extreme in ((1, min), (-1, max)):
        near = grid[slopes.index(extreme(slopes))]
        found = minimize_scalar(
            lambda x, s=sign: s * slope(x), bounds=(near - 0.1, near + 0.1), method="bounded"
        )
        ends.append(extreme(slope(near), sign * found.fun))
    assert ends == pytest.approx(SLOPES[name], abs=1e-8)


def test_gelus_extremes_in_closed_form():
    root = math.sqrt(2)
    phi = math.exp(-1) / math.sqrt(2 * math.pi)
    assert SLOPES["gelu"][1] == pytest.approx((1 + math.erf(1)) / 2 + root * phi, abs=1e-8)
    assert sum(SLOPES["gelu"]) == pytest.approx(1, abs=1e-8)  # gelu'(-x) = 1 - gelu'(x)


@pytest.mark.parametrize("name", ["cnn", "resnet", "retinanet", "pspnet", "two_stage"])
def test_an_activation_comes_into_every_model(name):
    model = MODELS.create(name, input_shape=(3, 32, 32), outputs=3)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    model = SETTINGS.get("activation")(model, function="gelu")
    found = {type(module) for module in model.modules() if isinstance(module, KINDS)}
    assert found == {nn.GELU}
    assert model.state_dict().keys() == kept.keys()


def test_of_a_residual_network_no_relu_is_left():
    model = MODELS.create("resnet", input_shape=(1, 8, 8), outputs=2, blocks=[1, 1])
    model = SETTINGS.get("activation")(model, function="tanh").eval()
    last = []
    model[-3].register_forward_pre_hook(lambda _, given: last.append(given[0]))
    model(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert last[0].min() < 0  # what a block gives went through a ReLU


def test_settings_that_do_not_suit_say_so():
    linear = nn.Sequential(nn.Linear(2, 1))
    with pytest.raises(BadInput, match="no activation layer"):
        SETTINGS.get("activation")(linear)
    with pytest.raises(BadInput, match="place: hidden needs a model with an activation layer"):
        SETTINGS.get("dropout")(linear)
    with pytest.raises(BadInput, match="neither linear layers nor convolutions"):
        SETTINGS.get("initialization")(nn.ReLU())
    with pytest.raises(BadInput, match="chain of at least two linear layers"):
        SETTINGS.get("pretraining")(linear, features=torch.ones(2, 2))
    with pytest.raises(BadInput, match="hidden: give either"):
        MODELS.create("mlp", input_shape=(2,), outputs=1, hidden=[3], depth=2)


def test_depth_and_width_are_hidden_layers():
    model = MODELS.create("mlp", input_shape=(5,), outputs=1, depth=3, width=7)
    assert [tuple(layer.weight.shape) for layer in model if isinstance(layer, nn.Linear)] == [
        (7, 5), (7, 7), (7, 7), (1, 7)
    ]  # fmt: skip
    assert len(MODELS.create("mlp", input_shape=(5,), outputs=1, depth=0)) == 1


# Initial weights


@pytest.mark.parametrize(
    ("scheme", "variance"),
    [("xavier_uniform", 2 / 220), ("xavier_normal", 2 / 220), ("he_uniform", 2 / 120),
     ("he_normal", 2 / 120), ("orthogonal", 1 / 120), ("normal", 0.3**2)],
)  # fmt: skip
def test_initial_weights_have_the_published_variance(scheme, variance):
    model = nn.Sequential(nn.Linear(120, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 2))
    torch.manual_seed(0)
    SETTINGS.get("initialization")(model, scheme=scheme, std=0.3)
    weight = model[0].weight.detach()
    assert weight.var().item() == pytest.approx(variance, rel=0.05)
    assert weight.mean().abs() < 4 * math.sqrt(variance / weight.numel())
    if scheme == "orthogonal":
        torch.testing.assert_close(weight @ weight.T, torch.eye(100), atol=1e-5, rtol=0)
    assert model[0].bias.abs().max() == 0 == model[3].bias.abs().max()
    assert (model[1].weight == 1).all()


# Input scaling


@pytest.mark.parametrize("method", ["min_max", "standardise", "both"])
def test_inputs_are_scaled_as_scikit_learn_does(method):
    rows = drawn(50, 4) * torch.tensor([1e-3, 1.0, 50.0, 1e4]) + 7
    rows[:, 1] = 3.0  # never changes
    other = 2 * rows + 1
    scalers = {"min_max": [MinMaxScaler()], "standardise": [StandardScaler()]}
    steps = scalers.get(method) or [MinMaxScaler(), StandardScaler()]
    fitted, expected = rows.numpy(), other.numpy()
    for step in steps:
        step.fit(fitted)
        fitted, expected = step.transform(fitted), step.transform(expected)
    model = SETTINGS.get("input_scaling")(nn.Identity(), method=method, features=rows)
    torch.testing.assert_close(model(other), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_channels_of_images_and_features_of_anchors_are_scaled():
    scale = SETTINGS.get("input_scaling")
    for shape, dimensions in (((6, 3, 5, 5), (0, 2, 3)), ((6, 10, 3), (0, 1))):
        features = 5 * drawn(*shape) - 2
        scaled = scale(nn.Identity(), features=features)(features)
        assert scaled.mean(dimensions).abs().max() < 1e-9
        torch.testing.assert_close(scaled.var(dimensions, correction=0), torch.ones(3).double())


def test_scaling_is_fitted_on_each_runs_training_split_and_stacks():
    jobs = [job_of({"input_scaling": "both", "hidden": [4]}, run_seed=seed) for seed in range(2)]
    parts = [prepare(job) for job in jobs]
    scaled = [each.model[0](each.data.train.features) for each in parts]
    assert all(each.mean(0).abs().max() < 1e-9 for each in scaled)
    assert not torch.equal(parts[0].model[0].shift, parts[1].model[0].shift)
    assert plan_of(jobs[0], "auto", 1000).engine == "stacked"
    begun = [start(job) for job in jobs]
    for ours, state in zip(advance_stack(begun, 2), begun, strict=True):
        theirs = advance(state, 2)
        for name, value in theirs.model.items():
            torch.testing.assert_close(ours.model[name], value, rtol=1e-10, atol=1e-10)


# Dropout


def test_dropout_stands_where_it_is_wanted():
    plain = {"hidden": [4, 4]}
    hidden, last = (
        prepare(job_of({**plain, "dropout": {"p": 0.3, "place": place}}))
        for place in ("hidden", "last")
    )
    kinds = [type(m).__name__ for m in hidden.model.modules() if not isinstance(m, nn.Sequential)]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    kinds = [type(m).__name__ for m in last.model.modules() if not isinstance(m, nn.Sequential)]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Dropout", "Linear"]
    features = last.data.train.features
    plainly = prepare(job_of(plain)).model(features)
    for parts in (hidden, last):  # the same weights; in evaluation the same numbers
        torch.testing.assert_close(parts.model.eval()(features), plainly)
    assert plan_of(job_of({"dropout": 0.3}), "auto", 1000).engine == "plain"


# Pretraining


def test_pretraining_lowers_the_reconstruction_error_and_moves_all_but_the_last_layer():
    model = {"depth": 2, "width": 3, "activation": "sigmoid"}
    before = prepare(job_of(model))
    after = prepare(job_of({**model, "pretraining": {"epochs": 40, "learning_rate": 0.02}}))
    features = before.data.train.features

    def unexplained(parts):
        """Error of the best linear decoder of the first layer's codes, by least squares."""
        codes = torch.cat([parts.model[:2](features), torch.ones(len(features), 1)], 1).detach()
        fitted = codes @ torch.linalg.lstsq(codes, features).solution
        return (features - fitted).square().mean().item()

    # No three numbers tell more of five than the first three principal components.
    best = np.linalg.eigvalsh(np.cov(features.T, bias=True))[:2].sum() / 5
    assert best <= unexplained(after) < best + 0.5 * (unexplained(before) - best)
    moved = [not torch.equal(a, b) for a, b in
             zip(before.model.parameters(), after.model.parameters(), strict=True)]  # fmt: skip
    assert moved == [True] * 4 + [False] * 2


def test_pretraining_is_found_once_and_remembered(monkeypatch):
    job = job_of({"depth": 2, "width": 3, "pretraining": 1}, run_seed=11)
    first = start(job)
    monkeypatch.setattr(pretraining, "_train", None)  # would fail if it were called again
    again = start(job)
    assert first.initial_weights == again.initial_weights
    monkeypatch.undo()
    pretraining._known.clear()
    assert start(job).initial_weights == first.initial_weights


# Penalties


def test_l1_is_the_gradient_of_the_sum_of_absolute_weights():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 1)).double()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weights = [model[0].weight, model[2].weight]
    with torch.no_grad():
        weights[0][0, 0] = 0.0
    add_l1(model, 0.3)
    expected = torch.autograd.grad(0.3 * sum(w.abs().sum() for w in weights), weights)
    for weight, slope in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, slope)
    others = [p for p in model.parameters() if p.ndim == 1]
    assert len(others) == 4
    assert all(p.grad.abs().max() == 0 for p in others)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_penalties_are_those_of_a_loop_by_hand_and_stack(optimizer):
    jobs = [
        job_of({"hidden": [4]}, optimizer=optimizer, l1=l1, epochs=2, schedule="constant")
        for l1 in (0.02, 0)
    ]
    assert "l1" not in jobs[1].config["training"]
    plain = [advance(start(job), 2) for job in jobs]
    for state, factor in zip(plain, (0.02, 0), strict=True):
        for name, weight in by_hand(state.job, optimizer, factor).items():
            torch.testing.assert_close(state.model[name], weight, rtol=1e-9, atol=1e-11)
    stacked = advance_stack([start(job) for job in jobs], 2)
    for ours, theirs in zip(stacked, plain, strict=True):
        for name, weight in theirs.model.items():
            torch.testing.assert_close(ours.model[name], weight, rtol=1e-9, atol=1e-11)


def by_hand(job, optimizer, factor):
    """Two epochs with torch's own optimiser, the penalty as a term of the loss."""
    parts = prepare(job)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    more = {"momentum": 0.9} if optimizer == "sgd" else {}
    steps = kind(parts.model.parameters(), lr=0.01, weight_decay=0.01, **more)
    for epoch in range(2):
        for batch in batches(len(parts.data.train), 32, job, epoch):
            steps.zero_grad()
            logits = parts.model(parts.data.train.features[batch])[:, 0]
            targets = parts.data.train.targets[batch].double()
            loss = nn.functional.binary_cross_entropy_with_logits(logits, targets)
            absolute = sum(p.abs().sum() for p in parts.model.parameters() if p.ndim > 1)
            (loss + factor * absolute).backward()
            steps.step()
    return parts.model.state_dict()
