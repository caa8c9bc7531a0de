"""Figures of optimisers on known surfaces: a row for each learning rate, a column for each."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losslab.analysis.landscapes import OPTIMIZERS, STEPS, Surface, trajectory
from losslab.analysis.style import PAGE, line_looks, new_figure, print_style

GRID = 121  # points a side, for the contours
LEVELS = 12


@print_style()
def trajectory_figure(surface: Surface, steps: int = STEPS) -> Figure:
    """Where SGD, momentum and Adam go on a surface, from its starts, at its learning rates.

    Grey contours of equal steps of the square root of f above its minimum. A dot is a start, a
    cross a minimum, a ring where a path is after `steps` steps; one that diverges ends
    where it leaves the panel. Titles say how many paths diverged.
    """
    rows, columns = len(surface.rates), len(OPTIMIZERS)
    left, right, bottom, top = surface.view
    ratio = min(1.0, max(0.5, (top - bottom) / (right - left)))
    height = 0.7 + rows * (0.32 + ratio * (PAGE - 0.7) / columns)
    figure, axes = new_figure(PAGE, height, rows, columns, sharex=True, sharey=True)
    axes[0].set(xlim=(left, right), ylim=(bottom, top))
    looks = line_looks(len(surface.starts))
    for row, rate in enumerate(surface.rates):
        for column, optimizer in enumerate(OPTIMIZERS):
            axis = axes[row * columns + column]
            _contours(axis, surface)
            paths = trajectory(surface, optimizer, rate, surface.starts, steps)
            for path, look in zip(paths, looks, strict=True):
                _path(axis, path, look)
            for minimum in surface.minima:
                axis.plot(*minimum, "x", color="black", ms=5, mew=1.4, zorder=5)
            lost = int(np.isnan(paths[:, -1, 0]).sum())
            diverged = f", {lost} of {len(paths)} diverged" if lost else ""
            axis.set_title(f"{optimizer}, rate {rate:g}{diverged}", loc="left", fontsize=7)
    for axis in axes[-columns:]:
        axis.set_xlabel("x")
    for axis in axes[::columns]:
        axis.set_ylabel("y")
    _legend(figure, surface, steps)
    return figure


def _contours(axis: Axes, surface: Surface) -> None:
    left, right, bottom, top = surface.view
    x, y = np.meshgrid(np.linspace(left, right, GRID), np.linspace(bottom, top, GRID))
    values = surface.values(np.stack([x, y], axis=-1))
    lowest = surface.values(np.array(surface.minima)).min()
    # the root spreads the lines, which would crowd where f is steep
    height = np.sqrt(np.maximum(values - lowest, 0))
    levels = np.linspace(0, height.max(), LEVELS + 1)[1:]
    axis.contour(x, y, height, levels=levels, colors="0.8", linewidths=0.5, zorder=1)


def _path(axis: Axes, path: np.ndarray, look: dict) -> None:
    kept = path[~np.isnan(path).any(axis=1)]
    if len(kept) < len(path):  # what diverges is drawn until it leaves the panel
        (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
        outside = (kept < [left, bottom]).any(axis=1) | (kept > [right, top]).any(axis=1)
        kept = kept[: int(np.argmax(outside)) + 1] if outside.any() else kept
    axis.plot(kept[:, 0], kept[:, 1], linewidth=1.0, zorder=3, **look)
    axis.plot(*kept[0], "o", color=look["color"], ms=4, zorder=4)
    if len(kept) == len(path):
        axis.plot(*kept[-1], "o", mfc="none", mec=look["color"], ms=6, mew=1.1, zorder=6)


def _legend(figure: Figure, surface: Surface, steps: int) -> None:
    starts = [
        Line2D([], [], label=f"from ({x:g}, {y:g})".replace("-", "−"), **look)
        for (x, y), look in zip(surface.starts, line_looks(len(surface.starts)), strict=True)
    ]
    dark: dict[str, Any] = {"color": "0.2", "linestyle": "none"}
    signs = [
        Line2D([], [], marker="x", mew=1.4, ms=5, label="minimum", **dark),
        Line2D([], [], marker="o", mfc="none", ms=6, label=f"after {steps} steps", **dark),
    ]
    figure.legend(
        handles=[*starts, *signs], loc="outside lower center", ncols=6, columnspacing=1.2,
        title=f"$f(x, y) = $ {surface.formula}",
    )  # fmt: skip
