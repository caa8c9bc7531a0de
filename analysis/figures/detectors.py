"""Detectors compared: precision at every recall, and speed against AP."""

import json
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losslab.analysis.detections import detector_runs, is_detection
from losslab.analysis.figures.parts import (
    DARK,
    OVERLAID,
    arm_looks,
    arm_panels,
    arm_words,
    columns_of,
    confirmed,
    counted,
    label_outer,
    legend_below,
    markers,
    metric_bounds,
    t_band,
    t_bounds,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.style import COLUMN, PAGE, new_figure, print_style
from losslab.experiments.detection.coco_metrics import RECALLS

IOUS = (0.5, 0.75)
_WIDTHS = (1.3, 0.6)  # of the lines of each IoU where both share a panel


@print_style()
def detection_curves_figure(frames: StudyFrames) -> Figure | None:
    """Precision at COCO's 101 recalls at IoU 0.5 and 0.75: mean and 95 % t band over run seeds.

    The mean over the classes that have objects, so that a curve's mean is AP50 and AP75. Up to four
    arms share a panel for each IoU; more have a panel each with both. None without stored
    detections.
    """
    if not _curves(frames):
        return None
    figure = _by_threshold(frames) if len(_curves(frames)) <= OVERLAID else _by_arm(frames)
    for axis in figure.axes:
        axis.set(xlim=(0, 1), ylim=(0, 1.02))
    return figure


def detection_curves_caption(frames: StudyFrames) -> str:
    """What `detection_curves_figure` shows."""
    n = counted("runs", [len(runs) for runs in _curves(frames).values()])
    return (
        f"Precision of detections at each recall on test, selected configurations, {n} an arm: "
        "mean over the classes, then mean and 95 % t band over run seeds. A detection counts where "
        "its IoU with an object of its class is at least 0.5, or 0.75; precision is the highest "
        "that any recall from there on has, as COCO's evaluator reads it, so that the mean of a "
        "run's curve is its AP50, or AP75."
    )


def _curves(frames: StudyFrames) -> dict[str, dict[float, np.ndarray]]:
    """By arm and IoU the curves of its runs, (runs, 101), where there is anything to find."""
    found = {
        arm: {u: np.array([run.evaluation.curve(u) for run in runs]) for u in IOUS}
        for arm, runs in detector_runs(frames).items()
    }
    return {arm: curves for arm, curves in found.items() if np.isfinite(curves[IOUS[0]]).all()}


def _line(axis: Axes, runs: np.ndarray, look: dict[str, Any]) -> None:
    mean, low, high = t_band(runs)
    axis.plot(RECALLS, mean, **look)
    if len(runs) > 1:
        low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
        axis.fill_between(RECALLS, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _by_threshold(frames: StudyFrames) -> Figure:
    curves = _curves(frames)
    figure, axes = new_figure(PAGE * 0.72, 2.7, 1, len(IOUS), sharex=True, sharey=True)
    handles = []
    for (arm, own), look in zip(curves.items(), arm_looks(list(curves)), strict=True):
        for axis, threshold in zip(axes, IOUS, strict=True):
            _line(axis, own[threshold], look)
        words = arm_words(arm, f"(n = {len(own[IOUS[0]])})")
        handles.append(Line2D([], [], label=words, **look))
    for axis, threshold in zip(axes, IOUS, strict=True):
        axis.set_title(f"IoU at least {threshold:g}", loc="left")
    label_outer(axes, len(IOUS), "recall", "precision")
    legend_below(figure, handles, columns=4)
    return figure


def _by_arm(frames: StudyFrames) -> Figure:
    curves = _curves(frames)

    def draw(axis: Axes, arm: str, look: dict[str, Any]) -> None:
        for threshold, width in zip(IOUS, _WIDTHS, strict=True):
            _line(axis, curves[arm][threshold], {**look, "linewidth": width})

    def words(arm: str) -> str:
        return arm_words(arm, f"(n = {len(curves[arm][IOUS[0]])})")

    notes = [
        Line2D([], [], color=DARK, linewidth=width, label=f"IoU at least {threshold:g}")
        for threshold, width in zip(IOUS, _WIDTHS, strict=True)
    ]
    figure, axes = arm_panels(frames, list(curves), draw, words, notes=notes)
    label_outer(axes, columns_of(axes), "recall", "precision")
    return figure


@print_style()
def speed_figure(frames: StudyFrames) -> Figure | None:
    """AP against milliseconds an image (after Figure 2 of the focal loss paper), one point an arm.

    Selected configurations: means over run seeds with 95 % t intervals both ways. None where fewer
    than two arms have both numbers, and where all arms have the same model and images, since then
    only noise would tell their speeds apart.
    """
    arms = _timed(frames)
    if len(arms) < 2 or not _differ(frames, arms):
        return None
    figure, (axis,) = new_figure(COLUMN, 2.6 + 0.12 * len(arms))
    handles = []
    for arm, look, marker in zip(arms, arm_looks(arms), markers(len(arms)), strict=True):
        runs = confirmed(frames, arm)
        point, bars = [], []
        for column in ("test/milliseconds", "test/ap"):
            values = runs[column].dropna()
            low, high = t_bounds(values)
            point.append(float(values.mean()))
            bars.append([[point[-1] - low], [high - point[-1]]])
        drawn = {"color": look["color"], "marker": marker, "linestyle": "none", "ms": 4.5}
        axis.errorbar(
            point[0], point[1], xerr=bars[0], yerr=bars[1], capsize=1.5, linewidth=0.9, **drawn
        )
        handles.append(Line2D([], [], label=arm_words(arm, f"(n = {len(runs)})"), **drawn))
    # an interval of two runs may be many times as wide as what there is to see
    x, y = (np.array([confirmed(frames, arm)[c].mean() for arm in arms])
            for c in ("test/milliseconds", "test/ap"))  # fmt: skip
    for values, place, limits in ((x, axis.set_xlim, (0.0, np.inf)), (y, axis.set_ylim, None)):
        least, most = limits or metric_bounds("ap")
        space = 0.35 * float(np.ptp(values)) or 0.1 * float(values.max()) or 0.1
        edge = 0.05 * (float(np.ptp(values)) or space)  # a point on the edge is drawn whole
        place(max(values.min() - space, least - edge), min(values.max() + space, most + edge))
    axis.set(xlabel="milliseconds an image at inference", ylabel="AP on test")
    axis.grid(linewidth=0.4, color="0.9")
    axis.set_axisbelow(True)
    legend_below(figure, handles, columns=2)
    return figure


def speed_caption(frames: StudyFrames) -> str:
    """What `speed_figure` shows."""
    n = counted("runs", [len(confirmed(frames, arm)) for arm in _timed(frames)])
    return (
        f"Speed against AP on test, after Figure 2 of the focal loss paper: selected "
        f"configurations, {n} an arm, means and 95 % t intervals over run seeds. Milliseconds are "
        f"of the model alone, without non-maximum suppression, on one thread where it runs on a "
        f"CPU; other trainings may have run beside it. Intervals may leave the frame."
    )


def _timed(frames: StudyFrames) -> list[str]:
    """Arms that have a speed and an AP."""
    table = frames.confirmation
    if not is_detection(frames) or not {"test/milliseconds", "test/ap"} <= set(table):
        return []
    known = table[table["test/milliseconds"].notna() & table["test/ap"].notna()]
    own = set(known.loc[known["variant"] == "selected", "arm"])
    return [arm for arm in frames.arms if arm in own]


def _differ(frames: StudyFrames, arms: list[str]) -> bool:
    """Whether some arms have another model, or other images, than others."""
    configs = [frames.study["arms"].get(arm, {}).get("config", {}) for arm in arms]
    sections = ({key: config.get(key) for key in ("model", "dataset")} for config in configs)
    return len({json.dumps(part, sort_keys=True) for part in sections}) > 1
