"""Figures over the levels of a factor: imbalance, label noise, tuning budget.

`mapping` is a level's name to its frames, as `analysis.levels.by_level` gives it, or several
studies; levels are numbers (the study's, or the names read as such).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from losslab.analysis.figures.parts import (
    BLUE,
    DARK,
    LIGHT,
    arm_looks,
    arm_words,
    columns_of,
    counted,
    label_outer,
    legend_below,
    markers,
    metric_bounds,
    minimizes,
    panel_grid,
    sentence,
    t_band,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.statistics import Crossover, crossover
from losslab.analysis.style import COLUMN, new_figure, plain, print_style
from losslab.analysis.tables import per_seed

Mapped = Mapping[str, StudyFrames]
_MOST_ARMS = 12


@print_style()
def levels_figure(mapping: Mapped) -> Figure | None:
    """The primary metric on test of every arm against the level: mean and 95 % t interval.

    None where levels are no numbers, or fewer than two.
    """
    levels, tables = _tables(mapping)
    if len(levels) < 2 or not tables:
        return None
    figure, (axis,) = new_figure(COLUMN, 2.9)
    looks = zip(tables, arm_looks(list(tables)), markers(len(tables)), strict=True)
    x, handles = np.array(list(levels.values())), []
    first = next(iter(mapping.values()))
    bounds = metric_bounds(first.study["primary"])
    for position, (arm, look, marker) in enumerate(looks):
        mean, low, high = t_band(tables[arm].to_numpy(float))
        at = _dodged(x, position, len(tables), _is_log(x))
        low, high = np.clip([low, high], *bounds)
        error = [mean - low, high - mean]
        axis.errorbar(at, mean, yerr=error, marker=marker, ms=3, elinewidth=0.8, **look)
        handles.append(Line2D([], [], marker=marker, ms=3, label=arm_words(arm), **look))
    _level_axis([axis], x)
    axis.set(xlabel=_label(mapping), ylabel=f"{metric_words(first.study['primary'])} on test")
    n = counted("replicates", _sizes(tables))
    legend_below(figure, handles, f"mean, 95 % t interval, {n}")
    return figure


def levels_caption(mapping: Mapped) -> str:
    """What `levels_figure` shows."""
    levels, tables = _tables(mapping)
    first = next(iter(mapping.values()))
    return (
        f"{sentence(metric_words(first.study['primary']))} on test against the "
        f"{_label(mapping)} ({len(levels)} levels), each arm tuned at each level by itself; means "
        f"with 95 % t intervals, {counted('replicates', _sizes(tables))} an arm and level. Points "
        "are set a little apart."
    )


@print_style()
def crossover_figure(mapping: Mapped) -> Figure | None:
    """Each arm's paired difference to the baseline against the level, and where it changes sign.

    One panel per arm: mean and 95 % t interval at every level, and the crossing with its interval
    (`statistics.crossover`) as a diamond on the line of zero, in words above the panel; several
    crossings, which have no interval, are hollow diamonds. None where levels are no numbers,
    fewer than two, or the baseline stands alone.
    """
    found = crossovers(mapping)
    levels, _ = _tables(mapping)
    if not found:
        return None
    x = np.array(list(levels.values()))
    figure, axes, _ = panel_grid(len(found), across=3, ratio=0.85)
    for axis, (arm, (differences, crossing)) in zip(axes, found.items(), strict=True):
        axis.axhline(0, color=LIGHT, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        mean, low, high = t_band(differences.to_numpy(float))
        error = [mean - low, high - mean]
        axis.errorbar(x, mean, yerr=error, marker="o", ms=3, color=BLUE, elinewidth=0.8)
        _crossing(axis, crossing)
        words = f"{arm_words(arm, f'(n = {crossing.n})')}\n{_title(crossing)}"
        axis.set_title(words, loc="left")
    _level_axis(axes, x)
    label_outer(axes, columns_of(axes), _label(mapping), _difference_label(mapping))
    handles = [
        Line2D([], [], color=BLUE, marker="o", ms=3, label="mean difference, 95 % t interval"),
        Line2D([], [], color=DARK, marker="D", ms=4, label="crossing, 95 % interval"),
    ]
    if any(len(crossing.crossings) > 1 for _, crossing in found.values()):
        several = "one of several crossings"
        handles.append(
            Line2D([], [], ls="", color=DARK, marker="D", mfc="none", ms=4, label=several)
        )
    legend_below(figure, handles, columns=1 if len(axes) == 1 else 3)
    return figure


def crossover_caption(mapping: Mapped) -> str:
    """What `crossover_figure` shows, with the crossings in words."""
    found = crossovers(mapping)
    first = next(iter(mapping.values()))
    better = "below zero" if minimizes(first) else "above zero"
    said = "; ".join(
        f"{arm}: {_words(crossing)}, n = {crossing.n}" for arm, (_, crossing) in found.items()
    )
    return (
        f"Paired differences in {metric_words(first.study['primary'])} on test to "
        f"{first.study['baseline']} against the {_label(mapping)}: means with 95 % t intervals "
        f"over replicates ({better} the arm is better). Crossings, by straight lines between "
        f"levels, with Fieller's 95 % interval: {said}."
    )


def crossovers(mapping: Mapped) -> dict[str, tuple[pd.DataFrame, Crossover]]:
    """For every arm but the baseline its differences (replicates by level) and where they cross.

    Only levels at which both have runs. Replicates are those complete at every such level.
    """
    levels, tables = _tables(mapping)
    first = next(iter(mapping.values()), None)
    baseline = first.study["baseline"] if first else None
    if first is None or len(levels) < 2 or baseline not in tables:
        return {}
    found = {}
    for arm, table in list(tables.items())[:_MOST_ARMS]:
        if arm == baseline:
            continue
        differences = table - tables[baseline]
        known = [name for name in levels if differences[name].notna().any()]
        if len(known) < 2:
            continue
        x = [levels[name] for name in known]
        crossing = crossover(x, differences[known], log=_is_log(np.array(x)))
        found[arm] = (differences.reindex(columns=list(levels)), crossing)
    return found


def level_numbers(mapping: Mapped) -> dict[str, float] | None:
    """The levels as ascending numbers; None where they are none."""
    numbers = {}
    for name, frames in mapping.items():
        value: Any = (frames.study.get("level") or {}).get("value", name)
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            return None
    if len(set(numbers.values())) < len(numbers) or not np.isfinite(list(numbers.values())).all():
        return None
    return dict(sorted(numbers.items(), key=lambda item: item[1]))


def _tables(mapping: Mapped) -> tuple[dict[str, float], dict[str, pd.DataFrame]]:
    """The levels, and for every arm one row per replicate and one column per level."""
    levels = level_numbers(mapping) or {}
    arms = list(dict.fromkeys(arm for frames in mapping.values() for arm in frames.arms))
    tables = {}
    for arm in arms:
        columns = {
            name: per_seed(mapping[name], arm, "selected", f"test/{mapping[name].study['primary']}")
            for name in levels
        }
        table = pd.DataFrame(columns)
        if table.notna().any(axis=None):
            tables[arm] = table
    return levels, dict(list(tables.items())[:_MOST_ARMS])


def _sizes(tables: dict[str, pd.DataFrame]) -> list[int]:
    return [int(n) for table in tables.values() for n in table.notna().sum() if n]


def _is_log(x: np.ndarray) -> bool:
    return bool(x.min() > 0 and x.max() >= 8 * x.min())


def _level_axis(axes: list[Axes], x: np.ndarray) -> None:
    """The levels that were tried are the ticks."""
    for axis in axes:
        if _is_log(x):
            axis.set_xscale("log")
            axis.xaxis.set_minor_locator(NullLocator())
        shown = x if len(x) <= 6 else x[:: -(-len(x) // 5)]
        axis.set_xticks(shown, [f"{value:g}" for value in shown])


def _dodged(x: np.ndarray, position: int, count: int, log: bool) -> np.ndarray:
    """A little aside, so that intervals of several arms do not cover each other."""
    share = 0.03 * (position - (count - 1) / 2) / max(1, count - 1) * 2
    if log:
        return x * (x.max() / x.min()) ** (share * 0.7)
    return x + share * (x.max() - x.min())


def _crossing(axis: Axes, crossing: Crossover) -> None:
    line: dict[str, Any] = {"color": DARK, "zorder": 4}
    if np.isnan(crossing.position):
        for position in crossing.crossings:
            axis.plot(position, 0, marker="D", ms=4, mfc="none", **line)
        return
    if np.isfinite(crossing.low):
        axis.plot([crossing.low, crossing.high], [0, 0], linewidth=2.2, **line)
        for end, is_open, arrow in (
            (crossing.low, crossing.low_open, "<"),
            (crossing.high, crossing.high_open, ">"),
        ):
            if is_open:
                axis.plot(end, 0, marker=arrow, ms=5, clip_on=False, **line)
    axis.plot(crossing.position, 0, marker="D", ms=4, **line)


def _title(crossing: Crossover) -> str:
    return ("" if np.isnan(crossing.position) else "crossing ") + _words(crossing)


def _words(crossing: Crossover) -> str:
    if np.isnan(crossing.position):
        at = ", ".join(f"{position:.3g}" for position in crossing.crossings)
        return f"{crossing.reason}: {at}" if at else crossing.reason
    if np.isnan(crossing.low):
        return f"{crossing.position:.3g} ({crossing.reason})"
    low = f"≤ {crossing.low:.3g}" if crossing.low_open else f"{crossing.low:.3g}"
    high = f"≥ {crossing.high:.3g}" if crossing.high_open else f"{crossing.high:.3g}"
    return f"{crossing.position:.3g} [{low}, {high}]"


def _label(mapping: Mapped) -> str:
    frames = next(iter(mapping.values()))
    return plain((frames.study.get("level") or {}).get("label") or "level", 40)


def _difference_label(mapping: Mapped) -> str:
    study = next(iter(mapping.values())).study
    return f"Δ {metric_words(study['primary'])}\nto {plain(study['baseline'])}"
