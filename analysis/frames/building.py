"""From records to tidy frames, the same way for every source."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from losslab.analysis.frames.runs import Run
from losslab.analysis.frames.study_frames import StudyFrames, Tracking, arm_names
from losslab.analysis.ledger import ledger_of
from losslab.experiments.run_labels import step_time

RUN_COLUMNS = {
    "key": "str",
    "run_id": "str",
    "arm": "str",
    "phase": "str",
    "variant": "str",
    "trial": "Int64",
    "repeat": "Int64",
    "generation": "Int64",
    "seed_index": "Int64",
    "run_seed": "Int64",
    "state": "str",
    "reason": "str",
    "value": "float64",
    "judged_epoch": "Int64",
    "epochs": "Int64",
    "seconds": "float64",
    "started": "datetime64[us, UTC]",
    "ended": "datetime64[us, UTC]",
}
EPOCH_OWNER = ["key", "arm", "phase", "variant", "trial", "repeat", "seed_index"]
ARM_COLUMNS = {
    "arm": "str",
    "slug": "str",
    "of": "str",
    "level": "str",
    "loss": "str",
    "summary": "str",
    "implicit": "bool",
    "baseline": "bool",
    "budget": "Int64",
    "tuned": "str",
}
_TIMES = ("started", "ended")
# what chance level is perfect at: at equal probabilities, ECE is 0 where classes are balanced
_PERFECT_AT_CHANCE = ("ece",)
# Which search of which arm: (arm, repeat).
Replicate = tuple[str, int]


def build_frames(
    study: Mapping[str, Any],
    runs: Iterable[Run],
    selected: Mapping[Replicate, Mapping[str, Any]],
    *,
    folder: Path | None = None,
    tracking: Tracking | None = None,
    open_outputs: Any = None,
) -> StudyFrames:
    """The frames of what a source has read; `selected` maps an arm and a repeat to its choice."""
    study, runs = dict(study), list(runs)
    arms = arm_names(study, [run.record["arm"] for run in runs])
    order = {arm: position for position, arm in enumerate(arms)}
    runs.sort(key=lambda run: (order[run.record["arm"]], run.record["key"]))
    searched = [run.record for run in runs if run.record["phase"] != "confirm"]
    confirmed = [_with_validation(run) for run in runs if run.record["phase"] == "confirm"]
    trials = _run_frame(searched, ["params"]).drop(columns="variant")
    confirmation = _run_frame(confirmed, ["params", "metrics", "pairing", "outputs"])
    confirmation = confirmation.drop(columns=["phase", "trial", "generation"])
    choices = _selected_frame(arms, selected)
    return StudyFrames(
        study=study,
        trials=trials,
        epochs=_epoch_frame(runs),
        confirmation=confirmation,
        ledger=ledger_of(study, arms, trials, confirmation, choices),
        selected=choices,
        arm_table=_arm_frame(study, arms),
        folder=folder,
        tracking=tracking,
        open_outputs=open_outputs,
    )


def _with_validation(run: Run) -> dict[str, Any]:
    """A confirmation record whose metrics include validation at its judged epoch.

    A run that diverged has no calibration error: that of chance level may be 0, the best there is.
    """
    validation: dict[str, float] = {}
    if run.history is not None and len(run.history.values):
        rows = run.history.values[run.history.values[:, 0] == run.record.get("judged_epoch")]
        if len(rows):
            judged = zip(run.history.columns, rows[0].tolist(), strict=True)
            validation = {n: v for n, v in judged if n.startswith("val/") and not np.isnan(v)}
    metrics = {**validation, **(run.record.get("metrics") or {})}
    metrics |= step_time({**run.record, "metrics": metrics})
    if run.record.get("state") == "diverged":
        kept = {name for name in metrics if name.split("/")[-1] not in _PERFECT_AT_CHANCE}
        metrics = {name: value for name, value in metrics.items() if name in kept}
    return {**run.record, "metrics": metrics}


def _run_frame(records: Sequence[Mapping[str, Any]], extras: list[str]) -> pd.DataFrame:
    """One row per record: the fixed columns, then those that `extras` spread out, sorted.

    Column by column, since a study may have ten thousand records.
    """
    columns: dict[str, Any] = {name: [r.get(name) for r in records] for name in RUN_COLUMNS}
    columns["run_id"] = [value or "" for value in columns["run_id"]]
    columns["repeat"] = [value or 0 for value in columns["repeat"]]  # older records have none
    for name in _TIMES:
        seconds = pd.to_numeric(pd.Series(columns[name]))
        columns[name] = pd.to_datetime(seconds, unit="s", utc=True)
    columns = {
        name: pd.Series(values).astype(kind) if name in _TIMES else pd.Series(values, dtype=kind)
        for (name, values), kind in zip(columns.items(), RUN_COLUMNS.values(), strict=True)
    }
    spread: dict[str, pd.Series] = {}
    for extra in (name for name in extras if name != "outputs"):
        prefix = "" if extra == "metrics" else f"{extra}."
        entries = [record.get(extra) or {} for record in records]
        for name in {name for entry in entries for name in entry}:
            values = [entry.get(name) for entry in entries]
            kind = "float64" if extra != "pairing" and all(map(_is_number, values)) else None
            spread[prefix + name] = pd.Series(values, dtype=kind)
    columns |= {name: spread[name] for name in sorted(spread)}
    if "outputs" in extras:
        columns["outputs"] = pd.Series([r.get("outputs") for r in records], dtype="str")
    return pd.DataFrame(columns)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _epoch_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per epoch; runs with equal columns are laid side by side as arrays, then ordered."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for position, run in enumerate(runs):
        if run.history is not None and len(run.history.values):
            alike.setdefault(run.history.columns, []).append(position)
    parts, owners = [pd.DataFrame({"epoch": np.empty(0)})], [np.empty(0, dtype=int)]
    for columns, positions in alike.items():
        arrays = [runs[p].history.values for p in positions]  # type: ignore[union-attr]
        parts.append(pd.DataFrame(np.concatenate(arrays), columns=list(columns)))
        owners.append(np.repeat(positions, [len(array) for array in arrays]))
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    owner, numbers = owner[order], pd.concat(parts[min(len(parts) - 1, 1) :], ignore_index=True)
    numbers = numbers.iloc[order].reset_index(drop=True)
    # A column may be here only because runs that are gone had it when others were cached.
    metrics = sorted(name for name in numbers.columns[1:] if numbers[name].notna().any())
    whose = {
        name: pd.Series([run.record.get(name) for run in runs], dtype=RUN_COLUMNS[name])
        .take(owner)
        .reset_index(drop=True)
        for name in EPOCH_OWNER
    }
    frame = pd.DataFrame({**whose, "epoch": numbers["epoch"].astype("Int64")})
    return pd.concat([frame, numbers[metrics].astype("float64")], axis=1)


def _selected_frame(
    arms: list[str], selected: Mapping[Replicate, Mapping[str, Any]]
) -> pd.DataFrame:
    order = {arm: position for position, arm in enumerate(arms)}
    chosen = sorted(
        ((key, entry) for key, entry in selected.items() if key[0] in order),
        key=lambda item: (order[item[0][0]], item[0][1]),
    )
    paths = sorted({path for _, entry in chosen for path in entry.get("params", {})})
    rows = [
        {
            "arm": arm,
            "repeat": repeat,
            "trial": entry["trial"],
            "value": entry.get("value"),
            "candidates": len(entry.get("candidates", [])),
            "flags": "; ".join(entry.get("flags", [])),
            **{f"params.{path}": entry.get("params", {}).get(path) for path in paths},
        }
        for (arm, repeat), entry in chosen
    ]
    fixed = {
        "arm": "str", "repeat": "Int64", "trial": "Int64", "value": "float64",
        "candidates": "Int64", "flags": "str",
    }  # fmt: skip
    columns = [*fixed, *(f"params.{path}" for path in paths)]
    return pd.DataFrame(rows, columns=columns).astype(fixed)


def _arm_frame(study: Mapping[str, Any], arms: list[str]) -> pd.DataFrame:
    rows = []
    for arm in arms:
        about = study.get("arms", {}).get(arm, {})
        rows.append(
            {
                "arm": arm,
                "slug": about.get("slug", ""),
                "of": about.get("of", arm),
                "level": str(about.get("level", "")),
                "loss": str(about.get("config", {}).get("loss", {}).get("name", "")),
                "summary": about.get("summary", ""),
                "implicit": bool(about.get("implicit", False)),
                "baseline": arm == study.get("baseline"),
                "budget": about.get("budget", study.get("budget")),
                "tuned": "; ".join(about.get("space", {})),
            }
        )
    return pd.DataFrame(rows, columns=list(ARM_COLUMNS)).astype(ARM_COLUMNS)
