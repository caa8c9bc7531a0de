"""What the confirmation seeds gave: every run, and every pair of runs, with mean and interval."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losslab.analysis.figures.parts import (
    BLUE,
    DARK,
    LIGHT,
    MOST_POINTS,
    ORANGE,
    any_diverged,
    arm_axis,
    arm_words,
    confirmed,
    counted,
    interval_bar,
    legend_below,
    metric_bounds,
    minimizes,
    sentence,
    thinned,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.statistics import mean_interval, probability_of_outperforming
from losslab.analysis.style import COLUMN, new_figure, print_style
from losslab.analysis.tables import compared_arms, per_seed, replicate_unit


@print_style()
def seeds_figure(frames: StudyFrames) -> Figure | None:
    """Every confirmation run's primary metric on test, one row per arm, with mean and interval.

    Filled points are the selected configuration, hollow ones the defaults; diverged runs are
    crosses, at chance level. The bar is the 95 % t interval of the mean; where it leaves the range
    that the metric can take, it ends there with an arrow head. None without confirmation runs.
    """
    if frames.confirmation.empty:
        return None
    arms, column = frames.arms, f"test/{frames.study['primary']}"
    figure, (axis,) = new_figure(COLUMN, 0.95 + 0.42 * len(arms))
    looks = {"selected": (-0.3, BLUE, "o"), "defaults": (0.12, ORANGE, "s")}
    shown, bars = [], []
    for row, arm in enumerate(arms):
        for variant, (offset, colour, marker) in looks.items():
            values = per_seed(frames, arm, variant, column).dropna()
            if values.empty:
                continue
            diverged = values.index.isin(_diverged(frames, arm, variant, values.index.name))
            face = colour if variant == "selected" else "none"
            _points(axis, values[~diverged], row + offset, marker, face, colour)
            _points(axis, values[diverged], row + offset, "x", colour, colour)
            bars.append((values, row + offset + 0.17))
            shown.append(values)
    _limit(axis, shown, frames.study["primary"])
    for values, height in bars:
        _bar_in_range(axis, values, height)
    arm_axis(axis, [arm_words(arm) for arm in arms])
    axis.set_xlabel(f"{metric_words(frames.study['primary'])} on test")
    handles = [
        Line2D([], [], ls="", marker="o", color=BLUE, ms=4, label="selected, one run"),
        Line2D([], [], marker="|", color=DARK, label="mean, 95 % t interval"),
    ]
    if (frames.confirmation["variant"] == "defaults").any():
        untuned = {"color": ORANGE, "mfc": "none", "ms": 4, "label": "defaults"}
        handles.insert(1, Line2D([], [], ls="", marker="s", **untuned))
    if any_diverged(frames):
        handles.append(Line2D([], [], ls="", marker="x", color=LIGHT, ms=4, label="diverged"))
    legend_below(figure, handles, f"{counted('runs', _row_sizes(frames))} a row")
    return figure


def seeds_caption(frames: StudyFrames) -> str:
    """What `seeds_figure` shows."""
    n = counted(
        "run seeds" if replicate_unit(frames) == "seed_index" else "repeats", _row_sizes(frames)
    )
    few = max(_row_sizes(frames), default=0) > MOST_POINTS
    return (
        f"{sentence(metric_words(frames.study['primary']))} on test of every confirmation run, "
        f"{n} a row; bars are means with 95 % t intervals over these, conditional on the one test "
        "split." + (" Diverged runs count at chance level." if any_diverged(frames) else "")
        + (f" Of more than {MOST_POINTS} points in a row, {MOST_POINTS} are drawn." if few else "")
    )  # fmt: skip


@print_style()
def differences_figure(frames: StudyFrames) -> Figure | None:
    """Forest plot: each arm's paired differences to the baseline, with mean and 95 % t interval.

    At the right P(A > B), the share of pairs that the arm wins (ties count half), with Bouthillier
    et al.'s verdict. None where there is no pair to show: one arm only, or no run yet; and for a
    study with levels, whose arms have one baseline at each: `by_level(frames)` are its studies.
    """
    if frames.study.get("levels"):
        return None
    table = compared_arms(frames)
    table = table[table["n"] > 0]
    if table.empty:
        return None
    baseline, primary = frames.study["baseline"], frames.study["primary"]
    column = f"test/{primary}"
    reference = per_seed(frames, baseline, "selected", column)
    figure, (axis,) = new_figure(COLUMN * 1.25, 1.05 + 0.42 * len(table))
    axis.axvline(0, color=LIGHT, linewidth=0.8, linestyle=(0, (4, 2)))
    words = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 6.5}
    for row, arm in enumerate(table.index):
        values = per_seed(frames, arm, "selected", column)
        pairs = (values - reference).dropna()
        _points(axis, pairs, row - 0.14, "o", BLUE, "none")
        interval_bar(axis, pairs, row + 0.14, marker="D")
        won = probability_of_outperforming(
            values.dropna(), reference.dropna(), higher_is_better=not minimizes(frames)
        )
        axis.text(1.02, row, f"{won.probability:.2f}\n{_broken(won.verdict)}", **words)
    axis.text(1.02, -0.62, "P(A > B)", **words)
    labels = [f"{arm_words(arm)}\n(n = {line['n']}{_p(line)})" for arm, line in table.iterrows()]
    arm_axis(axis, labels)
    better = "lower" if minimizes(frames) else "higher"
    axis.set_xlabel(
        f"Δ {metric_words(primary)} to {arm_words(baseline)}\n(paired by seed, {better} is better)"
    )
    handles = [
        Line2D([], [], ls="", marker="o", color=BLUE, alpha=0.5, ms=3, label="one pair of runs"),
        Line2D([], [], marker="D", color=DARK, ms=4, label="mean, 95 % t interval"),
    ]
    legend_below(figure, handles)
    return figure


def differences_caption(frames: StudyFrames) -> str:
    """What `differences_figure` shows."""
    pairs = compared_arms(frames)["n"]
    return (
        f"Paired differences in {metric_words(frames.study['primary'])} on test to "
        f"{frames.study['baseline']}, {counted('pairs', [int(n) for n in pairs[pairs > 0]])} an "
        "arm; bars are means with 95 % t intervals, p is Holm-corrected over the arms. P(A > B) is "
        "the share of pairs that the arm wins; below 29 pairs its verdict is undecided."
    )


def _points(axis: Axes, values: pd.Series, height: float, marker: str, face, edge) -> None:
    values = thinned(values.sort_values().to_frame()).iloc[:, 0]
    line = {"color": edge} if marker == "x" else {"facecolor": face, "edgecolor": edge}
    size = 9 if edge == "none" else 11
    axis.scatter(
        values, np.full(len(values), height), marker=marker, s=size, alpha=0.7,
        linewidths=0 if edge == "none" else 0.7, rasterized=len(values) > 200, **line,
    )  # fmt: skip


def _limit(axis: Axes, shown: Iterable[pd.Series], metric: str) -> None:
    """Room for points and intervals, but none where the metric cannot be.

    The interval of few seeds with one bad run may be several times as wide as all points together;
    an axis that holds it presses them into a dot.
    """
    shown = list(shown)
    if not shown:
        return
    low = min(values.min() for values in shown)
    high = max(values.max() for values in shown)
    span = (high - low) or 0.1
    estimates = [mean_interval(values) for values in shown]
    ends = [e for each in estimates for e in (each.low, each.high) if np.isfinite(e)]
    low = max(min([low, *ends]), low - 0.5 * span)
    high = min(max([high, *ends]), high + 0.5 * span)
    least, greatest = metric_bounds(metric)
    low, high = max(low, least), min(high, greatest)
    space = 0.04 * (high - low) or 0.05
    axis.set_xlim(low - space, high + space)


def _bar_in_range(axis: Axes, values: pd.Series, height: float) -> None:
    """The interval's bar, cut at the axis with an arrow head where it goes on."""
    estimate = mean_interval(values)
    left, right = axis.get_xlim()
    inside = 0.012 * (right - left)
    ends = [estimate.mean if np.isnan(e) else e for e in (estimate.low, estimate.high)]
    low, high = max(ends[0], left + inside), min(ends[1], right - inside)
    line: dict[str, Any] = {"color": DARK, "linewidth": 1.1}
    axis.plot([low, high], [height] * 2, solid_capstyle="butt", **line)
    for end, drawn, arrow in ((ends[0], low, "<"), (ends[1], high, ">")):
        cut = end != drawn
        axis.plot(drawn, height, marker=arrow if cut else "|", ms=3.5, mew=0 if cut else 1, **line)
    axis.plot(estimate.mean, height, marker="|", ms=8, mew=1.1, **line)


def _broken(verdict: str) -> str:
    return verdict.replace("significant, not", "significant,\nnot").replace(" and ", "\nand ")


def _row_sizes(frames: StudyFrames) -> list[int]:
    counts = frames.confirmation.groupby(["arm", "variant"])[replicate_unit(frames)].nunique()
    return [int(count) for count in counts]


def _diverged(frames: StudyFrames, arm: str, variant: str, unit: str | None) -> pd.Series:
    runs = confirmed(frames, arm, variant)
    return runs.loc[runs["state"] == "diverged", unit or "seed_index"]


def _p(line: pd.Series) -> str:
    if np.isnan(line["p_holm"]):
        return ""
    return ", Holm p < 0.001" if line["p_holm"] < 0.001 else f", Holm p = {line['p_holm']:.3f}"
