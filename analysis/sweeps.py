"""Sweeps over one hyper-parameter, one arm per value, next to published numbers."""

import math
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.tables.comparisons import compared_arms
from losslab.analysis.tables.results import estimates
from losslab.analysis.tables.runs import Confirmed, primary_column
from losslab.errors import BadInput

# the focal paper's sweeps: alpha for cross-entropy, gamma with the best alpha for each
PUBLISHED_SWEEPS = {"alpha": "focal_table1a_alpha_ce", "gamma": "focal_table1b_gamma_fl"}


def published(name: str) -> pd.DataFrame:
    """A published table as shipped in `analysis/published/`, with its `source` column.

    >>> published("focal_table1b_gamma_fl")["AP"].max()
    np.float64(34.0)
    """
    folder = resources.files("losslab.analysis") / "published"
    known = sorted(file.name.removesuffix(".csv") for file in folder.iterdir())
    if name not in known:
        raise BadInput(f"there is no published table {name!r} (there are: {', '.join(known)})")
    with (folder / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def sweep_table(
    frames: StudyFrames, parameter: str, published_name: str | None = "auto"
) -> pd.DataFrame:
    """One row per arm that fixes `parameter`, ours beside the published value, sorted by it.

    `parameter` is a config path or its last part (`loss.gamma` or `gamma`). Columns: `study, arm,
    parameter, parameter_value`; `tuned.<path>` (what the arm selected for its other loss
    parameters); the columns of `tables.results.estimates` for the primary metric on test, bold
    decided among the arms of the sweep; `difference` to the study's baseline with `difference_low,
    difference_high, p_holm` (over all arms of the study), `pairs` and `baseline`; `published,
    published_metric, published_setting, published_source`. The published COCO AP (percent) is
    another metric on another dataset: only the shape of the two curves can be compared.
    `published_name` is a table of `analysis/published`, None for no such column; by default that of
    alpha or gamma.
    """
    name = parameter.rsplit(".", 1)[-1]
    if published_name == "auto":
        published_name = PUBLISHED_SWEEPS.get(name)
    known = published(published_name) if published_name else None
    if known is not None and name not in known:
        raise BadInput(f"the published table {published_name!r} has no column {name!r}")
    values = sweep_values(frames, parameter)
    if not values:
        return pd.DataFrame()
    keys = [(arm, "selected", "") for arm in values]
    table = estimates(frames, Confirmed.of(frames), keys, [primary_column(frames)])
    rows = [
        {
            "arm": arm,
            "parameter": name,
            "parameter_value": value,
            **_tuned_loss_parameters(frames, arm),
            **(_published_row(known, name, value) if known is not None else {}),
        }
        for arm, value in values.items()
    ]
    table = pd.DataFrame(rows).merge(table, on="arm", how="left")
    table = table.merge(_differences(frames), left_on="arm", right_index=True, how="left")
    return table.sort_values("parameter_value", kind="stable", ignore_index=True)


def _differences(frames: StudyFrames) -> pd.DataFrame:
    names = {"difference": "difference", "low": "difference_low", "high": "difference_high"}
    names |= {"p_holm": "p_holm", "n": "pairs", "reason": "difference_missing"}
    names |= {"baseline": "baseline"}
    if frames.study["baseline"] not in frames.arms:
        return pd.DataFrame(columns=list(names.values()))
    table = compared_arms(frames).rename(columns=names)[list(names.values())]
    return table.astype({"pairs": "Int64"})


def sweep_values(frames: StudyFrames, parameter: str) -> dict[str, float]:
    """The value that each arm fixes `parameter` to; arms that tune it or lack it are left out.

    Looked for in the arm's `config` in `study.json`, then as `name=value` in its summary and as
    `name-value` (or with `=`, `_` or a space) in its name.
    """
    name = parameter.rsplit(".", 1)[-1]
    found = {}
    for arm, settings in frames.study["arms"].items():
        if any(_names(path, parameter) for path in settings.get("space", {})):
            continue
        config = settings.get("config", {})
        value = _in_config(config.get("loss", {}), parameter, "loss.")
        value = _in_config(config, parameter) if value is None else value
        for text in (settings.get("summary", ""), arm):
            if value is None and (match := _written(name, text)):
                value = float(match)
        if value is not None:
            found[arm] = value
    return found


def swept_parameters(frames: StudyFrames) -> list[str]:
    """Parameters of the published sweeps that at least three arms fix to differing values."""
    return [name for name in PUBLISHED_SWEEPS if len(set(sweep_values(frames, name).values())) >= 3]


def _names(path: str, parameter: str) -> bool:
    return path == parameter or path.rsplit(".", 1)[-1] == parameter


def _written(name: str, text: str) -> str | None:
    match = re.search(rf"(?<![a-z]){re.escape(name)}\s*[=_\- ]\s*(\d*\.?\d+)", text, re.IGNORECASE)
    return match.group(1) if match else None


def _in_config(config: Mapping[str, Any], parameter: str, prefix: str = "") -> float | None:
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if (inside := _in_config(value, parameter, f"{path}.")) is not None:
                return inside
        elif _names(path, parameter) and isinstance(value, int | float):
            return float(value)
    return None


def _tuned_loss_parameters(frames: StudyFrames, arm: str) -> dict[str, float]:
    row = frames.selected[frames.selected["arm"] == arm]
    if row.empty:
        return {}
    columns = [c for c in row.columns if c.startswith("params.loss.") and row[c].notna().any()]
    # where the search was repeated: the median over its repeats
    return {f"tuned.{c.removeprefix('params.')}": row[c].median() for c in columns}


def _published_row(known: pd.DataFrame, name: str, value: float) -> dict[str, Any]:
    match = known[
        [math.isclose(value, other, rel_tol=1e-9, abs_tol=1e-12) for other in known[name]]
    ]
    if match.empty:
        return {
            "published": math.nan,
            "published_metric": "COCO AP (%)",
            "published_setting": "",
            "published_source": known["source"].iloc[0],
        }
    row = match.iloc[0]
    alpha = f"alpha {row['alpha_best']:g}, " if "alpha_best" in row else ""
    return {
        "published": float(row["AP"]),
        "published_metric": "COCO AP (%)",
        "published_setting": f"{alpha}{row['backbone']}, {row['scale_px']} px, {row['eval_split']}",
        "published_source": row["source"],
    }
