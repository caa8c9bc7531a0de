"""Stacked training against the plain loop, which is the reference."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from losslab.errors import BadInput
from losslab.experiments.building import build_optimizer
from losslab.experiments.config import load_study
from losslab.experiments.stack_optimizers import Columns, stacked_optimizer
from losslab.experiments.stacked import NotStackable, advance_stack
from losslab.experiments.states import Job
from losslab.experiments.training import advance, start
from losslab.losses import LOSSES
from losslab.losses.base import Loss

DATA = {
    "name": "clusters",
    "examples": 330,
    "validation_examples": 60,
    "test_examples": 60,
    "imbalance_ratio": 5,
    "dimensions": 3,
}
EPOCHS = 10  # 330 rows in batches of 16: 21 steps an epoch
# The first one decides: log_loss, since a ranking may flip where two logits are equal to rounding.
METRICS = ("log_loss", "average_precision")


def make_job(loss="ce", number=0, *, dataset=None, model=None, seed=None, link=None, **training):
    """A training with everything that a study searches drawn at random, from `number`."""
    section = {"name": loss} if isinstance(loss, str) else dict(loss)
    if link is not None:
        section["link"] = link
    if getattr(LOSSES.get(section["name"]), "head", "linear") == "cosine":
        model = {"name": "mlp", "hidden": [5], "head": "cosine"}
    study = load_study(
        {
            "dataset": {**DATA, **(dataset or {})},
            "model": model or {"name": "mlp", "hidden": [5]},
            "training": {"epochs": EPOCHS, "batch_size": 16, "precision": "float64", **training},
            "arms": {"arm": {"loss": section}, "ce": {"loss": {"name": "ce"}}},
        }
    )
    arm, random = study.arms["arm"], np.random.default_rng(number)
    params = {path: drawn(space, random) for path, space in arm.spaces.items()}
    if "training.learning_rate" in params:
        params["training.learning_rate"] = 10 ** random.uniform(-4, -2.5)
    run_seed = number % 2 if seed is None else seed
    return Job(
        arm.configure(params), study_seed=0, run_seed=run_seed, metrics=METRICS, maximize=False
    )


def drawn(space, random):
    if not hasattr(space, "low"):
        return space.choices[random.integers(len(space.choices))]
    share = random.uniform(0.02, 0.98)
    if space.scale == "log":
        value = math.exp(math.log(space.low) * (1 - share) + math.log(space.high) * share)
    else:
        value = space.low * (1 - share) + space.high * share
    return round(value) if space.integer else value


def assert_alike(plain, stacked, loss=1e-10, weights=1e-10):
    """Every number of two states, but times: history, values, parameters, optimiser, loss."""
    assert stacked.epoch == plain.epoch
    assert stacked.diverged == plain.diverged
    assert stacked.judged_epoch == plain.judged_epoch
    assert stacked.job == plain.job
    assert stacked.initial_weights == plain.initial_weights
    for ours, theirs in zip(stacked.history, plain.history, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("train/loss", "val/log_loss"):
            if name in ours:
                assert ours[name] == pytest.approx(theirs[name], abs=loss, rel=loss, nan_ok=True), (
                    name
                )
        assert ours["learning_rate"] == pytest.approx(theirs["learning_rate"], rel=1e-12)
    assert stacked.values == pytest.approx(plain.values, abs=loss, rel=loss)
    for name, value in plain.model.items():
        assert stacked.model[name].dtype == value.dtype
        torch.testing.assert_close(
            stacked.model[name], value, rtol=weights, atol=weights, equal_nan=True
        )
    for name, value in plain.loss.items():
        torch.testing.assert_close(stacked.loss[name], value, rtol=1e-6, atol=1e-6)
    assert stacked.optimizer["state"].keys() == plain.optimizer["state"].keys()
    for index, moments in plain.optimizer["state"].items():
        for name, value in moments.items():
            found = stacked.optimizer["state"][index][name]
            torch.testing.assert_close(
                found, value, rtol=max(weights, 1e-8), atol=weights, equal_nan=True
            )
    assert stacked.optimizer["param_groups"][0].keys() == plain.optimizer["param_groups"][0].keys()


def both(jobs, until=EPOCHS):
    begun = [start(job) for job in jobs]
    return [advance(state, until) for state in begun], advance_stack(begun, until)


def by_optimizer(jobs):
    """Both ways, a stack for each optimiser; in the order of the jobs."""
    plain, stacked = {}, {}
    for name in ("adamw", "sgd"):
        rows = [i for i, job in enumerate(jobs) if job.config["training"]["optimizer"] == name]
        found = both([jobs[i] for i in rows])
        plain |= dict(zip(rows, found[0], strict=True))
        stacked |= dict(zip(rows, found[1], strict=True))
    return [plain[i] for i in range(len(jobs))], [stacked[i] for i in range(len(jobs))]


def losses_of(link, head="linear"):
    found = []
    for name in LOSSES.names():
        loss = LOSSES.get(name)
        if link in getattr(loss, "links", ()) and loss.head == head:
            found.append(name)
    return found


def jobs_of_every_loss(link, **settings):
    """Two trainings of each, with whatever is searched drawn at random."""
    return [
        make_job(
            name,
            i,
            link=link,
            **{**settings, **({"optimizer": "sgd"} if name == SHIFT_INVARIANT else {})},
        )
        for name in losses_of(link)
        for i in range(2)
    ]


# A constant added to all logits does not change it, so the gradient of the last bias is rounding
# noise, which AdamW divides by its own size: even the plain loop's bias is noise then.
SHIFT_INVARIANT = "two_way"


# Parity: every loss, every model, every setting


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_every_loss_gives_the_plain_loops_trajectory_in_float64(link):
    """Two trainings of each loss, all in one stack, over more than 200 steps."""
    jobs = jobs_of_every_loss(link)
    assert len(jobs) > 25
    plain, stacked = by_optimizer(jobs)
    for job, ours, theirs in zip(jobs, stacked, plain, strict=True):
        print(job.config["loss"])
        assert theirs.epoch == EPOCHS
        assert_alike(theirs, ours)


def test_losses_of_cosines_do_too():
    jobs = [make_job(name, i) for name in losses_of("softmax", "cosine") for i in range(3)]
    plain, stacked = both(jobs)
    for ours, theirs in zip(stacked, plain, strict=True):
        assert_alike(theirs, ours)


@pytest.mark.slow
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_every_loss_follows_the_plain_loop_in_float32(link):
    jobs = jobs_of_every_loss(link, precision="float32", learning_rate=1e-3)
    plain, stacked = by_optimizer(jobs)
    for job, ours, theirs in zip(jobs, stacked, plain, strict=True):
        print(job.config["loss"])
        assert_alike(theirs, ours, loss=1e-5, weights=1e-2)


SETTINGS = {
    "sgd": {"optimizer": "sgd", "learning_rate": {"low": 1e-3, "high": 0.1, "scale": "log"}},
    "momentum searched": {"optimizer": "sgd", "momentum": {"low": 0.0, "high": 0.95}},
    "clipped": {"clip_norm": {"low": 0.05, "high": 0.5}},
    "warm-up and steps": {"schedule": "step", "warmup_epochs": 1.5},
    "schedules differ": {"schedule": {"choices": ["cosine", "step", "constant"]}},
    "best epoch": {"judge": "best_validation"},
    "a last batch of one": {"batch_size": 47},
    "one batch": {"batch_size": 1000},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_training_keeps_its_own_settings(name):
    jobs = [make_job("focal", i, **SETTINGS[name]) for i in range(5)]
    plain, stacked = both(jobs)
    for ours, theirs in zip(stacked, plain, strict=True):
        assert_alike(theirs, ours)


def normalised(input_shape, outputs):
    return nn.Sequential(
        nn.Linear(input_shape[-1], 6, bias=False),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Linear(6, outputs),
    )


class Shortcut(nn.Module):
    """Not a chain of layers, with a layer that is not trained and one that stands twice."""

    def __init__(self, width, outputs):
        super().__init__()
        self.first = nn.Linear(width, 6)
        self.again = nn.Linear(6, 6)
        self.again.bias.requires_grad_(False)
        self.last = nn.Linear(6, outputs)

    def forward(self, features):
        hidden = functional.gelu(self.first(features))
        hidden = hidden + self.again(torch.tanh(self.again(hidden)))
        return self.last(hidden)


def shortcut(input_shape, outputs):
    return Shortcut(input_shape[-1], outputs)


def chain(change):
    """A model builder: linear and elementwise layers, with something done to them."""

    def build(input_shape, outputs):
        layers = [nn.Linear(input_shape[-1], 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU()]
        return change(nn.Sequential(*layers, nn.Linear(5, outputs)))

    return build


def _same_activation(model):
    return nn.Sequential(*(model[1] if isinstance(each, nn.ReLU) else each for each in model))


def _same_layer_twice(model):
    return nn.Sequential(*model[:4], model[2], *model[3:])


def _shared_bias(model):
    model[2].bias = model[0].bias
    return model


def _untrained_bias(model):
    model[0].bias.requires_grad_(False)
    return model


def _untrained_weight(model):
    model[2].weight.requires_grad_(False)
    return model


def _hooked(model):
    model.register_forward_hook(lambda module, given, outputs: 3 * outputs + 1)
    return model


def _batch_statistics(model):
    return nn.Sequential(*model[:3], nn.BatchNorm1d(5, track_running_stats=False), *model[3:])


same_activation, same_layer_twice = chain(_same_activation), chain(_same_layer_twice)
shared_bias, hooked = chain(_shared_bias), chain(_hooked)
untrained_bias, untrained_weight = chain(_untrained_bias), chain(_untrained_weight)
batch_statistics = chain(_batch_statistics)


class Branching(Shortcut):
    """Decides by its numbers, in evaluation only."""

    def forward(self, features):
        outputs = super().forward(features)
        return 2 * outputs if not self.training and outputs.sum() > 0 else outputs


def branching(input_shape, outputs):
    return Branching(input_shape[-1], outputs)


HERE = __name__  # pytest has put this file among the modules under this name
IMAGES = {"name": "digits", "as_images": True}
MODELS = {
    "linear": ({"name": "mlp", "hidden": []}, None),
    "gelu": ({"name": "mlp", "hidden": [4, 3], "activation": "gelu"}, None),
    "tanh": ({"name": "mlp", "hidden": [4], "activation": "tanh"}, None),
    "cosine": ({"name": "mlp", "hidden": [4], "head": "cosine"}, None),
    "prior": ({"name": "mlp", "hidden": [4], "prior_init": {"choices": [False, True]}}, None),
    "batch norm": ({"name": f"{HERE}:normalised"}, None),
    "shortcut": ({"name": f"{HERE}:shortcut"}, None),
    "branching": ({"name": f"{HERE}:branching"}, None),
    **{
        name: ({"name": f"{HERE}:{name}"}, None)
        for name in (
            "same_activation", "same_layer_twice", "shared_bias", "untrained_bias",
            "untrained_weight", "hooked", "batch_statistics",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_the_plain_loops_trajectory(name):
    model, dataset = MODELS[name]
    jobs = [make_job("focal", i, model=model, dataset=dataset) for i in range(4)]
    plain, stacked = both(jobs)
    for ours, theirs in zip(stacked, plain, strict=True):
        assert_alike(theirs, ours)


def study_job(content, number, **training):
    study = load_study({**content, "arms": {"a": {"loss": {"name": "focal"}}, "ce": {}}})
    arm, random = study.arms["a"], np.random.default_rng(number)
    params = {path: drawn(space, random) for path, space in arm.spaces.items()}
    params["training.learning_rate"] = 10 ** random.uniform(-4, -2.5)
    return Job(
        arm.configure(params), study_seed=0, run_seed=number % 2, metrics=METRICS, maximize=False
    )


def test_an_evaluation_that_depends_on_its_batch_is_the_plain_loops():
    """With more rows than a stack evaluates at once, and neighbours that change how many."""
    data = {"examples": 200, "validation_examples": 9000}
    model = {"name": f"{HERE}:batch_statistics"}
    plain, stacked = both([make_job("focal", i, model=model, dataset=data) for i in range(3)], 2)
    for ours, theirs in zip(stacked, plain, strict=True):
        assert_alike(theirs, ours)


def test_no_momentum_leaves_no_state_and_mixes_with_the_plain_loop():
    jobs = [make_job("focal", i, optimizer="sgd", momentum=m) for i, m in enumerate([0.0, 0.9])]
    half = [advance(start(job), 2) for job in jobs]
    for ours, state in zip(advance_stack(half, 4), half, strict=True):
        assert_alike(advance(state, 4), ours)


@pytest.mark.parametrize("kind", ["images", "flattened images", "anchors"])
def test_images_and_anchors_stack_too(kind):
    """Convolutions, which auto trains plain on a CPU, are right in a stack all the same."""
    content = {
        "images": {
            "dataset": {"name": "digits", "as_images": True},
            "model": {"name": "cnn", "channels": [2, 3]},
        },
        "flattened images": {
            "dataset": {"name": "digits", "as_images": True},
            "model": {"name": "mlp", "hidden": [4]},
        },
        "anchors": {
            "dataset": {
                "name": "anchors",
                "train_images": 12,
                "validation_images": 8,
                "test_images": 8,
                "anchors": 2000,
                "background_per_foreground": 100,
            },
            "model": {"name": "mlp", "hidden": [4]},
        },
    }[kind]
    content["training"] = {"epochs": 3, "batch_size": 64, "precision": "float64"}
    if kind == "anchors":
        content["training"]["batch_size"] = 4
    jobs = [study_job(content, i) for i in range(3)]
    plain, stacked = both(jobs, 3)
    for ours, theirs in zip(stacked, plain, strict=True):
        assert_alike(theirs, ours)


def test_it_goes_on_from_a_rung_and_mixes_with_the_plain_loop():
    jobs = [make_job("focal", i) for i in range(3)]
    plain, stacked = both(jobs)
    half = advance_stack([start(job) for job in jobs], 4)
    for ours, theirs in zip(advance_stack(half, EPOCHS), stacked, strict=True):
        assert_alike(theirs, ours, weights=1e-13)
    for ours, theirs in zip([advance(state, EPOCHS) for state in half], plain, strict=True):
        assert_alike(theirs, ours)
    mixed = advance_stack([advance(start(job), 4) for job in jobs], EPOCHS)
    for ours, theirs in zip(mixed, plain, strict=True):
        assert_alike(theirs, ours)
    assert advance_stack(stacked, 3) == stacked


# Other people's losses


class Attributed(nn.Module):
    """Its hyper-parameter is a Python attribute, and so is what it remembers."""

    def __init__(self, power=2.0):
        super().__init__()
        self.power = power
        self.mean = None

    def forward(self, logits, targets):
        p = torch.sigmoid(logits)
        loss = ((targets - p).abs() ** self.power).mean()
        self.mean = loss.detach() if self.mean is None else 0.9 * self.mean + 0.1 * loss.detach()
        if self.power == 3.0 and self.mean > 100:
            raise ValueError("never")
        return loss / (1 + self.mean)


class Noisy(nn.Module):
    """Draws from torch's generator, as sampling losses do."""

    def __init__(self, scale=0.1):
        super().__init__()
        self.scale = scale

    def forward(self, logits, targets):
        noise = torch.rand(logits.shape, dtype=logits.dtype) * self.scale
        return functional.binary_cross_entropy_with_logits(logits + noise, targets)


