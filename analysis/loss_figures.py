"""The figure of a loss: its value, gradient and weight over the range of each hyper-parameter."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, NullLocator
from scipy.special import expit

from losslab.analysis.loss_curves import ANY, Curves
from losslab.analysis.loss_rows import Row, chosen_rows
from losslab.analysis.reference_batches import ERROR, ERRORS, LIMIT, SHIFTED, STRETCHED
from losslab.analysis.style import PAGE, print_style

# Inches. Fixed, since a layout engine takes longer than all the rest of a gallery.
_LEFT, _RIGHT, _BETWEEN = 0.72, 1.12, 0.45
_PANEL, _GAP, _LINE, _TITLE, _FOOT = 0.98, 0.14, 0.132, 0.32, 0.42

_USUAL: dict[str, Any] = {
    "color": "0.65",
    "linewidth": 2.0,
    "linestyle": (0, (1, 0.7)),
    "zorder": 1,
}
_DEFAULT: dict[str, Any] = {"color": "black", "linewidth": 1.6, "zorder": 3}
_HEADROOM = 4.0  # how far the other lines may rise above the default and the reference
_LOG_FROM = 12.0  # weights above that are drawn on a logarithmic scale


@print_style()
def loss_figure(curves: Curves) -> Figure:
    """Loss and gradient against the margin and weight against p_t, a row for each hyper-parameter.

    Lines go from the low to the high end of the declared range, light to dark; the default is
    black, cross-entropy dotted grey. Targets with curves of their own have rows of their own; a
    hyper-parameter that changes nothing for a target has none there. Regression losses are drawn
    against the error, the squared error dotted; losses of boxes against a shift and a width.
    """
    rows, left_out = chosen_rows(curves)
    head = _heading(curves, left_out)
    figure, panels = _canvas(len(rows), head)
    boxes = SHIFTED in curves.targets
    for row, axes in zip(rows, panels, strict=True):
        (_draw_boxes if boxes else _draw_margins)(curves, row, axes)
        moved = row.hyperparameter if row.hyperparameter in curves.moving else ""
        beside = [part for part in (_broken(moved), row.target) if part not in ("", ANY, ERROR)]
        axes[0].set_ylabel("\n".join(beside), fontsize=7.5)
    _limit_margins(curves, rows, panels)
    for place, row in enumerate(rows):
        if place == 0 or rows[place - 1].hyperparameter != row.hyperparameter:
            _legend(panels[place][2], curves, row.hyperparameter, first=place == 0)
    titles, labels = _texts(curves)
    for axis, letter, title in zip(panels[0], "abc", titles, strict=True):
        axis.set_title(f"({letter}) {title}", loc="left")
    for axis, label in zip(panels[-1], labels, strict=True):
        axis.set_xlabel(label)
    return figure


def _canvas(rows: int, head: str) -> tuple[Figure, np.ndarray]:
    """A figure with `head` above `rows` of three panels, and room for legends at their right."""
    top = _LINE * (head.count("\n") + 1) + _TITLE
    height = top + rows * _PANEL + (rows - 1) * _GAP + _FOOT
    figure = Figure(figsize=(PAGE, height))
    figure.text(0.06 / PAGE, 1 - 0.05 / height, head, va="top", fontsize=7)
    width = (PAGE - _LEFT - _RIGHT - 2 * _BETWEEN) / 3
    panels = figure.subplots(
        rows,
        3,
        squeeze=False,
        sharex="col",
        gridspec_kw={
            "left": _LEFT / PAGE,
            "right": 1 - _RIGHT / PAGE,
            "top": 1 - top / height,
            "bottom": _FOOT / height,
            "wspace": _BETWEEN / width,
            "hspace": _GAP / _PANEL,
        },
    )
    return figure, panels


def _broken(name: str) -> str:
    """A hyper-parameter's name in lines that fit beside a panel."""
    return fill(name.replace("_", "_ "), 15).replace("_ ", "_")


