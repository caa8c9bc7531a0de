"""What the choice of the decision rule gains, arm by arm."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losslab.analysis.figures.parts import (
    arm_axis,
    arm_words,
    counted,
    legend_below,
    markers,
    sentence,
    t_bounds,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.predictions import RULES, run_summaries
from losslab.analysis.style import COLUMN, line_looks, new_figure, print_style


@print_style()
def threshold_figure(frames: StudyFrames) -> Figure | None:
    """The decision metric on test at the default, tuned, prior-corrected and best threshold.

    Every arm's selected configuration; means over run seeds with 95 % t intervals. The oracle is
    tuned on test itself: what no rule can beat, and no result. None without per-example outputs.
    """
    runs = run_summaries(frames)
    if not runs:
        return None
    figure, (axis,) = new_figure(COLUMN, 0.95 + 0.48 * len(runs))
    looks = list(
        zip(
            RULES,
            [look["color"] for look in line_looks(len(RULES))],
            markers(len(RULES)),
            strict=True,
        )
    )
    for row, own in enumerate(runs.values()):
        for place, (rule, colour, marker) in enumerate(looks):
            values = np.array([run.decisions[rule] for run in own])
            low, high = np.clip(t_bounds(values), 0, 1)
            height = row + 0.19 * (place - 1.5)
            oracle = rule == RULES[-1]
            axis.plot([low, high], [height] * 2, color=colour, linewidth=0.9)
            axis.plot(values.mean(), height, marker=marker, color=colour, ms=4,
                      mfc="none" if oracle else colour)  # fmt: skip
    arm_axis(axis, [arm_words(arm, f"(n = {len(own)})") for arm, own in runs.items()])
    axis.set_xlabel(f"{metric_words(_decision(frames))} on test")
    handles = [
        Line2D([], [], marker=marker, color=colour, ms=4, label=rule,
               mfc="none" if rule == RULES[-1] else colour)
        for rule, colour, marker in looks
    ]  # fmt: skip
    legend_below(figure, handles, "mean, 95 % t interval over run seeds")
    return figure


def threshold_caption(frames: StudyFrames) -> str:
    """What `threshold_figure` shows."""
    sizes = [len(own) for own in run_summaries(frames).values()]
    return (
        f"{sentence(metric_words(_decision(frames)))} on test of the selected configurations at "
        "argmax (two classes: 0.5), with the threshold (several classes: the strength of the "
        "prior) tuned on validation, with the training prior taken off the logits, and tuned on "
        f"test itself (oracle: an upper bound, no result); {counted('runs', sizes)} an arm, means "
        "with 95 % t intervals over run seeds."
    )


def _decision(frames: StudyFrames) -> str:
    return frames.study.get("decision") or "balanced_accuracy"