class Failing(nn.Module):
    """Raises at its third call."""

    def __init__(self, at=3):
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, logits, targets):
        self.calls += 1
        if self.calls == self.at:
            raise RuntimeError("cannot go on")
        return functional.binary_cross_entropy_with_logits(logits, targets)


class Poison(Failing):
    def forward(self, logits, targets):
        self.calls += 1
        loss = functional.binary_cross_entropy_with_logits(logits, targets)
        return loss * float("nan") if self.calls >= self.at else loss


class Backwards(nn.Module):
    """Its gradient cannot be computed."""

    def forward(self, logits, targets):
        return Broken.apply(logits).mean()


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(context, logits):
        return logits.clone()

    @staticmethod
    def backward(context, gradient):
        raise RuntimeError("no gradient")


def test_attributes_and_random_numbers_of_other_peoples_losses_are_their_own():
    powers = {"name": f"{HERE}:Attributed", "power": {"choices": [1.5, 2.0, 3.0]}}
    scales = {"name": f"{HERE}:Noisy", "scale": {"low": 0.0, "high": 2.0}}
    jobs = [make_job(loss, i) for loss in (powers, scales, "focal") for i in range(4)]
    assert len({job.config["loss"].get("power") for job in jobs}) > 2
    plain, stacked = both(jobs)
    for ours, theirs in zip(stacked, plain, strict=True):
        assert_alike(theirs, ours)
    assert plain[4].history[0]["train/loss"] != plain[6].history[0]["train/loss"]


