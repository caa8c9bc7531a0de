"""Figures of per-example outputs and of classes: what is drawn equals naive numbers."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, precision_recall_curve

from losslab.analysis.figures import calibration, classes, ranking, thresholds
from losslab.analysis.figures.parts import PALE
from losslab.analysis.prediction_curves import precision_at, reliability_bins
from losslab.analysis.predictions import RECALLS


def _marked(axis, marker):
    """Data of the lines with a marker."""
    return [line.get_xydata() for line in axis.get_lines() if line.get_marker() == marker]


def test_precision_recall_is_the_mean_of_the_runs_steps(study):
    writer = study({"ce": 0.0, "focal": 0.0}, seeds=3)
    writer.build(search=False)
    written = writer.random_outputs(["ce", "focal"], 3)
    (axis,) = ranking.precision_recall_figure(writer.frames()).axes
    for line, arm in zip(axis.get_lines(), ("ce", "focal"), strict=False):
        runs = [written[arm, i] for i in range(3)]
        curves = [precision_at(np.sort(z[y == 1]), np.sort(z[y == 0]), RECALLS) for z, y in runs]
        np.testing.assert_allclose(line.get_ydata(), np.mean(curves, axis=0))
    (axis,) = ranking.roc_figure(writer.frames()).axes
    for line in axis.get_lines()[:2]:
        assert (np.diff(line.get_ydata()) >= 0).all()


def test_reliability_points_are_the_bins(study):
    writer = study({"ce": 0.0}, seeds=1)
    writer.build(search=False)
    z, y = writer.random_outputs(["ce"], 1)["ce", 0]
    (axis,) = calibration.reliability_figure(writer.frames()).axes
    p = 1 / (1 + np.exp(-z.astype(float)))
    count, confidence, outcome = reliability_bins(y, p)
    some = count > 0
    points = next(line for line in axis.get_lines() if line.get_marker() == "s")
    np.testing.assert_allclose(points.get_xdata(), confidence[some])
    np.testing.assert_allclose(points.get_ydata(), outcome[some])
    bars = [bar for bar in axis.patches if bar.get_facecolor()[0] == pytest.approx(float(PALE))]
    assert [bar.get_height() for bar in bars] == pytest.approx(count / count.sum())


def test_temperature_takes_recorded_metrics_first(study):
    writer = study({"ce": 0.0}, seeds=2)
    writer.build(search=False)
    writer.random_outputs(["ce"], 2)
    from_outputs = calibration.temperature_figure(writer.frames()).axes[0]
    assert len(_marked(from_outputs, "s")) == 1
    for seed in range(2):
        name = f"confirm/arm-0/selected-{seed:04d}.json"
        record = writer.read(name)
        record["metrics"] |= {"test/ece": 0.2 + 0.1 * seed, "test_calibrated/ece": 0.05}
        writer.write(name, record)
    recorded = calibration.temperature_figure(writer.frames()).axes[0]
    assert _marked(recorded, "s")[0][0, 0] == pytest.approx(0.25)
    assert _marked(recorded, "o")[0][0, 0] == pytest.approx(0.05)


def test_class_recall_goes_by_training_rows(study):
    writer = study({"ce": 0.0, "focal": 0.02}, seeds=3)
    counts = [500 // (k + 1) for k in range(12)]
    writer.study["dataset"] |= {
        "class_names": [str(k) for k in range(12)],
        "splits": {"train": {"class_counts": counts}},
    }
    writer.build(search=False)
    frames = writer.frames()
    (axis,) = classes.class_recall_figure(frames).axes
    runs = frames.confirmation.query("arm == 'focal' and variant == 'selected'")
    expected = {n: runs[f"test/recall/{k}"].mean() for k, n in enumerate(counts)}
    line = axis.get_lines()[1]
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == pytest.approx(expected)
    assert axis.get_xscale() == "log"
    two = study({"ce": 0.0})
    two.study["dataset"] |= {
        "class_names": ["0", "1"],
        "splits": {"train": {"class_counts": [9, 1]}},
    }
    two.build(search=False)
    assert classes.class_recall_figure(two.frames()) is None


def test_margins_and_norms_are_shares(study):
    writer = study({"ce": 0.0}, seeds=2)
    writer.build(search=False)
    written = writer.random_outputs(["ce"], 2)
    for draw in (classes.margins_figure, classes.gradient_norms_figure):
        (axis,) = draw(writer.frames()).axes
        stairs = [p.get_data() for p in axis.patches if hasattr(p, "get_data")]
        for each in stairs:
            assert np.nansum(each.values) == pytest.approx(1)
    # the norms of the rarer class, by a naive histogram
    positive = np.concatenate([z[y == 1] for z, y in written.values()]).astype(float)
    expected = np.histogram(1 - 1 / (1 + np.exp(-positive)), 30, (0, 1))[0] / len(positive)
    np.testing.assert_allclose(np.nan_to_num(stairs[1].values), expected)


def test_thresholds_are_the_rules(study):
    writer = study({"ce": 0.0}, seeds=2)
    writer.build(search=False)
    written = writer.random_outputs(["ce"], 2)
    (axis,) = thresholds.threshold_figure(writer.frames()).axes
    default, corrected = _marked(axis, "o")[0], _marked(axis, "D")[0]
    runs = written.values()
    expected = np.mean([balanced_accuracy_score(y, z > 0) for z, y in runs])
    assert default[0, 0] == pytest.approx(expected)
    prior = np.log(1 / 9)  # the writer's training counts are 9 and 1
    expected = np.mean([balanced_accuracy_score(y, z > prior) for z, y in runs])
    assert corrected[0, 0] == pytest.approx(expected)


def test_damaged_outputs_leave_the_run_out(study):
    writer = study({"ce": 0.0}, seeds=2)
    writer.build(search=False)
    writer.random_outputs(["ce"], 2)
    (writer.folder / "confirm/arm-0/selected-0000.npz").write_bytes(b"no archive")
    figure = ranking.precision_recall_figure(writer.frames())
    assert "n = 1 run an arm" in ranking.precision_recall_caption(writer.frames())
    assert figure is not None


def test_the_band_of_precision_is_scipys_t_interval_of_scikit_learns_curves(study):
    writer = study({"ce": 0.0}, seeds=4)
    writer.build(search=False)
    written = writer.random_outputs(["ce"], 4)
    (axis,) = ranking.precision_recall_figure(writer.frames()).axes
    values = []
    for z, y in written.values():
        precision, recall, _ = precision_recall_curve(y, 1 / (1 + np.exp(-z.astype(float))))
        values.append([precision[np.flatnonzero(recall >= r - 1e-9)[-1]] for r in RECALLS])
    spread = stats.sem(values, axis=0)
    low, high = stats.t.interval(0.95, 3, np.mean(values, axis=0), np.maximum(spread, 1e-12))
    (band,) = axis.collections
    corners = band.get_paths()[0].vertices
    for place in (20, 100, 180):
        drawn = np.unique(corners[np.isclose(corners[:, 0], RECALLS[place]), 1].round(9))
        assert drawn[[0, -1]] == pytest.approx([max(low[place], 0), min(high[place], 1)], abs=1e-8)


def test_bins_of_few_examples_are_pale_and_an_arm_without_any_keeps_the_layout(study):
    writer = study({"ce": 0.0, "sure": 0.0}, seeds=1)
    writer.build(search=False)
    z, y = writer.random_outputs(["ce"], 1)["ce", 0]
    # every example of `sure` is in the first bin: there is no bin of few
    writer.outputs("sure", 0, np.full(400, -9.0, np.float32), y)
    figure = calibration.reliability_figure(writer.frames())
    figure.draw_without_rendering()
    few = (reliability_bins(y, 1 / (1 + np.exp(-z.astype(float))))[0] < 5).sum()
    empty = (reliability_bins(y, 1 / (1 + np.exp(-z.astype(float))))[0] == 0).sum()
    pale = [
        line for line in figure.axes[0].get_lines()
        if line.get_marker() == "s" and line.get_alpha() not in (None, 1.0)
    ]  # fmt: skip
    assert sum(len(line.get_xdata()) for line in pale) == few - empty
    assert all(axis.get_position().width > 0.2 for axis in figure.axes)


def test_many_classes_are_drawn_as_groups_of_about_as_frequent_ones(study):
    writer = study({"ce": 0.0}, seeds=3)
    counts = [int(500 * 0.01 ** (k / 99)) for k in range(100)]
    names = [f"c{k}" for k in range(100)]
    writer.study["dataset"] |= {
        "class_names": names,
        "splits": {"train": {"class_counts": counts}},
    }
    writer.build(search=False)
    recalls = np.random.default_rng(0).random((3, 100))
    for seed in range(3):
        name = f"confirm/arm-0/selected-{seed:04d}.json"
        record = writer.read(name)
        metrics = {f"test/recall/{c}": recalls[seed, k] for k, c in enumerate(names)}
        writer.write(name, {**record, "metrics": record["metrics"] | metrics})
    frames = writer.frames()
    (axis,) = classes.class_recall_figure(frames).axes
    (line,) = axis.get_lines()
    groups = np.array_split(np.argsort(counts, kind="stable"), 12)
    assert line.get_ydata() == pytest.approx([recalls[:, g].mean() for g in groups])
    assert line.get_xdata() == pytest.approx([np.median(np.array(counts)[g]) for g in groups])
    assert "12 groups of the 100 classes" in classes.class_recall_caption(frames)
