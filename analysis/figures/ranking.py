"""Precision-recall and ROC curves of the selected configurations, with bands over run seeds."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from losslab.analysis.figures.parts import (
    LIGHT,
    arm_panels,
    arm_words,
    class_total,
    columns_of,
    counted,
    label_outer,
    t_band,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.predictions import (
    FALSE_POSITIVE_RATES,
    RECALLS,
    RunSummary,
    run_summaries,
)
from losslab.analysis.style import print_style


@print_style()
def precision_recall_figure(frames: StudyFrames) -> Figure | None:
    """Precision against recall on test: mean and 95 % t band over run seeds at each recall.

    Steps, as average precision reads them, so that a curve's area is its AP. Several classes: the
    mean over classes, each against the rest. The dotted line is what chance gives. None without
    per-example outputs.
    """
    return _curves(
        frames, RECALLS, lambda run: run.precision, "recall", "precision", _prevalence(frames)
    )


def precision_recall_caption(frames: StudyFrames) -> str:
    """What `precision_recall_figure` shows."""
    return (
        f"Precision at each recall on test, {_whose(frames)}: mean and 95 % t band over run seeds. "
        "Steps, not straight lines between points: the area under a run's curve is its average "
        "precision. Dotted: chance, the share of positives."
    )


@print_style()
def roc_figure(frames: StudyFrames) -> Figure | None:
    """True against false positive rate on test: mean and 95 % t band over run seeds.

    Several classes: the mean over classes, each against the rest. Where curves leave the left edge
    within 5 % the horizontal axis is logarithmic. None without per-example outputs.
    """
    figure = _curves(
        frames,
        FALSE_POSITIVE_RATES,
        lambda run: run.sensitivity,
        "false positive rate",
        "true positive rate",
        None,
    )
    if figure is None:
        return None
    rates = FALSE_POSITIVE_RATES
    fewest = min(run.examples for runs in _ranked(frames).values() for run in runs)
    # no rate lies between 0 and one negative
    left = 10.0 ** max(-5, np.floor(-np.log10(fewest)))
    early = [
        float(np.interp(0.05, rates, np.nanmean([run.sensitivity for run in runs], axis=0)))
        for runs in _ranked(frames).values()
    ]
    chance: dict[str, Any] = {
        "color": LIGHT,
        "linewidth": 0.8,
        "linestyle": (0, (1, 1)),
        "zorder": 1,
    }
    for axis in figure.axes:
        axis.plot(rates, rates, **chance)
        if np.median(early) > 0.9:
            axis.set_xscale("log")
            axis.xaxis.set_minor_locator(NullLocator())  # most of the time of drawing
            axis.set_xlim(left, 1)
    return figure


def roc_caption(frames: StudyFrames) -> str:
    """What `roc_figure` shows."""
    return (
        f"True positive rate at each false positive rate on test, {_whose(frames)}: mean and 95 % "
        "t band over run seeds. Dotted: chance."
    )


def _curves(
    frames: StudyFrames,
    grid: np.ndarray,
    values: Callable[[RunSummary], np.ndarray],
    xlabel: str,
    ylabel: str,
    chance: float | None,
) -> Figure | None:
    runs = _ranked(frames)
    if not runs:
        return None

    def draw(axis: Axes, arm: str, look: dict) -> None:
        mean, low, high = t_band(np.array([values(run) for run in runs[arm]]))
        axis.plot(grid, mean, **look)
        if len(runs[arm]) > 1:
            low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
            axis.fill_between(grid, low, high, color=look["color"], alpha=0.15, linewidth=0)

    figure, axes = arm_panels(
        frames, list(runs), draw, lambda arm: arm_words(arm, f"(n = {len(runs[arm])})"), height=2.9
    )
    macro = "" if class_total(frames) <= 2 else " (macro)"
    label_outer(axes, columns_of(axes), xlabel, f"{ylabel}{macro}")
    for axis in axes:
        axis.set(xlim=(0, 1), ylim=(0, 1.02))
        if chance is not None:
            axis.axhline(chance, color=LIGHT, linewidth=0.8, linestyle=(0, (1, 1)))
    return figure


def _ranked(frames: StudyFrames) -> dict[str, list[RunSummary]]:
    """Runs whose test split has more than one class."""
    found = {
        arm: [run for run in runs if np.isfinite(run.precision).all()]
        for arm, runs in run_summaries(frames).items()
    }
    return {arm: runs for arm, runs in found.items() if runs}


def _whose(frames: StudyFrames) -> str:
    n = counted("runs", [len(runs) for runs in _ranked(frames).values()])
    macro = ", mean over classes, each against the rest" if class_total(frames) > 2 else ""
    return f"selected configurations, {n} an arm{macro}"


def _prevalence(frames: StudyFrames) -> float | None:
    counts = (
        frames.study.get("dataset", {}).get("splits", {}).get("test", {}).get("class_counts") or []
    )
    total = sum(counts)
    if not total:
        return None
    return counts[1] / total if len(counts) == 2 else 1 / sum(c > 0 for c in counts)
