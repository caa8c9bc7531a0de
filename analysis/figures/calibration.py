"""Reliability diagrams before and after temperature scaling, and what scaling gains."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from statsmodels.stats.proportion import proportion_confint

from losslab.analysis.figures.parts import (
    BLUE,
    LIGHT,
    ORANGE,
    PALE,
    arm_axis,
    arm_words,
    class_total,
    counted,
    label_outer,
    legend_below,
    panel_grid,
    t_band,
    t_bounds,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.predictions import RunSummary, run_summaries
from losslab.analysis.style import COLUMN, new_figure, print_style

_MOST_ARMS = 12
_FEW = 5  # examples of a bin in a run below which its outcome says little
_SIDES = (("bins", "as trained", ORANGE, "s", "none"), ("bins_after", "scaled", BLUE, "o", BLUE))


@print_style()
def reliability_figure(frames: StudyFrames) -> Figure | None:
    """Outcome against confidence in 15 bins on test, before and after temperature scaling.

    One panel per arm. Points are means over run seeds with 95 % t intervals (Wilson intervals of
    the one run where there is one); grey bars are the shares of test examples in the bins, before
    scaling; points of bins with fewer than 5 examples a run are pale. The expected calibration
    error (mean over seeds) stands above the panel. None without per-example outputs.
    """
    runs = dict(list(run_summaries(frames).items())[:_MOST_ARMS])
    if not runs:
        return None
    figure, axes, across = panel_grid(len(runs), ratio=1.0)
    for axis, (arm, own) in zip(axes, runs.items(), strict=True):
        axis.plot([0, 1], [0, 1], color=LIGHT, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        _shares(axis, own)
        for name, _, colour, marker, face in _SIDES:
            _reliability(axis, own, name, colour, marker, face)
        before, after = np.mean([run.ece for run in own], axis=0)
        words = f"ECE {_short(before)} → {_short(after)}"
        axis.set_title(f"{arm_words(arm, f'(n = {len(own)})')}\n{words}", loc="left")
        axis.set(xlim=(0, 1), ylim=(0, 1))
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    several = class_total(frames) > 2
    label_outer(
        axes,
        across,
        "confidence (largest probability)" if several else "predicted probability",
        "share of right ones" if several else "share of positives",
    )
    handles = [
        Line2D([], [], ls="", marker=marker, color=colour, mfc=face, ms=4, label=label)
        for _, label, colour, marker, face in _SIDES
    ]
    handles.append(Line2D([], [], color=PALE, lw=5, label="share of examples in the bin"))
    legend_below(figure, handles, columns=3 if across > 1 else 2)
    return figure


def reliability_caption(frames: StudyFrames) -> str:
    """What `reliability_figure` shows."""
    runs = run_summaries(frames)
    what = "top-label " if class_total(frames) > 2 else ""
    return (
        f"Reliability on test in 15 bins of equal width ({what}confidence), as trained and after "
        "temperature scaling fitted on each run's validation split; "
        f"{counted('runs', [len(own) for own in runs.values()])} an arm: means over seeds with "
        "95 % t intervals (one run: Wilson), pale where a bin has fewer than "
        f"{_FEW} examples a run. Bars: share of examples in a bin. ECE: expected "
        "calibration error, mean over seeds, before → after." + _left_out(runs)
    )


@print_style()
def temperature_figure(frames: StudyFrames) -> Figure | None:
    """ECE and log loss on test of every arm, as trained and after temperature scaling.

    Means over run seeds with 95 % t intervals, lower is better. From the recorded metrics where
    runs have them (`test_calibrated/...`), else from per-example outputs; None without either.
    """
    values = {name: _before_and_after(frames, name) for name in ("ece", "log_loss")}
    arms = [arm for arm in frames.arms if any(arm in each for each in values.values())]
    if not arms:
        return None
    figure, axes = new_figure(COLUMN * 1.5, 0.85 + 0.3 * len(arms), 1, 2, sharey=True)
    titles = {"ece": "expected calibration error", "log_loss": "log loss (nats)"}
    for axis, (name, found) in zip(axes, values.items(), strict=True):
        for row, arm in enumerate(arms):
            for side, offset in ((0, -0.15), (1, 0.15)):
                if arm in found:
                    _interval(axis, found[arm][side], row + offset, *_SIDES[side][2:])
        arm_axis(axis, [arm_words(arm) for arm in arms])
        axis.set_xlabel(f"{titles[name]} on test")
    handles = [
        Line2D([], [], marker=marker, color=colour, mfc=face, ms=4, label=label)
        for _, label, colour, marker, face in _SIDES
    ]
    sizes = [len(pair[0]) for pair in values["ece"].values()]
    legend_below(figure, handles, f"mean, 95 % t interval, {counted('runs', sizes)} an arm")
    return figure


def temperature_caption(frames: StudyFrames) -> str:
    """What `temperature_figure` shows."""
    sizes = [len(pair[0]) for pair in _before_and_after(frames, "ece").values()]
    return (
        "Calibration of the selected configurations on test, as trained and after dividing the "
        "logits by one temperature fitted on validation (Guo et al. 2017); "
        f"{counted('runs', sizes)} an arm, means with 95 % t intervals over run seeds. Lower is "
        "better."
    )


def _before_and_after(frames: StudyFrames, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A metric of every arm's runs, as trained and scaled."""
    columns = [f"test/{name}", f"test_calibrated/{name}"]
    runs = frames.confirmation
    if all(c in runs for c in columns):
        known = runs[(runs["variant"] == "selected") & runs[columns].notna().all(axis=1)]
        return {
            arm: tuple(own[c].to_numpy(float) for c in columns)
            for arm in frames.arms
            if len(own := known[known["arm"] == arm])
        }
    return {
        arm: tuple(np.array([getattr(run, name) for run in own]).T)
        for arm, own in run_summaries(frames).items()
    }


