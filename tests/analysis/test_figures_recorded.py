"""Figures of what recorders measure, from frames with known numbers."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from losslab.analysis import figures
from losslab.analysis.figures import recorded as captions
from losslab.analysis.recorded import recorded
from losslab.experiments.recorders.weights import BINS


@pytest.fixture(scope="module")
def frames(kept_study):
    """Two arms, three runs of six epochs, the second arm without batch norms."""
    writer = kept_study({"ce": 0.0, "other": 0.1}, seeds=3)
    writer.build(search=False)
    found = writer.frames()
    epochs = found.epochs.copy()
    first = epochs["epoch"] == 1
    run = epochs.groupby("key").ngroup() + 1.0
    values = {"gradients/01_0": run * 10.0 ** -epochs["epoch"], "gradients/02_2": run,
              "gradients/all": run, "dead_units/01_1": 0.2, "dead_units/all": 0.1 * epochs["epoch"],
              "weights/sparsity": 0.25}  # fmt: skip
    values |= {f"weights/{name}": float(name == BINS[3]) for name in BINS}
    for key, value in values.items():
        epochs[f"record/{key}"] = value
        epochs[f"initial/{key}"] = (run * 0 + 1.0).where(first)
    shift = (epochs["arm"] == "ce") & True
    for key, least in (("01_1", 2.0), ("02_4", 1.0), ("all", 1.5)):
        epochs[f"record/variance_shift/{key}"] = (epochs["epoch"] + least).where(shift)
        epochs[f"initial/variance_shift/{key}"] = (run * 0 + least).where(first & shift)
    return replace(found, epochs=epochs)


def test_recorded_values_stand_by_run_and_epoch(frames):
    found = recorded(frames, "gradients")
    assert list(found) == ["ce", "other"]
    table = found["ce"]
    assert list(table) == ["01_0", "02_2", "all"]
    assert table.index.get_level_values("epoch").unique().tolist() == list(range(7))
    assert (table.xs(0, level="epoch") == 1).all(axis=None)
    last = table.xs(6, level="epoch").astype(float)
    assert last["01_0"].tolist() == pytest.approx((last["02_2"] / 1e6).tolist())
    assert recorded(frames, "nothing") == {}
    assert list(recorded(frames, "variance_shift")) == ["ce"]


def test_gradients_are_geometric_means_from_dark_to_light(frames):
    figure = figures.gradient_flow_figure(frames)
    axis = figure.axes[0]
    assert axis.get_yscale() == "log"
    first, second = axis.lines
    runs = recorded(frames, "gradients")["ce"].xs(6, level="epoch")["all"]
    assert len(runs) == 3
    mean = np.exp(np.log(runs).mean())
    assert second.get_ydata() == pytest.approx([1, *[mean] * 6])
    assert first.get_ydata() == pytest.approx([1, *(mean * 10.0**-e for e in range(1, 7))])
    lightness = [np.dot(to_rgb(line.get_color()), (0.3, 0.59, 0.11)) for line in axis.lines]
    assert lightness == sorted(lightness)
    assert "n = 3 runs" in captions.gradient_flow_caption(frames)


def test_dead_units_and_shifts_are_means_by_epoch(frames):
    axis = figures.dead_units_figure(frames).axes[0]
    assert axis.lines[0].get_ydata() == pytest.approx([1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    (points, *_), *more = figures.variance_shift_figure(frames).axes[0].containers
    assert points.get_ydata().tolist() == [8.0, 7.0]  # after the last epoch, norm by norm
    assert not more  # the other arm has none


def test_weights_are_stairs_with_their_sparsity(frames):
    figure = figures.weights_figure(frames)
    before, _, after = figure.axes[0].patches
    assert after.get_data().values == pytest.approx([float(name == BINS[3]) for name in BINS])
    assert before.get_data().values == pytest.approx([1.0] * len(BINS))
    assert after.get_data().edges[3:5] == pytest.approx([1e-5, 10**-4.5])
    assert "25 % below 0.001" in figure.axes[0].get_title(loc="left")


def test_without_recorders_there_is_no_figure(study):
    writer = study()
    writer.build(search=False)
    frames = writer.frames()
    for name in ("gradient_flow", "dead_units", "weights", "variance_shift"):
        assert getattr(figures, f"{name}_figure")(frames) is None
