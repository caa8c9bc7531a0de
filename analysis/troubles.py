"""What diverged, was pruned or is missing in a study, and why."""

import re
from collections.abc import Iterator
from typing import Any

import pandas as pd

from losslab.analysis.frames import StudyFrames

COLUMNS = ["arm", "what", "where", "count", "why", "which"]
_EPOCH = re.compile(r"\s*\b(?:in|at) epoch \d+")
_SHOWN = 6  # keys or seeds that a row names; the trials' table has them all


def troubles(frames: StudyFrames) -> pd.DataFrame:
    """One row per arm, kind and reason; no row at all where everything went well.

    Columns: `arm`, `what` (diverged | pruned | missing | unfinished), `where` (search, retraining,
    test run of selected or defaults), `count`, `why` (the recorded reason; that of several epochs
    as one), `which` (the first trials or seeds). Pruning is what a search is meant to do; it is
    listed so that the counts add up.
    """
    rows = [*_ended_badly(frames.trials), *_ended_badly(frames.confirmation), *_missing(frames)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    order = {arm: position for position, arm in enumerate(frames.arms)}
    return table.sort_values(
        "arm", key=lambda arms: arms.map(order), kind="stable", ignore_index=True
    )


def _ended_badly(runs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    runs = runs[runs["state"].isin(["diverged", "pruned"])]
    if runs.empty:
        return
    confirmed = "phase" not in runs
    where = (
        "test run, " + runs["variant"]
        if confirmed
        else runs["phase"].map({"search": "search", "select": "retraining"})
    )
    why = runs["reason"].map(lambda reason: _EPOCH.sub("", str(reason)))
    groups = runs.assign(where=where, why=why).groupby(["arm", "state", "where", "why"], sort=False)
    for (arm, state, place, reason), own in groups:
        numbers = own["seed_index"] if confirmed else own["trial"]
        yield {
            "arm": arm,
            "what": state,
            "where": place,
            "count": len(own),
            "why": f"{reason or 'no reason recorded'} ({_epochs(own['epochs'])})",
            "which": _named("seeds" if confirmed else "trials", numbers),
        }


def _missing(frames: StudyFrames) -> Iterator[dict[str, Any]]:
    study = frames.study
    # frames from MLflow have no folder: there, what is missing may only not be mirrored
    reason = "not run yet" if frames.folder is not None else "not in this MLflow store"
    repeats, seeds = int(study.get("repeats") or 1), int(study.get("seeds") or 0)
    defaults = study.get("resolved", {}).get("confirm", {}).get("defaults", True)
    runs = frames.confirmation
    for arm in frames.arms:
        searched = int((frames.trials["arm"] == arm).sum())
        budget = study["arms"].get(arm, {}).get("budget", study.get("budget"))
        of = f" of {budget * repeats}" if budget else ""
        if int((frames.selected["arm"] == arm).sum()) < repeats:
            yield {
                "arm": arm,
                "what": "unfinished",
                "where": "search",
                "count": 1,
                "why": f"not everything selected yet: {searched}{of} trainings done",
                "which": "",
            }
        own = runs[runs["arm"] == arm]
        for variant in ("selected", "defaults") if defaults else ("selected",):
            done = own[own["variant"] == variant]
            present = set(zip(done["repeat"].fillna(0), done["seed_index"], strict=True))
            lacking = [
                seed for r in range(repeats) for seed in range(seeds) if (r, seed) not in present
            ]
            if lacking:
                yield {
                    "arm": arm,
                    "what": "missing",
                    "where": f"test run, {variant}",
                    "count": len(lacking),
                    "why": reason,
                    "which": _named("seeds", pd.Series(lacking)),
                }


def _epochs(epochs: pd.Series) -> str:
    known = epochs.dropna()
    if known.empty:
        return "epoch unknown"
    low, high = int(known.min()), int(known.max())
    return f"epoch {low}" if low == high else f"epochs {low} to {high}"


def _named(noun: str, numbers: pd.Series) -> str:
    found = sorted({int(number) for number in numbers.dropna()})
    if not found:
        return ""
    shown = ", ".join(str(number) for number in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{noun} {shown}{more}"
