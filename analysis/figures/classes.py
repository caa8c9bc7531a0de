"""Figures by class: recall against training frequency, margins and gradient norms."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losslab.analysis.figures.parts import (
    BLUE,
    ORANGE,
    arm_panels,
    arm_words,
    class_total,
    columns_of,
    counted,
    label_outer,
    legend_below,
    panel_grid,
    t_band,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.predictions import (
    MARGIN_EDGES,
    NORM_EDGES,
    RunSummary,
    rarer_classes,
    run_summaries,
)
from losslab.analysis.style import logarithmic, plain, print_style
from losslab.analysis.tables import per_seed

_MOST_ARMS = 12
_MOST_CLASSES, _GROUPS = 20, 12  # whose recalls are a line that one can follow
_SIDES = (("-", BLUE), ((0, (4, 1.5)), ORANGE))


@print_style()
def class_recall_figure(frames: StudyFrames) -> Figure | None:
    """Recall of every class on test against its training rows: mean and 95 % t interval.

    Of the selected configurations at argmax. More than 20 classes are drawn as the means of 12
    groups of classes that occur about as often. None where the study has no recall of three
    classes, or does not say how often the classes occur.
    """
    counts, recalls = _class_recalls(frames)
    if not recalls:
        return None
    rows, recalls = _grouped(counts, recalls)
    order = np.argsort(rows, kind="stable")

    def draw(axis: Axes, arm: str, look: dict) -> None:
        mean, low, high = t_band(recalls[arm].to_numpy())
        axis.plot(rows[order], mean[order], marker="o", ms=2.5, **look)
        if len(recalls[arm]) > 1:
            low, high = np.clip([low[order], high[order]], 0, 1)
            axis.fill_between(rows[order], low, high, color=look["color"], alpha=0.15, linewidth=0)

    figure, axes = arm_panels(
        frames, list(recalls), draw, lambda arm: arm_words(arm, f"(n = {len(recalls[arm])})")
    )
    label_outer(axes, columns_of(axes), "training examples of the class", "recall on test")
    for axis in axes:
        axis.set_ylim(-0.02, 1.02)
        if rows.max() >= 10 * rows.min() > 0:
            logarithmic(axis, "x")
    return figure


def class_recall_caption(frames: StudyFrames) -> str:
    """What `class_recall_figure` shows."""
    counts, recalls = _class_recalls(frames)
    groups = len(counts) > _MOST_CLASSES
    each = (
        f"Mean recall on test of {_GROUPS} groups of the {len(counts)} classes, ordered by their"
        if groups
        else f"Recall on test of each of the {len(counts)} classes against its"
    )
    return (
        f"{each} number of training examples, at argmax, selected configurations, "
        f"{counted('runs', [len(table) for table in recalls.values()])} an arm: mean and 95 % t "
        f"band over run seeds, for each {'group' if groups else 'class'} by itself."
    )


@print_style()
def margins_figure(frames: StudyFrames) -> Figure | None:
    """Distribution of the margin on test: the target's score less the best other one.

    One panel per arm; the commoner and the rarer half of the classes, each scaled to 1. Left of
    zero the decision is wrong. None without per-example outputs.
    """
    runs = dict(list(run_summaries(frames).items())[:_MOST_ARMS])
    if not runs:
        return None
    edges = _display_edges(runs)
    figure, axes, across = panel_grid(len(runs))
    for axis, (arm, own) in zip(axes, runs.items(), strict=True):
        axis.axvspan(edges[0], 0, color="0.94", zorder=0, linewidth=0)
        counts = np.sum([run.margins for run in own], axis=0)
        for side, (dashes, colour) in enumerate(_SIDES):
            _stairs(axis, _rebinned(counts[side], edges), edges, dashes, colour)
        axis.set_title(arm_words(arm, f"(n = {len(own)})"), loc="left")
        axis.set(xlim=(edges[0], edges[-1]))
    logarithmic(axes[0])  # which the others share
    label_outer(axes, across, "margin (logits)", "share of the examples")
    _side_legend(figure, frames, runs)
    return figure


def margins_caption(frames: StudyFrames) -> str:
    """What `margins_figure` shows."""
    return (
        "Margins on test, the score of the target less the best other score, of the commoner and "
        f"of the rarer half of the classes (by training rows), {_runs(frames)}. Shares within "
        "each half, all runs together, logarithmic; no interval. Shaded: wrong decisions. What "
        "lies outside the axis is in its outermost bins."
    )


@print_style()
def gradient_norms_figure(frames: StudyFrames) -> Figure | None:
    """Distribution of the gradient norm g of the trained models on test, as GHM draws it.

    g = |p − y| for two classes, 1 − p of the target for more: how hard cross-entropy would still
    pull. One panel per arm, 30 bins, logarithmic. None without per-example outputs.
    """
    runs = dict(list(run_summaries(frames).items())[:_MOST_ARMS])
    if not runs:
        return None
    figure, axes, across = panel_grid(len(runs))
    for axis, (arm, own) in zip(axes, runs.items(), strict=True):
        counts = np.sum([run.norms for run in own], axis=0)
        for side, (dashes, colour) in enumerate(_SIDES):
            _stairs(axis, counts[side] / max(1, counts[side].sum()), NORM_EDGES, dashes, colour)
        axis.set_title(arm_words(arm, f"(n = {len(own)})"), loc="left")
        axis.set(xlim=(0, 1))
    logarithmic(axes[0])  # which the others share
    norm = r"$g = |p - y|$" if class_total(frames) <= 2 else r"$g = 1 - p_y$"
    label_outer(axes, across, f"gradient norm {norm}", "share of the examples")
    _side_legend(figure, frames, runs)
    return figure


def gradient_norms_caption(frames: StudyFrames) -> str:
    """What `gradient_norms_figure` shows."""
    norm = "|p − y|" if class_total(frames) <= 2 else "1 − p of the target"
    return (
        f"Gradient norms g = {norm} of cross-entropy at the trained models' outputs on test (after "
        "Figure 1 of Li et al. 2019), of the commoner and the rarer half of the classes, "
        f"{_runs(frames)}. Shares within each half, all runs together, 30 bins; no interval."
    )


def _class_recalls(frames: StudyFrames) -> tuple[dict[str, int], dict[str, pd.DataFrame]]:
    """Training rows of the classes, and for each arm one row per replicate, one column each."""
    dataset = frames.study.get("dataset", {})
    names = dataset.get("class_names") or []
    rows = dataset.get("splits", {}).get("train", {}).get("class_counts") or []
    counts = {
        str(name): int(n)
        for name, n in zip(names, rows, strict=False)
        if f"test/recall/{name}" in frames.confirmation
    }
    if len(counts) < 3:  # a line through two points is no curve
        return counts, {}
    found = {}
    for arm in frames.arms:
        columns = {c: per_seed(frames, arm, "selected", f"test/recall/{c}") for c in counts}
        table = pd.DataFrame(columns).dropna(how="all")
        if len(table):
            found[arm] = table
    return counts, found


def _grouped(
    counts: dict[str, int], recalls: dict[str, pd.DataFrame]
) -> tuple[np.ndarray, dict[str, pd.DataFrame]]:
    """Training rows and recalls of the classes, or of groups of them where they are many.

    A group's training rows are the median of its classes', its recall their mean in each run.
    """
    rows = np.array(list(counts.values()), dtype=float)
    if len(counts) <= _MOST_CLASSES:
        return rows, recalls
    groups = np.array_split(np.argsort(rows, kind="stable"), _GROUPS)
    means = {
        arm: pd.DataFrame({i: table.iloc[:, g].mean(axis=1) for i, g in enumerate(groups)})
        for arm, table in recalls.items()
    }
    return np.array([np.median(rows[group]) for group in groups]), means


def _display_edges(runs: dict[str, list[RunSummary]]) -> np.ndarray:
    """About 50 bins over the margins but for the outermost hundredth of either half of the classes.

    Over the arms the ends are at most twice the median arm's: one arm's wild logits shall not
    squeeze the others.
    """
    ends = []
    for own in runs.values():
        for total in np.sum([run.margins for run in own], axis=0):
            if total.sum():
                ends.append(np.searchsorted(np.cumsum(total) / total.sum(), [0.01, 0.99]))
    lows, highs = np.reshape(ends, (-1, 2)).T
    zero = (len(MARGIN_EDGES) - 1) // 2  # an edge at zero parts right from wrong
    first = int(max(lows.min(), zero + 2 * (np.median(lows) - zero)))
    last = int(min(highs.max(), zero + 2 * (np.median(highs) - zero))) + 1
    step = max(1, (last - first) // 50)
    first, last = zero - -(-(zero - first) // step) * step, zero + -(-(last - zero) // step) * step
    places = np.arange(min(first, zero - step), max(last, zero + step) + 1, step)
    return MARGIN_EDGES[places[(places >= 0) & (places < len(MARGIN_EDGES))]].round(6)


def _rebinned(counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Shares in the bins `edges`; what lies outside is in the outermost ones."""
    middles = (MARGIN_EDGES[1:] + MARGIN_EDGES[:-1]) / 2
    place = np.clip(np.searchsorted(edges, middles) - 1, 0, len(edges) - 2)
    summed = np.bincount(place, weights=counts, minlength=len(edges) - 1)
    return summed / max(1.0, summed.sum())


