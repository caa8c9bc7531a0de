"""How a detector's two losses share the gradient, and what weighs them, over training."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from losslab.analysis.figures.parts import (
    LIGHT,
    arm_looks,
    arm_words,
    counted,
    legend_below,
    t_band,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.recorded import recorded
from losslab.analysis.style import PAGE, logarithmic, new_figure, print_style

MOST_ARMS = 8  # lines of a panel


@print_style()
def task_gradients_figure(frames: StudyFrames) -> Figure | None:
    """Share of the box loss in the gradient, and its factor, against the epoch.

    Left the share `boxes_share` of recorder `task_gradients`, right the factor of the box loss
    over that of the class loss: what the balance puts on them, times `detector.box_weight`. Means
    and 95 % t bands over confirmation runs. At most eight arms. None where none were recorded.
    """
    curves = _curves(frames)
    if not curves:
        return None
    figure, axes = new_figure(PAGE * 0.8, 2.7, 1, 2)
    handles = []
    for (arm, both), look in zip(curves.items(), arm_looks(list(curves)), strict=True):
        _draw(axes[0], both[0], look)
        _draw(axes[1], both[1], look, logarithms=True)
        handles.append(Line2D([], [], label=arm_words(arm, f"(n = {len(both[0])})"), **look))
    axes[0].axhline(0.5, color=LIGHT, linewidth=0.6, zorder=0)
    axes[0].set(ylim=(0, 1), ylabel="share of the box loss\nin the gradient")
    axes[1].set_ylabel("factor of the box loss\nover that of the class loss")
    logarithmic(axes[1])
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        axis.margins(x=0.02)
    legend_below(figure, handles, columns=3)
    return figure


def task_gradients_caption(frames: StudyFrames) -> str:
    """What `task_gradients_figure` shows."""
    curves = _curves(frames)
    left = len(recorded(frames, "task_gradients")) - len(curves)
    return (
        "Left: the norm of the weighted box loss's gradient over the sum of both losses' norms, in "
        "all parameters that class and box subnet share, on four fixed batches of training images; "
        "above the line the box loss commands more of the gradient than the class loss. Right: "
        "what weighs them. Before training (epoch 0) and after every epoch of the confirmation "
        "runs of the selected configurations, "
        f"{counted('runs', [len(both[0]) for both in curves.values()])} an arm: mean and 95 % t "
        "band, of the factor's logarithm." + (f" {left} more arms are not drawn." if left else "")
    )


def _curves(frames: StudyFrames) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """By arm share and factor, one row per run, one column per epoch."""
    found = {}
    for arm, table in list(recorded(frames, "task_gradients").items())[:MOST_ARMS]:
        if "boxes_share" not in table:
            continue
        config = frames.study["arms"].get(arm, {}).get("config", {})
        factor = float(config.get("detector", {}).get("box_weight", 1))
        table = table.assign(factor=factor * table["boxes_weight"] / table["classes_weight"])
        found[arm] = (_by_epoch(table["boxes_share"]), _by_epoch(table["factor"]))
    return found


def _by_epoch(values: pd.Series) -> pd.DataFrame:
    return values.reset_index().pivot_table(index="key", columns="epoch", values=values.name)


def _draw(axis: Axes, curve: pd.DataFrame, look: dict[str, Any], logarithms: bool = False) -> None:
    """A mean over runs and its band, of the logarithms where asked for."""
    values, epochs = curve.to_numpy(float), curve.columns.to_numpy()
    mean, low, high = t_band(np.log(values) if logarithms else values)
    if logarithms:
        mean, low, high = np.exp(mean), np.exp(low), np.exp(high)
    axis.plot(epochs, mean, **look)
    if len(curve) > 1:
        axis.fill_between(epochs, low, high, color=look["color"], alpha=0.15, linewidth=0)
