"""Recorders of a training: gradients, dead units, weights, variance shift."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from losslab.experiments.config import load_study
from losslab.experiments.models.activations import ACTIVATIONS
from losslab.experiments.recorders import RECORDERS
from losslab.experiments.recorders.dead_units import FLAT, flat_where
from losslab.experiments.recorders.weights import BINS, EXPONENTS
from losslab.experiments.states import Job
from losslab.experiments.training import batches, prepare


def job_of(**model):
    study = load_study(
        {
            "dataset": {"name": "clusters", "examples": 200, "validation_examples": 40,
                        "test_examples": 40, "dimensions": 5, "imbalance_ratio": 4},
            "model": {"name": "mlp", **model},
            "training": {"batch_size": 32, "learning_rate": 0.01, "weight_decay": 0,
                         "precision": "float64"},
            "arms": ["ce"],
        }
    )  # fmt: skip
    arm = study.arms["ce"]
    return Job(arm.configure(arm.defaults), 0, 3, ("log_loss",), maximize=False)


def recorded(name, job):
    parts = prepare(job)
    return parts, RECORDERS.create(name, parts=parts, job=job).measure()


def test_gradient_norms_are_those_of_a_backward_pass_by_hand():
    job = job_of(hidden=[4, 3])
    parts, found = recorded("gradients", job)
    assert list(found) == ["01_0", "02_2", "03_4", "all"]
    loss = parts.batch_loss(job, batches(len(parts.data.train), 32, job, 0)[0], 0)
    loss.backward()
    norms = [parts.model[place].weight.grad.norm().item() for place in (0, 2, 4)]
    assert list(found.values()) == pytest.approx([*norms, math.hypot(*norms)], rel=1e-12)


def test_sigmoids_lose_a_quarter_a_layer_at_least():
    """The bound of the chain rule: every slope at most 1/4, every weight's norm as it is."""
    job = job_of(depth=6, width=8, activation="sigmoid")
    parts, found = recorded("gradients", job)
    layers = [layer for layer in parts.model if isinstance(layer, nn.Linear)]
    bound = math.prod(torch.linalg.matrix_norm(layer.weight, 2).item() for layer in layers[1:])
    largest = parts.data.train.features.norm(dim=1).max().item()
    assert 0 < found["01_0"] <= 0.25**6 * bound * largest
    assert found["01_0"] < 0.02 * found["06_10"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dead_units_are_counted_as_a_loop_counts_them(name):
    parts = prepare(job_of(hidden=[16, 8], activation=name))
    with torch.no_grad():
        parts.model[0].bias[:4] = -100.0  # below 0 for everything
        parts.model[0].bias[4:6] = 100.0  # above
        parts.model[0].weight[6:8] *= 1e4  # far out, on both sides
    job = job_of(hidden=[16, 8], activation=name)
    found = RECORDERS.create("dead_units", parts=parts, job=job).measure()
    first = {"relu": 4, "gelu": 4, "leaky_relu": 0, "tanh": 8, "sigmoid": 8}[name]
    assert found["01_1"] == pytest.approx(first / 16)
    assert found["all"] == pytest.approx((16 * found["01_1"] + 8 * found["02_3"]) / 24)
    assert found["flat"] >= found["all"]


def test_where_activations_are_flat_is_as_documented():
    x = torch.tensor([-7.0, -6.6, -3.4, -3.2, 0.1, 3.2, 3.4, 6.6, 7.0])
    flat = {name: flat_where(ACTIVATIONS[name](), x).tolist() for name in ACTIVATIONS}
    assert FLAT == 0.005
    yes = {"relu": x < 0, "leaky_relu": x > 99, "tanh": x.abs() > 3.3, "sigmoid": x.abs() > 6.7,
           "gelu": x < -3.3}  # fmt: skip
    assert flat == {name: rows.tolist() for name, rows in yes.items()}


def test_weights_are_counted_as_numpy_counts_them():
    job = job_of(hidden=[30])
    parts = prepare(job)
    with torch.no_grad():
        parts.model[0].weight[:10] *= 1e-4
        parts.model[0].weight[0, 0] = 0.0
    found = RECORDERS.create("weights", parts=parts, job=job).measure()
    flat = torch.cat([parts.model[0].weight.flatten(), parts.model[2].weight.flatten()])
    sizes = flat.detach().abs().numpy()
    edges = [-1.0, *(10.0**e for e in EXPONENTS), 1e9]
    counts = np.histogram(sizes, edges)[0]
    assert [found[name] for name in BINS] == pytest.approx(list(counts / len(sizes)))
    assert found["sparsity"] == pytest.approx((sizes < 1e-3).mean())
    assert found["l1"] == pytest.approx(sizes.sum())
    assert found["l2"] == pytest.approx(math.sqrt((sizes**2).sum()))


def test_dropout_before_a_norm_shifts_its_variance_as_li_et_al_derive():
    """Linear after dropout of inputs with mean 0: training variance is 1 / (1 - p) of evaluation's.

    Li et al. 2019, section 3: case (a), with p the share that is dropped.
    """
    norm = nn.BatchNorm1d(6, momentum=None).double()
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 6, bias=False), norm, nn.Linear(6, 1))
    parts = prepare(job_of(hidden=[4]))
    features = parts.data.train.features
    features -= features.mean(0)
    parts.model = model.double()
    torch.manual_seed(0)
    model.train()
    for _ in range(300):
        model(features)
    found = RECORDERS.create("variance_shift", parts=parts, job=job_of()).measure()
    assert list(found) == ["01_2", "all"]
    # The weights' own correlations make no difference to the first term, and add none.
    spread = features.var(0, correction=0)
    weight = model[1].weight.detach()
    real = (features @ weight.T).var(0, correction=0)
    ratios = (real + weight.square() @ spread) / real
    assert found["all"] == pytest.approx(ratios.mean().item(), rel=0.03)


def test_without_norms_or_activations_there_is_nothing_to_tell():
    job = job_of(hidden=[])
    assert recorded("variance_shift", job)[1] == {} == recorded("dead_units", job)[1]