def _reliability(
    axis: Axes, runs: list[RunSummary], name: str, colour: object, marker: str, face: object
) -> None:
    bins = np.array([getattr(run, name) for run in runs])  # runs, (count, confidence, outcome), bin
    if len(runs) > 1:
        outcome, low, high = t_band(bins[:, 2])
    else:
        count, outcome = bins[0, 0], bins[0, 2]
        some = np.maximum(count, 1)
        low, high = proportion_confint(np.nan_to_num(outcome) * some, some, method="wilson")
    confidence, _, _ = t_band(bins[:, 1])
    low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    error = np.maximum([outcome - low, high - outcome], 0)
    many = bins[:, 0].mean(axis=0) >= _FEW
    for kept, alpha in ((many, 1.0), (~many & np.isfinite(outcome), 0.35)):
        if not kept.any():  # nothing, but unclipped, would stand in the layout's way
            continue
        axis.errorbar(
            confidence[kept], outcome[kept], yerr=error[:, kept], fmt=marker, color=colour,
            mfc=face, ms=3, linewidth=0.7, clip_on=False, alpha=alpha,
        )  # fmt: skip


def _shares(axis: Axes, runs: list[RunSummary]) -> None:
    counts = np.sum([run.bins[0] for run in runs], axis=0)
    shares, width = counts / counts.sum(), 1 / len(counts)
    middles = (np.arange(len(counts)) + 0.5) * width
    axis.bar(middles, shares, 0.9 * width, color=PALE, zorder=0)


def _interval(
    axis: Axes, values: np.ndarray, height: float, colour: object, marker: str, face: object
) -> None:
    mean, (low, high) = float(np.mean(values)), t_bounds(values)
    axis.plot([max(low, 0), high], [height] * 2, color=colour, linewidth=1)
    axis.plot(mean, height, marker=marker, color=colour, mfc=face, ms=4)


def _left_out(runs: dict[str, list[RunSummary]]) -> str:
    left = len(runs) - _MOST_ARMS
    return f" {left} further arms are left out." if left > 0 else ""


def _short(value: float) -> str:
    return (
        f"{value:.3f}" if value >= 0.0095 else f"{value:.1e}".replace("e-0", "e-").replace("-", "−")
    )