def _stairs(axis: Axes, shares: np.ndarray, edges: np.ndarray, dashes, colour) -> None:
    heights = np.where(shares > 0, shares, np.nan)
    axis.stairs(heights, edges, baseline=None, color=colour, linestyle=dashes, linewidth=1.1)


def _side_legend(figure: Figure, frames: StudyFrames, runs: dict[str, list[RunSummary]]) -> None:
    dataset = frames.study.get("dataset", {})
    names = [str(name) for name in dataset.get("class_names") or []]
    rows = dataset.get("splits", {}).get("train", {}).get("class_counts") or []
    labels = ["commoner half of the classes", "rarer half of the classes"]
    if len(names) == 2 == len(rows):
        rare = rarer_classes(np.array(rows))
        labels = [plain(names[int(np.flatnonzero(rare == side)[0])]) for side in (False, True)]
    first = next(iter(runs.values()))[0].margins.sum(axis=1)
    handles = [
        Line2D([], [], color=colour, ls=dashes, lw=1.1, label=f"{label}, {count:,} examples a run")
        for label, count, (dashes, colour) in zip(labels, first, _SIDES, strict=True)
    ]  # fmt: skip
    legend_below(figure, handles, columns=1 if len(runs) < 3 else 2)


def _runs(frames: StudyFrames) -> str:
    runs = run_summaries(frames)
    return f"selected configurations, {counted('runs', [len(own) for own in runs.values()])} an arm"
