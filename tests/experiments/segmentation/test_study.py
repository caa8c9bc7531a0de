"""A segmentation study from its file to its tables and figures, small."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from losslab import run_study
from losslab.analysis.figures.gains import gains_caption, gains_figure
from losslab.analysis.figures.masks import masks_caption, masks_figure
from losslab.analysis.layouts.segmentation import segmentation_layout
from losslab.analysis.sweeps import published
from losslab.analysis.tables.examples import examples_table
from losslab.analysis.tables.segmentation import segmentation_table
from losslab.analysis.tables.views import recall_table
from losslab.errors import BadInput
from losslab.experiments.config import load_study
from losslab.experiments.confirmation import judge
from losslab.experiments.data import dataset_for, held_out
from losslab.experiments.preflight import first_job, preflight
from losslab.experiments.segmentation.evaluation import sampled_pixels
from losslab.experiments.segmentation.judging import shown_images
from losslab.experiments.training import prepare, start

TINY = {"train_images": 12, "validation_images": 6, "test_images": 10, "size": 32, "largest": 24}


def study(**changes):
    return {
        "study": "pixels",
        "dataset": {"name": "scene_masks", **TINY},
        "model": {"name": "pspnet", "width": 4, "channels": 8, "bins": [], "auxiliary_weight": 0},
        "training": {"epochs": 2, "batch_size": 6, "learning_rate": 0.01, "weight_decay": 0.001},
        "arms": {
            "without": {},
            "aux": {"model.auxiliary_weight": 0.4},
            "tuned": {"model.auxiliary_weight": {"low": 0.1, "high": 1.0}},
        },
        "baseline": "without",
        "metrics": {"decision": "macro_f1"},
        "search": {"trials": 2, "generation": 2, "select": {"best": 1}},
        "confirm": {"seeds": 2, "defaults": False},
        **changes,
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The frames of the study; its folder is to be read only."""
    home = tmp_path_factory.mktemp("pixels")
    with pytest.MonkeyPatch.context() as patch:
        for step in ("begin_report", "write_report_files"):
            patch.setattr(f"losslab.analysis.report.{step}", lambda *_: [])
        return run_study(study(), home=home, tracking_uri="none", workers=1)


@pytest.fixture(scope="module")
def run(finished):
    """One confirmation run: its record and its outputs."""
    file = finished.folder / "confirm" / "aux" / "selected-0001"
    with np.load(file.with_suffix(".npz")) as outputs:
        return json.loads(file.with_suffix(".json").read_text()), dict(outputs), file


def test_the_objective_is_mean_iou_and_the_weight_is_searched(finished):
    assert finished.study["primary"] == "miou"
    assert {"val/miou", "val/pixel_accuracy", "val/iou/background"} <= set(finished.epochs.columns)
    tuned = finished.trials[finished.trials["arm"] == "tuned"]["params.model.auxiliary_weight"]
    assert tuned.eq(0.55).all()  # the first trial is the default: the middle of the range


def test_mean_iou_has_no_interval_over_examples(finished):
    """The stored logits are of a sample of the pixels, the metric is of all of them."""
    table = examples_table(finished, work=None)
    assert table["missing"].str.contains("hold a sample").all()
    assert table["low"].isna().all()


def test_stored_counts_are_exact_and_stored_logits_a_sample(run):
    record, outputs, file = run
    job = first_job(load_study(study()), load_study(study()).arms["aux"], "cpu")
    job = replace(job, config=record["config"], run_seed=record["run_seed"])
    parts = prepare(job)
    parts.model.load_state_dict(torch.load(file.with_suffix(".pt")))
    parts.model.eval()
    test, _ = held_out(job.config["dataset"], job.study_seed, job.run_seed, "cpu")
    with torch.no_grad():
        logits = torch.cat([parts.model(image[None]) for image in test.features])
    truth, predicted = test.targets.numpy(), logits.argmax(1).numpy()
    naive = np.zeros((4, 4), int)
    np.add.at(naive, (truth.ravel(), predicted.ravel()), 1)
    # Batches of another size may round a tie the other way.
    assert np.abs(outputs["test_confusion"] - naive).sum() <= 4
    miou = jaccard_score(truth.ravel(), predicted.ravel(), average="macro", labels=np.unique(truth))
    assert record["metrics"]["test/miou"] == pytest.approx(miou, abs=1e-3)
    shown = shown_images(truth, test.ids)
    np.testing.assert_array_equal(outputs["test_mask_ids"], test.ids[shown])
    assert (outputs["test_masks"] == predicted[shown]).mean() > 0.999
    places = sampled_pixels(truth, test.ids, job.study_seed)
    flat = np.concatenate([own + i * 32 * 32 for i, own in enumerate(places)])
    np.testing.assert_array_equal(outputs["test_targets"], truth.ravel()[flat])
    np.testing.assert_allclose(
        outputs["test_logits"], logits.movedim(1, -1).reshape(-1, 4)[flat], atol=1e-4
    )
    log_loss = torch.nn.functional.cross_entropy(
        torch.from_numpy(outputs["test_logits"]).double(), torch.from_numpy(outputs["test_targets"])
    )
    assert record["metrics"]["test/log_loss"] == pytest.approx(float(log_loss), rel=1e-6)
    np.testing.assert_array_equal(np.unique(outputs["test_ids"]), test.ids)


