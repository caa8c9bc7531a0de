"""Trajectories against closed forms, surfaces against known minima, directions against loops."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from losslab.analysis.landscapes import NOWHERE, SURFACES, VALLEY, arrivals, trajectory
from losslab.analysis.loss_surface import filter_normalised
from losslab.analysis.trajectory_figures import trajectory_figure
from losslab.errors import BadInput

START = np.array([2.0, 0.3])


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.0195, 0.0205])
def test_gradient_descent_in_the_valley_has_its_closed_form(rate):
    (path,) = trajectory(SURFACES["valley"], "SGD", rate, [START], steps=50)
    steps = np.arange(51)[:, None]
    np.testing.assert_allclose(path, START * (1 - rate * np.array(VALLEY)) ** steps, 1e-9, 1e-12)
    assert (abs(path[-1, 1]) > abs(path[0, 1])) == (rate > 2 / VALLEY[1])


def test_momentum_in_the_valley_is_a_power_of_its_matrix():
    rate = 0.01
    (path,) = trajectory(SURFACES["valley"], "momentum 0.9", rate, [START], steps=40)
    for axis, curvature in enumerate(VALLEY):
        # (x, v) -> (x - rate v', v') with v' = 0.9 v + curvature x
        step = np.array([[1 - rate * curvature, -0.9 * rate], [curvature, 0.9]])
        for k in (1, 7, 40):
            expected = (np.linalg.matrix_power(step, k) @ [START[axis], 0.0])[0]
            assert path[k, axis] == pytest.approx(expected, rel=1e-9)


def test_adams_first_step_is_as_long_as_the_rate_in_every_direction():
    (path,) = trajectory(SURFACES["himmelblau"], "Adam", 0.1, [(-1.0, -4.5)], steps=1)
    np.testing.assert_allclose(np.abs(path[1] - path[0]), 0.1, rtol=1e-6)


def test_starts_do_not_mix():
    surface = SURFACES["himmelblau"]
    for optimizer in ("momentum 0.9", "Adam"):
        together = trajectory(surface, optimizer, 0.01, surface.starts, steps=20)
        for start, path in zip(surface.starts, together, strict=True):
            alone = trajectory(surface, optimizer, 0.01, [start], steps=20)[0]
            np.testing.assert_array_equal(path, alone)


@pytest.mark.parametrize("name", SURFACES)
def test_the_minima_are_scipys(name):
    surface = SURFACES[name]
    for minimum in surface.minima:
        found = minimize(
            lambda at: float(surface.values(np.asarray(at))), np.add(minimum, 0.05), tol=1e-12
        )
        np.testing.assert_allclose(found.x, minimum, atol=1e-4)


def test_a_start_on_the_ridge_ends_in_the_saddle_and_one_beside_it_does_not():
    found = arrivals(["saddle"]).set_index(["optimizer", "rate", "start"])
    on, beside = found.loc["SGD", 0.1, (2.0, 0.0)], found.loc["SGD", 0.1, (-2.0, 1e-3)]
    assert on["reached"] == NOWHERE
    np.testing.assert_allclose(on["end"], (0, 0), atol=1e-6)
    assert beside["reached"] == "(0, 1)"
    path = trajectory(SURFACES["saddle"], "SGD", 0.1, [(-2.0, 1e-3)])[0]
    away = np.linalg.norm(path - [0, 1], axis=1) >= 1e-2
    assert beside["steps"] == np.flatnonzero(away)[-1] + 1


def test_what_diverges_is_said_so():
    assert (arrivals(["valley"], steps=200).query("rate > 0.02 and optimizer == 'SGD'")[
        "reached"] == "diverged").all()  # fmt: skip
    with pytest.raises(BadInput, match="lbfgs"):
        trajectory(SURFACES["valley"], "lbfgs", 0.1, [START])


def test_the_figure_draws_a_panel_for_each_rate_and_optimiser():
    surface = SURFACES["saddle"]
    figure = trajectory_figure(surface, steps=5)
    titles = [axis.get_title("left") for axis in figure.axes]
    assert titles[:4] == ["SGD, rate 0.01", "momentum 0.9, rate 0.01", "Adam, rate 0.01",
                          "SGD, rate 0.1"]  # fmt: skip
    line = figure.axes[3].get_lines()[0].get_xydata()
    np.testing.assert_allclose(line, trajectory(surface, "SGD", 0.1, [surface.starts[0]], 5)[0])


# Filter normalisation ----------------------------------------------------------------------------


def _network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 16, 3),
    ).double()  # fmt: skip


def test_each_filter_of_a_direction_is_as_long_as_the_networks():
    model = _network()
    direction = filter_normalised(model, torch.Generator().manual_seed(3))
    assert set(direction) == {"0.weight", "4.weight"}  # no bias, nothing of the batch norm
    for name, change in direction.items():
        own = model.get_parameter(name)
        for row in range(len(own)):
            expected = own[row].pow(2).sum().sqrt().item()
            assert change[row].pow(2).sum().sqrt().item() == pytest.approx(expected)


def test_a_direction_is_random_beyond_its_lengths():
    model = _network()
    one, other = (
        filter_normalised(model, torch.Generator().manual_seed(seed))["4.weight"] for seed in (1, 2)
    )
    cosines = nn.functional.cosine_similarity(one, other, dim=1)
    assert cosines.abs().max() < 0.5


def test_networks_that_compute_the_same_have_the_same_surface():
    """What filter normalisation is for: a rescaled layer before a batch norm changes nothing."""
    model, x = _network().eval(), torch.randn(5, 2, 4, 4, dtype=torch.float64)
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[0].weight *= 10
        scaled[1].running_mean *= 10
        scaled[1].running_var.mul_(100).add_(99 * 1e-5)  # eps is added before the root
    torch.testing.assert_close(scaled(x), model(x))
    moved = []
    for network in (model, scaled):
        direction = filter_normalised(network, torch.Generator().manual_seed(4))
        with torch.no_grad():
            for name, change in direction.items():
                network.get_parameter(name).add_(change, alpha=0.3)
        moved.append(network(x))
    torch.testing.assert_close(*moved)


@pytest.mark.slow
def test_the_page_tells_what_the_paths_do():
    page = (Path(__file__).parents[2] / "docs" / "landscapes.md").read_text(encoding="utf-8")
    page = " ".join(page.split())
    found = arrivals().set_index(["surface", "optimizer", "rate"])

    def steps(surface, optimizer, rate):
        values = found.loc[(surface, optimizer, rate), "steps"]
        return f"{values.min():.0f} to {values.max():.0f}"

    assert f"after {steps('himmelblau', 'SGD', 0.01)} steps, at 0.001 after" in page
    assert f"at 0.001 after {steps('himmelblau', 'SGD', 0.001)};" in page
    assert f"it arrives after {steps('himmelblau', 'Adam', 0.1)} steps" in page
    assert f"arrives after {steps('valley', 'momentum 0.9', 0.021)} steps at 0.021" in page
    for optimizer in ("SGD", "momentum 0.9"):
        assert (found.loc[("himmelblau", optimizer, 0.1), "reached"] == "diverged").all()
    assert (found.loc[("himmelblau", "Adam", 0.01), "reached"] == NOWHERE).all()
    ends = (
        found.loc[("himmelblau", o, 0.01), "reached"].to_numpy() for o in ("SGD", "momentum 0.9")
    )
    assert sum(a != b for a, b in zip(*ends, strict=True)) == 3
    saddle = found.loc[("saddle", "SGD", 0.1), "steps"].to_numpy()
    assert f"is at a minimum after {saddle[1]:.0f} steps" in page
    assert f"(10⁻⁶) takes {saddle[2]:.0f}." in page
    adam = found.loc[("saddle", "Adam", 0.1), "steps"].to_numpy()
    assert f"arrives after {adam[2]:.0f} steps at 0.1" in page
    flat = found.loc[("valley", "SGD", 0.01), "end"].iloc[0][0]
    assert f"from 2 to {flat:.3f} after 300 steps" in page