class Drawing(nn.Module):
    """Draws from the global generators of numpy and Python."""

    def __init__(self, scale=0.1):
        super().__init__()
        self.scale = scale

    def forward(self, logits, targets):
        noise = torch.from_numpy(np.random.standard_normal(logits.shape))  # noqa: NPY002
        return functional.binary_cross_entropy_with_logits(
            logits + self.scale * noise * random.random(), targets
        )


class Smoothing(nn.Module):
    """Changes what it is given."""

    def forward(self, logits, targets):
        targets.mul_(0.9).add_(0.05)
        return (logits.mul_(2).sigmoid() - targets).abs().mean()


class NothingRare(nn.Module):
    """A constant where a batch has too few positives, of which a backward pass may begin or not."""

    def __init__(self, leaf=False):
        super().__init__()
        self.leaf = leaf

    def forward(self, logits, targets):
        if targets.sum() < 2:
            return torch.tensor(0.0, requires_grad=self.leaf)
        return functional.binary_cross_entropy_with_logits(logits, targets)


class OwnNoise(Loss):
    """Of losslab's kind, but not among its own."""

    links = ("sigmoid",)

    def elementwise(self, logits, targets):
        return (torch.sigmoid(logits + torch.randn_like(logits)) - targets).abs()


@pytest.mark.parametrize("name", ["Drawing", "Smoothing", "NothingRare", "OwnNoise"])
def test_what_other_peoples_losses_do_is_done_to_their_own_training(name):
    jobs = [make_job(f"{HERE}:{name}", i % 2) for i in range(3)] + [make_job("focal", 0)]
    np_before, before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    plain, stacked = both(jobs, 3)
    for ours, theirs in zip(stacked, plain, strict=True):
        assert_alike(theirs, ours)
    assert bool(plain[0].diverged) == (name == "NothingRare")
    assert np.array_equal(np.random.get_state()[1], np_before)  # noqa: NPY002
    assert random.getstate() == before
    for again, state in zip(both(jobs, 3)[0], plain, strict=True):
        assert again.history == state.history


