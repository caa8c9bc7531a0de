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
from losslab.analysis.tables import compared_arms


@pytest.fixture(autouse=True)
def _no_leaks_and_no_warnings():
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


def _names(folder: Path) -> set[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert all(path.stat().st_size > 50 for path in files)
    return {path.relative_to(folder).as_posix() for path in files}


def _table(*names: str) -> set[str]:
    return {f"tables/{name}.{kind}" for name in names for kind in ("csv", "md", "tex")}


def _figures(*names: str) -> set[str]:
    return {f"figures/{name}.{kind}" for name in names for kind in ("pdf", "png")}


FRAGMENT = {"paper/main.tex", "paper/macros.tex", "paper/example.tex"}
FOCAL = _figures("figure_1_focal_loss", "figure_5_loss_variants", "figure_6_gradients")


def _write(frames, folder: Path) -> tuple[set[str], str]:
    """The names of what was written, and the page."""
    paths = write_report_files(frames, folder)
    assert {path.relative_to(folder).as_posix() for path in paths} <= _names(folder)
    assert paths[0] == folder / "report.html"
    page = paths[0].read_text(encoding="utf-8")
    assert "could not be drawn" not in page
    return _names(folder), page


def test_messy_study(messy, tmp_path):
    names, page = _write(messy.frames(), tmp_path / "report")
    assert _table("results", "ledger", "pairwise", "search", "divergences") <= names
    assert _figures("seeds", "differences", "learning_curves", "search") <= names
    assert names >= FRAGMENT | {"report.html"}
    assert not names & FOCAL
    # every table and every figure of the folder is on the page and in the fragment
    main = (tmp_path / "report/paper/main.tex").read_text()
    for name in names:
        kind, _, stem = name.partition("/")
        if name.endswith(".tex") and kind == "tables":
            assert f'id="study-table-{stem.removesuffix(".tex")}"' in page
            assert f"/tables/{stem.removesuffix('.tex')}}}" in main
        if name.endswith(".png"):
            assert f'id="study-figure-{stem.removesuffix(".png")}"' in page
            assert f"/figures/{stem.removesuffix('.png')}}}" in main


def test_single_arm_single_seed(study, tmp_path):
    writer = study({"ce": 0.0}, seeds=1, trials=2)
    writer.build()
    names, page = _write(writer.frames(), tmp_path / "report")
    assert _table("results", "ledger") | _figures("seeds", "search") <= names
    assert "figures/differences.pdf" not in names
    assert "Nothing is compared" in page


def test_unfinished_studies(study, tmp_path):
    writer = study(trials=2)
    writer.build(search=False, confirm=False)
    names, page = _write(writer.frames(), tmp_path / "a")
    # the focal paper's curves need no runs, only an arm with that loss
    assert names >= _table("results", "ledger") | FOCAL | FRAGMENT
    assert not any(name.startswith("figures/s") for name in names)
    assert "No answer yet" in page
    assert "not everything selected yet: 0 trainings done" in page
    writer.search("ce")
    names, _ = _write(writer.frames(), tmp_path / "b")
    assert _figures("search") <= names


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
    names, page = _write(frames, tmp_path / "report")
    assert _table("sweep_gamma") | _figures("figure_4_cumulative_loss") <= names
    assert f"{targets.sum()} foreground and {5000 - targets.sum():,} background" in page
    claims = pd.read_csv(tmp_path / "report/tables/figure_4_claims.csv")
    assert (claims["foreground"] == targets.sum()).all()
    assert claims["background_99_fraction"].is_monotonic_decreasing


def test_paper_figures_are_the_same_bytes_each_time(tmp_path):
    first, second = write_paper_figures(tmp_path / "a"), write_paper_figures(tmp_path / "b")
    stems = ("figure_1_focal_loss", "figure_5_loss_variants", "figure_6_gradients")
    assert {path.name for path in first} == {
        f"{s}.{kind}" for s in stems for kind in ("pdf", "png")
    }
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_forest_plot_shows_the_interval(study):
    writer = study(seeds=6)
    writer.build(search=False)
    frames = writer.frames()
    table = compared_arms(frames)
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
