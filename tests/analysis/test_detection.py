"""Figures and tables of detectors, of one tiny study: what is drawn equals naive numbers."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from losslab import run_study
from losslab.analysis.anchor_scores import anchor_scores
from losslab.analysis.curves import cumulative_loss
from losslab.analysis.detections import break_even_score, detector_runs, match
from losslab.analysis.figures import detections, detectors, task_gradients
from losslab.analysis.figures.catalogue import STUDY_FIGURES
from losslab.analysis.held_out_images import image_names
from losslab.analysis.report import cumulative_source
from losslab.analysis.report.paper_figures import draw_figure_4
from losslab.analysis.tables.catalogue import study_tables
from losslab.datasets.detection.annotations import Annotations
from losslab.errors import BadInput
from losslab.experiments.config import load_study
from losslab.experiments.data import dataset_for, held_out
from losslab.experiments.detection.assignment import IGNORED
from losslab.experiments.detection.found import join
from losslab.experiments.detection.loss import DetectionLoss
from losslab.experiments.detection.parts import prepare_detector
from losslab.experiments.detection.replaying import replay
from losslab.experiments.preflight import first_job
from losslab.experiments.states import Job
from losslab.experiments.training import load_weights
from losslab.selected import best

STUDY = {
    "study": "boxes",
    "dataset": {"name": "scenes", "train_images": 12, "validation_images": 6, "test_images": 8,
                "size": 64, "largest": 32, "objects_per_image": 2},
    "model": {"name": "retinanet", "width": 4, "channels": 8, "head_depth": 1,
              "prior_init": 0.01},
    "training": {"epochs": 1, "batch_size": 4},
    "arms": {"ce": "ce", "focal": {"loss": {"name": "focal", "gamma": 1}},
             "wide": {"loss": {"name": "focal", "gamma": 2}, "model.width": 8}},
    "search": {"trials": 2, "generation": 1, "select": {"best": 1}},
    "confirm": {"seeds": 2, "defaults": False},
    "detector": {"score_threshold": 0.001},
}  # fmt: skip


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    home = tmp_path_factory.mktemp("detectors")
    with pytest.MonkeyPatch.context() as patch:  # the report takes seconds, and is tested elsewhere
        for step in ("begin_report", "write_report_files"):
            patch.setattr(f"losslab.analysis.report.{step}", lambda *_: [])
        return run_study(STUDY, home=home, tracking_uri="none", workers=2)


@pytest.fixture(scope="module")
def better(frames, tmp_path_factory):
    """The same with detections that hit some objects: hardly trained, the detectors hit none."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("better")
    files = {}
    for key, outputs in frames.confirmation[["key", "outputs"]].to_numpy():
        with np.load(frames.folder / outputs) as stored:
            arrays = dict(stored)
        truth = Annotations(*(arrays[f"test_{n}"] for n in
                              ("offsets", "boxes", "labels", "crowd", "areas")))  # fmt: skip
        found = join([_around(*truth.of(i)[:2], random) for i in range(len(truth))])
        for name in ("offsets", "boxes", "scores", "labels"):
            arrays[f"test_found_{name}"] = getattr(found, name)
        files[key] = folder / f"{len(files)}.npz"
        np.savez(files[key], **arrays)
    return replace(frames, open_outputs=lambda row: files[row["key"]])


def _around(boxes, labels, random):
    """Detections near and off the boxes of an image, some of them of another class."""
    near = np.repeat(boxes, 2, axis=0) + random.normal(0, 2, (2 * len(boxes), 4))
    wild = random.uniform(0, 40, (2, 2))
    drawn = np.concatenate([near, np.concatenate([wild, wild + 20], axis=1)])
    named = np.concatenate([np.repeat(labels, 2), [0, 1]])
    named = np.where(random.random(len(named)) < 0.2, 2, named)
    scores = np.sort(random.random(len(named)))[::-1]
    return drawn, scores, named


def test_as_many_boxes_are_drawn_as_there_are_objects(better):
    for runs in detector_runs(better).values():
        for run in runs:
            drawn = (run.found.scores >= break_even_score(run)).sum()
            assert drawn == (~run.truth.crowd).sum()


def _drawn(axis, look):
    """Corners of the boxes that are drawn in a look; each has a white one below it."""
    style = detections._LOOKS[look]
    boxes = [
        patch.get_bbox().extents
        for patch in axis.patches
        if isinstance(patch, Rectangle)
        and patch.get_linewidth() == style["linewidth"]
        and patch.get_edgecolor() == to_rgba(style["color"])
    ]
    return np.array(sorted(map(tuple, boxes))).reshape(-1, 4)