def test_a_loss_out_of_reach_of_the_model_is_not_stacked():
    jobs = [make_job({"name": f"{HERE}:NothingRare", "leaf": True}), make_job("focal")]
    with pytest.raises(NotStackable, match="does not depend on its logits"):
        advance_stack([start(job) for job in jobs], 3)


class Late(nn.Module):
    """Makes its buffer when it is called first."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", None)

    def forward(self, logits, targets):
        loss = functional.binary_cross_entropy_with_logits(logits, targets)
        self.mean = loss.detach() if self.mean is None else 0.9 * self.mean + 0.1 * loss.detach()
        return loss / (1 + self.mean)


def test_a_buffer_that_is_made_late_goes_on_from_a_rung():
    begun = [start(make_job(f"{HERE}:Late", i)) for i in range(2)]
    whole = [advance(state, 4) for state in begun]
    rungs = [advance(advance(state, 2), 4) for state in begun]
    stacked = advance_stack(advance_stack(begun, 2), 4)
    for state, plain, ours in zip(whole, rungs, stacked, strict=True):
        assert_alike(state, plain, loss=0, weights=0)
        assert_alike(plain, ours)


# Trainings that end early


@pytest.mark.parametrize("loss", ["Failing", "Poison"])
@pytest.mark.parametrize("at", [3, 25])
def test_one_that_diverges_ends_as_in_the_plain_loop_and_touches_nobody(loss, at):
    good = make_job({"name": f"{HERE}:Failing", "at": 10**9}, 1)
    bad = make_job({"name": f"{HERE}:{loss}", "at": at}, 1)
    others = [make_job("focal", i) for i in range(3)]
    jobs = [others[0], bad, *others[1:]]
    plain, stacked = both(jobs)
    assert plain[1].diverged
    for ours, theirs in zip(stacked, plain, strict=True):
        assert_alike(theirs, ours)
    clean = advance_stack([start(job) for job in [others[0], good, *others[1:]]], EPOCHS)
    for row in (0, 2, 3):
        for name, value in clean[row].model.items():
            assert torch.equal(stacked[row].model[name], value)
        assert stacked[row].history == clean[row].history


def test_a_stack_in_which_all_diverge_ends():
    jobs = [make_job({"name": f"{HERE}:Poison", "at": 1}, i) for i in range(3)]
    plain, stacked = both(jobs)
    for ours, theirs in zip(stacked, plain, strict=True):
        assert ours.diverged == theirs.diverged == "training loss is nan in epoch 1"
        assert ours.epoch == theirs.epoch


def test_exploding_learning_rates_diverge_alike():
    jobs = [
        make_job("focal", i, optimizer="sgd", learning_rate=rate, schedule="constant")
        for i, rate in enumerate([1e-3, 1e200, 1e-2])
    ]
    plain, stacked = both(jobs)
    assert [bool(state.diverged) for state in plain] == [False, True, False]
    assert [state.diverged for state in stacked] == [state.diverged for state in plain]
    assert_alike(plain[0], stacked[0])
    assert_alike(plain[2], stacked[2])


# What cannot be stacked


def dropping(input_shape, outputs):
    return nn.Sequential(nn.Linear(input_shape[-1], 4), nn.Dropout(0.5), nn.Linear(4, outputs))


class Deciding(nn.Module):
    def __init__(self, width, outputs):
        super().__init__()
        self.layer = nn.Linear(width, outputs)

    def forward(self, features):
        outputs = self.layer(features)
        return outputs if outputs.sum() > 0 else -outputs


def deciding(input_shape, outputs):
    return Deciding(input_shape[-1], outputs)


class Spare(nn.Module):
    def __init__(self, width, outputs):
        super().__init__()
        self.layer, self.spare = nn.Linear(width, outputs), nn.Linear(3, 3)

    def forward(self, features):
        return self.layer(features)


def spare(input_shape, outputs):
    return Spare(input_shape[-1], outputs)


def with_hook(input_shape, outputs):
    model = shortcut(input_shape, outputs)
    model.first.weight.register_hook(lambda gradient: 0.1 * gradient)
    return model


class Projecting(Shortcut):
    """Has drawn numbers that are not in its state dict."""

    def __init__(self, width, outputs):
        super().__init__(width, outputs)
        self.scale = torch.rand(()).item()

    def forward(self, features):
        return super().forward(self.scale * features)


def projecting(input_shape, outputs):
    return Projecting(input_shape[-1], outputs)


class Assigning(Shortcut):
    """Assigns its buffer, which vmap forgets."""

    def __init__(self, width, outputs):
        super().__init__(width, outputs)
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, features):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * features.mean(0)
        return super().forward(features - self.mean)


def assigning(input_shape, outputs):
    return Assigning(input_shape[-1], outputs)


@pytest.mark.parametrize(
    ("model", "loss", "reason"),
    [
        ("with_hook", "ce", "its gradients differ in a stack"),
        ("projecting", "ce", "its outputs differ in a stack"),
        ("assigning", "ce", "its outputs differ in a stack"),
        ("dropping", "ce", "it cannot be vectorised: RuntimeError: vmap: called random operation"),
        ("deciding", "ce", "it cannot be vectorised"),
        ("spare", "ce", "some parameters take no part in the loss"),
        (None, f"{HERE}:Backwards", "its gradient fails in a stack: RuntimeError: no gradient"),
    ],
)
def test_what_cannot_be_stacked_says_so(model, loss, reason):
    given = None if model is None else {"name": f"{HERE}:{model}"}
    jobs = [make_job(loss, i, model=given) for i in range(2)]
    states = [start(job) for job in jobs]
    with pytest.raises(NotStackable, match=reason):
        advance_stack(states, 1)
    assert all(state.epoch == 0 for state in states)


# The optimisers by themselves


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_stacked_optimisers_are_torchs(name, clip):
    """Against torch.optim over ten steps, from its state dict and back to it."""
    shapes = {"a": torch.Size([3, 2]), "b": torch.Size([4])}
    random = torch.Generator().manual_seed(0)
    settings = [
        {"optimizer": name, "weight_decay": w, "momentum": m, "clip_norm": clip}
        for w, m in ((0.0, 0.0), (0.1, 0.5), (1.0, 0.9))
    ]
    models = [
        nn.ParameterDict(
            {k: torch.randn(s, generator=random, dtype=torch.float64) for k, s in shapes.items()}
        )
        for _ in settings
    ]
    rates = torch.tensor([0.1, 0.01, 0.3], dtype=torch.float64)
    theirs = [build_optimizer(s, m, nn.Identity()) for s, m in zip(settings, models, strict=True)]
    columns = Columns(shapes)

    def step():
        gradient = torch.randn(3, columns.total, generator=random, dtype=torch.float64)
        for row, (model, optimizer) in enumerate(zip(models, theirs, strict=True)):
            for key, part in columns.split(gradient[row : row + 1]):
                model[key].grad = part[0].clone()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.param_groups[0]["lr"] = rates[row].item()
            optimizer.step()
        return gradient

    for _ in range(3):
        step()
    flat = torch.stack([columns.row([m["a"].detach(), m["b"].detach()]) for m in models])
    ours = stacked_optimizer(
        flat, columns, settings, [each.state_dict() for each in theirs], [0, 1]
    )
    for _ in range(7):
        gradient = step()
        ours.clip(gradient)
        ours.step(gradient, rates.unsqueeze(1))
    for row, model in enumerate(models):
        expected = columns.row([model["a"].detach(), model["b"].detach()])
        torch.testing.assert_close(flat[row], expected, rtol=1e-13, atol=1e-14)
        state = ours.state_dict(row)["state"]
        for index, moments in theirs[row].state_dict()["state"].items():
            for key, value in moments.items():
                if value is not None:
                    torch.testing.assert_close(state[index][key], value, rtol=1e-12, atol=1e-14)


def test_memory_too_small_is_told():
    with pytest.raises(BadInput, match="memory: give an amount of memory such as"):
        load_study({"dataset": DATA, "arms": ["ce"], "memory": "plenty"})
