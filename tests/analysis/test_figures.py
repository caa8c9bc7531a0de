"""What study figures draw equals the numbers; read back from the artists."""

import warnings

import numpy as np
import pytest

from losslab.analysis import class_balanced_figures, figures
from losslab.analysis.figures import (
    budgets,
    catalogue,
    response,
    search,
    seeds,
)
from losslab.analysis.figures.parts import BLUE
from losslab.analysis.statistics import expected_best, mean_interval
from losslab.analysis.style import save
from losslab.analysis.sweeps import published


def _texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def _marked(axis, marker):
    """Data of the lines with a marker."""
    return [line.get_xydata() for line in axis.get_lines() if line.get_marker() == marker]


# Every figure -----------------------------------------------------------------------------------


def _odd_studies(study, hostile):
    yield "one seed", study(seeds=1).build()
    yield "one arm", study({"ce": 0.0}).build()
    yield "no search", study().build(search=False)
    yield "no confirmation", study().build(confirm=False)
    lost = study(seeds=3)
    lost.build()
    for arm in lost.effects:
        for seed in range(3):
            lost.diverge(arm, "selected", seed)
    yield "all diverged", lost.folder
    many = study({f"{i} {hostile}"[:70]: 0.01 * i for i in range(7)}, seeds=2, trials=4)
    many.build()
    many.random_outputs(list(many.effects)[:6], 2, n=60)
    yield "seven hostile arms", many.folder


def _drawn(name, frames):
    """The names of the figures that this study has; drawn with warnings as errors."""
    drawn = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in catalogue.STUDY_FIGURES:
            if (figure := each.draw(frames)) is not None:
                figure.draw_without_rendering()
                caption = each.caption(frames)
                assert caption.endswith((".", "?"))
                assert "nan" not in caption, (name, each.name)
                drawn.add(each.name)
    return drawn


def test_each_figure_of_a_messy_study_draws_or_says_none(messy, tmp_path):
    hostile = list(messy.effects)[1]
    messy.random_outputs(["ce", hostile], 3, n=80)
    messy.diverge(hostile, "selected", 2)
    frames = messy.frames()
    names = {each.name for each in catalogue.STUDY_FIGURES}
    of_detectors = {"detections", "detection_curves", "speed", "task_gradients"}
    of_masks = {"masks", "gains"}
    of_generators = {"samples", "mode_shares"}
    of_recorders = {"batch_norm_drift", "gradient_flow", "dead_units", "weights", "variance_shift"}
    of_others = of_detectors | of_generators | of_recorders | of_masks
    missing = names - _drawn("messy", frames) - of_others
    assert missing == {"class_recall", "importances", "response", "gradient_difficulty"}
    save(figures.seeds_figure(frames), tmp_path, "seeds")
    assert (tmp_path / "seeds.pdf").stat().st_size > 1000


def test_a_study_without_any_run_has_no_figure(study):
    writer = study()
    writer.write("study.json", writer.study)
    assert _drawn("nothing yet", writer.frames()) == set()


@pytest.mark.slow
def test_each_figure_of_odd_studies_draws_or_says_none(study, messy):
    from losslab.analysis.frames import frames_from_folder

    for name, folder in _odd_studies(study, list(messy.effects)[1]):
        drawn = _drawn(name, frames_from_folder(folder))
        if name == "no confirmation":
            assert drawn == {"search", "slices", "best_of_k", "parallel_coordinates"}


def test_catalogue_names_are_files_and_unique():
    listed = [*catalogue.STUDY_FIGURES, *catalogue.SEVERAL_FIGURES]
    names = [each.name for each in listed]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalpha() for name in names)
    assert all(each.title for each in listed)


# Confirmation -----------------------------------------------------------------------------------


