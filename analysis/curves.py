"""The focal paper's curves, computed by the project's own losses.

Figures 1, 5 and 6 need no study; Figure 4 takes the logits of one trained model.
Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002v2.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from losslab.analysis.style import (
    COLUMN,
    PAGE,
    label_panels,
    line_looks,
    new_figure,
    plain,
    print_style,
)
from losslab.errors import BadInput

FIGURE1_GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
FIGURE4_GAMMAS = (0.0, 0.5, 1.0, 2.0)
VARIANTS: dict[str, tuple[str, dict[str, float]]] = {
    "CE": ("ce", {}),
    "FL, γ = 2": ("focal", {"gamma": 2.0}),
    "FL*, γ = 2, β = 1": ("focal_star", {"gamma": 2.0, "beta": 1.0}),
    "FL*, γ = 4, β = 0": ("focal_star", {"gamma": 4.0, "beta": 0.0}),
}
_CHUNK = 1 << 20


def loss_and_gradient(
    name: str, margins: np.ndarray, **hyperparameters: float
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and dL/dx of a losslab loss at x_t = `margins`, without alpha, in float64.

    The target is 1, so that x_t = x; alpha, where the loss has one, is 1, which is then the
    weight of every element.
    """
    import torch

    loss = _neutral_loss(name, **hyperparameters)
    logits = torch.tensor(np.asarray(margins, dtype=np.float64), requires_grad=True)
    values = loss(logits, torch.ones_like(logits))
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    return values.detach().numpy(), gradient.numpy()


@print_style()
def figure_1(gammas: Sequence[float] = FIGURE1_GAMMAS) -> Figure:
    """Figure 1: the focal loss −(1−p_t)^γ log p_t against p_t, without alpha."""
    probability = np.linspace(0.002, 0.9999, 1200)
    margins = np.log(probability) - np.log1p(-probability)
    figure, (axis,) = new_figure(COLUMN, 2.7)
    for gamma, look in zip(gammas, line_looks(len(gammas)), strict=True):
        loss, _ = loss_and_gradient("focal", margins, gamma=gamma)
        label = f"γ = {gamma:g}" + (" (cross-entropy)" if gamma == 0 else "")
        axis.plot(probability, loss, label=label, **look)
    axis.set(xlim=(0, 1), ylim=(0, 5), xlabel="probability of ground truth class", ylabel="loss")
    axis.axvspan(0.5, 1.0, color="0.93", zorder=0, linewidth=0)
    axis.text(0.75, 1.35, "well-classified\nexamples", ha="center", va="bottom", fontsize=7)
    axis.legend(title=r"$-(1-p_\mathrm{t})^\gamma \log p_\mathrm{t}$", loc="upper right")
    return figure


@print_style()
def figure_5() -> Figure:
    """Figure 5: loss against x_t = yx of cross-entropy, the focal loss and FL*, without alpha."""
    return _variants(np.linspace(-5, 5, 801), 0, (0, 5), "loss", "upper right")


@print_style()
def figure_6() -> Figure:
    """Figure 6: gradient with respect to x against x_t = yx, at y = 1, without alpha."""
    return _variants(np.linspace(-10, 10, 801), 1, (-1.2, 0.02), "gradient", "lower right")