def _sorted(boxes):
    return np.array(sorted(map(tuple, boxes))).reshape(-1, 4)


def test_every_box_is_drawn_as_what_it_is(better):
    figure = detections.detections_figure(better)
    rows = np.reshape(figure.axes, (-1, 4))
    assert [axis.get_title() for axis in rows[0]] == ["true boxes", "ce", "focal", "wide"]
    split = dataset_for(better.study["arms"]["ce"]["config"]["dataset"], 0).test(0)
    seen = np.zeros(3, dtype=int)
    for row in rows:
        image = list(split.ids).index(int(row[0].get_ylabel().split()[1]))
        truth = split.annotations.of(image)
        np.testing.assert_allclose(_drawn(row[0], "true box"), _sorted(truth[0]))
        for axis, arm in zip(row[1:], ("ce", "focal", "wide"), strict=True):
            run = detector_runs(better)[arm][0]
            found = run.found.of(image)
            above = found[1] >= break_even_score(run)
            state, taken = match(tuple(part[above] for part in found), truth)
            boxes = found[0][above]
            expected = boxes[state == 1], boxes[state == 0], truth[0][~taken]
            for place, look in enumerate(("hit", "false alarm", "missed")):
                np.testing.assert_allclose(_drawn(axis, look), _sorted(expected[place]))
                seen[place] += len(expected[place])
    assert seen.all()
    caption = detections.detections_caption(better)
    assert f"{len(split.annotations.labels)} in all 8 test images" in caption


def test_images_are_called_by_their_files_where_they_have_some(monkeypatch, better):
    split = dataset_for(better.study["arms"]["ce"]["config"]["dataset"], 0)
    assert image_names(better, "ce", [3]) == ["image 3"]
    monkeypatch.setattr(split, "names", ["a.jpg", "b.jpg"], raising=False)
    assert image_names(better, "ce", [1, 0]) == ["b.jpg", "a.jpg"]


def test_images_are_chosen_by_the_rule(better):
    figure = detections.detections_figure(better)
    told = [axis.get_ylabel().split("\n") for axis in figure.axes if axis.get_ylabel()]
    split = dataset_for(better.study["arms"]["ce"]["config"]["dataset"], 0).test(0)
    first = split.ids[np.flatnonzero(split.annotations.counts)[:2]]
    assert [int(line.split()[1]) for line, reason in told if reason == "first"] == first.tolist()
    missed, loudest = np.zeros(8), np.zeros(8)
    for own in detector_runs(better).values():
        run = own[0]
        for i in range(8):
            above = run.found.of(i)[1] >= break_even_score(run)
            found = tuple(part[above] for part in run.found.of(i))
            state, taken = match(found, run.truth.of(i))
            missed[i] += (~taken).sum()
            loudest[i] = max([loudest[i], *found[1][state == 0]])
    rest = [i for i in np.lexsort((np.arange(8), -missed)) if split.ids[i] not in first]
    worst = [int(line.split()[1]) for line, reason in told if reason == "most misses"]
    assert worst == split.ids[rest[:2]].tolist()
    rest = [i for i in np.argsort(-loudest) if split.ids[i] not in (*first, *worst)]
    assert told[-1] == [f"image {split.ids[rest[0]]}", "false alarm"]


def test_no_picture_without_the_dataset(better):
    def changed(**parts):
        study = json.loads(json.dumps(better.study))
        for name in ("ce", "focal", "wide"):
            study["arms"][name]["config"]["dataset"] |= parts
        return replace(better, study=study)

    assert detections.detections_figure(changed(name="gone")) is None
    assert detections.detections_figure(changed(test_images=9)) is None
    assert detections.detections_figure(changed(nonsense=1)) is None
    assert detections.detections_caption(changed(name="gone")) == ""


def test_curves_are_the_evaluators(better):
    figure = detectors.detection_curves_figure(better)
    for axis, iou in zip(figure.axes, (0.5, 0.75), strict=True):
        for line, runs in zip(axis.get_lines(), detector_runs(better).values(), strict=True):
            curves = [run.evaluation.curve(iou) for run in runs]
            np.testing.assert_allclose(line.get_ydata(), np.mean(curves, axis=0))
            ap = [run.evaluation.metrics[f"ap{100 * iou:.0f}"] for run in runs]
            assert line.get_ydata().mean() == pytest.approx(np.mean(ap))
            assert np.mean(ap) > 0
    assert "n = 2 runs" in detectors.detection_curves_caption(better)


