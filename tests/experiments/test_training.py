"""The plain training loop: pure, resumable bit for bit, and equal to a loop written by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from losslab.errors import BadInput
from losslab.experiments import elements, training
from losslab.experiments.building import (
    ForeignLoss,
    build_loss,
    build_model,
    learning_rate,
    set_prior_bias,
)
from losslab.experiments.data import run_data
from losslab.experiments.states import Course, Job, load_states, save_states
from losslab.experiments.tasks import Classification, Dense
from losslab.experiments.tasks.base import probabilities
from losslab.experiments.training import advance, batches, prepare, start

CLUSTERS = {
    "name": "clusters",
    "examples": 130,
    "validation_examples": 60,
    "test_examples": 60,
    "imbalance_ratio": 4,
    "dimensions": 3,
}
SETTINGS = {
    "epochs": 5,
    "batch_size": 32,
    "optimizer": "adamw",
    "learning_rate": 1e-2,
    "weight_decay": 1e-2,
    "momentum": 0.9,
    "schedule": "cosine",
    "warmup_epochs": 0,
    "clip_norm": None,
    "judge": "last",
}


def make_job(loss=None, model=None, dataset=None, **settings):
    config = {
        "dataset": {**CLUSTERS, **(dataset or {})},
        "model": model or {"name": "mlp", "hidden": [4], "prior_init": False},
        "training": {**SETTINGS, **settings},
        "loss": {"link": "sigmoid", **(loss or {"name": "ce"})},
    }
    return Job(config, study_seed=0, run_seed=7, metrics=("average_precision", "log_loss"))


# Somebody else's parts, by dotted path


class Drifting(nn.Module):
    """A loss with a state of its own: a moving mean and a count, in buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, logits, targets):
        loss = functional.binary_cross_entropy_with_logits(logits, targets)
        self.mean.mul_(0.9).add_(0.1 * loss.detach().double())
        self.seen.add_(1)
        return loss * (1 + self.mean.float())


