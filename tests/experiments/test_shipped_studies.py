"""Every shipped study runs, in a smoke size, and the documents say what the code knows."""

import json
from pathlib import Path

import pytest

from losslab import run_study
from losslab.analysis.levels import by_level
from losslab.cli import main
from losslab.experiments.config import load_study
from losslab.experiments.preflight import preflight
from losslab.experiments.reading import read_yaml, shipped_studies, summary_of
from losslab.experiments.schema import Confirm, Levels, Metrics, Search, Select, Training
from losslab.experiments.views import TAG, view_address, view_tags
from losslab.progress import dry_run

SMOKE = {
    "anchors": [
        "dataset.train_images=6", "dataset.validation_images=6", "dataset.test_images=6",
        "dataset.anchors=1024", "dataset.background_per_foreground=100",
    ],
    "digits": [],
    "sklearn_table": [],
    "scenes": ["dataset.train_images=8", "dataset.validation_images=4", "dataset.test_images=4",
               "dataset.objects_per_image=3", "search.rungs=null"],
    "scene_masks": ["dataset.train_images=8", "dataset.validation_images=4",
                    "dataset.test_images=4", "dataset.size=32", "dataset.largest=24",
                    "search.rungs=null"],
    "clusters": ["dataset.examples=2000", "dataset.validation_examples=400",
                 "dataset.test_examples=400"],
    "voc": ["dataset.size=64", "search.rungs=null"],
    "modes": ["dataset.examples=512", "dataset.validation_examples=400",
              "dataset.test_examples=400"],
    None: [],
}  # fmt: skip


# And its model, where that is large.
SMALLER = {"shortcuts": ["model.blocks=[1, 1, 1]"]}

REPORTED = ("quickstart", "alpha", "imbalance")  # one whole, one sweep, one with levels


# Detectors take a second a training; what these have of their own is in the others too.
SLOW = [n for n in shipped_studies() if n.startswith("detect_") and n != "detect_ghm_boxes"]
SLOW += ["pspnet_pooling"]
SLOW += ["vanishing", "regularization"]  # 30 and 8 arms that train one by one
SLOW += ["batch_norm"]  # 20 arms that train one by one


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in shipped_studies()]
)
def test_a_shipped_study_runs_in_a_smoke_size(name, home, request, monkeypatch):
    if name not in REPORTED:
        request.getfixturevalue("no_report")
    content = read_yaml(shipped_studies()[name])
    dataset, repeats = content.get("dataset", {}), min(content["search"].get("repeats", 1), 2)
    overrides = smoke_of(name)
    if "voc" in str(dataset):  # somebody's own photographs
        overrides = [*overrides, f"dataset.path={request.getfixturevalue('cells')}"]
        monkeypatch.setenv("LOSSLAB_CACHE", str(home.with_name("cache")))
    small = ["training.epochs=2", "search.trials=3", "search.select.best=1", "confirm.seeds=2"]
    few = [f"search.repeats={repeats}", *two_levels(content)]
    frames = run_study(name, overrides=[*overrides, *small, *few], home=home)
    for part in by_level(frames).values() or [frames]:
        assert set(content["arms"]) <= set(part.arms)
        variants = 2 if content["confirm"].get("defaults", True) else 1
        assert part.confirmation.groupby("arm").size().eq(2 * variants * repeats).all()
    if name not in REPORTED:
        return
    report = home / name / "report"
    written = {path.name for path in report.rglob("*")}
    assert {"results.csv", "results.md", "results.tex", "ledger.csv", "seeds.png"} <= written
    if name == "alpha":
        assert {"sweep_alpha.csv", "figure_4_cumulative_loss.pdf"} <= written
    if name == "quickstart":
        assert {"figure_1_focal_loss.png", "figure_5_loss_variants.png"} <= written


@pytest.mark.parametrize("name", SLOW)
def test_the_arms_of_a_slow_study_train(name):
    """One step of each arm at its defaults."""
    preflight(load_study(name, smoke_of(name)), "cpu")


