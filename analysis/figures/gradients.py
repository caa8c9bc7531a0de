"""The figure of gradients by difficulty: where a loss's gradient comes from."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losslab.analysis.figures.parts import (
    OVERLAID,
    arm_looks,
    arm_words,
    class_total,
    counted,
    legend_below,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.predictions import NORM_EDGES
from losslab.analysis.style import PAGE, label_panels, logarithmic, new_figure, print_style

if TYPE_CHECKING:
    from losslab.analysis.gradient_difficulty import Difficulty


@print_style()
def gradient_difficulty_figure(frames: StudyFrames) -> Figure | None:
    """Share of the examples, and of the arm's gradient, by difficulty; before and after training.

    After the GHM paper's Figure 1: g in 30 bins, logarithmic shares. Columns: at the initial
    weights, and after training, on test. At most four arms, the baseline and those of contrasts
    first. None without per-example outputs.
    """
    shown = _shown(frames)
    if not shown:
        return None
    untrained = all("before" in own.pull for own in shown.values())
    stages = ["before", "after"] if untrained else ["after"]
    figure, axes = new_figure(
        PAGE * (1 if untrained else 0.6), 4.4, 2, len(stages), sharex=True, sharey="row"
    )
    handles = []
    for (arm, own), look in zip(shown.items(), arm_looks(list(shown)), strict=True):
        for column, stage in enumerate(stages):
            _stairs(axes[column], own.examples[stage], look)
            _stairs(axes[len(stages) + column], own.pull[stage], look)
        handles.append(Line2D([], [], label=arm_words(arm, f"(n = {own.runs})"), **look))
    words = ("share of the examples", "share of the gradient")
    label_panels(axes, [f"{word}, {stage} training" for word in words for stage in stages])
    for row, word in enumerate(words):
        axes[row * len(stages)].set_ylabel(word)
        logarithmic(axes[row * len(stages)])
    norm = r"$g = |p - y|$" if class_total(frames) <= 2 else r"$g = 1 - p_y$"
    for axis in axes[len(stages) :]:
        axis.set(xlim=(0, 1), xlabel=f"difficulty {norm}")
    legend_below(figure, handles, columns=4)
    return figure


def gradient_difficulty_caption(frames: StudyFrames) -> str:
    """What `gradient_difficulty_figure` shows."""
    shown = _shown(frames)
    norm = "|p − y|" if class_total(frames) <= 2 else "1 − p of the target"
    left = len(_found(frames)) - len(shown)
    elements = max(own.elements // own.runs for own in shown.values()) if shown else 0
    before = all("before" in own.pull for own in shown.values())
    missing = " Initial weights could not be built again: there is no column for them."
    return (
        f"Where the gradient comes from, on test: g = {norm} is the gradient norm of cross-entropy "
        "(after Figure 1 of Li et al. 2019), 30 bins. Above: share of the examples in each bin. "
        "Below: share that they have in the summed gradient norm of the arm's own loss by the "
        f"logits. Selected configurations, {counted('runs', [o.runs for o in shown.values()])} an "
        f"arm, at most {elements:,} elements a run, all runs together; no interval."
        + ("" if before else missing)
        + (f" {left} more arms are not drawn." if left > 1 else "")
        + (" One more arm is not drawn." if left == 1 else "")
    )


def _found(frames: StudyFrames) -> "dict[str, Difficulty]":
    runs = frames.confirmation
    known = [about for about in frames.study["arms"].values() if about.get("config")]
    if not known or runs.empty or not (runs["outputs"].notna() & (runs["outputs"] != "")).any():
        return {}
    # here, since it needs torch, which other figures do without
    from losslab.analysis.gradient_difficulty import difficulties

    return difficulties(frames)


def _shown(frames: StudyFrames) -> "dict[str, Difficulty]":
    """The arms that one panel holds: the baseline, those of contrasts, then the others."""
    found = _found(frames)
    claims = frames.study.get("contrasts") or []
    named = [claim[side] for claim in claims for side in ("better", "than")]
    order = dict.fromkeys([frames.study["baseline"], *named, *found])
    return {arm: found[arm] for arm in [a for a in order if a in found][:OVERLAID]}


def _stairs(axis: Axes, shares: np.ndarray, look: dict) -> None:
    axis.stairs(np.where(shares > 0, shares, np.nan), NORM_EDGES, baseline=None, **look)
