"""Figures of what recorders measure: gradients by layer, dead units, weights, variance shift."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from losslab.analysis.figures.parts import (
    BLUE,
    LIGHT,
    arm_looks,
    arm_panels,
    arm_words,
    columns_of,
    counted,
    label_outer,
    legend_below,
    limit_to_lines,
    markers,
    panel_grid,
    t_band,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.recorded import recorded
from losslab.analysis.style import COLUMN, logarithmic, new_figure, print_style

MOST_PANELS, MOST_OVERLAID = 16, 8
Recorded = dict[str, pd.DataFrame]


@print_style()
def gradient_flow_figure(frames: StudyFrames) -> Figure | None:
    """Gradient norm of every layer against the epoch, an arm a panel; dark is next to the input.

    Geometric means over the confirmation runs. None where no gradients were recorded.
    """
    found = _first(recorded(frames, "gradients"))
    if not found:
        return None
    figure, axes, across = panel_grid(len(found), ratio=0.75)
    most = max(len(_layers(table)) for table in found.values())
    for axis, (arm, table) in zip(axes, found.items(), strict=True):
        layers = _layers(table)
        for layer, look in zip(layers, _layer_looks(len(layers)), strict=True):
            mean = _geometric_mean(table[layer])
            axis.plot(mean.index, mean, **look)
        axis.set_title(arm_words(arm), loc="left")
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
        axis.margins(x=0.02)
    logarithmic(axes[0])
    label_outer(axes, across, "epoch", "gradient norm of a layer's weights")
    looks = _layer_looks(most)
    shown = sorted({0, most // 3, 2 * most // 3, most - 1})
    ends = {0: " (input)", most - 1: " (output)"}
    legend_below(
        figure,
        [Line2D([], [], label=f"layer {i + 1}{ends.get(i, '')}", **looks[i]) for i in shown],
        columns=4,
    )
    return figure


def gradient_flow_caption(frames: StudyFrames) -> str:
    """What `gradient_flow_figure` shows."""
    found = recorded(frames, "gradients")
    return (
        "Norm of the loss's gradient by each layer's weights, on the first batch of the first "
        "epoch, before training (epoch 0) and after every epoch: geometric mean over the "
        f"confirmation runs of the selected configurations, {counted('runs', _runs(found))} an "
        "arm; no interval. Layers from dark (input) to light (output)." + _left(found)
    )


@print_style()
def dead_units_figure(frames: StudyFrames) -> Figure | None:
    """Share of dead units of every arm against the epoch, with 95 % t band over runs.

    None where none were recorded.
    """
    tables = _first(recorded(frames, "dead_units"))
    curves = {arm: _by_epoch(table["all"]) for arm, table in tables.items() if "all" in table}
    if not curves:
        return None

    def draw(axis: Axes, arm: str, look: dict[str, Any]) -> None:
        mean, low, high = t_band(curves[arm].to_numpy(float))
        low, high = np.clip([low, high], 0, 1)
        epochs = curves[arm].columns.to_numpy()
        axis.plot(epochs, mean, **look)
        if len(curves[arm]) > 1:
            axis.fill_between(epochs, low, high, color=look["color"], alpha=0.15, linewidth=0)

    def label(arm: str) -> str:
        return arm_words(arm, f"(n = {len(curves[arm])})")

    figure, axes = arm_panels(frames, list(curves), draw, label)
    label_outer(axes, columns_of(axes), "epoch", "share of dead units")
    limit_to_lines(axes, np.concatenate([curve.mean() for curve in curves.values()]), (0, 1))
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    return figure


def dead_units_caption(frames: StudyFrames) -> str:
    """What `dead_units_figure` shows."""
    found = recorded(frames, "dead_units")
    return (
        "Share of hidden units that are dead: the slope of their activation is below 0.5 % of its "
        "greatest one for every example of the first batch of the first epoch, in evaluation mode. "
        "Before training (epoch 0) and after every epoch of the confirmation runs of the selected "
        f"configurations, {counted('runs', _runs(found))} an arm: mean and 95 % t band."
        + _left(found)
    )


@print_style()
def variance_shift_figure(frames: StudyFrames) -> Figure | None:
    """Variance shift of every batch norm after the last epoch: mean and 95 % t interval by arm.

    At most 8 arms. None where none was recorded.
    """
    found = dict(list(recorded(frames, "variance_shift").items())[:MOST_OVERLAID])
    if not found:
        return None
    figure, (axis,) = new_figure(COLUMN, 2.7)
    axis.axhline(1, color=LIGHT, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    looks = zip(found, arm_looks(list(found)), markers(len(found)), strict=True)
    handles, most = [], 1
    for place, (arm, look, marker) in enumerate(looks):
        last = _ends(found[arm])[1]
        mean, low, high = t_band(last[_layers(last)].to_numpy(float))
        at = np.arange(1, len(mean) + 1) + 0.08 * (place - (len(found) - 1) / 2)
        error = [mean - np.maximum(low, 1), high - mean]
        axis.errorbar(at, mean, yerr=error, marker=marker, ms=3, elinewidth=0.8, **look)
        words = arm_words(arm, f"(n = {len(last)})")
        handles.append(Line2D([], [], marker=marker, ms=3, label=words, **look))
        most = max(most, len(mean))
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.set(xlabel="batch norm, from the input", ylabel="variance shift", xlim=(0.5, most + 0.5))
    legend_below(figure, handles, "mean, 95 % t interval")
    return figure


def variance_shift_caption(frames: StudyFrames) -> str:
    """What `variance_shift_figure` shows."""
    found = recorded(frames, "variance_shift")
    return (
        "Ratio of the variance that a batch norm meets in evaluation to the running variance that "
        "it divides by, as max(r, 1/r), mean over channels; 1 is no shift (Li et al. 2019). After "
        "the last epoch of the confirmation runs of the selected configurations, "
        f"{counted('runs', _runs(found))} an arm: mean and 95 % t interval. Points are set a "
        "little apart; arms without running statistics are left out." + _left(found, MOST_OVERLAID)
    )


@print_style()
def weights_figure(frames: StudyFrames) -> Figure | None:
    """Histogram of the sizes of the weights, before and after training, an arm a panel.

    None where no weights were recorded.
    """
    found = _first(recorded(frames, "weights"))
    if not found:
        return None
    from losslab.experiments.recorders.weights import BINS, EXPONENTS, SMALL

    # An open bin is drawn as wide as the others.
    step = EXPONENTS[1] - EXPONENTS[0]
    edges = 10.0 ** np.array([EXPONENTS[0] - step, *EXPONENTS, EXPONENTS[-1] + step])
    figure, axes, across = panel_grid(len(found), ratio=0.75)
    for axis, (arm, table) in zip(axes, found.items(), strict=True):
        first, last = _ends(table)
        shares = [rows[BINS].fillna(0.0).mean().to_numpy() for rows in (first, last)]
        axis.stairs(shares[0], edges, color=LIGHT, linestyle=(0, (3, 1.5)))
        axis.stairs(shares[1], edges, color=BLUE, fill=True, alpha=0.25)
        axis.stairs(shares[1], edges, color=BLUE)
        axis.axvline(SMALL, color=LIGHT, linewidth=0.6)
        axis.set_xscale("log")
        axis.set_xticks([1e-6, 1e-4, 1e-2, 1])
        axis.minorticks_off()
        sparsity = 100 * last["sparsity"].mean()
        axis.set_title(f"{arm_words(arm)}\n{sparsity:.0f} % below 0.001", loc="left")
    label_outer(axes, across, "|w|", "share of the weights")
    handles = [
        Line2D([], [], color=LIGHT, linestyle=(0, (3, 1.5)), label="before training"),
        Line2D([], [], color=BLUE, label="after training"),
    ]
    legend_below(figure, handles)
    return figure


def weights_caption(frames: StudyFrames) -> str:
    """What `weights_figure` shows."""
    found = recorded(frames, "weights")
    return (
        "Sizes of the weights (neither biases nor norms) in bins of half a decade, before the "
        "first and after the last epoch; the outermost bins hold all that is beyond. Mean over the "
        f"confirmation runs of the selected configurations, {counted('runs', _runs(found))} an "
        "arm; no interval. Above: share of weights below 0.001, the line in the panels."
        + _left(found)
    )


def _layer_looks(count: int) -> list[dict[str, Any]]:
    """Lines from dark to light, thick enough that the lightest is seen on paper."""
    colors = sns.color_palette("viridis", count + 1)[:count]
    return [{"color": color, "linewidth": 1.1} for color in colors]


def _layers(table: pd.DataFrame) -> list[str]:
    return [name for name in table if name != "all"]


def _geometric_mean(values: pd.Series) -> pd.Series:
    """By epoch; a norm of 0 is left out, as it has no place on a logarithmic axis."""
    return np.exp(np.log(values[values > 0]).groupby("epoch").mean())


def _by_epoch(values: pd.Series) -> pd.DataFrame:
    """One row per run, one column per epoch."""
    return values.reset_index().pivot_table(index="key", columns="epoch", values=values.name)


def _ends(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows before training, and the last row of every run."""
    return table.xs(0, level="epoch"), table.groupby(level="key").tail(1)


def _first(found: Recorded) -> Recorded:
    return dict(list(found.items())[:MOST_PANELS])


def _runs(found: Recorded) -> list[int]:
    return [table.index.get_level_values("key").nunique() for table in found.values()]


def _left(found: Recorded, most: int = MOST_PANELS) -> str:
    more = len(found) - most
    return f" {more} more arms are not drawn." if more > 0 else ""