def test_broken_photographs_stop_a_study_unless_they_are_skipped(cells, home, capsys, monkeypatch):
    monkeypatch.setenv("LOSSLAB_CACHE", str(home.with_name("cache")))
    given = ["--set", f"dataset.path={cells}", "--set", "dataset.on_error=stop"]
    assert main(["run", "bccd", *given, "--home", str(home), "--workers", "1"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "losslab: dataset.path: 1 problem in the data (box without area: 1):",
        "  3.xml, object 1: the box reaches from 7 to 7 and from 7 to 7",
        "Repair the files, or leave out what is broken with on_error: skip.",
    ]
    assert not (home / "bccd").exists()


def test_a_dry_run_tells_what_was_read(cells, tmp_path, monkeypatch):
    monkeypatch.setenv("LOSSLAB_CACHE", str(tmp_path))
    small = ["dataset.size=64", "search.rungs=null", "training.epochs=2"]
    told = dry_run("bccd", [f"dataset.path={cells}", *small], str(tmp_path), 2)
    assert "images: 12 train, 6 validation, 6 test, each stored as 64 x 64 pixels" in told
    assert "objects to train on: Platelets: 12, RBC: 11, WBC: 12" in told
    assert "left out of the data as broken: 1 (box without area: 1), listed in study.json" in told


def smoke_of(name):
    """The overrides that make a shipped study's dataset and model small."""
    dataset = read_yaml(shipped_studies()[name]).get("dataset", {})
    kind = dataset if isinstance(dataset, str) else dataset.get("name")
    return [*SMOKE[kind], *SMALLER.get(name, [])]


def two_levels(content):
    """The override that leaves a study's first two levels."""
    values = content.get("levels", {}).get("values", [])
    few = values[:2] if isinstance(values, list) else dict(list(values.items())[:2])
    return [f"levels.values={json.dumps(few)}"] if few else []


@pytest.mark.parametrize("name", shipped_studies())
def test_a_shipped_study_says_its_question_first(name):
    assert summary_of(shipped_studies()[name]).split(" (")[0].rstrip("?)").count(" ") > 4
    assert read_yaml(shipped_studies()[name])["question"].endswith("?")


def test_the_document_names_every_key_of_a_study_file():
    text = (Path(__file__).parents[2] / "docs" / "study-files.md").read_text()
    sections = {
        "training": Training, "search": Search, "search.select": Select, "confirm": Confirm,
        "metrics": Metrics, "levels": Levels,
    }  # fmt: skip
    for section, model in sections.items():
        for key, field in model.model_fields.items():
            if key != "select":
                assert f"`{section}.{key}`" in text or f"`{key}`" in text, f"{section}.{key}"
                default = field.default
                if isinstance(default, str):
                    assert default in text


def test_views_hold_the_studys_own_columns():
    study = {
        "primary": "roc_auc",
        "decision": "macro_f1",
        "direction": "maximize",
        "arms": {
            "ce": {"space": {"training.learning_rate": {"scale": "log"}}},
            "focal": {"space": {"loss.gamma": {"scale": "linear"}}},
        },
    }
    tags = view_tags(study)
    test, search = (json.loads(tags[TAG + key]) for key in ("test", "search"))
    assert test["orderByKey"] == "metrics.`test/roc_auc`"
    assert "metrics.`test_tuned/macro_f1`" in test["selectedColumns"]
    assert "params.`gamma`" in search["selectedColumns"]
    scatters = [c["xaxis"]["key"] for c in search["compareRunCharts"] if c["type"] == "SCATTER"]
    assert scatters == ["log10_learning_rate", "gamma"]
    assert view_address("http://h:1", "3", "test", charts=False) == (
        "http://h:1/#/experiments/3/runs?workflowType=machine_learning"
        "&compareRunsMode=TABLE&viewStateShareKey=test"
    )
