"""An adversarial study from its file to its frames and figures, small."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from losslab import run_study
from losslab.analysis import figures
from losslab.analysis.figures.generated import mode_shares_caption, samples_caption
from losslab.analysis.generated import generator_runs
from losslab.analysis.tables import results_table
from losslab.experiments.adversarial.metrics import RealModes, mode_coverage
from losslab.experiments.config import load_study
from losslab.experiments.confirmation import judge
from losslab.experiments.preflight import first_job
from losslab.experiments.training import start

STUDY = {
    "study": "game",
    "dataset": {"name": "modes", "modes": 4, "imbalance_ratio": 5, "examples": 256,
                "validation_examples": 200, "test_examples": 300},
    "model": {"name": "gan", "noise": 3, "hidden": [16]},
    "training": {"epochs": 3, "batch_size": 64, "weight_decay": 0,
                 "generator_learning_rate": {"low": 1e-4, "high": 1e-2, "scale": "log"}},
    "arms": ["non_saturating", "least_squares", "hinge"],
    "search": {"trials": 2, "generation": 2, "select": {"best": 1}},
    "confirm": {"seeds": 2, "defaults": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for step in ("begin_report", "write_report_files"):
            patch.setattr(f"losslab.analysis.report.{step}", lambda *_: [])
        home = tmp_path_factory.mktemp("home")
        return run_study(STUDY, home=home, workers=1, tracking_uri="none")


def test_a_study_searches_both_rates_and_judges_on_test(frames):
    assert {"params.training.learning_rate", "params.training.generator_learning_rate"} <= set(
        frames.trials
    )
    assert len(frames.confirmation) == 3 * 2
    names = {"test/mode_coverage", "test/high_quality", "test/mode_divergence"}
    assert names <= set(frames.confirmation)
    assert frames.confirmation[[*names]].notna().all(axis=None)
    assert frames.study["primary"] == "mode_coverage"
    assert {"val/mode_coverage", "val/mode_divergence"} <= set(frames.epochs)


def test_what_is_stored_gives_the_metrics_again(frames):
    row = frames.confirmation.iloc[0]
    outputs = frames.outputs(row["key"])
    assert outputs["test_generated"].shape == outputs["test_samples"].shape
    modes = RealModes.of(outputs["test_samples"], outputs["test_modes"])
    again = mode_coverage(modes.counts, modes.count(outputs["test_generated"]))
    assert again == row["test/mode_coverage"]


def test_nothing_is_decided_and_less_divergence_is_better(frames):
    table = results_table(frames)
    assert set(table["rule"]) == {""}
    directions = table.groupby("metric")["direction"].first()
    assert directions["mode_divergence"] == "minimize"
    assert directions["mode_coverage"] == directions["high_quality"] == "maximize"


def test_figures_show_every_arm(frames):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples, shares = figures.samples_figure(frames), figures.mode_shares_figure(frames)
        for figure in (samples, shares):
            figure.draw_without_rendering()
    assert [axis.get_title(loc="left") for axis in samples.axes] == frames.arms
    crosses = [sum(line.get_marker() == "x" for line in axis.lines) for axis in samples.axes]
    runs = generator_runs(frames)
    assert crosses == [int((runs[arm][0].shares < 0.25).sum()) for arm in frames.arms]
    drawn = [line for line in shares.axes[0].lines if line.get_marker() == "."]
    for line, arm in zip(drawn, frames.arms, strict=True):
        order = np.argsort(-runs[arm][0].modes.counts[:-1], kind="stable")
        mean = np.mean([run.shares[order] for run in runs[arm]], axis=0)
        assert line.get_ydata() == pytest.approx(mean)
    assert "n = 2 runs an arm" in mode_shares_caption(frames)
    assert "the first 299 of 299" in samples_caption(frames)


def test_a_generator_that_diverged_meets_no_mode():
    study = load_study(STUDY)
    state = start(first_job(study, study.arms["hinge"], "cpu"))
    verdict = judge(replace(state, diverged="for the test"), "balanced_accuracy", False)
    assert verdict.metrics["test/mode_coverage"] == verdict.metrics["test/high_quality"] == 0
    assert np.isfinite(verdict.metrics["test/mode_divergence"])
    assert np.isnan(verdict.outputs["test_generated"]).all()