def test_the_sample_is_the_same_in_every_run_and_leaves_ignored_pixels_out():
    targets = np.zeros((3, 200, 200), int)
    targets[1, :199] = -1
    ids = np.array([4, 9, 2])
    sample = sampled_pixels(targets, ids, 7)
    assert [len(own) for own in sample] == [(1 << 15) // 3, 200, (1 << 15) // 3]
    assert (targets[1].ravel()[sample[1]] == 0).all()
    again = sampled_pixels(targets[::-1], ids[::-1], 7)[::-1]
    assert all(np.array_equal(a, b) for a, b in zip(sample, again, strict=True))
    assert not np.array_equal(sample[0], sampled_pixels(targets, ids, 8)[0])


def test_decision_rules_are_judged_on_all_pixels(finished):
    runs = finished.confirmation.set_index(["arm", "seed_index"])
    plain = runs.loc["without"]
    for name in ("test_tuned/miou", "test_prior_corrected/miou", "test_calibrated/log_loss"):
        assert plain[name].notna().all()
    assert "test_calibrated/miou" not in runs


def test_a_diverged_run_scores_what_equal_logits_score():
    loaded = load_study(study())
    state = start(first_job(loaded, loaded.arms["aux"], "cpu"))
    verdict = judge(replace(state, diverged="for a test"), "macro_f1", False)
    data = dataset_for(state.job.config["dataset"], 0)
    prior = data.prior(data.test(0))
    assert verdict.metrics["test/pixel_accuracy"] == pytest.approx(prior[0])
    assert verdict.metrics["test/miou"] == pytest.approx(prior[0] / 4)
    assert verdict.metrics["test/log_loss"] == pytest.approx(np.log(4))


def test_tables_and_figures_show_it_beside_what_was_published(finished):
    table = segmentation_table(finished).set_index(["arm", "metric"])
    known = published("pspnet_aux_loss").set_index("aux_weight_alpha")
    assert table.loc[("aux", "miou"), "published_miou"] == known.loc[0.4, "mean_iou_pct"]
    assert table.loc[("without", "miou"), "published_pixel_accuracy"] == 77.07
    assert np.isnan(table.loc[("tuned", "miou"), "published_miou"])
    runs = finished.confirmation.set_index("arm")
    assert table.loc[("aux", "miou"), "mean"] == pytest.approx(runs.loc["aux", "test/miou"].mean())
    layout = segmentation_layout(segmentation_table(finished))
    assert [row[-1].text for row in layout.rows][:2] == ["35.82 / 77.07", "37.23 / 78.01"]
    assert set(recall_table(finished)["metric"]) == {f"iou/{c}" for c in ("background", 0, 3, 4)}

    figure = masks_figure(finished)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["image", "true mask", "without", "aux", "tuned"]
    truth = dataset_for(finished.study["arms"]["aux"]["config"]["dataset"], 0).test(0)
    first = figure.axes[1].get_images()[0].get_array()
    number = int(figure.axes[0].get_ylabel().split()[1])
    np.testing.assert_array_equal(first, truth.targets[truth.ids == number][0])
    assert "first 3 by id" in masks_caption(finished)

    line = gains_figure(finished).axes[0].get_lines()
    drawn = [float(one.get_xdata()[0]) for one in line if one.get_marker() == "D"]
    assert drawn == pytest.approx([37.23 - 35.82])
    assert "n = 2 pairs" in gains_caption(finished)


def test_what_does_not_fit_is_told_before_anything_is_trained():
    wrong = study(model="cnn", arms={"ce": "ce"}, baseline="ce")
    with pytest.raises(BadInput, match=r"name: the model gives .* write model: pspnet"):
        preflight(load_study(wrong), "cpu")
    with pytest.raises(BadInput, match="ap has no meaning where the task is segmentation"):
        load_study(study(metrics={"primary": "ap"}))
    with pytest.raises(BadInput, match=r"iou is one number a class; .* miou, their mean"):
        load_study(study(metrics={"primary": "iou"}))


@pytest.mark.parametrize("loss", [
    {"name": "ce", "link": "sigmoid"}, {"name": "focal", "gamma": 2}, {"name": "dice"},
    {"name": "lovasz"}, {"name": "torch.nn:CrossEntropyLoss"}, {"name": "balanced_ce"},
    {"name": "logit_adjustment"}, {"name": "ghm_c"},
])  # fmt: skip
def test_losses_of_many_kinds_train_a_network_with_an_auxiliary_head(loss):
    model = {**study()["model"], "auxiliary_weight": 0.4}
    preflight(load_study(study(model=model, arms={"own": {"loss": loss}}, baseline="own")), "cpu")
