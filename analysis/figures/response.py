"""What the search says about hyper-parameters: importance, and the response to two of them."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from losslab.analysis.figures.parts import (
    DARK,
    arm_words,
    counted,
    legend_below,
    panel_grid,
    parameter_word,
    thinned,
)
from losslab.analysis.figures.search import (
    is_selected,
    search_trials,
    searched_span,
    tuned_columns,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.remembering import once
from losslab.analysis.style import PAGE, new_figure, print_style
from losslab.analysis.wording import listed
from losslab.errors import BadInput

_MOST_ARMS = 12
_MOST_TRIALS = 150  # that fANOVA is given: its time grows with their square
_WIDTH = 0.12  # of the surface's kernel, as a share of the searched range
_CELLS = 40
FEWEST_POINTS = 8  # trials below which a surface is invented rather than drawn


class Importances(NamedTuple):
    """`table`: one row per arm, one column per hyper-parameter; `reasons` why an arm has none."""

    table: pd.DataFrame
    reasons: dict[str, str]
    method: str
    trials: dict[str, int]


@once
def importance_table(frames: StudyFrames) -> Importances:
    """The importance of every hyper-parameter in every arm's search, from its complete trials.

    PED-ANOVA where every arm has the 50 trials that it needs, else fANOVA (at most 150 trials an
    arm, evenly out of their order). Arms that search nothing are left out.
    """
    from losslab.experiments.importances import FEWEST, importances  # Optuna takes a second

    trials = _complete(frames)
    arms = [arm for arm in frames.arms if tuned_columns(trials[trials["arm"] == arm])]
    sizes = {arm: int((trials["arm"] == arm).sum()) for arm in arms}
    enough = bool(sizes) and min(sizes.values()) >= FEWEST["ped-anova"]
    rows, reasons = {}, {}
    for arm in arms:
        own = trials[trials["arm"] == arm]
        own = own if enough else thinned(own, _MOST_TRIALS)
        columns = tuned_columns(own)
        spaces = frames.study["arms"].get(arm, {}).get("space", {})
        params = own[columns].rename(columns=lambda c: c.removeprefix("params."))
        try:
            rows[arm] = importances(
                params,
                own["value"],
                spaces,
                maximize=frames.study.get("direction", "maximize") == "maximize",
                method="ped-anova" if enough else "fanova",
            )
        except BadInput as error:
            reasons[arm] = str(error)
    table = pd.DataFrame(rows).T
    table = table[sorted(table, key=lambda c: -table[c].fillna(0).mean())] if len(rows) else table
    return Importances(table, reasons, "PED-ANOVA" if enough else "fANOVA", sizes)


@print_style()
def importances_figure(frames: StudyFrames) -> Figure | None:
    """Importance of each hyper-parameter in each arm's search, as a table of shades with numbers.

    None where no arm has enough complete trials.
    """
    found = importance_table(frames)
    if found.table.empty:
        return None
    table = found.table.iloc[:_MOST_ARMS]
    rows, columns = table.shape
    figure, (axis,) = new_figure(min(PAGE, 1.9 + 0.75 * columns), 0.95 + 0.36 * rows)
    axis.imshow(np.nan_to_num(table.to_numpy(float)), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row in range(rows):
        for column in range(columns):
            value = table.iloc[row, column]
            text = "not searched" if pd.isna(value) else f"{value:.2f}"
            axis.text(
                column, row, text, ha="center", va="center",
                fontsize=6 if pd.isna(value) else 7, color="white" if value > 0.6 else "0.1",
            )  # fmt: skip
    axis.set_xticks(range(columns), [parameter_word(c).replace(" ", "\n") for c in table])
    axis.set_yticks(range(rows), [arm_words(a, f"(n = {found.trials[a]})") for a in table.index])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    figure.supxlabel(
        f"importance by {found.method}\n(a row adds up to 1 but for rounding)", fontsize=8
    )
    return figure


def importances_caption(frames: StudyFrames) -> str:
    """What `importances_figure` shows."""
    found = importance_table(frames)
    n = counted("complete trials", [found.trials[arm] for arm in found.table.index])
    meaning = {
        "fANOVA": "the share of the objective's variance that a hyper-parameter explains alone "
        "(Hutter et al. 2014)",
        "PED-ANOVA": "how far a hyper-parameter tells the best tenth of the trials from the others "
        "(Watanabe et al. 2023)",
    }[found.method]
    left = "".join(f" {arm}: {reason}." for arm, reason in found.reasons.items())
    return (
        f"Importance of hyper-parameters by {found.method}, {meaning}; {n} an arm, within the "
        f"searched ranges. Pruned and diverged trials are left out, which takes weight from what "
        f"made them fail.{left}"
    )


@print_style()
def response_figure(frames: StudyFrames) -> Figure | None:
    """The objective over the two most important hyper-parameters of each arm's search.

    Dots are trials; the surface behind is their mean weighted by a Gaussian kernel of 12 % of the
    searched range, blank where no trial is near. None where no arm has eight
    complete trials of two numbers.
    """
    panels = _response_panels(frames)
    if not panels:
        return None
    trials = _complete(frames)
    values = trials.loc[trials["arm"].isin(panels), "value"]
    low, high = np.quantile(values, [0.05, 1.0])
    if frames.study.get("direction") == "minimize":
        low, high = np.quantile(values, [0.0, 0.95])
    figure, axes, _ = panel_grid(len(panels), across=3, ratio=0.8, share=False)
    shades: dict[str, Any] = {"cmap": "viridis", "vmin": low, "vmax": high or 1.0}
    for axis, (arm, (first, second)) in zip(axes, panels.items(), strict=True):
        own = trials[trials["arm"] == arm].dropna(subset=[first, second])
        _surface(axis, frames, own, first, second, shades)
        axis.set_title(arm_words(f"{arm},", f"n = {len(own)}"), loc="left")
        axis.set(xlabel=parameter_word(first), ylabel=parameter_word(second))
        chosen = own[is_selected(frames, own)]
        axis.plot(chosen[first], chosen[second], ls="", marker="o", mfc="none", mec=DARK, ms=8)
    bar = figure.colorbar(axes[0].collections[0], ax=axes, aspect=30, pad=0.02)
    bar.set_label(f"{metric_words(frames.study['primary'])} on validation", fontsize=7)
    bar.outline.set_visible(False)
    handles = [
        Line2D(
            [], [], ls="", marker="o", color="0.8", mec=DARK, mew=0.5, ms=4, label="complete trial"
        ),
        Line2D([], [], ls="", marker="o", mfc="none", mec=DARK, ms=8, label="selected"),
    ]
    legend_below(figure, handles)
    return figure


def response_caption(frames: StudyFrames) -> str:
    """What `response_figure` shows."""
    trials = _complete(frames)
    panels = _response_panels(frames)
    sizes = [int((trials["arm"] == arm).sum()) for arm in panels]
    left = [arm for arm in frames.arms if arm not in panels]
    without = (
        f" Without {listed(left[:8])}{' and others' if len(left) > 8 else ''}: fewer than "
        f"{FEWEST_POINTS} complete trials, fewer than two numbers searched, or no room."
        if left
        else ""
    )
    return (
        f"Objective ({metric_words(frames.study['primary'])} on validation) over the two most "
        f"important hyper-parameters of each arm, {counted('complete trials', sizes)} an arm. The "
        "surface is a Gaussian-kernel mean (width 12 % of the range) over all else that varied, "
        "blank away from trials; the sampler chose where they are. The worst 5 % share one shade."
        f"{without}"
    )


def _response_panels(frames: StudyFrames) -> dict[str, tuple[str, str]]:
    """For each arm its two most important numbers; the first two searched where none is known."""
    trials, found = _complete(frames), importance_table(frames)
    panels = {}
    for arm in frames.arms:
        own = trials[trials["arm"] == arm]
        columns = [c for c in tuned_columns(own) if own[c].dtype.kind == "f"]
        if arm in found.table.index:
            weight = found.table.loc[arm].fillna(0)
            columns.sort(key=lambda c: -weight.get(c.removeprefix("params."), 0))
        else:
            columns.sort(key=lambda c: not c.endswith("learning_rate"))
        if len(columns) > 1 and len(own) >= FEWEST_POINTS:
            panels[arm] = (columns[0], columns[1])
    return dict(list(panels.items())[:_MOST_ARMS])


def _surface(
    axis: Axes, frames: StudyFrames, own: pd.DataFrame, first: str, second: str, shades: dict
) -> None:
    spans = [searched_span(frames, own, column) for column in (first, second)]
    middles = (np.arange(_CELLS) + 0.5) / _CELLS
    near = [
        np.exp(-0.5 * ((middles[:, None] - span.unit(own[column]).to_numpy(float)) / _WIDTH) ** 2)
        for span, column in zip(spans, (first, second), strict=True)
    ]
    weight = near[1] @ near[0].T
    values = own["value"].to_numpy(float)
    mean = (near[1] * values) @ near[0].T / np.maximum(weight, 1e-9)
    blank = weight < np.exp(-0.5 * 2**2)  # two widths from the nearest trial
    edges = [span.at(np.linspace(0, 1, _CELLS + 1)) for span in spans]
    axis.pcolormesh(*edges, np.ma.masked_where(blank, mean), rasterized=True, **shades)
    dots = thinned(own.sort_values("value", ascending=frames.study.get("direction") != "minimize"))
    few = len(own) < 100
    size = 14 if few else 6
    at: dict[str, Any] = {"x": dots[first], "y": dots[second], "clip_on": False, "zorder": 3}
    if few:  # a white rim is seen on dark, the edge on light
        axis.scatter(**at, s=2.6 * size, color="white", linewidths=0)
    edge: dict[str, Any] = {
        "edgecolor": DARK if few else "white",
        "linewidths": 0.5 if few else 0.3,
    }
    axis.scatter(**at, s=size, c=dots["value"], **edge, **shades)
    for span, scale in zip(spans, (axis.set_xscale, axis.set_yscale), strict=True):
        if span.log:
            scale("log")
    for which in (axis.xaxis, axis.yaxis):
        if which.get_scale() == "log":
            which.set_minor_locator(NullLocator())  # most of the time of drawing
    axis.set(xlim=(spans[0].low, spans[0].high), ylim=(spans[1].low, spans[1].high))


def _complete(frames: StudyFrames) -> pd.DataFrame:
    trials = search_trials(frames)
    return trials[(trials["state"] == "complete") & np.isfinite(trials["value"])]