class Failing(nn.Module):
    """Raises at its third call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, logits, targets):
        self.calls.add_(1)
        if self.calls >= 3:
            raise RuntimeError("cannot go\n  on " + "x" * 9000)
        return functional.binary_cross_entropy_with_logits(logits, targets)


class Poison(Failing):
    """Is not a number from its eighth call on."""

    def forward(self, logits, targets):
        self.calls.add_(1)
        loss = functional.binary_cross_entropy_with_logits(logits, targets)
        return loss * float("nan") if self.calls >= 8 else loss


def dropping(input_shape, outputs):
    return nn.Sequential(
        nn.Linear(input_shape[0], 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(8, outputs),
    )


HERE = __name__  # pytest has put this file among the modules under this name
DROPPING = {"name": f"{HERE}:dropping", "prior_init": False}


JOBS = {
    "adamw": lambda: make_job(),
    "sgd": lambda: make_job(optimizer="sgd", warmup_epochs=1.5, clip_norm=0.1),
    "best": lambda: make_job(judge="best_validation", learning_rate=0.3),
    "stateful loss": lambda: make_job(loss={"name": f"{HERE}:Drifting"}),
    "dropout": lambda: make_job(model=DROPPING),
}


def _flat(content, path=""):
    """Everything in a state, by path; tensors as bytes."""
    if isinstance(content, torch.Tensor):
        yield path, (content.dtype, tuple(content.shape), content.cpu().numpy().tobytes())
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _flat(value, f"{path}.{key}")
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _flat(value, f"{path}[{index}]")
    else:
        yield path, repr(content)


def bits(state):
    return {path: value for path, value in _flat(state.__dict__) if path != ".seconds"}


@pytest.mark.parametrize("kind", JOBS)
def test_advancing_is_pure_and_resumable_bit_for_bit(kind, tmp_path):
    job = JOBS[kind]()
    first = start(job)
    before = copy.deepcopy(bits(first))
    whole = advance(first, 5)
    assert bits(first) == before
    half = advance(first, 2)
    before = copy.deepcopy(bits(half))
    torch.manual_seed(1234)  # what others do with the global generator does not matter
    assert bits(advance(half, 5)) == bits(whole)
    assert bits(half) == before
    file = tmp_path / "state.pt"
    save_states(file, [first, half], "a note")
    states, note = load_states(file)
    assert (bits(states[1]), note) == (before, "a note")
    assert bits(advance(states[1], 5)) == bits(whole)
    assert bits(whole) != bits(advance(first, 4))
    assert advance(whole, 3) is whole
    assert whole.values[1] == half.value
    file.write_bytes(file.read_bytes()[:-100])
    assert load_states(file) is None


def test_the_global_generator_is_left_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    advance(start(make_job(model=DROPPING)), 1)
    assert torch.equal(torch.rand(3), expected)


def test_dropout_draws_anew_in_every_epoch(monkeypatch):
    drawn = []
    real = training._epoch

    def spy(*args):
        drawn.append(torch.get_rng_state().numpy().tobytes())
        return real(*args)

    monkeypatch.setattr(training, "_epoch", spy)
    advance(start(make_job(model=DROPPING)), 3)
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_training_equals_a_loop_written_by_hand(optimizer, clip_norm):
    job = make_job(optimizer=optimizer, clip_norm=clip_norm, schedule="cosine")
    parts = prepare(job)
    model, train = parts.model, parts.data.train
    if optimizer == "sgd":
        made = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-2)
    else:
        made = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    steps = math.ceil(130 / 32)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(made, T_max=5 * steps)
    losses, norms = [], []
    for epoch in range(2):
        model.train()
        for batch in batches(len(train), 32, job, epoch):
            made.zero_grad()
            logits = model(train.features[batch])[:, 0]
            loss = functional.binary_cross_entropy_with_logits(logits, train.targets[batch].float())
            loss.backward()
            if clip_norm:
                gradients = [parameter.grad for parameter in model.parameters()]
                norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients))
                norms.append(norm.item())
                for gradient in gradients:
                    gradient.mul_(min(1.0, clip_norm / (norm.item() + 1e-6)))
            made.step()
            schedule.step()
            losses.append(loss.item())
    if clip_norm:
        assert max(norms) > clip_norm  # it did something
    state = advance(start(job), 2)
    for name, parameter in model.state_dict().items():
        torch.testing.assert_close(state.model[name], parameter, rtol=1e-5, atol=1e-7)
    assert state.history[1]["train/loss"] == pytest.approx(np.mean(losses[steps:]), rel=1e-5)


def _rates(steps=40, per_epoch=4, **settings):
    config = {**SETTINGS, "epochs": steps // per_epoch, "learning_rate": 0.5, **settings}
    return [learning_rate(config, step, per_epoch) for step in range(steps)]


def _torch_rates(make, steps=40):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_schedules_are_those_of_torch():
    schedulers = torch.optim.lr_scheduler
    cosine = _torch_rates(lambda o: schedulers.CosineAnnealingLR(o, T_max=40))
    assert _rates(schedule="cosine") == pytest.approx(cosine, abs=1e-12)
    # 2/3 of 40 steps is 26.7, 8/9 is 35.6: the first steps not before them
    step = _torch_rates(lambda o: schedulers.MultiStepLR(o, milestones=[27, 36]))
    assert _rates(schedule="step") == pytest.approx(step, rel=1e-12)
    assert _rates(schedule="constant") == [0.5] * 40
    # one tenth at the first of 10 steps of warm-up, all of it at the last
    warm = _torch_rates(lambda o: schedulers.LinearLR(o, start_factor=0.1, total_iters=9))
    assert _rates(schedule="constant", warmup_epochs=2.5) == pytest.approx(warm, rel=1e-12)
    both = _rates(schedule="cosine", warmup_epochs=2.5)
    after = _torch_rates(lambda o: schedulers.CosineAnnealingLR(o, T_max=30), 30)
    assert both == pytest.approx(warm[:10] + after, abs=1e-12)
    assert _rates(warmup_epochs=99)[-1] == 0.5  # nothing but warm-up


def test_every_example_comes_once_an_epoch():
    job = make_job()
    orders = []
    for epoch in range(3):
        order = batches(130, 32, job, epoch)
        assert [len(batch) for batch in order] == [32, 32, 32, 32, 2]
        orders.append(torch.cat(order).tolist())
        assert sorted(orders[-1]) == list(range(130))
    assert orders[0] != orders[1] != orders[2]
    assert torch.cat(list(batches(130, 32, job, 0))).tolist() == orders[0]


def test_a_last_batch_of_one_is_dropped_unless_it_is_the_only_one():
    sizes = lambda examples, size: [len(b) for b in batches(examples, size, make_job(), 0)]  # noqa: E731
    assert sizes(129, 32) == [32] * 4
    assert sizes(33, 32) == [32]
    assert sizes(1, 32) == [1]
    assert sizes(3, 1) == [1, 1, 1]


def test_judging_by_the_last_or_by_the_best_epoch():
    last = advance(start(make_job(learning_rate=0.3)), 5)
    best = advance(start(make_job(learning_rate=0.3, judge="best_validation")), 5)
    curve = [row["val/average_precision"] for row in best.history]
    assert curve == [row["val/average_precision"] for row in last.history]
    assert last.values == tuple(curve)
    assert last.value == curve[-1]
    assert last.judged_epoch == 5
    top = max(curve)
    assert top > curve[-1]  # otherwise this shows nothing
    assert best.value == top
    assert best.judged_epoch == 1 + curve.index(top)  # the earlier one on ties
    assert best.values == tuple(max(curve[: n + 1]) for n in range(5))
    until = advance(start(best.job), best.judged_epoch)
    assert all(torch.equal(best.judged_model[n], until.model[n]) for n in until.model)
    minimise = Job(**{**best.job.__dict__, "metrics": ("log_loss",), "maximize": False})
    state = advance(start(minimise), 5)
    assert state.value == min(row["val/log_loss"] for row in state.history)


@pytest.mark.parametrize(
    ("maximize", "curve", "expected"),
    [(True, [0.2, 0.5, 0.5, 0.4], 2), (False, [0.9, 0.3, 0.8, 0.3], 2), (True, [0.7], 1)],
)
def test_the_best_epoch_is_the_earlier_one_on_ties(maximize, curve, expected):
    job = make_job(judge="best_validation")
    job = Job(**{**job.__dict__, "maximize": maximize})
    course = Course(start(job))
    for epoch, value in enumerate(curve, 1):
        row = {"epoch": epoch, "train/loss": 0.0, "val/average_precision": value}
        course.take(row, dict)
    assert course.best["epoch"] == expected


# Divergence


@pytest.mark.parametrize("name", ["Failing", "Poison"])
def test_what_goes_wrong_in_a_loss_ends_the_training_with_its_reason(name):
    state = advance(start(make_job(loss={"name": f"{HERE}:{name}"})), 5)
    assert state.value is None
    if name == "Failing":  # 5 steps an epoch: the third call is in the first
        assert state.epoch == 0
        assert state.diverged.startswith("RuntimeError in epoch 1: cannot go on xxx")
        assert len(state.diverged) == 500  # an MLflow tag has room for it
        assert state.values == ()
    else:
        assert state.epoch == 2
        assert state.diverged == "training loss is nan in epoch 2"
        assert len(state.values) == 1
    assert advance(state, 5) is state


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("assert", 1),
              MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)  # fmt: skip
def test_a_failing_machine_is_not_taken_for_a_bad_configuration(error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(elements.ElementParts, "step", fail)
    with pytest.raises(type(error)):
        advance(start(make_job()), 1)


# Prior initialisation


def _prior_model(link, prior_init, counts):
    return build_model(
        {"name": "mlp", "hidden": [4], "prior_init": prior_init},
        Classification(len(counts)), link, (3,), np.array(counts), seed=0,
    )  # fmt: skip


def test_prior_initialisation_starts_at_the_class_prior():
    sigmoid = _prior_model("sigmoid", True, [90, 10])
    softmax = _prior_model("softmax", True, [60, 30, 10])
    many = _prior_model("sigmoid", True, [60, 30, 10])
    given = _prior_model("sigmoid", 0.01, [60, 30, 10])
    zero = torch.zeros(1, 4)
    for model, expected in (
        (sigmoid, [math.log(0.1 / 0.9)]),
        (softmax, [math.log(0.6), math.log(0.3), math.log(0.1)]),
        (many, [math.log(0.6 / 0.4), math.log(0.3 / 0.7), math.log(0.1 / 0.9)]),
        (given, [math.log(0.01 / 0.99)] * 3),
    ):
        assert model[-1](zero)[0].tolist() == pytest.approx(expected, rel=1e-6)
    off = _prior_model("sigmoid", False, [90, 10])
    assert off[-1].bias.item() != sigmoid[-1].bias.item()
    assert torch.equal(off[-1].weight, sigmoid[-1].weight)


def test_the_mean_predicted_probability_starts_near_the_prior():
    job = make_job(model={"name": "mlp", "hidden": [64], "prior_init": True})
    job.config["dataset"]["imbalance_ratio"] = 20
    parts = prepare(job)
    counts = parts.data.class_counts
    prior = counts[1] / counts.sum()
    with torch.no_grad():
        logits = parts.model(parts.data.train.features)[:, 0]
    assert torch.sigmoid(logits).mean().item() == pytest.approx(prior, abs=0.05)
    assert abs(logits.mean().item() - math.log(prior / (1 - prior))) < 0.5


def test_prior_initialisation_needs_a_bias():
    with pytest.raises(BadInput, match="needs a model whose last layer has a bias"):
        set_prior_bias(nn.Linear(3, 1, bias=False), 1, "sigmoid", np.array([9, 1]), None)
    with pytest.raises(BadInput, match="single probability has no meaning under softmax"):
        set_prior_bias(nn.Linear(3, 3), 3, "softmax", np.array([6, 3, 1]), 0.01)


# Tasks and foreign losses


def test_the_dense_task_in_both_links():
    task = Dense(2)
    targets = torch.tensor([[1, 0, -1], [0, 0, 1]])
    one = torch.arange(6.0).reshape(2, 3, 1)
    logits = task.logits(one, "sigmoid")
    assert logits.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert task.loss_targets(targets, "sigmoid").tolist() == [[1.0, 0.0, -1.0], [0.0, 0.0, 1.0]]
    rows, labels = task.rows(logits, targets, "sigmoid")
    assert rows.tolist() == [0, 1, 3, 4, 5]
    assert labels.tolist() == [1, 0, 0, 0, 1]
    two = torch.stack([torch.zeros(2, 3), one[..., 0]], dim=-1)
    logits = task.logits(two, "softmax")
    assert logits.shape == (2, 2, 3)
    assert logits[:, 1].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert task.loss_targets(targets, "softmax").dtype == torch.int64
    wide, again = task.rows(logits, targets, "softmax")
    assert wide.tolist() == [[0, value] for value in rows.tolist()]
    assert again.tolist() == labels.tolist()
    # a sigmoid of one output is a softmax of (0, it)
    both = probabilities(wide, "softmax")[:, 1]
    np.testing.assert_allclose(both, probabilities(rows, "sigmoid"), rtol=1e-12)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_a_foreign_loss_sees_counted_elements_only(reduction, link):
    task = Dense(2)
    torch.manual_seed(0)
    targets = torch.tensor([[1, 0, -1, 0], [-1, 0, 1, 0]])
    if link == "sigmoid":
        module = nn.BCEWithLogitsLoss(reduction=reduction)
        logits = torch.randn(2, 4)
        each = functional.binary_cross_entropy_with_logits(
            logits, (targets == 1).float(), reduction="none"
        )
    else:
        module = nn.CrossEntropyLoss(reduction=reduction)
        logits = torch.randn(2, 2, 4)
        each = functional.cross_entropy(logits, targets.clamp(min=0), reduction="none")
    counted = each[targets >= 0]
    assert len(counted) == 6
    expected = {"none": counted.sum() / 2, "mean": counted.mean(), "sum": counted.sum()}
    loss = ForeignLoss(module, task, link)(logits, task.loss_targets(targets, link))
    torch.testing.assert_close(loss, expected[reduction])
    nothing = torch.zeros_like(targets)
    loss = ForeignLoss(module, task, link)(logits, task.loss_targets(nothing, link))
    assert torch.isfinite(loss)  # no positives: divided by one, not by none


def test_a_foreign_loss_in_classification_is_averaged():
    task = Classification(3)
    logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 0])
    loss = ForeignLoss(nn.CrossEntropyLoss(reduction="none"), task, "softmax")(logits, targets)
    torch.testing.assert_close(loss, functional.cross_entropy(logits, targets))


def test_a_foreign_loss_is_built_from_its_path_with_class_counts():
    loss = build_loss(
        {"name": f"{HERE}:Counting", "link": "sigmoid"}, Classification(2), np.array([8, 2])
    )
    assert loss.module.class_counts.tolist() == [8, 2]


class Counting(nn.Module):
    def __init__(self, class_counts):
        super().__init__()
        self.class_counts = class_counts


def test_validation_examples_have_their_ids():
    job = make_job()
    data = run_data(job.config["dataset"], 0, 7, "cpu")
    parts = prepare(job)
    _, targets, ids = elements.logits_and_targets(
        parts.model, data.validation, parts.task, job.link
    )
    assert ids.tolist() == data.validation.ids.tolist()
    assert targets.tolist() == data.validation.targets.tolist()