def _draw_margins(curves: Curves, row: Row, axes: Sequence[Axes]) -> None:
    """Loss and gradient against the margin (or error), weight against p_t (or the error)."""
    usual = _usual(curves)
    lines = [(curves.line(*row, value), look) for value, look in _looks(curves, row.hyperparameter)]
    for axis, y in zip(axes, ("loss", "gradient", "weight"), strict=True):
        x = "margin"
        shown = lines if curves.probe.whole and y == "loss" else [(usual, _USUAL), *lines]
        if y == "weight" and curves.link == "identity":
            shown = [(line[line["margin"] > 0], look) for line, look in shown]
        elif y == "weight":
            # Further out the gradient of cross-entropy vanishes.
            x, far = "p_t", expit(LIMIT)
            shown = [(line[line["p_t"].between(1 - far, far)], look) for line, look in shown]
        for line, look in shown:
            axis.plot(line[x], line[y], **look)


def _draw_boxes(curves: Curves, row: Row, axes: Sequence[Axes]) -> None:
    """Loss and its slope against the shift, loss against the width."""
    for axis, target, y in zip(
        axes, (SHIFTED, SHIFTED, STRETCHED), ("loss", "gradient", "loss"), strict=True
    ):
        for value, look in _looks(curves, row.hyperparameter):
            line = curves.line(row.hyperparameter, target, value)
            axis.plot(line["margin"], line[y], **look)


def _usual(curves: Curves) -> pd.DataFrame:
    """What the loss is compared with: cross-entropy at the same scale, or d^2 / 2."""
    limit, scale = curves.batch.limit, curves.batch.scale
    if curves.link == "identity":
        half = np.geomspace(1e-3, limit, 121)
        d = np.concatenate([-half[::-1], half])
        return pd.DataFrame({"margin": d, "loss": d * d / 2, "gradient": d, "weight": 1.0})
    m = np.unique(
        np.concatenate([np.linspace(-limit, limit, 201), np.linspace(-8, 8, 201) / scale])
    )
    return pd.DataFrame(
        {
            "margin": m,
            "p_t": expit(scale * m),
            "loss": np.logaddexp(0, -scale * m),
            "gradient": -scale * expit(-scale * m),
            "weight": 1.0,
        }
    )


def _looks(curves: Curves, hyperparameter: str) -> list[tuple[float | None, dict[str, Any]]]:
    """Each value with the look of its line: light to dark, the default black and on top.

    Of a hyper-parameter that changes nothing only the default has a line; its value is None.
    """
    if hyperparameter not in curves.moving:
        return [(None, _DEFAULT)]
    values, default = curves.values(hyperparameter), curves.declared[hyperparameter].default
    colours = sns.color_palette("crest", len(values))
    return [
        (value, _DEFAULT if value == default else {"color": colour, "linewidth": 1.0})
        for value, colour in zip(values, colours, strict=True)
    ]


def _legend(axis: Axes, curves: Curves, hyperparameter: str, first: bool) -> None:
    handles, labels = [], []
    for value, look in _looks(curves, hyperparameter):
        handles.append(Line2D([], [], **look))
        usual = " (default)" if look is _DEFAULT else ""
        labels.append("at its defaults" if value is None else f"{value:.3g}{usual}")
    if first and SHIFTED not in curves.targets:
        handles.append(Line2D([], [], **_USUAL))
        labels.append("squared error" if curves.link == "identity" else "cross-entropy")
    axis.legend(
        handles,
        labels,
        title=_broken(hyperparameter) if hyperparameter in curves.moving else None,
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1.05, 1.02),
        borderaxespad=0,
        borderpad=0,
        handlelength=1.6,
        labelspacing=0.3,
        fontsize=6.5,
    )


