"""Published AP of detectors beside an arm's: which table a study is about, which row an arm is."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.sweeps import published

Row = dict[str, Any]  # columns of a published table and the values that name one of its rows
_GHM_BOXES = {"smooth_l1": "SL1", "asl1": "ASL1", "ghm_r": "GHM-R"}


@dataclass(frozen=True)
class Reference:
    """A shipped table: how an arm's configuration names its row, and what the table is about.

    `row(config)` is None for what the table has not. A study is about the table where an arm has
    the entry `about` of its first column; "" asks for nothing.
    """

    table: str
    row: Callable[[Mapping[str, Any]], Row | None]
    about: str = ""


def published_rows(frames: StudyFrames) -> pd.DataFrame:
    """The published row of every arm that has one, indexed by arm, from one table for the study.

    That is the table that tells most of the arms apart, two at least. Columns: `published_ap,
    published_ap50, published_ap75` (percent), `published_row` (what the table calls it),
    `published_source, published_table`. The papers start at a prior of 0.01, so an arm without
    prior initialisation has no row; neither has one that tunes what names the row.
    """
    best: dict[str, tuple[Row, pd.Series]] = {}
    chosen = ""
    for reference in REFERENCES:
        found = _found(frames, reference)
        if _distinct(found) > max(_distinct(best), 1):
            best, chosen = found, reference.table
    rows = {
        arm: {
            "published_ap": float(line["AP"]),
            "published_ap50": float(line["AP50"]),
            "published_ap75": float(line["AP75"]),
            "published_row": ", ".join(f"{k} {v}" for k, v in row.items()),
            "published_source": line["source"],
            "published_table": chosen,
        }
        for arm, (row, line) in best.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _found(frames: StudyFrames, reference: Reference) -> dict[str, tuple[Row, pd.Series]]:
    table = published(reference.table)
    found = {}
    for arm, about in frames.study["arms"].items():
        config = fixed(about.get("config", {}), about.get("space", {}))
        row = reference.row(config) if config.get("model", {}).get("prior_init") else None
        if row is None:
            continue
        same = pd.Series(True, index=table.index)
        for column, value in row.items():
            same &= table[column].map(lambda known, value=value: _equal(known, value))
        if same.any():
            found[arm] = (row, table[same].iloc[0])
    if reference.about and all(line.iloc[0] != reference.about for _, line in found.values()):
        return {}
    return found


def _distinct(found: Mapping[str, tuple[Row, pd.Series]]) -> int:
    return len({line.name for _, line in found.values()})


def fixed(config: Mapping[str, Any], tuned: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration without what the search decides."""
    kept: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            kept[key] = fixed(value, tuned, f"{path}.")
        elif path not in tuned:
            kept[key] = value
    return kept


def _equal(known: Any, value: Any) -> bool:
    if isinstance(known, str) or isinstance(value, str) or value is None:
        return bool(known == value)
    return math.isclose(float(known), float(value), abs_tol=1e-12)


def _method(config: Mapping[str, Any]) -> str:
    """What trains the classes: a loss's name, or how its examples are mined."""
    if mining := (config.get("detector") or {}).get("mining"):
        ratio = mining.get("negatives_per_positive")
        return {None: "OHEM", 3: "OHEM 1:3"}.get(ratio, "")
    return str(config.get("loss", {}).get("name", ""))


def _alpha(config: Mapping[str, Any]) -> Row | None:
    known = _method(config) == "balanced_ce"
    return {"alpha": config["loss"].get("alpha", math.nan)} if known else None


def _gamma(config: Mapping[str, Any]) -> Row | None:
    known = _method(config) == "focal"
    return {"gamma": config["loss"].get("gamma", math.nan)} if known else None


def _anchors(config: Mapping[str, Any]) -> Row | None:
    if _method(config) != "focal":
        return None
    aspects = config["model"].get("aspects") or (0.5, 1, 2)
    return {"n_scales": config["model"].get("scales", math.nan), "n_aspects": len(aspects)}


def _mining(config: Mapping[str, Any]) -> Row | None:
    method = _method(config)
    if method == "focal":
        return {"method": "FL"}
    if not method.startswith("OHEM"):
        return None
    mining = config["detector"]["mining"]
    return {"method": method, "batch_size": mining.get("batch_size", math.nan),
            "nms_thr": mining.get("nms_threshold", math.nan)}  # fmt: skip


def _variants(config: Mapping[str, Any]) -> Row | None:
    loss = config.get("loss", {})
    rows: dict[str, Row] = {
        "ce": {"loss": "CE"},
        "focal": {"loss": "FL", "gamma": loss.get("gamma", math.nan)},
        "focal_star": {"loss": "FL*", "gamma": loss.get("gamma", math.nan),
                       "beta": loss.get("beta", math.nan)},
    }  # fmt: skip
    return rows.get(_method(config))


def _losses(config: Mapping[str, Any]) -> Row | None:
    names = {"ce": "CE", "OHEM": "OHEM", "focal": "FL", "ghm_c": "GHM-C"}
    name = names.get(_method(config))
    return {"method": name} if name else None


def _regions(config: Mapping[str, Any]) -> Row | None:
    known = _method(config) == "ghm_c"
    return {"M": config["loss"].get("bins", math.nan)} if known else None


def _boxes(config: Mapping[str, Any]) -> Row | None:
    name = ((config.get("detector") or {}).get("box_loss") or {}).get("name")
    known = _method(config) == "ghm_c" and name in _GHM_BOXES
    return {"method": _GHM_BOXES[str(name)]} if known else None


REFERENCES = (
    Reference("focal_table1a_alpha_ce", _alpha),
    Reference("focal_table1b_gamma_fl", _gamma),
    Reference("focal_table1c_anchors", _anchors),
    Reference("ghm_cls_losses", _losses, "GHM-C"),
    Reference("focal_table1d_ohem", _mining, "OHEM"),
    Reference("focal_table3_flstar", _variants, "FL*"),
    Reference("ghm_unit_regions", _regions),
    Reference("ghm_reg_losses", _boxes),
)
