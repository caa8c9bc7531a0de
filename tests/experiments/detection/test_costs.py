"""Costs against counting by hand."""

import torch
from torch import nn

from losslab.experiments.detection.costs import median_milliseconds, model_costs


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
