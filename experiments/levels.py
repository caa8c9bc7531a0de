"""Levels: the same arms at several values of one setting, such as several imbalance ratios.

Every level is a study file of its own, so whatever a file can say can be a level; the arms of all
levels make one study, with the same run seeds.
"""

import copy
from collections.abc import Mapping
from typing import Any

from losslab.experiments.reading import normalise
from losslab.experiments.schema import ARM_SECTIONS, Levels
from losslab.experiments.spaces import leaves, looks_like_space, set_path


def labelled(levels: Levels) -> dict[str, Any]:
    """The values of the levels by the label that names them.

    >>> labelled(Levels(path="dataset.imbalance_ratio", values=[1, 10.0, 1e3]))
    {'1': 1, '10': 10.0, '1000': 1000.0}
    """
    if isinstance(levels.values, Mapping):
        return dict(levels.values)
    return {label_of(value): value for value in levels.values}


def label_of(value: Any) -> str:
    """A value as the name of its level; a section is named by what it names."""
    if isinstance(value, Mapping):
        return str(value.get("name", value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    return str(value)


def levelled_name(arm: str, level: str) -> str:
    """An arm's name at one level."""
    return f"{arm} @ {level}"


def at_level(content: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The study file at one level: its content with the level's value in place.

    >>> at_level({"dataset": "clusters"}, "dataset.imbalance_ratio", 10)
    {'dataset': {'name': 'clusters', 'imbalance_ratio': 10}}
    """
    changed = copy.deepcopy(dict(content))
    set_path(changed, path, copy.deepcopy(value))
    return normalise(changed)


def check_levels(levels: Levels, arms: Mapping[str, Any], problems: list[str]) -> None:
    """A level may set anything that an arm may, and the budget; no arm sets it too."""
    section = levels.path.split(".")[0]
    if section not in ARM_SECTIONS and levels.path != "search.trials":
        problems.append(
            f"levels.path: levels can differ in {', '.join(ARM_SECTIONS)} or in search.trials, "
            f"got {levels.path!r}"
        )
    values = list(levels.values)
    labels = values if isinstance(levels.values, Mapping) else [label_of(v) for v in values]
    if len(set(labels)) < len(labels):
        problems.append("levels.values: two levels have the same name; give them names, {a: ...}")
    for value in levels.values.values() if isinstance(levels.values, Mapping) else values:
        if looks_like_space(value):
            problems.append("levels.values: a level is one value, not a range that is searched")
    for name, over in arms.items():
        paths = [path for path, _ in leaves(over)] if isinstance(over, Mapping) else []
        if any(f"{path}.".startswith(f"{levels.path}.") for path in paths):
            problems.append(f"arms.{name}.{levels.path}: is what the levels set; leave it out")