def test_stored_detections_give_the_recorded_metrics(frames):
    table = frames.confirmation.set_index("key")
    for run in (run for own in detector_runs(frames).values() for run in own):
        assert run.evaluation.metrics["ap50"] == pytest.approx(table.loc[run.key, "test/ap50"])


def test_many_arms_have_panels_of_their_own(better):
    """Five arms: the same runs under five names."""
    table = better.confirmation
    names = [f"arm {i}" for i in range(5)]
    own = table[table["arm"] == "ce"]
    study = {**better.study, "baseline": "arm 0",
             "arms": dict.fromkeys(names, better.study["arms"]["ce"])}  # fmt: skip
    parts = [own.assign(arm=name) for name in names]
    more = replace(better, study=study, confirmation=pd.concat(parts, ignore_index=True),
                   trials=better.trials.iloc[:0])  # fmt: skip
    axes = detectors.detection_curves_figure(more).axes
    # the baseline alone, then each arm before it, at two thresholds
    assert [len(axis.get_lines()) for axis in axes] == [2, 4, 4, 4, 4]
    shown = np.reshape(detections.detections_figure(more).axes, (-1, 5))
    assert shown.shape[1] == 5  # the true boxes, and four of the arms
    assert "One more arm" in detections.detections_caption(more)


def test_speed_is_drawn_where_models_differ(frames):
    (axis,) = detectors.speed_figure(frames).axes
    means = frames.confirmation.groupby("arm", sort=False)[["test/milliseconds", "test/ap"]].mean()
    points = [c.lines[0].get_xydata()[0] for c in axis.containers]
    np.testing.assert_allclose(points, means.loc[["ce", "focal", "wide"]].to_numpy())
    same = frames.confirmation[frames.confirmation["arm"] != "wide"]
    assert detectors.speed_figure(replace(frames, confirmation=same)) is None
    assert "n = 2 runs" in detectors.speed_caption(frames)


def test_shares_of_the_gradient_are_drawn_from_before_the_first_epoch_on(frames):
    assert task_gradients.task_gradients_figure(frames) is None
    random, epochs = np.random.default_rng(1), frames.epochs.copy()
    for when in ("initial", "record"):
        for key in ("boxes_share", "boxes_weight", "classes_weight"):
            epochs[f"{when}/task_gradients/{key}"] = random.uniform(0.1, 0.9, len(epochs))
    known = replace(frames, epochs=epochs)
    left, right = task_gradients.task_gradients_figure(known).axes
    own = epochs[(epochs["phase"] == "confirm") & (epochs["arm"] == "focal")]
    place = frames.arms.index("focal")
    shares = [own[f"{when}/task_gradients/boxes_share"].mean() for when in ("initial", "record")]
    np.testing.assert_allclose(left.get_lines()[place].get_ydata(), shares)
    factors = [
        np.exp(np.log(own[f"{w}/task_gradients/boxes_weight"]
                      / own[f"{w}/task_gradients/classes_weight"]).mean())
        for w in ("initial", "record")
    ]  # fmt: skip
    np.testing.assert_allclose(right.get_lines()[place].get_ydata(), factors)
    assert "n = 2 runs an arm" in task_gradients.task_gradients_caption(known)


def test_other_studies_have_none_of_these(study):
    writer = study({"ce": 0.0, "focal": 0.0}, seeds=2)
    writer.build(search=False)
    names = ("detections", "detection_curves", "speed")
    drawn = [figure.draw(writer.frames()) for figure in STUDY_FIGURES if figure.name in names]
    assert drawn == [None] * 3
    assert "detection" not in {table.name for table in study_tables(writer.frames())}


def _record(frames, arm):
    file = frames.folder / f"confirm/{frames.study['arms'][arm]['slug']}/selected-0000.json"
    return file, json.loads(file.read_text())


def test_figure_4_has_every_anchor_of_the_test_images(frames, tmp_path):
    arm, outputs = cumulative_source(frames)
    assert (arm, outputs.name) == ("wide", "selected-0000.npz")
    _, record = _record(frames, arm)
    parts = prepare_detector(Job(record["config"], 0, record["run_seed"], ("ap",)))
    load_weights(parts.model, torch.load(outputs.with_suffix(".pt"), weights_only=True))
    test, _ = held_out(record["config"]["dataset"], 0, record["run_seed"], "cpu")
    _, logits, labels = parts.evaluate(test)
    own = labels[..., None] == np.arange(3)
    counted = np.broadcast_to((labels != -2)[..., None], own.shape)
    assert (labels == -2).any()
    expected = cumulative_loss(logits[counted], own[counted].astype(int))[1]
    written, (drawn,) = draw_figure_4(frames, tmp_path, tmp_path / "tables")
    claims = pd.read_csv(written[1])
    pd.testing.assert_frame_equal(claims.iloc[:, 2:], expected, check_dtype=False)
    last = expected.iloc[-1]
    counts = f"{last['foreground']:.0f} foreground and {last['background']:,.0f} background"
    assert counts in drawn.caption
    assert f"{100 * last['background_99_fraction']:.2g} % of the background" in drawn.caption


