"""Trainings with batch norm: every mode in stacks, beside other settings, and its drift."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from losslab.experiments.config import load_study
from losslab.experiments.models.batch_norm import FrozenBatchNorm
from losslab.experiments.models.settings import first_option
from losslab.experiments.recorders.batch_norm import distances
from losslab.experiments.stacked import advance_stack
from losslab.experiments.stacking import plan_of
from losslab.experiments.states import Job
from losslab.experiments.training import advance, prepare, start

EPS = 1e-5
MODES = {
    "batch": "batch",
    "cumulative": {"momentum": None},
    "untracked": {"tracked": False},
    "bare": {"affine": False},
    "running": "running",
    "still": {"mode": "running", "tracked": False, "fitted": True},
    "frozen": {"mode": "frozen", "fitted": True},
}


def job_of(mode, number=0, model="mlp", record=(), **dataset):
    options = {"mlp": {"hidden": [6]}, "cnn": {"channels": [4]}}[model]
    rows = {"name": "clusters", "examples": 90, "validation_examples": 60, "test_examples": 60}
    study = load_study({
        "dataset": dataset or {**rows, "dimensions": 3, "imbalance_ratio": 4},
        "model": {"name": model, "batch_norm": MODES[mode], **options},
        "training": {"epochs": 2, "batch_size": 16, "precision": "float64", "record": list(record)},
        "arms": {"ce": {"loss": {"name": "ce"}}},
    })  # fmt: skip
    arm = study.arms["ce"]
    params = {**arm.defaults, "training.learning_rate": 0.003 * (1 + number)}
    return Job(arm.configure(params), 0, number, ("log_loss",), maximize=False)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_stacks_right_or_says_why_not(mode):
    jobs = [job_of(mode, number) for number in range(2)]
    plan = plan_of(jobs[0], "auto", 1000)
    if mode == "cumulative":
        reason = "BatchNorm with momentum null counts its batches in Python"
        assert (plan.engine, plan.reason) == ("plain", reason)
        return
    assert plan.engine == "stacked"
    states = [start(job) for job in jobs]
    plain = [advance(state, 2) for state in states]
    for ours, theirs in zip(advance_stack(states, 2), plain, strict=True):
        assert ours.model.keys() == theirs.model.keys()
        for name, tensor in theirs.model.items():
            assert_close(ours.model[name], tensor, rtol=1e-10, atol=1e-10)
        assert ours.history[-1]["val/log_loss"] == pytest.approx(
            theirs.history[-1]["val/log_loss"], rel=1e-10
        )


def test_convolutions_stack_in_running_mode():
    jobs = [job_of("running", i, "cnn", name="digits", as_images=True) for i in range(2)]
    states = [start(job) for job in jobs]
    for ours, state in zip(advance_stack(states, 1), states, strict=True):
        for name, tensor in advance(state, 1).model.items():
            assert_close(ours.model[name], tensor, rtol=1e-9, atol=1e-9)


def test_arms_of_all_modes_begin_at_the_same_weights():
    models = [prepare(job_of(mode)).model for mode in MODES]
    for model in models[1:]:
        assert torch.equal(model[0].layer.weight, models[0][0].layer.weight)
        assert torch.equal(model[2].weight, models[0][2].weight)


def test_it_is_applied_after_all_other_settings():
    """Fitted statistics are those of the final weights, of scaled inputs; norms precede dropout."""
    others = {"initialization": {"scheme": "normal", "std": 2.0}, "input_scaling": "standardise",
              "dropout": 0.4}  # fmt: skip
    job = job_of("frozen")
    job.config["model"].update({
        name: value if isinstance(value, dict) else {first_option(name): value}
        for name, value in others.items()
    })  # fmt: skip
    parts = prepare(job)
    model = parts.model.eval()
    (norm,) = (module for module in model.modules() if isinstance(module, FrozenBatchNorm))
    seen = []
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0].double()))
    model(parts.data.train.features)
    assert float(norm.running_var.mean()) > 4  # 0.33 with the weights that torch draws
    assert_close(norm.running_mean.double(), seen[0].mean(0), rtol=1e-5, atol=1e-5)
    assert_close(norm.running_var.double(), seen[0].var(0), rtol=1e-5, atol=1e-5)
    kinds = [type(m).__name__ for m in model.modules() if not list(m.children())]
    assert kinds[-5:] == ["Linear", "FrozenBatchNorm", "ReLU", "Dropout", "Linear"]


# Drift


def test_the_distance_is_that_of_wasserstein():
    """Between normal distributions, by their quantiles."""
    mean, scale = np.array([1.0, -2.0, 0.3]), np.array([1.5, 0.2, 3.0])
    old_mean, old_scale = np.array([0.0, 0.0, 0.5]), np.array([1.0, 2.0, 3.0])
    shares = (np.arange(200_000) + 0.5) / 200_000
    quantiles, old = (
        stats.norm.ppf(shares[:, None], loc, width)
        for loc, width in ((mean, scale), (old_mean, old_scale))
    )
    wanted = np.sqrt(((quantiles - old) ** 2).mean(0)) / old_scale
    given = [torch.from_numpy(each) for each in (mean, scale**2, old_mean, old_scale**2)]
    assert_close(distances(*given), torch.from_numpy(wanted), rtol=1e-3, atol=0)


def test_the_recorder_follows_the_statistics():
    kept = {mode: advance(start(job_of(mode, record=["batch_norm"])), 2) for mode in MODES}
    for mode, state in kept.items():
        rows = [{k: v for k, v in row.items() if "batch_norm" in k} for row in state.history]
        if mode == "untracked":
            assert rows == [{}, {}]
            continue
        names = ["01_0.norm.norm", "all"]
        assert sorted(rows[1]) == [f"record/batch_norm/{name}" for name in names]
        assert rows[0]["initial/batch_norm/all"] == 0.0
        last = rows[1]["record/batch_norm/all"]
        assert last == 0.0 if mode in ("frozen", "still") else last > 0.05
        # One norm, which was fresh: mean 0 and variance 1.
        mean, variance = (state.model[f"0.norm.norm.running_{it}"] for it in ("mean", "var"))
        if mode == "batch":
            square = mean**2 + (torch.sqrt(variance + EPS) - np.sqrt(1 + EPS)) ** 2
            assert last == pytest.approx(float(square.mean().sqrt()), rel=1e-4)


def test_a_recording_that_is_resumed_is_the_same():
    begun = start(job_of("batch", record=["batch_norm"]))
    whole, halves = advance(begun, 2), advance(advance(begun, 1), 2)
    assert whole.history == halves.history
