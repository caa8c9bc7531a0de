"""The loss around trained networks, and gradients by difficulty, of a study that has run."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from losslab import run_study
from losslab.analysis.figures.gradients import (
    gradient_difficulty_caption,
    gradient_difficulty_figure,
)
from losslab.analysis.frames import frames_from_folder
from losslab.analysis.gradient_difficulty import difficulties
from losslab.analysis.surface_figures import by_distance, profile_figure, surface_figure
from losslab.analysis.surfaces import DIRECTIONS, DISTANCES, measure_surfaces, surface_tasks
from losslab.cli import main
from losslab.datasets import DATASETS
from losslab.errors import BadInput

STUDY = {
    "study": "tiny",
    "dataset": {
        "name": "clusters", "examples": 300, "validation_examples": 200, "test_examples": 200,
        "imbalance_ratio": 5, "dimensions": 4,
    },
    "model": {"name": "mlp", "hidden": [4]},
    "training": {"epochs": 4, "batch_size": 64, "learning_rate": 0.01, "weight_decay": 0},
    "arms": ["ce", "focal"],
    "search": {"trials": 2, "generation": 2, "select": {"best": 1, "seeds": 0}},
    "confirm": {"seeds": 2, "defaults": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The home of a study, run to its end without a report; to be read only."""
    place = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for step in ("begin_report", "write_report_files"):
            patch.setattr(f"losslab.analysis.report.{step}", lambda *_: [])
        run_study(STUDY, home=place, tracking_uri="none")
    return place


@pytest.fixture(scope="module")
def frames(home):
    return frames_from_folder(home / "tiny")


