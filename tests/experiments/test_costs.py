"""Costs against counting by hand."""

import pytest
import torch
from torch import nn

from losslab.experiments.costs import (
    median_milliseconds,
    model_costs,
    peak_of_graph,
    training_costs,
)
from losslab.experiments.states import Job
from losslab.experiments.training import prepare

TRAINING = {"epochs": 2, "batch_size": 32, "learning_rate": 0.1, "weight_decay": 0.0,
            "momentum": 0.9, "clip_norm": None, "judge": "last"}  # fmt: skip


def test_counts_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5))
    model[1].weight.requires_grad_(False)
    costs = model_costs(model, torch.zeros(2, 3, 16, 12), repeats=3)
    assert costs["parameters"] == 5 * 3 * 9 + 5 + 5
    assert costs["flops"] == 2 * (8 * 6) * 5 * 3 * 9  # biases and norms do not count
    assert costs["milliseconds"] > 0
    assert model.training


def test_the_median_after_two_that_do_not_count():
    calls = []
    threads = torch.get_num_threads()
    median_milliseconds(lambda: calls.append(torch.get_num_threads()), repeats=5)
    assert calls == [1] * 7
    assert torch.get_num_threads() == threads


def test_peak_of_a_graph_by_hand():
    """Two layers keep their input and their hidden units; parameters do not count."""
    model = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 1))
    features = torch.zeros(11, 7)
    once = (7 + 5) * 11 * 4  # tanh keeps its output, which the second layer keeps as its input
    assert peak_of_graph(lambda: model(features).sum().backward(), model) == once
    # A graph that is gone when the next is made does not count again, one that is kept does.
    two = [lambda: model(features + 1).sum().backward() for _ in range(2)]
    assert peak_of_graph(lambda: [call() for call in two], model) == once
    assert peak_of_graph(lambda: [model(features + 1).sum() for _ in range(2)], model) == 2 * once


@pytest.mark.parametrize(("optimizer", "copies"), [("adamw", 4), ("sgd", 3)])
def test_costs_of_a_training_by_hand(optimizer, copies):
    """Weights, gradients, and two moments of AdamW (with a step count each) or one of momentum."""
    job = Job(
        {
            "dataset": {"name": "clusters", "examples": 300, "dimensions": 6},
            "model": {"name": "mlp", "hidden": []},
            "training": {**TRAINING, "optimizer": optimizer},
            "loss": {"name": "ce", "link": "sigmoid"},
        },
        study_seed=0,
        run_seed=1,
    )
    costs = training_costs(job)
    features = prepare(job).data.train.features
    inputs, rows = features.shape[1], job.config["training"]["batch_size"]
    parameters = inputs + 1
    assert costs["cost/parameters"] == parameters
    assert costs["cost/flops"] == 2 * inputs
    left = len(features) % rows
    assert costs["cost/steps"] == len(features) // rows + (left > 1)
    held = copies * parameters * 4 + (2 * 4 if optimizer == "adamw" else 0)
    least = held + rows * inputs * 4  # the graph keeps the batch
    inside_the_loss = 16 * rows * 4
    assert least <= 1e6 * costs["cost/peak_megabytes"] <= least + inside_the_loss
