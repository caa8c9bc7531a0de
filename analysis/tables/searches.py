"""What the search chose, what was left of its promise on fresh seeds, and what diverged."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.statistics import mean_interval, shrinkage
from losslab.analysis.tables.runs import direction, finished

_SEARCH = (
    *("study", "arm", "repeat", "trial", "value", "candidates", "parameter", "selected", "fixed"),
    *("default", "low", "high", "scale", "at_edge", "flags", "missing"),
)
_DIVERGED = (
    *("arm", "key", "run_id", "phase", "trial", "variant", "repeat", "seed_index", "epochs"),
    "reason",
)
EDGE = "is in the outer 5 % of its range"


def search_table(frames: StudyFrames) -> pd.DataFrame:
    """The selected configuration of every arm, long: one row per arm, repeat and hyper-parameter.

    Columns: `study, arm, repeat, trial` (0: the arm's defaults), `value` (mean objective on
    validation over the search seeds), `candidates` (how many were re-trained), `parameter` (config
    path), `selected` (what was chosen; the fixed value where the arm does not search it), `fixed`
    (True there), `default, low, high, scale` of its range, `at_edge` (in the outer 5 % of it, so
    the range may have been too narrow), `flags` of the whole selection, and `missing`: why there is
    no value. An arm that has not selected yet has one row without a parameter.
    """
    chosen = _selections(frames)
    searched = [set(a.get("space", {})) for a in frames.study["arms"].values()]
    paths = sorted(set().union(*searched, *(line["params"] for line in chosen)), key=_order)
    rows = []
    for arm in frames.arms:
        about = frames.study["arms"].get(arm, {})
        own = [line for line in chosen if line["arm"] == arm]
        for line in own or [{"arm": arm, "params": {}, "missing": "nothing selected yet"}]:
            for path in paths:
                rows.append({**line, "parameter": path, **_chosen(line, about, path)})
    table = pd.DataFrame(rows).reindex(columns=list(_SEARCH))
    return table.assign(study=frames.study["study"]).astype({"trial": "Int64", "repeat": "Int64"})


def shrinkage_table(frames: StudyFrames) -> pd.DataFrame:
    """What search promised of each arm and what fresh seeds kept, on the objective's metric.

    One row per arm and `split` (val: like for like, the validation splits of the confirmation runs;
    test: the split that judges, so the shift between splits is in it too). `search` is the selected
    configuration's mean on validation over the search seeds, `confirmed` its mean over fresh run
    seeds, `shrinkage` = search − confirmed, mirrored where low is good: positive where search
    promised too much. `low, high` is a 95 % t interval, over run seeds with the search's value
    taken as it is (`statistics.shrinkage`), or over repeats where the study repeats its search: the
    search's own chance is in it only there. `n, dropped, search_rank, confirmed_rank` (1 the best),
    `unit`, `reason`.
    """
    metric = frames.study["primary"]
    higher = direction(frames, metric) == "maximize"
    selected = frames.selected.assign(repeat=_repeat_of(frames.selected))
    selected = selected[selected["value"].notna()]
    parts = []
    for split in ("val", "test"):
        column = f"{split}/{metric}"
        runs = {arm: finished(frames, arm, "selected") for arm in selected["arm"].unique()}
        runs = {arm: own for arm, own in runs.items() if len(own) and column in own}
        if not runs:
            continue
        some = selected[selected["arm"].isin(list(runs))]
        if len(set(some["repeat"])) > 1:
            part = _over_repeats(some, runs, column, 1 if higher else -1)
        else:
            fresh = pd.DataFrame(
                {a: own.set_index("seed_index")[column] for a, own in runs.items()}
            )
            search = some.set_index("arm")["value"]
            part = shrinkage(search, fresh[search.index], higher_is_better=higher)
            part = part.assign(unit="seed_index")
        parts.append(part.reset_index().assign(split=split))
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "study", frames.study["study"])
    return table.assign(metric=metric)


def divergences_table(frames: StudyFrames) -> pd.DataFrame:
    """Every run that diverged: one row each, empty where none did.

    `study, arm, key, run_id, phase` (search | select | confirm), `trial, variant, repeat,
    seed_index, epochs` (how far it came), `reason`, and its `params.<path>`. A diverged trial
    counts in the budget; a diverged confirmation run counts at chance level.
    """
    trials = frames.trials[frames.trials["state"] == "diverged"]
    confirmed = frames.confirmation[frames.confirmation["state"] == "diverged"]
    both = pd.concat([trials, confirmed.assign(phase="confirm")], ignore_index=True)
    params = [c for c in both if c.startswith("params.") and both[c].notna().any()]
    table = both.reindex(columns=[*_DIVERGED, *params])
    table.insert(0, "study", frames.study["study"])
    return table


def _selections(frames: StudyFrames) -> list[dict[str, Any]]:
    """One entry per arm and repeat, the parameters as a dict."""
    lines = []
    selected = frames.selected.assign(repeat=_repeat_of(frames.selected))
    for line in selected.to_dict("records"):
        params = {
            str(name).removeprefix("params."): value
            for name, value in line.items()
            if str(name).startswith("params.") and pd.notna(value)
        }
        kept = ("arm", "repeat", "trial", "value", "candidates", "flags")
        lines.append({**{name: line[name] for name in kept}, "params": params, "missing": ""})
    return lines


def _chosen(line: Mapping[str, Any], about: Mapping[str, Any], path: str) -> dict[str, Any]:
    space = about.get("space", {}).get(path)
    bounds = {name: (space or {}).get(name) for name in ("default", "low", "high", "scale")}
    flags = str(line.get("flags", "")).split("; ")
    at_edge = any(flag.startswith(f"{path} ") and EDGE in flag for flag in flags)
    found = {"selected": line["params"].get(path), "fixed": False, "at_edge": at_edge, **bounds}
    if found["selected"] is not None or line["missing"]:
        return found
    if space is None:
        value = _configured(about.get("config", {}), path)
        reason = "" if value is not None else "this arm has no such parameter"
        return {**found, "selected": value, "fixed": value is not None, "missing": reason}
    return {**found, "missing": "not recorded"}


def _configured(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if isinstance(value, Mapping | list) else value


def _order(path: str) -> tuple[bool, str]:
    """The loss's own parameters first."""
    return not path.startswith("loss."), path


def _repeat_of(frame: pd.DataFrame) -> pd.Series:
    if "repeat" not in frame:
        return pd.Series(0, index=frame.index, dtype="Int64")
    return frame["repeat"].fillna(0)


def _over_repeats(
    selected: pd.DataFrame, runs: Mapping[str, pd.DataFrame], column: str, sign: int
) -> pd.DataFrame:
    rows = {}
    for arm, own in selected.groupby("arm", sort=False):
        search = own.set_index("repeat")["value"].astype(float)
        confirmed = runs[str(arm)].groupby("repeat")[column].mean().reindex(search.index)
        estimate = mean_interval(sign * (search - confirmed))
        both = confirmed.notna()
        rows[arm] = {
            "search": search[both].mean() if both.any() else np.nan,
            "confirmed": confirmed.mean(),
            "shrinkage": estimate.mean,
            "low": estimate.low,
            "high": estimate.high,
            "n": estimate.n,
            "dropped": estimate.dropped,
            "reason": estimate.reason,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")
    for side in ("search", "confirmed"):
        table[f"{side}_rank"] = (sign * table[side]).rank(ascending=False)
    return table.assign(unit="repeat")
