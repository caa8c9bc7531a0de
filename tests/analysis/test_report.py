import doctest
import importlib
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from losslab.analysis import figures
from losslab.analysis.report import cumulative_source, write_paper_figures, write_report_files


@pytest.fixture(autouse=True)
def _no_leaks_and_no_warnings():
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


def _names(paths: list[Path]) -> set[str]:
    assert all(path.stat().st_size > 100 for path in paths)
    return {path.name for path in paths}


def _of(*stems: str, kinds=("pdf", "png")) -> set[str]:
    return {f"{stem}.{kind}" for stem in stems for kind in kinds}


TABLES = _of("results", "ledger", kinds=("csv", "md", "tex"))


def test_messy_study(messy, tmp_path):
    written = write_report_files(messy.frames(), tmp_path / "report")
    assert _names(written) == TABLES | _of("seeds", "differences", "learning_curves", "search")


def test_single_arm_single_seed(study, tmp_path):
    writer = study({"ce": 0.0}, seeds=1, trials=2)
    writer.build()
    written = write_report_files(writer.frames(), tmp_path / "report")
    assert _names(written) == TABLES | _of("seeds", "learning_curves", "search")


def test_unfinished_studies(study, tmp_path):
    writer = study(trials=2)
    writer.build(search=False, confirm=False)
    # the focal paper's curves need no runs, only an arm with that loss
    always = TABLES | _of("figure_1_focal_loss", "figure_5_loss_variants", "figure_6_gradients")
    assert _names(write_report_files(writer.frames(), tmp_path / "a")) == always
    writer.search("ce")
    assert _names(write_report_files(writer.frames(), tmp_path / "b")) == always | _of("search")


def test_dense_sweep(study, tmp_path):
    writer = study(
        {"ce": 0.0, "gamma-0.5": 0.0, "gamma-2": 0.0, "gamma-5": 0.0},
        seeds=2,
        trials=2,
        task="dense",
    )
    writer.build(search=False)
    rng = np.random.default_rng(0)
    targets = (rng.random(5000) < 0.02).astype(int)
    for arm in ("gamma-0.5", "gamma-2"):
        writer.outputs(arm, 1, rng.normal(-3 + 4 * targets, 2).astype(np.float32), targets)
    frames = writer.frames()
    arm, file = cumulative_source(frames)
    assert (arm, file.name) == ("gamma-2", "selected-0001.npz")
    written = _names(write_report_files(frames, tmp_path / "report"))
    assert _of("sweep_gamma", kinds=("csv", "md", "tex")) <= written
    assert _of("figure_4_cumulative_loss") | {"figure_4_claims.csv"} <= written
    claims = pd.read_csv(tmp_path / "report/figure_4_claims.csv")
    assert (claims["foreground"] == targets.sum()).all()
    assert claims["background_99_fraction"].is_monotonic_decreasing


def test_paper_figures_are_the_same_bytes_each_time(tmp_path):
    first, second = write_paper_figures(tmp_path / "a"), write_paper_figures(tmp_path / "b")
    stems = ("figure_1_focal_loss", "figure_5_loss_variants", "figure_6_gradients")
    assert _names(first) == _of(*stems)
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_forest_plot_shows_the_interval(study):
    writer = study(seeds=6)
    writer.build(search=False)
    frames = writer.frames()
    table = figures.compared_arms(frames)
    (axis,) = figures.differences_figure(frames).axes
    bars = [c for c in axis.containers if c.has_xerr]
    for bar, (_, line) in zip(bars, table.iterrows(), strict=True):
        ends = bar.lines[2][0].get_segments()[0][:, 0]
        assert ends == pytest.approx([line["low"], line["high"]])
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[1].startswith("focal\n(n = 6, Holm p")


def test_learning_curve_is_the_mean_over_seeds(study):
    writer = study({"ce": 0.0, "focal": 0.05}, seeds=4)
    writer.build(search=False)
    frames = writer.frames()
    (axis,) = figures.learning_curves_figure(frames).axes
    own = frames.epochs.query("arm == 'focal' and variant == 'selected'")
    expected = own.groupby("epoch")["val/average_precision"].mean()
    np.testing.assert_allclose(axis.get_lines()[1].get_ydata(), expected)


@pytest.mark.parametrize(
    "name", ["statistics", "latex", "typeset", "layouts", "sweeps", "curves", "frames", "tables"]
)
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"losslab.analysis.{name}")
    assert doctest.testmod(module).failed == 0