def test_of_two_stages_figure_4_has_the_proposals():
    loaded = load_study({**STUDY, "model": {"name": "two_stage", "width": 4, "channels": 8,
                                            "proposals": 16}, "arms": ["ce"]})  # fmt: skip
    job = first_job(loaded, loaded.arms["ce"], "cpu")
    parts = prepare_detector(job)
    test, _ = held_out(job.config["dataset"], job.study_seed, job.run_seed, "cpu")
    _, logits, labels = parts.evaluate(test)
    again = list(replay(job, parts.model.state_dict(), test.split, 3))
    known = np.concatenate([part[1] for part in again])
    np.testing.assert_array_equal(known, labels)
    replayed = np.concatenate([part[0] for part in again])
    np.testing.assert_array_equal(replayed[known != IGNORED], logits[known != IGNORED])


def test_more_images_and_a_sample_of_the_background(frames):
    _, outputs = cumulative_source(frames)
    whole = anchor_scores(frames, outputs)
    assert anchor_scores(frames, outputs, 3).images == 3
    more = anchor_scores(frames, outputs, 20)
    assert more.images == 20
    assert more.background == (more.targets == 0).sum()
    some = anchor_scores(frames, outputs, most_background=1000)
    assert (some.targets == 1).sum() == (whole.targets == 1).sum()
    assert some.background == whole.background
    # 1000 expected, standard deviation 31
    assert 850 < (some.targets == 0).sum() < 1150
    again = anchor_scores(frames, outputs, most_background=1000)
    assert (again.logits == some.logits).all()
    with pytest.raises(BadInput, match="cannot be read"):
        anchor_scores(frames, outputs.with_name("nothing.npz"))


def test_bests_python_builds_the_whole_loss_of_a_detector(frames):
    code = best("boxes", str(frames.folder.parent), "focal").split("# As Python:")[1]
    given = {}
    exec(code, given)
    loss, _ = given["make_focal"](torch.nn.Linear(2, 2), np.array([4, 5, 6]))
    assert isinstance(loss, DetectionLoss)
    assert (loss.class_loss.reduction, loss.normalizer) == ("sum", "positives")
    assert loss.class_loss.gamma == 1


def test_the_table_has_what_was_recorded(frames):
    (table,) = (t for t in study_tables(frames) if t.name == "detection")
    metrics = [_record(frames, "wide")[1]["metrics"]]
    file = _record(frames, "wide")[0].with_name("selected-0001.json")
    metrics.append(json.loads(file.read_text())["metrics"])
    data = table.data.set_index(["arm", "metric"])
    for name in ("ap", "ap75", "milliseconds", "flops", "parameters"):
        expected = np.mean([found[f"test/{name}"] for found in metrics])
        assert data.loc[("wide", name), "mean"] == pytest.approx(expected)
    assert set(table.data.loc[table.data["metric"] == "flops", "direction"]) == {"minimize"}
    head = table.layout.header
    wide = next(row for row in table.layout.rows if row[0].text == "wide")
    assert wide[head.index("parameters ↓")].text == f"{metrics[0]['test/parameters']:,.0f}"
    assert wide[-1].text == "34.0 / 52.5 / 36.5"  # Table 1b at gamma 2
    assert not any(row[head.index("ms an image ↓")].bold for row in table.layout.rows)
    results = next(t for t in study_tables(frames) if t.name == "results")
    assert set(results.data["row"]) == {"ce", "focal", "wide"}  # and no decision rules of ce
    keys = set(table.sources.loc[table.sources["row"] == "wide", "key"])
    assert len(keys) == 2
    assert {"detection", "published"} & {t.name for t in study_tables(frames)} == {"detection"}


def test_every_class_has_its_ap(frames):
    table = next(t for t in study_tables(frames) if t.name == "class_ap")
    assert set(table.data["class_name"]) == {"0", "3", "4"}
    own = frames.confirmation[frames.confirmation["arm"] == "focal"]
    line = table.data[(table.data["arm"] == "focal") & (table.data["class_name"] == "3")].iloc[0]
    assert line["mean"] == pytest.approx(own["test/ap/3"].mean())
    assert "Objects of the class" in table.layout.caption
