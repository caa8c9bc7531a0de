"""A study with levels as one ordinary study for each level."""

from dataclasses import replace
from typing import Any

import pandas as pd

from losslab.analysis.frames import StudyFrames


def by_level(frames: StudyFrames) -> dict[str, StudyFrames]:
    """The frames of each level, in the order of the study file; nothing without levels.

    Every part reads as a study of its own: its arms have the names that they have in the study
    file, its baseline is that of the level. Replicates have the same number at every level, so that
    differences between levels can be paired too.

    >>> by_level(frames)["100"].arms      # doctest: +SKIP
    ['ce', 'focal']
    """
    levels = frames.study.get("levels")
    if not levels:
        return {}
    return {level: _at(frames, levels, level) for level in levels["values"]}


def level_values(frames: StudyFrames) -> dict[str, float] | None:
    """The levels as numbers, for an axis; None where they are not numbers."""
    values = (frames.study.get("levels") or {}).get("values", {})
    numbers = {level: value for level, value in values.items() if isinstance(value, int | float)}
    return {level: float(value) for level, value in numbers.items()} if numbers == values else None


def _at(frames: StudyFrames, levels: dict[str, Any], level: str) -> StudyFrames:
    arms = {name: arm for name, arm in frames.study["arms"].items() if arm["level"] == level}
    names = {name: arm["of"] for name, arm in arms.items()}
    hashes = frames.study.get("content_hashes", {})
    study = {
        **frames.study,
        "arms": {names[name]: arm for name, arm in arms.items()},
        "baseline": levels["baseline"],
        "standing": levels["standing"],
        "dataset": levels["datasets"][level],
        "budget": next(iter(arms.values()))["budget"],
        "content_hashes": {names[name]: hashes[name] for name in arms if name in hashes},
        "levels": None,
        "level": {"label": levels["label"], "name": level, "value": levels["values"][level]},
    }
    return replace(
        frames,
        study=study,
        **{
            name: _renamed(frame, names)
            for name, frame in vars(frames).items()
            if isinstance(frame, pd.DataFrame) and "arm" in frame
        },
    )


def _renamed(frame: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    own = frame[frame["arm"].isin(list(names))]
    return own.assign(arm=own["arm"].map(names).astype(frame["arm"].dtype)).reset_index(drop=True)