def test_seeds_are_the_runs_and_bars_their_intervals(study):
    frames_of = study({"ce": 0.0}, seeds=5)
    frames_of.build(search=False)
    frames = frames_of.frames()
    (axis,) = figures.seeds_figure(frames).axes
    runs = frames.confirmation.set_index("variant")["test/average_precision"]
    points = [c.get_offsets()[:, 0] for c in axis.collections if len(c.get_offsets())]
    for variant, drawn in zip(("selected", "defaults"), points, strict=True):
        assert sorted(drawn) == pytest.approx(sorted(runs[variant]))
    bar = next(line for line in axis.get_lines() if len(line.get_xdata()) == 2)
    estimate = mean_interval(runs["selected"])
    assert bar.get_xdata() == pytest.approx([estimate.low, estimate.high])


def test_an_interval_beyond_what_the_metric_can_be_ends_with_an_arrow(study):
    writer = study({"ce": 0.0}, seeds=3)
    writer.build(search=False)
    for seed, value in enumerate((0.99, 0.98, 0.1)):
        writer.confirmation("ce", "selected", seed, value)
    frames = writer.frames()
    (axis,) = figures.seeds_figure(frames).axes
    left, right = axis.get_xlim()
    assert left > -0.1
    assert right < 1.1
    assert _marked(axis, ">")
    assert _marked(axis, "<")


def test_probability_of_outperforming_stands_beside_each_arm(study):
    writer = study({"ce": 0.0, "focal": 0.05}, seeds=6)
    writer.build(search=False)
    assert "1.00\nundecided" in _texts(figures.differences_figure(writer.frames()))
    assert "6 pairs" in seeds.differences_caption(writer.frames())


def test_more_than_four_arms_have_panels_with_the_baseline_in_grey(study):
    writer = study({name: 0.01 * i for i, name in enumerate("abcdef")}, seeds=2)
    writer.build(search=False)
    frames = writer.frames()
    figure = figures.learning_curves_figure(frames)
    assert len(figure.axes) == 6
    curves = frames.epochs.groupby(["arm", "variant", "epoch"])["val/average_precision"].mean()
    for axis, arm in zip(figure.axes, "abcdef", strict=True):
        *grey, own = axis.get_lines()
        np.testing.assert_allclose(own.get_ydata(), curves[arm, "selected"])
        assert own.get_color() == BLUE
        assert len(grey) == (arm != "a")
        if grey:
            np.testing.assert_allclose(grey[0].get_ydata(), curves["a", "selected"])


def test_arms_of_different_levels_are_not_compared(study):
    writer = study()
    writer.study["levels"] = {"label": "ratio", "values": {"1": 1, "10": 10}}
    writer.build(search=False)
    assert figures.differences_figure(writer.frames()) is None


def test_no_band_leaves_what_the_metric_can_be(study):
    writer = study({"ce": 0.0}, seeds=2)
    writer.build(search=False)
    for seed, value in enumerate((0.2, 0.99)):
        writer.confirmation("ce", "selected", seed, value, value=value)
    (axis,) = figures.learning_curves_figure(writer.frames()).axes
    (band,) = axis.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0, 1)
    assert axis.get_ylim()[0] > -0.1
    assert axis.get_ylim()[1] < 1.1


# The search -------------------------------------------------------------------------------------


def test_search_points_are_the_trials_and_the_ring_is_the_selected_one(study):
    writer = study({"ce": 0.0})
    writer.build(confirm=False)
    frames = writer.frames()
    (axis,) = search.search_figure(frames).axes
    trials = frames.trials[frames.trials["phase"] == "search"].set_index("trial")
    complete = trials[(trials["state"] == "complete") & (trials.index != 0)]
    first = axis.get_lines()[0].get_xydata()
    expected = complete[["params.training.learning_rate", "value"]].to_numpy(float)
    np.testing.assert_allclose(np.sort(first, axis=0), np.sort(expected, axis=0))
    ring = axis.get_lines()[-1].get_xydata()
    chosen = trials.loc[frames.selected["trial"].iloc[0]]
    assert ring.ravel() == pytest.approx([chosen["params.training.learning_rate"], chosen["value"]])
    assert axis.get_xscale() == "log"


