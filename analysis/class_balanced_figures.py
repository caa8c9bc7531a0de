"""The class-balanced paper's weights, effective numbers, and grids of errors.

After Figures 3, 9 and 10 of Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective
Number of Samples", CVPR 2019, with the weights of a told long-tailed data set beside it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from losslab.analysis.style import PAGE, label_panels, line_looks, new_figure, plain, print_style
from losslab.losses.effective_number import effective_number_weights

BETAS = (0.9, 0.99, 0.999, 0.9999)
#: 10 classes of 5,000 to 50 examples, as in the paper's long-tailed CIFAR-10.
COUNTS = tuple(round(5000 * 0.01 ** (j / 9)) for j in range(10))


def effective_numbers(counts: ArrayLike, betas: Sequence[float] = BETAS) -> pd.DataFrame:
    """Effective number (1 - beta^n) / (1 - beta) and its inverse, the class-balanced term.

    One row per beta and n: `beta, n, effective, term`.

    >>> effective_numbers([2], [0.5])[["effective", "term"]].values.round(4).tolist()
    [[1.5, 0.6667]]
    """
    n = np.asarray(counts, dtype=float)
    pieces = []
    for beta in betas:
        effective = -np.expm1(n * np.log(beta)) / (1 - beta)
        rows = {"beta": beta, "n": n, "effective": effective, "term": 1 / effective}
        pieces.append(pd.DataFrame(rows))
    return pd.concat(pieces, ignore_index=True)


def class_weights(counts: Sequence[int] = COUNTS, betas: Sequence[float] = BETAS) -> pd.DataFrame:
    """Class weights with mean 1, as the class-balanced losses use them: `beta, rank, n, weight`.

    `rank` counts the classes from 1, in the order of `counts`.

    >>> class_weights([2, 1], [0.5])["weight"].round(3).tolist()
    [0.8, 1.2]
    """
    pieces = []
    for beta in betas:
        weights = effective_number_weights(torch.tensor(list(counts)), 1 - beta).numpy()
        rows = {
            "beta": beta,
            "rank": np.arange(1, len(weights) + 1),
            "n": counts,
            "weight": weights,
        }
        pieces.append(pd.DataFrame(rows))
    return pd.concat(pieces, ignore_index=True)


@print_style()
def class_balanced_figure(counts: Sequence[int] = COUNTS, betas: Sequence[float] = BETAS) -> Figure:
    """The class-balanced term against n, the weights of the classes, and the effective number."""
    figure, axes = new_figure(PAGE, 2.5, 1, 3)
    n = np.geomspace(1, 1e5, 200)
    terms, weights = effective_numbers(n, betas), class_weights(counts, betas)
    for beta, look in zip(betas, line_looks(len(betas)), strict=True):
        term, weight = terms[terms["beta"] == beta], weights[weights["beta"] == beta]
        axes[0].plot(term["n"], term["term"], label=f"β = {beta:g}", **look)
        axes[1].plot(weight["rank"], weight["weight"], **look)
        axes[2].plot(term["n"], term["effective"], **look)
    usual = {"color": "0.6", "linewidth": 2, "linestyle": (0, (1, 0.7)), "zorder": 1}
    inverse = 1 / np.asarray(counts, float)
    axes[0].plot(n, 1 / n, label="β → 1: 1/n", **usual)
    axes[1].plot(np.arange(1, len(counts) + 1), inverse / inverse.mean(), **usual)
    axes[2].plot(n, n, **usual)
    for axis in (axes[0], axes[2]):
        axis.set(xscale="log", yscale="log", xlabel="examples n of a class", xlim=(1, 1e5))
    axes[0].set(ylabel=r"$(1 - \beta)\,/\,(1 - \beta^n)$", ylim=(1e-5, 1.5))
    axes[1].set(ylabel="weight (mean 1)", xlim=(1, len(counts)), yscale="log")
    axes[1].set_xlabel(f"class, from {counts[0]:,} to {counts[-1]:,} examples")
    axes[2].set(ylabel=r"$(1 - \beta^n)\,/\,(1 - \beta)$", ylim=(1, 1e5))
    axes[0].legend(loc="lower left")
    label_panels(axes, ["class-balanced term", "class weights", "effective number"])
    return figure


GRIDS = {"CIFAR-20": "cb_fig9_cifar20_grid", "CIFAR-100": "cb_fig10_cifar100_grid"}


@print_style()
def grid_figure(table: pd.DataFrame, title: str = "") -> Figure:
    """Heat maps of classification errors over loss and beta, one panel per imbalance factor.

    `table` has `imbalance_factor, loss, gamma` (NaN where the loss has none), `beta` and
    `error_pct`, as the published `GRIDS` have; beta 0 is the unweighted loss. Shades go from the
    lowest error of a panel (dark, its number bold) to the highest; NaN cells stay empty.
    """
    factors = sorted(table["imbalance_factor"].unique(), reverse=True)
    across = min(3, len(factors))
    down = -(-len(factors) // across)
    figure, axes = new_figure(PAGE, 0.5 + 1.55 * down, down, across)
    for axis in axes[len(factors) :]:
        axis.remove()
    for axis, factor in zip(axes, factors, strict=False):
        _error_panel(axis, table[table["imbalance_factor"] == factor])
        axis.set_title(f"imbalance {factor:g}", loc="left")
    for position, axis in enumerate(axes[: len(factors)]):
        if position + across >= len(factors):
            axis.set_xlabel("β (0: not weighted)")
        if position % across:
            axis.tick_params(labelleft=False)
    figure.suptitle(f"test error (%) {plain(title, 80)}".strip(), x=0.01, ha="left", fontsize=8)
    return figure


def _error_panel(axis: Axes, panel: pd.DataFrame) -> None:
    with_gamma = panel["loss"] + panel["gamma"].map(", γ = {:g}".format)
    names = panel["loss"].where(panel["gamma"].isna(), with_gamma)
    errors = panel.assign(name=names).pivot_table(
        index="name", columns="beta", values="error_pct", sort=False
    )
    errors = errors[sorted(errors)]
    low, high = np.nanmin(errors), np.nanmax(errors)
    shade = ((high - errors) / ((high - low) or 1.0)).to_numpy()
    axis.imshow(np.nan_to_num(shade), cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    for (row, column), value in np.ndenumerate(errors.to_numpy()):
        if np.isfinite(value):
            axis.text(
                column, row, f"{value:.1f}", ha="center", va="center", fontsize=6.5,
                weight="bold" if value == low else "normal",
                color="white" if shade[row, column] > 0.7 else "0.1",
            )  # fmt: skip
    axis.set_xticks(range(errors.shape[1]), [f"{beta:g}" for beta in errors], fontsize=6.5)
    axis.set_yticks(range(len(errors)), [plain(name) for name in errors.index], fontsize=6.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
