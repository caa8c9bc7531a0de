"""Published numbers beside ours, arm by arm, where a shipped table has the arm's loss.

Dataset, model, budget and mostly the metric differ: the numbers say what order and what gaps others
saw, never what ours should be.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.sweeps import published, swept_parameters
from losslab.analysis.tables.published_detection import published_rows
from losslab.analysis.tables.results import estimates
from losslab.analysis.tables.runs import Confirmed, primary_column


@dataclass(frozen=True)
class Reference:
    """A shipped table: what it calls the losses, which number to quote, and for which studies.

    `names` maps an entry of the column `method` to a loss of losslab; `where` keeps rows of some
    columns; `imbalance` is the column of the imbalance ratio, matched to the study's.
    """

    table: str
    kinds: tuple[str, ...]  # dense, long_tail, step
    method: str
    names: Mapping[str, str]
    value: str
    metric: str
    minimize: bool
    setting: tuple[str, ...]
    where: Mapping[str, Any] = field(default_factory=dict)
    imbalance: str = ""


_DETECTOR = ("backbone", "scale_px", "eval_split")
_CIFAR = {"dataset": "CIFAR-10-LT"}
REFERENCES = (
    Reference(
        "focal_table3_flstar", ("dense",), "loss", {"CE": "ce", "FL": "focal", "FL*": "focal_star"},
        "AP", "COCO AP (%)", False, ("gamma", "beta", *_DETECTOR),
    ),
    Reference(
        "focal_table1d_ohem", ("dense",), "method",
        {"OHEM": "ohem", "OHEM 1:3": "ohem_ratio", "FL": "focal"},
        "AP", "COCO AP (%)", False, ("batch_size", "nms_thr", *_DETECTOR),
    ),
    Reference(
        "ghm_cls_losses", ("dense",), "method",
        {"CE": "ce", "OHEM": "ohem", "FL": "focal", "GHM-C": "ghm_c"},
        "AP", "COCO AP (%)", False, ("backbone", "eval_split"),
    ),
    Reference(
        "cb_table2_cifar_lt", ("long_tail",), "loss", {"Softmax": "ce", "Focal": "focal"},
        "error_pct", "error (%)", True, ("dataset", "imbalance_factor", "gamma"),
        {**_CIFAR, "class_balanced": "no"}, "imbalance_factor",
    ),
    Reference(
        "cb_table2_cifar_lt", ("long_tail",), "loss",
        {"Softmax": "class_balanced_ce", "Focal": "class_balanced_focal"},
        "error_pct", "error (%)", True, ("dataset", "imbalance_factor", "gamma", "beta"),
        {**_CIFAR, "class_balanced": "best class-balanced (CV-selected)"}, "imbalance_factor",
    ),
    *(
        Reference(
            "ldam_table2_cifar", (kind,), "method",
            {"ERM": "ce", "Focal": "focal", "LDAM": "ldam", "CB RW": "class_balanced_ce",
             "CB Focal": "class_balanced_focal"},
            "error_pct", "error (%)", True, ("dataset", "imbalance_type", "imbalance_ratio"),
            {"dataset": "CIFAR-10", "imbalance_type": name}, "imbalance_ratio",
        )
        for kind, name in (("long_tail", "long-tailed"), ("step", "step"))
    ),
    Reference(
        "logit_adjustment_table3", ("long_tail",), "method",
        {"ERM": "ce", "Adaptive (LDAM)": "ldam",
         "Logit adjustment loss (tau=1)": "logit_adjustment"},
        "balanced_error_pct_mean_of_5", "balanced error (%)", True, ("dataset",), _CIFAR,
    ),
)  # fmt: skip


def published_table(frames: StudyFrames) -> pd.DataFrame:
    """Ours beside the published number of the same loss, one row per arm and published table.

    The columns of `estimates` for the primary metric, selected configurations, and `loss`,
    `published` (the best of the table's entries for that loss, at the imbalance ratio nearest the
    study's), `published_metric, published_setting, published_source, published_table`. Empty where
    no shipped table has one of the study's losses for its kind of task, and for a study whose arms
    are those of a published table: `sweeps.sweep_table` or `detection.detection_table` has the
    numbers that belong to each.
    """
    kind, ratio = _kind(frames)
    rows = []
    for arm, about in frames.study["arms"].items():
        loss = _loss(about.get("config", {}))
        for reference in REFERENCES:
            if kind in reference.kinds and loss in reference.names.values():
                rows.append({"arm": arm, "loss": loss, **_quoted(reference, loss, ratio)})
    if not rows or swept_parameters(frames) or len(published_rows(frames)):
        return pd.DataFrame()
    keys = [(arm, "selected", "") for arm in frames.arms]
    ours = estimates(frames, Confirmed.of(frames), keys, [primary_column(frames)])
    return ours.merge(pd.DataFrame(rows), on="arm", how="inner")


def _loss(config: Mapping[str, Any]) -> str:
    """The loss of an arm; a detector's may be mined, which dense tasks have losses for."""
    if mining := (config.get("detector") or {}).get("mining"):
        return "ohem_ratio" if mining.get("negatives_per_positive") else "ohem"
    return str(config.get("loss", {}).get("name", ""))


def _kind(frames: StudyFrames) -> tuple[str, float]:
    dataset = frames.study.get("dataset", {})
    options = dataset.get("options", {})
    ratio = options.get("imbalance_factor", options.get("imbalance_ratio"))
    known = isinstance(ratio, int | float) and ratio > 0
    dense = dataset.get("task") in ("dense", "detection")
    kind = "dense" if dense else str(options.get("imbalance", ""))
    return kind, float(ratio) if known else math.nan


def _quoted(reference: Reference, loss: str, ratio: float) -> dict[str, Any]:
    table = published(reference.table)
    table = table[table[reference.method].map(reference.names) == loss]
    for column, value in reference.where.items():
        table = table[table[column] == value]
    if reference.imbalance and not math.isnan(ratio):
        distance = table[reference.imbalance].map(lambda value: abs(math.log(value / ratio)))
        table = table[distance == distance.min()]
    values = table[reference.value]
    row = table.loc[values.idxmin() if reference.minimize else values.idxmax()]
    setting = [_worded(name, row[name]) for name in reference.setting if pd.notna(row[name])]
    return {
        "published": float(row[reference.value]),
        "published_metric": f"{reference.metric} {'↓' if reference.minimize else '↑'}",
        "published_setting": ", ".join([str(row[reference.method]), *setting]),
        "published_source": row["source"],
        "published_table": reference.table,
    }


def _worded(name: str, value: Any) -> str:
    """A setting as one reads it; a text says by itself what it is.

    >>> _worded("scale_px", 600), _worded("backbone", "R50-FPN"), _worded("gamma", 0.5)
    ('600 px', 'R50-FPN', 'gamma 0.5')
    """
    if isinstance(value, str):
        return value
    head, _, unit = name.rpartition("_")
    return f"{value:g} {unit}" if head == "scale" else f"{name.replace('_', ' ')} {value:g}"