def test_each_repeat_has_its_own_selected_trial(study):
    writer = study({"ce": 0.0})
    writer.build(confirm=False)
    for file in writer.folder.glob("arms/arm-0/trial-*.json"):
        record = writer.read(f"arms/arm-0/{file.name}")
        record |= {"repeat": 1, "key": record["key"].replace("arm-0/", "arm-0/repeat-001/")}
        writer.write(f"arms/arm-0/repeat-001/{file.name}", record)
    selected = writer.read("arms/arm-0/selected.json")
    writer.write("arms/arm-0/repeat-001/selected.json", {**selected, "trial": 0})
    writer.study["repeats"] = 2
    writer.write("study.json", writer.study)
    frames = writer.frames()
    trials = search.search_trials(frames)
    chosen = trials[search.is_selected(frames, trials)]
    found = sorted(zip(chosen["repeat"], chosen["trial"], strict=True))
    assert found == [(0, selected["trial"]), (1, 0)]


def test_slices_have_a_row_for_each_arm_and_a_column_for_each_parameter(study):
    writer = study()
    writer.build(confirm=False)
    figure = search.slices_figure(writer.frames())
    assert len(figure.axes) == 3 * 2
    labels = {axis.get_xlabel() for axis in figure.axes} - {""}
    assert labels == {"a", "learning rate"}


def test_best_of_k_is_the_estimate_for_random_search_and_the_best_so_far_else(study):
    writer = study({"ce": 0.0}, trials=12)
    writer.study["resolved"] = {"search": {"sampler": "random"}}
    writer.build(confirm=False)
    frames = writer.frames()
    trials = frames.trials[frames.trials["phase"] == "search"].sort_values("trial")
    worst = trials["value"].min()
    (axis,) = budgets.best_of_k_figure(frames).axes
    drawn = trials["value"].fillna(worst).to_numpy()[1:]  # the defaults are no draw
    expected = expected_best(drawn)["expected"]
    np.testing.assert_allclose(axis.get_lines()[0].get_ydata(), expected)
    assert "Dodge" in budgets.best_of_k_caption(frames)

    writer.study["resolved"] = {"search": {"sampler": "tpe"}}
    writer.write("study.json", writer.study)
    frames = writer.frames()
    (axis,) = budgets.best_of_k_figure(frames).axes
    complete = trials["value"].where(trials["state"] == "complete", worst)
    np.testing.assert_allclose(axis.get_lines()[0].get_ydata(), complete.cummax())
    assert "learns from its trials" in budgets.best_of_k_caption(frames)


def test_importances_and_response_of_a_long_enough_search(study):
    writer = study({"ce": 0.0, "short": 0.0}, trials=40)
    writer.build(confirm=False)
    for file in sorted(writer.folder.glob("arms/arm-1/trial-*.json"))[4:]:
        file.unlink()
    frames = writer.frames()
    table = response.importance_table(frames).table
    assert list(table.index) == ["ce"]
    assert table.columns[0] == "training.learning_rate"
    texts = _texts(response.importances_figure(frames))
    assert texts == [f"{value:.2f}" for value in table.iloc[0]]
    assert "short: importances by fanova need 10" in response.importances_caption(frames)
    assert "Without short: fewer than 8 complete trials" in response.response_caption(frames)
    axis = response.response_figure(frames).axes[0]
    own = frames.trials.query("arm == 'ce' and phase == 'search' and state == 'complete'")
    dots = axis.collections[1].get_offsets()
    columns = ["params.training.learning_rate", "params.loss.a"]
    np.testing.assert_allclose(np.sort(dots, axis=0), np.sort(own[columns], axis=0))
    surface = axis.collections[0].get_array().compressed()
    assert own["value"].min() <= surface.min()
    assert surface.max() <= own["value"].max()


# The class-balanced paper -----------------------------------------------------------------------


@pytest.mark.parametrize("name", class_balanced_figures.GRIDS.values())
def test_error_grids_show_every_published_number(name):
    table = published(name)
    figure = class_balanced_figures.grid_figure(table)
    assert sorted(_texts(figure)) == sorted(f"{value:.1f}" for value in table["error_pct"])
    for axis, (_, panel) in zip(
        figure.axes, sorted(table.groupby("imbalance_factor"), reverse=True), strict=True
    ):
        bold = {t.get_text() for t in axis.texts if t.get_weight() == "bold"}
        assert bold == {f"{panel['error_pct'].min():.1f}"}