def _limit_margins(curves: Curves, rows: Sequence[Row], panels: np.ndarray) -> None:
    """Ranges and ticks: one vertical range for the rows of a hyper-parameter.

    Lines that rise far above the default and the reference are cut: they would press those flat.
    """
    limit = 2.0 if SHIFTED in curves.targets else curves.batch.limit
    for column in range(3):
        classes = column == 2 and curves.link != "identity"
        left, right = (0.0, 1.0) if classes else (-limit, limit)
        ticks = np.linspace(left, right, 7 if right == ERRORS else 5)
        panels[0][column].set_xlim(left, right)
        panels[0][column].set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    if SHIFTED in curves.targets:
        panels[0][2].set_xticks([-2, -1, 0, 1, 2], ["1/4", "1/2", "1", "2", "4"])
    elif curves.link == "identity":
        panels[0][2].set_xscale("log")
        panels[0][2].set_xlim(2e-3, limit)
        panels[0][2].xaxis.set_major_formatter(FormatStrFormatter("%g"))
        panels[0][2].xaxis.set_minor_locator(NullLocator())
    if ERROR in curves.targets or _heavy(list(panels[:, 2])):
        for axis in panels[:, 2]:
            axis.set_yscale("log")
            axis.yaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    for name in {row.hyperparameter for row in rows}:
        together = [place for place, row in enumerate(rows) if row.hyperparameter == name]
        for column in range(3):
            axes = [panels[place][column] for place in together]
            low, high = _range(axes)
            for axis in axes:
                axis.set_ylim(low, high)
                if axis.get_yscale() == "linear":
                    axis.yaxis.set_major_locator(MaxNLocator(3))


def _heavy(axes: Sequence[Axes]) -> bool:
    """Whether weights are too large beside 1 for a linear scale."""
    seen = [_seen(line, 0.02) for axis in axes for line in axis.get_lines()]
    return max(each.max(initial=0) for each in seen) > _LOG_FROM


def _range(axes: Sequence[Axes]) -> tuple[float, float]:
    lines = [line for axis in axes for line in axis.get_lines()]
    if axes[0].get_yscale() == "log":
        # Towards p_t = 1 the gradient of cross-entropy vanishes, and weights grow out of bounds.
        inside = 0.02 if axes[0].get_xscale() == "linear" else 0.0
        every = np.concatenate([_seen(line, inside) for line in lines])
        every = every[every > 0]
        top = every.max(initial=1e-9)
        return max(every.min(initial=top), top / 1e4) / 1.5, top * 1.5
    every = np.concatenate([_seen(line) for line in lines])
    steady = np.concatenate([_seen(line) for line in lines if _steady(line)])
    low = max(every.min(initial=0), _HEADROOM * steady.min(initial=0))
    high = min(every.max(initial=0), _HEADROOM * steady.max(initial=0))
    space = 0.06 * (high - low) or 1.0
    return low - space, high + space


def _steady(line: Line2D) -> bool:
    """Whether it is the default's line or the reference."""
    return line.get_zorder() in (_DEFAULT["zorder"], _USUAL["zorder"])


def _seen(line: Line2D, inside: float = 0.0) -> np.ndarray:
    """The finite values of a line within the horizontal limits, less a margin."""
    left, right = line.axes.get_xlim()  # type: ignore[union-attr]
    x, y = (np.asarray(each, float) for each in line.get_data())
    return y[(x >= left + inside) & (x <= right - inside) & np.isfinite(y)]


def _texts(curves: Curves) -> tuple[list[str], list[str]]:
    """Titles and horizontal labels of the three columns.

    Without mathematics, which would take a second font and as long as the rest of the figure.
    """
    if SHIFTED in curves.targets:
        titles = ["loss", "derivative by the shift", "loss"]
        return titles, ["shift of a unit box", "shift of a unit box", "width of a concentric box"]
    if curves.link == "identity":
        return ["loss", "gradient dL/dd", "weight |dL/dd| / |d|"], ["error d", "error d", "|d|"]
    times = f" × {curves.probe.times:,}" if curves.probe.times > 1 else ""
    titles = ["loss", "gradient dL/dxₜ", "weight (CE has 1)"]
    if curves.probe.whole:
        titles[0] = f"change of loss{times}"
    if times:
        titles[1] = f"gradient{times}"
    margin = "margin xₜ" + (" of cosines" if curves.batch.scale != 1 else "")
    return titles, [margin, margin, "pₜ"]


def _heading(curves: Curves, left_out: Sequence[Row]) -> str:
    lines = [f"{curves.name}, link {curves.link}. {curves.told}"]
    still = [name for name in curves.declared if name not in curves.moving]
    if still:
        lines.append(f"No visible effect here: {', '.join(still)}.")
    if left_out:
        names = ", ".join(f"{row.hyperparameter} ({row.target})" for row in left_out)
        lines.append(f"Not drawn, having least effect: {names}.")
    return fill(" ".join(lines), 132).replace("$", r"\$")
