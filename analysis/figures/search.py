"""The search of every arm: its trials against one, two or all hyper-parameters."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from losslab.analysis.figures.parts import (
    BLUE,
    DARK,
    GREEN,
    ORANGE,
    RED,
    arm_words,
    counted,
    label_outer,
    legend_below,
    panel_grid,
    parameter_word,
    short,
    thinned,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.style import COLUMN, PAGE, new_figure, plain, print_style

MOST_ARMS, MOST_PARAMETERS = 8, 5  # rows and columns of the slices that fit a page
STATE_LOOKS: dict[str, dict[str, Any]] = {
    "complete": {"marker": "o", "color": BLUE},
    "defaults (trial 0)": {"marker": "D", "color": GREEN},
    "pruned": {"marker": "s", "color": ORANGE, "mfc": "none"},
    "diverged": {"marker": "x", "color": RED},
}


@print_style()
def search_figure(frames: StudyFrames, parameter: str = "learning_rate") -> Figure | None:
    """Every search trial's objective against `parameter`, one panel per arm, by trial state.

    A trial without a value (pruned or diverged before its first) stands on the lower edge. Falls
    back on the first tuned parameter; None where nothing was searched.
    """
    trials = marked_trials(frames)
    column = _parameter_column(trials, parameter)
    if column is None:
        return None
    arms = [arm for arm in frames.arms if trials.loc[trials["arm"] == arm, column].notna().any()]
    figure, axes, across = panel_grid(len(arms), across=4, ratio=0.8)
    for axis, arm in zip(axes, arms, strict=True):
        own = trials[trials["arm"] == arm]
        _panel(axis, own[own[column].notna()], column)
        axis.set_title(arm_words(f"{arm},", f"n = {len(own)}"), loc="left")
    scale_parameter(axes, frames, column, trials)
    label_outer(axes, across, parameter_word(column), objective_words(frames))
    legend_below(figure, _state_handles(trials), columns=2 if len(arms) == 1 else 5)
    return figure


@print_style()
def slices_figure(frames: StudyFrames) -> Figure | None:
    """Every trial's objective against every hyper-parameter: one row per arm, one column for each.

    At most eight arms and five hyper-parameters, those that most arms search; None where nothing
    was searched.
    """
    arms, columns = _slices(frames)
    if not columns:
        return None
    trials = marked_trials(frames)
    width = PAGE if len(columns) > 2 else (COLUMN if len(columns) == 1 else PAGE * 0.7)
    figure, axes = new_figure(
        width, 0.9 + (1.25 if len(arms) <= 4 else 0.95) * len(arms), len(arms), len(columns),
        sharex="col", sharey=True,
    )  # fmt: skip
    grid = np.array(axes).reshape(len(arms), len(columns))
    for row, arm in zip(grid, arms, strict=True):
        own = trials[trials["arm"] == arm]
        for axis, column in zip(row, columns, strict=True):
            if own[column].notna().any():
                _panel(axis, own[own[column].notna()], column)
            else:
                words = {"transform": axis.transAxes, "ha": "center", "color": "0.4"}
                axis.text(0.5, 0.5, "not searched", fontsize=6.5, **words)
        row[0].set_ylabel(f"{plain(short(arm, 24), 13)}\n(n = {len(own)})", fontsize=7)
    for position, column in enumerate(columns):
        scale_parameter(list(grid[:, position]), frames, column, trials)
        grid[-1, position].set_xlabel(parameter_word(column))
    legend_below(
        figure, _state_handles(trials), f"vertical: {objective_words(frames, ' ')}", columns=5
    )
    return figure


def slices_caption(frames: StudyFrames) -> str:
    """What `slices_figure` shows."""
    arms, _ = _slices(frames)
    trials = search_trials(frames)
    sizes = [int((trials["arm"] == arm).sum()) for arm in arms]
    left = len(frames.arms) - len(arms)
    return (
        f"Objective ({objective_words(frames, ' ')}) of every search trial against each "
        f"hyper-parameter ({counted('trials', sizes)} an arm). Pruned and diverged trials are at "
        "their last value, on the lower edge where they have none; the ring is the selected trial. "
        "The other hyper-parameters vary along."
        + (f" {left} arms without room or without a search are left out." if left else "")
    )


def search_caption(frames: StudyFrames) -> str:
    """What `search_figure` shows."""
    trials = search_trials(frames)
    sizes = [int((trials["arm"] == arm).sum()) for arm in trials["arm"].unique()]
    column = _parameter_column(trials, "learning_rate") or ""
    return (
        f"Objective ({objective_words(frames, ' ')}) of every search trial against the "
        f"{parameter_word(column)}, {counted('trials', sizes)} an arm; trials without a value "
        "stand on the lower edge."
    )


def search_trials(frames: StudyFrames) -> pd.DataFrame:
    """The search trials, without the re-trainings of the selection."""
    return frames.trials[frames.trials["phase"] == "search"]


def tuned_columns(trials: pd.DataFrame) -> list[str]:
    """The `params.` columns with more than one value, numbers and choices."""
    columns = [c for c in trials if str(c).startswith("params.")]
    return [c for c in columns if len(set(trials[c].dropna().astype(str))) > 1]


def is_selected(frames: StudyFrames, trials: pd.DataFrame) -> np.ndarray:
    """Which of the search trials their arm selected, in each repeat of the search."""
    chosen = frames.selected
    chosen = chosen[chosen["trial"].notna()]  # where every trial diverged there is none
    known = set(zip(chosen["arm"], chosen["repeat"].fillna(0), chosen["trial"], strict=True))
    keys = zip(trials["arm"], trials["repeat"].fillna(0), trials["trial"], strict=True)
    return np.fromiter((key in known for key in keys), bool, len(trials))


def is_log(frames: StudyFrames, column: str) -> bool:
    """Whether a hyper-parameter is searched on a logarithmic scale."""
    return any(space.get("scale") == "log" for space in _spaces(frames, column))


def scale_parameter(
    axes: list[Axes], frames: StudyFrames, column: str, trials: pd.DataFrame
) -> None:
    """The horizontal scale of a hyper-parameter: logarithmic as searched, choices by name."""
    if trials[column].dtype.kind != "f":
        names = choices(trials[column])
        for axis in axes:
            axis.set_xticks(range(len(names)), [plain(name, 12) for name in names])
            axis.set_xlim(-0.5, len(names) - 0.5)
    elif (trials[column].dropna() > 0).all() and is_log(frames, column):
        for axis in axes:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(numticks=5))
            axis.xaxis.set_minor_locator(NullLocator())  # most of the time of drawing


def choices(values: pd.Series) -> list[str]:
    """The choices that occur, as text, in order."""
    return sorted(values.dropna().astype(str).unique())


def positions(values: pd.Series, every: pd.Series) -> pd.Series:
    """Numbers as they are; choices by their place among all that occur."""
    if every.dtype.kind == "f":
        return values
    return values.astype(str).map({name: i for i, name in enumerate(choices(every))})


class Span(NamedTuple):
    """The searched range of a number."""

    low: float
    high: float
    log: bool

    def unit(self, values: pd.Series) -> pd.Series:
        """Where in the range, from 0 to 1."""
        if self.log:
            return np.log(values / self.low) / np.log(self.high / self.low)
        return (values - self.low) / ((self.high - self.low) or 1.0)

    def at(self, shares: np.ndarray) -> np.ndarray:
        """The values at shares of the range."""
        if self.log:
            return self.low * (self.high / self.low) ** shares
        return self.low + (self.high - self.low) * shares


def searched_span(frames: StudyFrames, trials: pd.DataFrame, column: str) -> Span:
    """The range that a number was searched in, wide enough for all `trials`."""
    spaces = [space for space in _spaces(frames, column) if "low" in space]
    low = min([trials[column].min(), *(float(space["low"]) for space in spaces)])
    high = max([trials[column].max(), *(float(space["high"]) for space in spaces)])
    return Span(low, high, low > 0 and high > low and is_log(frames, column))


def _spaces(frames: StudyFrames, column: str) -> list[dict[str, Any]]:
    path = column.removeprefix("params.")
    spaces = [arm.get("space", {}).get(path, {}) for arm in frames.study["arms"].values()]
    return [space for space in spaces if isinstance(space, dict)]


def _slices(frames: StudyFrames) -> tuple[list[str], list[str]]:
    trials = search_trials(frames)
    columns = tuned_columns(trials)
    columns.sort(key=lambda c: (-trials.loc[trials[c].notna(), "arm"].nunique(), c))
    columns = columns[:MOST_PARAMETERS]
    known = trials[trials[columns].notna().any(axis=1)]["arm"].unique()
    return [arm for arm in frames.arms if arm in known][:MOST_ARMS], columns


def marked_trials(frames: StudyFrames) -> pd.DataFrame:
    """The search trials with a column `selected`."""
    trials = search_trials(frames)
    return trials.assign(selected=is_selected(frames, trials))


def _panel(axis: Axes, own: pd.DataFrame, column: str) -> None:
    own = own.assign(**{column: positions(own[column], own[column])})
    for label, look in STATE_LOOKS.items():
        if label.startswith("defaults"):
            rows = own[(own["trial"] == 0) & (own["state"] == "complete")]
        elif label == "complete":
            rows = own[(own["trial"] != 0) & (own["state"] == label)]
        else:
            rows = own[own["state"] == label]
        known = thinned(rows[rows["value"].notna()])
        many = len(known) > 100
        axis.plot(
            known[column], known["value"], ls="", ms=2 if many else 3.5,
            alpha=0.6 if many else 0.85, rasterized=many, **look,
        )  # fmt: skip
        lost = thinned(rows[rows["value"].isna()])
        look = {**look, "transform": axis.get_xaxis_transform(), "clip_on": False}
        axis.plot(lost[column], np.full(len(lost), 0.02), ls="", ms=4, in_layout=False, **look)
    chosen = own[own["selected"] & own["value"].notna()]
    ring: dict[str, Any] = {"marker": "o", "mfc": "none", "mec": DARK, "ms": 8, "clip_on": False}
    if len(chosen):  # nothing, but unclipped, would stand in the layout's way
        axis.plot(chosen[column], chosen["value"], ls="", **ring)


def _state_handles(trials: pd.DataFrame) -> list[Line2D]:
    """The states that occur."""
    states = {"complete", *trials["state"], "defaults (trial 0)"}
    handles = [
        Line2D([], [], ls="", ms=4, label=label, **look)
        for label, look in STATE_LOOKS.items()
        if label in states
    ]
    ring = Line2D([], [], ls="", marker="o", mfc="none", mec=DARK, ms=8, label="selected")
    return [*handles, ring]


def objective_words(frames: StudyFrames, between: str = "\n") -> str:
    """The objective as a label."""
    return f"{metric_words(frames.study['primary'])}{between}on validation"


def _parameter_column(trials: pd.DataFrame, parameter: str) -> str | None:
    columns = [c for c in trials if c.startswith("params.") and trials[c].dtype.kind == "f"]
    named = [c for c in columns if c.rsplit(".", 1)[-1] == parameter or c == f"params.{parameter}"]
    usable = [c for c in [*named, *columns] if trials[c].notna().any()]
    return usable[0] if usable else None
