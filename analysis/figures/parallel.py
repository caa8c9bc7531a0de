"""Parallel coordinates: each trial of a search as one line over all its hyper-parameters."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losslab.analysis.figures.parts import (
    BLUE,
    DARK,
    arm_words,
    legend_below,
    parameter_word,
    thinned,
)
from losslab.analysis.figures.search import (
    MOST_ARMS,
    choices,
    marked_trials,
    objective_words,
    positions,
    searched_span,
    tuned_columns,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.style import COLUMN, PAGE, new_figure, plain, print_style


@print_style()
def parallel_coordinates_figure(frames: StudyFrames) -> Figure | None:
    """Each trial as a line over all its hyper-parameters to its objective, one panel per arm.

    The best fifth of an arm's trials is dark, the selected one thick, the others light; at most 150
    trials an arm. None where no arm searches two hyper-parameters.
    """
    trials = marked_trials(frames)
    trials = trials[(trials["state"] == "complete") & trials["value"].notna()]
    arms = [
        arm
        for arm in frames.arms
        if len(tuned_columns(trials[trials["arm"] == arm])) > 1
    ][:MOST_ARMS]  # fmt: skip
    if not arms:
        return None
    across = 1 if len(arms) == 1 else 2
    down = -(-len(arms) // across)
    figure, axes = new_figure(COLUMN if across == 1 else PAGE, 0.5 + 1.75 * down, down, across)
    for axis in axes[len(arms) :]:
        axis.remove()
    for axis, arm in zip(axes, arms, strict=False):
        own = trials[trials["arm"] == arm]
        _parallel_panel(axis, frames, own)
        axis.set_title(arm_words(f"{arm},", f"n = {len(own)}"), loc="left", pad=12)
    handles = [
        Line2D([], [], color=DARK, lw=2, label="selected"),
        Line2D([], [], color=BLUE, lw=0.9, label="best fifth of the trials"),
        Line2D([], [], color="0.8", lw=0.6, label="other complete trials"),
    ]
    legend_below(figure, handles, columns=3 if across > 1 else 2)
    return figure


def parallel_coordinates_caption(frames: StudyFrames) -> str:
    """What `parallel_coordinates_figure` shows."""
    return (
        "Every complete search trial as a line from hyper-parameter to hyper-parameter and to its "
        f"objective ({objective_words(frames, ' ')}, best at the top). The axes span the searched "
        "ranges, logarithmic where the search is; numbers are their ends. At most 150 trials an "
        "arm are drawn, the best fifth dark."
    )


def _parallel_panel(axis: Axes, frames: StudyFrames, own: pd.DataFrame) -> None:
    columns = [*tuned_columns(own), "value"]
    minimize = frames.study.get("direction") == "minimize"
    own = own.sort_values("value", ascending=minimize, kind="stable")
    best = max(1, len(own) // 5)
    own = own.assign(good=np.arange(len(own)) < best)
    drawn = own[own["good"] | own["selected"]]
    drawn = pd.concat([thinned(own.drop(drawn.index), 100), thinned(drawn, 50).iloc[::-1]])
    heights, ends = [], []
    for column in columns:
        unit, low, high = _unit_scale(frames, own, column, minimize)
        heights.append(unit.reindex(drawn.index).to_numpy(float))
        ends.append((low, high))
    lines = [np.column_stack([range(len(columns)), line]) for line in np.column_stack(heights)]
    chosen = drawn["selected"].to_numpy()
    colours = [
        DARK if c else (BLUE if good else "0.8")
        for c, good in zip(chosen, drawn["good"], strict=True)
    ]
    widths = np.where(chosen, 2.0, np.where(drawn["good"], 0.9, 0.6))
    axis.add_collection(LineCollection(lines, colors=colours, linewidths=widths))
    axis.set(xlim=(-0.15, len(columns) - 0.85), ylim=(-0.02, 1.02), yticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)
    names = [*(parameter_word(c) for c in columns[:-1]), "objective"]
    axis.set_xticks(range(len(columns)), [plain(n.replace(" ", "\n"), 14) for n in names])
    axis.tick_params(axis="x", length=0, pad=9)
    for x, (low, high) in enumerate(ends):
        axis.axvline(x, color="0.4", linewidth=0.7, zorder=0)
        axis.text(x, -0.04, low, ha="center", va="top", fontsize=6)
        axis.text(x, 1.04, high, ha="center", va="bottom", fontsize=6)


def _unit_scale(
    frames: StudyFrames, own: pd.DataFrame, column: str, minimize: bool
) -> tuple[pd.Series, str, str]:
    """Values between 0 and 1, and what stands at either end."""
    if column == "value":
        low, high = own["value"].min(), own["value"].max()
        unit, ends = (own["value"] - low) / ((high - low) or 1.0), (f"{low:.3g}", f"{high:.3g}")
        return (1 - unit, *ends[::-1]) if minimize else (unit, *ends)
    if own[column].dtype.kind != "f":
        names = choices(own[column])
        unit = positions(own[column], own[column]) / max(1, len(names) - 1)
        return unit, plain(names[0], 10), plain(names[-1], 10)
    span = searched_span(frames, own, column)
    return span.unit(own[column]), f"{span.low:.3g}", f"{span.high:.3g}"
