"""The selected arms by class, by decision rule and by calibration: the tables beside the results.

Each is a part of `results.estimates`, with bold decided among the rows it shows.
"""

import re

import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.tables.results import estimates, metric_columns
from losslab.analysis.tables.runs import RULES, Confirmed

PROBABILITY_METRICS = ("log_loss", "brier", "ece")


def recall_table(frames: StudyFrames) -> pd.DataFrame:
    """Recall of every class on test, at argmax or 0.5, for each arm's selected configuration.

    Of detectors, the AP of every class; of segmentation, its IoU.

    The columns of `estimates`, with `class_name`, `train_examples` and `test_examples` (how many
    the class has; NaN where the study does not say). Bold is decided within a class. Empty where
    neither was recorded.
    """
    columns = [c for c in metric_columns(frames) if re.match(r"test/(recall|ap|iou)/", c)]
    columns = [c for c in columns if c.startswith("test/iou/")] or columns
    table = _selected(frames, columns)
    if table.empty:
        return table
    table["class_name"] = table["metric"].str.partition("/")[2]
    names = [str(name) for name in frames.study.get("dataset", {}).get("class_names", [])]
    for split in ("train", "test"):
        about = frames.study.get("dataset", {}).get("splits", {}).get(split, {})
        counts = dict(zip(names, about.get("class_counts", []), strict=False))
        table[f"{split}_examples"] = table["class_name"].map(counts).astype("Float64")
    return table


def thresholds_table(frames: StudyFrames) -> pd.DataFrame:
    """Decision metrics of each arm's selected configuration under every decision rule.

    The columns of `estimates`; `rule` is "" (argmax or 0.5), `tuned threshold` (tuned on
    validation) or `prior correction` (log prior taken off the logits; recorded for plain
    cross-entropy). Bold is decided over all arms and rules: the question is which of them decides
    best. Metrics are those that the study recorded at a tuned threshold, without the classes'
    recalls; the study's decision metric comes first. Empty where none was recorded.
    """
    tuned = [
        c.removeprefix("test_tuned/")
        for c in metric_columns(frames)
        if c.startswith("test_tuned/") and c.count("/") == 1
    ]
    names = sorted(tuned, key=lambda name: name != frames.study.get("decision"))
    keys = [(arm, "selected", rule) for arm in frames.arms for rule in RULES]
    columns = [f"test/{name}" for name in names]
    return estimates(frames, Confirmed.of(frames), keys, columns) if names else pd.DataFrame()


def calibration_table(frames: StudyFrames) -> pd.DataFrame:
    """Log loss, Brier score and ECE of each arm's selected configuration, before and after scaling.

    The columns of `estimates`; `split` is `test` (the probabilities as trained) or
    `test_calibrated` (temperature fitted on validation), where the frames have it. Empty where
    neither was recorded.
    """
    recorded = set(frames.confirmation.columns)
    columns = [f"{s}/{m}" for m in PROBABILITY_METRICS for s in ("test", "test_calibrated")]
    return _selected(frames, [c for c in columns if c in recorded])


def _selected(frames: StudyFrames, columns: list[str]) -> pd.DataFrame:
    keys = [(arm, "selected", "") for arm in frames.arms]
    return estimates(frames, Confirmed.of(frames), keys, columns) if columns else pd.DataFrame()
