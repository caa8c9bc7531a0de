"""Figures of any study: what the seeds gave, paired differences, learning curves, the search."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.statistics import mean_interval
from losslab.analysis.style import (
    COLUMN,
    PAGE,
    line_looks,
    new_figure,
    plain,
    print_style,
)
from losslab.analysis.tables import compared_arms, per_seed

_DARK, _LIGHT = "0.15", "0.6"


@print_style()
def seeds_figure(frames: StudyFrames) -> Figure:
    """Every confirmation run's primary metric on test, one row per arm, with mean and interval.

    Filled points are the selected configuration, hollow ones the defaults; diverged runs are
    crosses, at chance level. The bar is the 95 % t interval of the mean.
    """
    arms, column = frames.arms, f"test/{frames.study['primary']}"
    figure, (axis,) = new_figure(COLUMN, 0.95 + 0.5 * len(arms))
    blue, orange = sns.color_palette("colorblind")[:2]
    looks = {"selected": (-0.3, blue, "o"), "defaults": (0.12, orange, "s")}
    for row, arm in enumerate(arms):
        for variant, (offset, colour, marker) in looks.items():
            values = per_seed(frames, arm, variant, column).dropna()
            if values.empty:
                continue
            diverged = _diverged(frames, arm, variant, values.index)
            height = np.full(len(values), row + offset)
            face = colour if variant == "selected" else "none"
            style = {"s": 11, "linewidths": 0.7, "alpha": 0.75}
            axis.scatter(
                values[~diverged],
                height[~diverged],
                marker=marker,
                facecolor=face,
                edgecolor=colour,
                **style,
            )
            axis.scatter(values[diverged], height[diverged], marker="x", color=colour, **style)
            _interval_bar(axis, values, row + offset + 0.17)
    _arm_axis(axis, arms, [f"{plain(arm)}" for arm in arms])
    axis.set_xlabel(f"{metric_words(frames.study['primary'])} on test")
    handles = [
        Line2D([], [], ls="", marker="o", color=blue, ms=4, label="selected, one run"),
        Line2D([], [], ls="", marker="s", color=orange, mfc="none", ms=4, label="defaults"),
        Line2D([], [], marker="|", color=_DARK, label="mean, 95 % t interval"),
    ]
    if _any_diverged(frames):
        handles.append(Line2D([], [], ls="", marker="x", color=_LIGHT, ms=4, label="diverged"))
    _legend_below(figure, handles, _seeds_title(frames), columns=2)
    return figure


@print_style()
def differences_figure(frames: StudyFrames) -> Figure | None:
    """Forest plot: each arm's paired differences to the baseline, with mean and 95 % t interval.

    None where there is no pair to show: one arm only, or no confirmation run yet.
    """
    table = compared_arms(frames)
    table = table[table["n"] > 0]
    if table.empty:
        return None
    baseline, primary = frames.study["baseline"], frames.study["primary"]
    column = f"test/{primary}"
    reference = per_seed(frames, baseline, "selected", column)
    figure, (axis,) = new_figure(COLUMN, 1.0 + 0.42 * len(table))
    axis.axvline(0, color=_LIGHT, linewidth=0.8, linestyle=(0, (4, 2)))
    for row, arm in enumerate(table.index):
        pairs = (per_seed(frames, arm, "selected", column) - reference).dropna()
        colour = sns.color_palette("colorblind")[0]
        height = np.full(len(pairs), row - 0.14)
        axis.scatter(pairs, height, s=9, color=colour, alpha=0.6, linewidths=0)
        _interval_bar(axis, pairs, row + 0.14, marker="D")
    labels = [f"{plain(arm)}\n(n = {line['n']}{_p(line)})" for arm, line in table.iterrows()]
    _arm_axis(axis, list(table.index), labels)
    better = "higher" if frames.study.get("direction", "maximize") == "maximize" else "lower"
    axis.set_xlabel(
        f"Δ {metric_words(primary)} to {plain(baseline)}\n(paired by seed, {better} is better)"
    )
    handles = [
        Line2D([], [], ls="", marker="o", color=colour, alpha=0.5, ms=3, label="one pair of runs"),
        Line2D([], [], marker="D", color=_DARK, ms=4, label="mean, 95 % t interval"),
    ]
    _legend_below(figure, handles, None, columns=2)
    return figure


@print_style()
def learning_curves_figure(frames: StudyFrames) -> Figure | None:
    """The primary metric on validation per epoch: mean and 95 % t band over confirmation runs.

    Of the selected configurations; None where no confirmation run has a history.
    """
    column = f"val/{frames.study['primary']}"
    epochs = frames.epochs
    epochs = epochs[(epochs["phase"] == "confirm") & (epochs["variant"] == "selected")]
    if column not in epochs or epochs[column].notna().sum() == 0:
        return None
    epochs = epochs.assign(epoch=epochs["epoch"].astype(int))
    arms = [arm for arm in frames.arms if (epochs["arm"] == arm).any()]
    figure, (axis,) = new_figure(PAGE * 0.75, 2.8)
    labels = []
    for arm, look in zip(arms, line_looks(len(arms)), strict=True):
        own = epochs[epochs["arm"] == arm]
        count = own["key"].nunique()
        lost = len(_diverged_runs(frames, arm, "selected"))
        labels.append(f"{plain(arm)} (n = {count}{f', {lost} diverged' if lost else ''})")
        sns.lineplot(
            own, x="epoch", y=column, ax=axis, errorbar=_t_band, label=labels[-1], legend=False,
            err_kws={"alpha": min(0.15, 0.5 / len(arms)), "linewidth": 0}, **look,
        )  # fmt: skip
    axis.set(xlabel="epoch", ylabel=f"{metric_words(frames.study['primary'])} on validation")
    axis.margins(x=0.01)
    handles, _ = axis.get_legend_handles_labels()
    until = "\n(diverged runs until they stop)" if _any_diverged(frames) else ""
    figure.legend(
        handles,
        labels,
        loc="outside right upper",
        title="mean over run seeds,\nband: 95 % t interval" + until,
        alignment="left",
    )
    return figure


@print_style()
def search_figure(frames: StudyFrames, parameter: str = "learning_rate") -> Figure | None:
    """Every search trial's objective against `parameter`, one panel per arm, by trial state.

    A trial without a value (pruned or diverged before its first) stands on the lower edge. Falls
    back on the first tuned parameter; None where nothing was searched.
    """
    trials = frames.trials[frames.trials["phase"] == "search"]
    column = _parameter_column(trials, parameter)
    if column is None:
        return None
    arms = [arm for arm in frames.arms if (trials["arm"] == arm).any()]
    across = min(3, len(arms))
    down = -(-len(arms) // across)
    figure, axes = new_figure(
        PAGE * (0.5 if across == 1 else 1),
        0.75 + 1.5 * down,
        down,
        across,
        sharex=True,
        sharey=True,
    )
    name = column.rsplit(".", 1)[-1].replace("_", " ")
    for axis, arm in zip(axes, arms, strict=False):
        own = trials[(trials["arm"] == arm) & trials[column].notna()]
        _search_panel(axis, own, column, _selected_trial(frames, arm))
        axis.set_title(plain(f"{arm}, n = {len(trials[trials['arm'] == arm])}", 40), loc="left")
        if (trials[column] > 0).all() and _is_log(frames, column):
            axis.set_xscale("log")
    for axis in axes[len(arms) :]:
        axis.remove()
    for position, axis in enumerate(axes[: len(arms)]):
        if position + across >= len(arms):  # nothing below it in its column
            axis.set_xlabel(name)
            axis.tick_params(labelbottom=True)
        if position % across == 0:
            axis.set_ylabel(f"{metric_words(frames.study['primary'])}\non validation")
    handles = [
        Line2D([], [], ls="", ms=4, label=label, **look) for label, look in _STATE_LOOKS.items()
    ]
    handles.append(Line2D([], [], ls="", marker="o", mfc="none", mec=_DARK, ms=8, label="selected"))
    _legend_below(figure, handles, None, columns=3 if across == 1 else 5)
    return figure


_BLUE, _ORANGE, _GREEN, _RED = sns.color_palette("colorblind")[:4]
_STATE_LOOKS: dict[str, dict[str, Any]] = {
    "complete": {"marker": "o", "color": _BLUE},
    "defaults (trial 0)": {"marker": "D", "color": _GREEN},
    "pruned": {"marker": "s", "color": _ORANGE, "mfc": "none"},
    "diverged": {"marker": "x", "color": _RED},
}


def _search_panel(axis: Axes, own: pd.DataFrame, column: str, selected: int | None) -> None:
    for label, look in _STATE_LOOKS.items():
        if label.startswith("defaults"):
            rows = own[(own["trial"] == 0) & (own["state"] == "complete")]
        elif label == "complete":
            rows = own[(own["trial"] != 0) & (own["state"] == label)]
        else:
            rows = own[own["state"] == label]
        known = rows[rows["value"].notna()]
        axis.plot(known[column], known["value"], ls="", ms=3.5, alpha=0.85, **look)
        lost = rows[rows["value"].isna()]
        look = {**look, "transform": axis.get_xaxis_transform(), "clip_on": False}
        axis.plot(lost[column], np.full(len(lost), 0.02), ls="", ms=4, in_layout=False, **look)
    chosen = (
        own[(own["trial"] == selected) & own["value"].notna()] if selected is not None else own[:0]
    )
    ring: dict[str, Any] = {"marker": "o", "mfc": "none", "mec": _DARK, "ms": 8, "clip_on": False}
    axis.plot(chosen[column], chosen["value"], ls="", **ring)


def _t_band(values: pd.Series) -> tuple[float, float]:
    estimate = mean_interval(values)
    if np.isnan(estimate.low):  # one seed: a line without a band
        return estimate.mean, estimate.mean
    return estimate.low, estimate.high


def _interval_bar(axis: Axes, values: pd.Series, height: float, marker: str = "|") -> None:
    estimate = mean_interval(values)
    width = 0.0 if np.isnan(estimate.half_width) else estimate.half_width
    size = 8 if marker == "|" else 4
    axis.errorbar(
        estimate.mean,
        height,
        xerr=width,
        fmt=marker,
        color=_DARK,
        ms=size,
        capsize=2,
        linewidth=1.1,
    )


def _arm_axis(axis: Axes, arms: list[str], labels: list[str]) -> None:
    axis.set_yticks(range(len(arms)), labels)
    axis.set_ylim(len(arms) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", linewidth=0.4, color="0.9")
    axis.set_axisbelow(True)


def _legend_below(figure: Figure, handles: list[Line2D], title: str | None, columns: int) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=title)


def _seeds_title(frames: StudyFrames) -> str:
    counts = frames.confirmation.groupby(["arm", "variant"]).size()
    if counts.empty:
        return "no confirmation run yet"
    low, high = counts.min(), counts.max()
    return f"n = {low} runs a row" if low == high else f"n = {low} to {high} runs a row"


def _diverged(frames: StudyFrames, arm: str, variant: str, index: pd.Index) -> np.ndarray:
    return index.isin(_diverged_runs(frames, arm, variant)[index.name or "seed_index"])


def _diverged_runs(frames: StudyFrames, arm: str, variant: str) -> pd.DataFrame:
    runs = frames.confirmation
    runs = runs[(runs["arm"] == arm) & (runs["variant"] == variant)]
    return runs[runs["state"] == "diverged"]


def _any_diverged(frames: StudyFrames) -> bool:
    return bool((frames.confirmation["state"] == "diverged").any())


def _p(line: pd.Series) -> str:
    if np.isnan(line["p_holm"]):
        return ""
    return ", Holm p < 0.001" if line["p_holm"] < 0.001 else f", Holm p = {line['p_holm']:.3f}"


def _selected_trial(frames: StudyFrames, arm: str) -> int | None:
    row = frames.selected[frames.selected["arm"] == arm]
    if row.empty or pd.isna(row["trial"].iloc[0]):
        return None  # nothing selected yet, or every trial diverged
    return int(row["trial"].iloc[0])


def _parameter_column(trials: pd.DataFrame, parameter: str) -> str | None:
    columns = [c for c in trials if c.startswith("params.") and trials[c].dtype.kind == "f"]
    named = [c for c in columns if c.rsplit(".", 1)[-1] == parameter or c == f"params.{parameter}"]
    usable = [c for c in [*named, *columns] if trials[c].notna().any()]
    return usable[0] if usable else None


def _is_log(frames: StudyFrames, column: str) -> bool:
    path = column.removeprefix("params.")
    spaces = [arm.get("space", {}).get(path, {}) for arm in frames.study["arms"].values()]
    return any(space.get("scale") == "log" for space in spaces)