@pytest.fixture
def copied(home, tmp_path):
    """A copy of the study's folder, to be damaged."""
    shutil.copytree(home / "tiny", tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture(scope="module")
def surfaces(frames):
    return measure_surfaces(surface_tasks(frames, points=3, span=0.5), workers=1)


def _by_hand(frames, arm, seed):
    """The stored network as plain torch layers, its record and its training split."""
    file = frames.folder / "confirm" / arm / f"selected-{seed:04d}"
    record = json.loads(file.with_suffix(".json").read_text())
    weights = list(torch.load(file.with_suffix(".pt"), weights_only=True).values())
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    for parameter, value in zip(network.parameters(), weights, strict=True):
        parameter.data.copy_(value)
    options = dict(record["config"]["dataset"])
    dataset = DATASETS.create(options.pop("name"), study_seed=0, **options)
    return network, record, dataset.split(record["run_seed"])[0]


def test_the_middle_of_a_plane_is_the_training_loss_of_the_trained_network(frames, surfaces):
    for arm in ("ce", "focal"):
        network, record, train = _by_hand(frames, arm, 0)
        with torch.no_grad():
            x = network(torch.from_numpy(train.features)).squeeze(1)
        y = torch.from_numpy(train.targets).float()
        ce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
        loss = ce
        if arm == "focal":
            alpha, gamma = (record["config"]["loss"][name] for name in ("alpha", "gamma"))
            p_t = torch.sigmoid(torch.where(y == 1, x, -x))
            loss = torch.where(y == 1, alpha, 1 - alpha) * (1 - p_t) ** gamma * ce
        rows = surfaces.plane.query("arm == @arm and x == 0 and y == 0")
        assert rows["loss"].item() == pytest.approx(loss.mean().item(), rel=1e-5)
        assert rows["cross_entropy"].item() == pytest.approx(ce.mean().item(), rel=1e-5)


def test_every_point_is_there_once(surfaces):
    assert len(surfaces.plane) == 2 * 9
    assert set(surfaces.plane["x"]) == {-0.5, 0.0, 0.5} == set(surfaces.plane["y"])
    profile = surfaces.profile
    assert len(profile) == 2 * 2 * DIRECTIONS * (2 * len(DISTANCES) - 1)
    assert not profile.duplicated(["arm", "seed_index", "direction", "distance"]).any()
    centre = profile[profile["distance"] == 0].groupby(["arm", "seed_index"])["loss"]
    assert (centre.max() == centre.min()).all()  # the weights are put back after each point
    away = profile[profile["distance"].abs() == 0.5]
    assert away["loss"].nunique() == len(away)


def test_profiles_are_means_over_directions_and_both_ways(surfaces):
    runs = surfaces.profile[surfaces.profile["arm"] == "ce"]
    table = by_distance(runs, "loss")
    assert table.shape == (2, len(DISTANCES))
    one = runs[(runs["seed_index"] == 1) & (runs["distance"].abs() == 0.25)]
    assert len(one) == 2 * DIRECTIONS
    assert table.loc[1, 0.25] == pytest.approx(one["loss"].mean())
    drawn = profile_figure(surfaces).axes[0].get_lines()[0].get_xydata()
    np.testing.assert_allclose(drawn[:, 1], table.mean())


def test_each_arm_has_a_panel_with_its_loss_at_the_cross(surfaces):
    axes = surface_figure(surfaces).axes
    found = [axis.get_title("left").replace("\N{NO-BREAK SPACE}", " ") for axis in axes]
    titles = [title for title in found if title]
    loss = surfaces.plane.query("x == 0 and y == 0").set_index("arm")["loss"]
    assert titles == [f"{arm} (at ×: {loss[arm]:.2g})" for arm in ("ce", "focal")]


def test_the_command_writes_figures_and_numbers(home, tmp_path, capsys):
    given = ["surface", "tiny", "--home", str(home), "--workers", "1"]
    assert main([*given, "--arm", "focal", "--points", "3", "--out", str(tmp_path / "out")]) == 0
    written = capsys.readouterr().out.split()
    assert len(written) == 6
    table = pd.read_csv(tmp_path / "out" / "surface.csv")
    assert set(table["arm"]) == {"focal"}
    for wrong, told in (
        (["--points", "4"], "--points: must be odd"),
        (["--span", "0"], "--span: must be above 0"),
        (["--arm", "nope"], "no arm nope; the study has ce, focal"),
        (["--workers", "0"], "--workers: must be at least 1"),
    ):
        place = tmp_path / "none"
        assert main([*given, *wrong, "--out", str(place)]) == 2
        assert told in capsys.readouterr().err
        assert not place.exists()


def test_missing_weights_are_told_of(copied):
    (copied / "confirm" / "ce" / "selected-0000.pt").unlink()
    tasks = surface_tasks(frames_from_folder(copied), ["ce"], points=3)
    with pytest.raises(BadInput, match=r"selected-0000\.pt cannot be read"):
        measure_surfaces(tasks, workers=1)


@pytest.mark.slow
def test_two_processes_measure_the_same(frames, surfaces):
    again = measure_surfaces(surface_tasks(frames, points=3, span=0.5), workers=2)
    pd.testing.assert_frame_equal(again.plane, surfaces.plane)
    pd.testing.assert_frame_equal(again.profile, surfaces.profile)


# Gradients by difficulty --------------------------------------------------------------------------


def test_difficulties_are_counted_as_numpy_counts_them(frames):
    found = difficulties(frames)
    assert set(found) == {"ce", "focal"}
    for arm in found:
        examples, pull = [], []
        for seed in range(2):
            _, record, _ = _by_hand(frames, arm, seed)
            outputs = np.load(frames.folder / record["outputs"])
            x, y = outputs["test_logits"].astype(float), outputs["test_targets"]
            s = 2 * y - 1
            p_t = 1 / (1 + np.exp(-s * x))
            own = 1 - p_t
            if arm == "focal":
                alpha, gamma = (record["config"]["loss"][name] for name in ("alpha", "gamma"))
                own = np.where(y == 1, alpha, 1 - alpha) * (1 - p_t) ** gamma * np.abs(
                    gamma * p_t * np.log(p_t) + p_t - 1
                )  # fmt: skip
            examples.append(np.histogram(1 - p_t, 30, (0, 1))[0] / len(y))
            pull.append(np.histogram(1 - p_t, 30, (0, 1), weights=own / own.sum())[0])
        np.testing.assert_allclose(found[arm].examples["after"], np.mean(examples, 0), atol=1e-12)
        np.testing.assert_allclose(found[arm].pull["after"], np.mean(pull, 0), atol=1e-6)


def test_before_training_all_arms_see_the_same_network(frames):
    found = difficulties(frames)
    np.testing.assert_array_equal(found["ce"].examples["before"], found["focal"].examples["before"])
    assert not np.array_equal(found["ce"].examples["after"], found["ce"].examples["before"])
    figure = gradient_difficulty_figure(frames)
    titles = [axis.get_title("left") for axis in figure.axes]
    assert titles[0] == "(a) share of the examples, before training"
    assert titles[3] == "(d) share of the gradient, after training"
    assert "n = 2 runs an arm" in gradient_difficulty_caption(frames)


def test_without_the_initial_weights_there_is_one_column(copied):
    for file in (copied / "confirm").rglob("selected-*.json"):
        record = json.loads(file.read_text())
        record["pairing"]["initial_weights"] = "of another model"
        file.write_text(json.dumps(record))
    frames = frames_from_folder(copied)
    assert len(gradient_difficulty_figure(frames).axes) == 2
    assert "could not be built again" in gradient_difficulty_caption(frames)
