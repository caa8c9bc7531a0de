"""Learning curves of the confirmation runs."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from losslab.analysis.figures.parts import (
    any_diverged,
    arm_panels,
    arm_words,
    columns_of,
    confirmed,
    counted,
    label_outer,
    limit_to_lines,
    metric_bounds,
    sentence,
    t_band,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.style import print_style


@print_style()
def learning_curves_figure(frames: StudyFrames) -> Figure | None:
    """The primary metric on validation per epoch: mean and 95 % t band over confirmation runs.

    Of the selected configurations. Up to four arms share one panel; more have one each, with the
    baseline in grey. None where no confirmation run has a history.
    """
    curves = _curves(frames)
    if not curves:
        return None

    bounds = metric_bounds(frames.study["primary"])

    def draw(axis: Axes, arm: str, look: dict) -> None:
        mean, low, high = t_band(curves[arm].to_numpy())
        low, high = np.clip([low, high], *bounds)
        epochs = curves[arm].columns.to_numpy()
        axis.plot(epochs, mean, **look)
        if len(curves[arm]) > 1:
            axis.fill_between(epochs, low, high, color=look["color"], alpha=0.15, linewidth=0)

    def label(arm: str) -> str:
        lost = int((confirmed(frames, arm)["state"] == "diverged").sum())
        return arm_words(arm, f"(n = {len(curves[arm])}{f', {lost} diverged' if lost else ''})")

    figure, axes = arm_panels(frames, list(curves), draw, label)
    metric = metric_words(frames.study["primary"])
    label_outer(axes, columns_of(axes), "epoch", f"{metric}\non validation")
    for axis in axes:
        axis.margins(x=0.02)
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    # the means and where every run ends; one run's first epoch would press all else flat
    shown = [
        part
        for table in curves.values()
        for part in (table.mean(), table.ffill(axis=1).iloc[:, -1])
    ]
    limit_to_lines(axes, np.concatenate(shown), bounds)
    return figure


def learning_curves_caption(frames: StudyFrames) -> str:
    """What `learning_curves_figure` shows."""
    runs = [len(table) for table in _curves(frames).values()]
    return (
        f"{sentence(metric_words(frames.study['primary']))} on validation after every epoch of "
        f"the confirmation runs of the selected configurations, {counted('runs', runs)} an arm: "
        "mean, and 95 % t band over run seeds at each epoch by itself."
        + (" Diverged runs count until they stop." if any_diverged(frames) else "")
    )


def _curves(frames: StudyFrames) -> dict[str, pd.DataFrame]:
    """Of every arm that has any: one row per run, one column per epoch."""
    column, epochs = f"val/{frames.study['primary']}", frames.epochs
    if column not in epochs:
        return {}
    epochs = epochs[(epochs["phase"] == "confirm") & (epochs["variant"] == "selected")]
    epochs = epochs[epochs[column].notna()].astype({"epoch": int})
    found = {}
    for arm in frames.arms:
        own = epochs[epochs["arm"] == arm]
        if len(own):
            found[arm] = own.pivot_table(index="key", columns="epoch", values=column)
    return found
