"""Published numbers of segmentation beside an arm's: the PSPNet paper's tables."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.sweeps import published
from losslab.analysis.tables.published_detection import fixed

_POOLED = {"average": "AVE", "max": "MAX"}


def published_rows(frames: StudyFrames) -> pd.DataFrame:
    """The published row of every arm that has one, indexed by arm, from one table for the study.

    That is the table that tells most of the arms apart, two at least. Columns: `published_miou,
    published_pixel_accuracy` (percent), `published_row` (what the table calls it),
    `published_source, published_table`. An arm that tunes what names the row has none.
    """
    best: dict[str, dict[str, Any]] = {}
    for name, column, entry_of in (
        ("pspnet_aux_loss", "aux_weight_alpha", _weight),
        ("pspnet_pooling", "config", _pooling),
    ):
        table = published(name)
        found = {}
        for arm, about in frames.study["arms"].items():
            entry = entry_of(fixed(about.get("config", {}), about.get("space", {})))
            lines = table[[_same(known, entry) for known in table[column]]]
            if len(lines):
                found[arm] = _row(lines.iloc[0], column, name)
        if _distinct(found) > max(_distinct(best), 1):
            best = found
    return pd.DataFrame.from_dict(best, orient="index")


def _weight(config: Mapping[str, Any]) -> float | None:
    """The auxiliary weight; the table is of the network without a pyramid."""
    model = config.get("model", {})
    known = model.get("name") == "pspnet" and model.get("bins") == []
    return model.get("auxiliary_weight") if known else None


def _pooling(config: Mapping[str, Any]) -> str | None:
    """What the table calls a pyramid; it is of networks with an auxiliary loss."""
    model = config.get("model", {})
    if model.get("name") != "pspnet" or not model.get("auxiliary_weight"):
        return None
    bins = model.get("bins") or ([1, 2, 3, 6] if model.get("bins", 0) is None else [])
    if not bins:
        return "ResNet50 baseline"
    name = f"+B{''.join(map(str, bins))}+{_POOLED.get(model.get('pooling', ''), '?')}"
    if not model.get("reduce"):
        return name
    return f"{name}+DR (PSPNet)" if name == "+B1236+AVE" else f"{name}+DR"


def _same(known: Any, entry: Any) -> bool:
    if isinstance(known, str) or entry is None:
        return bool(known == entry)
    return math.isclose(float(known), float(entry), abs_tol=1e-12)


def _row(line: pd.Series, column: str, table: str) -> dict[str, Any]:
    called = line[column] if column == "config" else f"weight {line[column]:g}"
    return {
        "published_miou": float(line["mean_iou_pct"]),
        "published_pixel_accuracy": float(line["pixel_acc_pct"]),
        "published_row": called,
        "published_source": line["source"],
        "published_table": table,
    }


def _distinct(found: Mapping[str, Mapping[str, Any]]) -> int:
    return len({line["published_row"] for line in found.values()})
