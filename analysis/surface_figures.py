"""Figures of the loss around trained networks."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losslab.analysis.figures.parts import (
    arm_looks,
    arm_words,
    label_outer,
    legend_below,
    t_band,
)
from losslab.analysis.style import COLUMN, PAGE, logarithmic, new_figure, print_style
from losslab.analysis.surfaces import Surfaces
from losslab.errors import BadInput

LEVELS = 15  # contours between the lowest and the highest loss
DECADES = 5  # above the lowest loss that colours reach


@print_style()
def surface_figure(surfaces: Surfaces) -> Figure:
    """The loss over a plane through one trained network of each arm, a panel an arm.

    Contours are evenly spaced in the logarithm of the arm's own training loss, one scale for all
    panels; losses above a hundred thousand times the lowest have the lightest colour. The cross is
    the trained network. Raises `BadInput` where no loss is finite and above 0.
    """
    planes = dict(list(surfaces.plane.groupby("arm", sort=False)))
    known = surfaces.plane["loss"]
    if not (known > 0).any():
        raise BadInput("the loss surface: no loss is finite and above 0, so nothing can be drawn")
    low = float(known[known > 0].min())
    high = max(1.01 * low, min(float(known.max()), low * 10.0**DECADES))
    norm, levels = LogNorm(low, high), np.geomspace(low, high, LEVELS)
    figure, axes, across = _panels(len(planes))
    for axis, (arm, rows) in zip(axes, planes.items(), strict=True):
        _plane(axis, rows, norm, levels)
        centre = float(rows.loc[(rows["x"] == 0) & (rows["y"] == 0), "loss"].iloc[0])
        axis.set_title(arm_words(str(arm), f"(at ×: {centre:.2g})"), loc="left")
    label_outer(axes, across, "direction 1 (filter norms)", "direction 2 (filter norms)")
    bar = figure.colorbar(ScalarMappable(norm, "mako"), ax=axes, aspect=35, extend="max")
    bar.set_label("training loss, the arm's own")
    bar.ax.minorticks_off()
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes], int]:
    """Square panels beside a colour bar: two in a row where there are four, else up to three."""
    across = 2 if count == 4 else min(3, count)
    down = -(-count // across)
    width = (COLUMN, PAGE * 0.75, PAGE)[across - 1]
    side = (width - 1.75) / across
    figure, axes = new_figure(
        width, 0.4 + down * (side + 0.3), down, across, sharex=True, sharey=True
    )
    for axis in axes[count:]:
        axis.remove()
    for place, axis in enumerate(axes[:count]):
        axis.set_box_aspect(1)
        if place + across >= count:  # nothing below it in its column
            axis.tick_params(labelbottom=True)
    return figure, axes[:count], across


def _plane(axis: Axes, rows: pd.DataFrame, norm: LogNorm, levels: np.ndarray) -> None:
    table = rows.set_index(["y", "x"])["loss"].unstack()  # noqa: PD010
    x, y = table.columns.to_numpy(), table.index.to_numpy()
    loss = np.ma.masked_invalid(table.to_numpy())
    axis.contourf(x, y, loss, levels=levels, norm=norm, cmap="mako", extend="both")
    axis.contour(x, y, loss, levels=levels, norm=norm, colors="0.15", linewidths=0.4)
    axis.plot(0, 0, "x", color="white", ms=6, mew=2.6, zorder=3)
    axis.plot(0, 0, "x", color="black", ms=5, mew=1.2, zorder=4)


@print_style()
def profile_figure(surfaces: Surfaces) -> Figure:
    """Loss against the distance from the trained network: own loss left, cross-entropy right.

    Both ways along each direction are averaged for a run, and lines are means over runs with 95 % t
    intervals over run seeds. Distances are in filter norms.
    """
    arms = list(dict.fromkeys(surfaces.profile["arm"]))
    figure, axes = new_figure(PAGE, 2.9, 1, 2, sharex=True)
    handles = []
    for arm, look in zip(arms, arm_looks(arms), strict=True):
        runs = surfaces.profile[surfaces.profile["arm"] == arm]
        for axis, which in zip(axes, ("loss", "cross_entropy"), strict=True):
            _line(axis, by_distance(runs, which), look)
        n = runs["seed_index"].nunique()
        handles.append(Line2D([], [], label=arm_words(arm, f"(n = {n})"), **look))
    for axis, words in zip(axes, ("training loss, the arm's own", "cross-entropy"), strict=True):
        axis.set(xlabel="distance (filter norms)", ylabel=words, xlim=(0, None))
        logarithmic(axis)
    legend_below(figure, handles, columns=4)
    return figure


def by_distance(runs: pd.DataFrame, which: str) -> pd.DataFrame:
    """Losses of an arm's runs at each distance, (seeds, distances): means over directions.

    `which` is `loss` or `cross_entropy`; NaN where any of a run's directions has no finite loss.
    """
    found = runs.assign(distance=runs["distance"].abs().round(12))
    means = found.groupby(["seed_index", "distance"])[which].agg(lambda v: v.mean(skipna=False))
    return means.unstack("distance")  # noqa: PD010, the index is made for it


def _line(axis: Axes, table: pd.DataFrame, look: dict) -> None:
    mean, low, high = t_band(table.to_numpy())
    at = table.columns.to_numpy()
    axis.plot(at, mean, **look)
    if len(table) > 1:
        # a logarithmic axis has no place for what is 0 or below
        axis.fill_between(
            at, np.where(low > 0, low, mean / 10), high, color=look["color"], alpha=0.15, lw=0
        )