def cumulative_loss(
    logits: np.ndarray,
    targets: np.ndarray,
    gammas: Sequence[float] = FIGURE4_GAMMAS,
    points: int = 400,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cumulative normalised focal loss of foreground and background (Figure 4), and its claims.

    `logits` of one model, (N,) or (N, 1) under sigmoid or (N, 2) under softmax, and `targets` (N,)
    with 1 for foreground and 0 for background; elements with other targets or logits that are not
    finite are left out. For each set and gamma, losses are divided by their sum, sorted from low to
    high and summed up; alpha cancels. At a fixed target the loss falls with the margin for every
    gamma, so one sort serves all.

    Curves: `set` (foreground | background), `gamma, fraction` (of the examples), `cumulative`,
    about `points` rows a curve, dense at the hard end. Claims, one row per gamma: `foreground` and
    `background` (counts), `hardest_foreground` (count of the hardest 20 %) with
    `hardest_foreground_share` of the foreground loss, `background_99` (the smallest number of
    background examples that carries 99 % of the background loss) and `background_99_fraction`. A
    set that is empty, or whose loss is zero throughout, has no curve and NaN claims.
    """
    margins = margins_by_set(np.asarray(logits), np.asarray(targets).ravel())
    curves, claims = [], []
    for gamma in gammas:
        claim: dict[str, Any] = {"gamma": gamma}
        for name, sorted_margins in margins.items():
            count = len(sorted_margins)
            # hardest first: the few large losses are summed before the many small ones
            summed = np.cumsum(_losses(sorted_margins, gamma))
            claim[name] = count
            known = count > 0 and summed[-1] > 0
            if known:
                curves.append(_curve(name, gamma, summed, points))
            if name == "foreground":
                hardest = -(-count // 5)
                share = summed[hardest - 1] / summed[-1] if known else np.nan
                claim |= {"hardest_foreground": hardest, "hardest_foreground_share": share}
            else:
                enough = np.searchsorted(summed, 0.99 * summed[-1]) + 1 if known else 0
                fraction = enough / count if known else np.nan
                claim |= {"background_99": int(enough), "background_99_fraction": fraction}
        claims.append(claim)
    columns = ["set", "gamma", "fraction", "cumulative"]
    empty = pd.DataFrame(columns=columns).astype(dict.fromkeys(columns[1:], "float64"))
    return pd.concat(curves, ignore_index=True) if curves else empty, pd.DataFrame(claims)


@print_style()
def figure_4(curves: pd.DataFrame, claims: pd.DataFrame, model: str = "") -> Figure:
    """Figure 4 out of `cumulative_loss`: foreground left, background right; `model` names whose."""
    figure, axes = new_figure(PAGE, 2.7, 1, 2)
    gammas = list(claims["gamma"])
    for axis, name in zip(axes, ("foreground", "background"), strict=True):
        for gamma, look in zip(gammas, line_looks(len(gammas)), strict=True):
            line = curves[(curves["set"] == name) & (curves["gamma"] == gamma)]
            axis.plot(line["fraction"], line["cumulative"], label=f"γ = {gamma:g}", **look)
        axis.set(xlim=(0, 1), ylim=(0, 1.005), xlabel=f"fraction of {name} examples")
        axis.set(ylabel="cumulative normalized loss")
        if not (curves["set"] == name).any():
            axis.text(0.5, 0.5, f"no {name} loss", ha="center", transform=axis.transAxes)
    axes[0].legend(loc="upper left", title=plain(model) or None, alignment="left")
    counts = claims.iloc[0]
    titles = [f"{name}, n = {counts[name]:,.0f}" for name in ("foreground", "background")]
    label_panels(axes, titles)
    return figure


def _neutral_loss(name: str, **hyperparameters: float) -> Any:
    from losslab.losses import LOSSES

    # alpha weighs positives with alpha: 1 leaves them as they are, and all elements are positives
    alpha = {"alpha": 1.0} if name in ("focal", "focal_star") else {}
    return LOSSES.create(name, link="sigmoid", reduction="none", **alpha, **hyperparameters)


def _variants(
    margins: np.ndarray, which: int, limits: tuple[float, float], ylabel: str, legend: str
) -> Figure:
    figure, (axis,) = new_figure(COLUMN, 2.5)
    for (label, (name, values)), look in zip(VARIANTS.items(), line_looks(4), strict=True):
        axis.plot(margins, loss_and_gradient(name, margins, **values)[which], label=label, **look)
    axis.set(xlim=(margins[0], margins[-1]), ylim=limits, ylabel=ylabel)
    axis.set_xlabel(r"$x_\mathrm{t} = yx$")
    axis.legend(loc=legend)
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5]))
    return figure


def margins_by_set(logits: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """x_t of foreground and background, each ascending: the hardest example first.

    `logits` (N,), (N, 1) or (N, 2) and `targets` (N,) as for `cumulative_loss`; raises `BadInput`
    for other shapes.

    >>> margins_by_set(np.array([2.0, -1.0, 3.0]), np.array([1, 0, 0]))["background"]
    array([-3.,  1.])
    """
    if logits.ndim == 2 and logits.shape[1] == 2:
        logits = logits[:, 1] - logits[:, 0]
    elif logits.ndim == 2 and logits.shape[1] == 1:
        logits = logits[:, 0]
    if logits.shape != targets.shape:
        raise BadInput(
            f"the figure compares foreground with background: logits must be (N,), (N, 1) or "
            f"(N, 2) beside targets (N,), got {logits.shape} and {targets.shape}"
        )
    finite = np.isfinite(logits)
    foreground = logits[finite & (targets == 1)]
    background = -logits[finite & (targets == 0)]
    return {"foreground": np.sort(foreground), "background": np.sort(background)}


def _losses(margins: np.ndarray, gamma: float) -> np.ndarray:
    """The focal loss at every margin, float64, in pieces so that memory stays at one array."""
    import torch

    loss = _neutral_loss("focal", gamma=gamma)
    found = np.empty(len(margins), dtype=np.float64)
    ones = torch.ones(min(_CHUNK, len(margins)), dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, len(margins), _CHUNK):
            piece = torch.from_numpy(margins[start : start + _CHUNK].astype(np.float64))
            found[start : start + _CHUNK] = loss(piece, ones[: len(piece)]).numpy()
    return found


def _curve(name: str, gamma: float, summed: np.ndarray, points: int) -> pd.DataFrame:
    count = len(summed)
    even = np.linspace(0, count, points // 2)
    hard_end = np.geomspace(1, count, points - points // 2)
    hardest = np.unique(np.concatenate([even, hard_end]).round().astype(np.int64))[::-1]
    carried = np.concatenate([[0.0], summed])[hardest] / summed[-1]
    return pd.DataFrame(
        {
            "set": name,
            "gamma": gamma,
            "fraction": 1 - hardest / count,
            "cumulative": 1 - carried,
        }
    )
