"""The GHM paper's gradient norms: how many examples have them, and what losses make of them.

After Figure 1 of Li, Liu, Wang, "Gradient Harmonized Single-stage Detector", AAAI 2019, and its
counterpart for regression. A converged detector's outputs can be passed in; without any, the told
batches of `reference_batches` stand in for them.
"""

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import expit

from losslab.analysis import reference_batches
from losslab.analysis.curves import loss_and_gradient, margins_by_set
from losslab.analysis.style import (
    PAGE,
    label_panels,
    line_looks,
    logarithmic,
    new_figure,
    plain,
    print_style,
)
from losslab.errors import BadInput
from losslab.losses.ghm import GHMC, GHMR
from losslab.losses.smooth_l1 import SmoothL1

BINS, REGRESSION_BINS = 30, 10  # the authors' configuration
CLASSIFICATION = ("CE", "FL, γ = 2", "GHM-C")
REGRESSION = ("SL1, β = 1/9", "ASL1, μ = 0.02", "GHM-R")
_MU = 0.02


def classification_norms(
    logits: np.ndarray | None = None, targets: np.ndarray | None = None, bins: int = BINS
) -> pd.DataFrame:
    """Gradient norms g = |p - y| of a model's examples, and what CE, FL and GHM-C make of them.

    `logits` (N,), (N, 1) or (N, 2) and `targets` (N,) of 1 and 0; others are left out. One row per
    bin of g: `g` its middle, `positive` and `negative` the fractions of all examples, and for each
    of `CLASSIFICATION` its mean |dL/dx| (nan in an empty bin) and, as `<name> total`, the sum of
    |dL/dx| by the number of examples. FL is without alpha. Raises `BadInput` without examples.

    >>> found = classification_norms(np.array([0.0, 0.0, 9.0]), np.array([1, 0, 1]), bins=2)
    >>> found[["CE", "CE total", "GHM-C total"]].round(3).values.tolist()
    [[0.0, 0.0, 0.0], [0.5, 0.333, 0.25]]
    """
    if logits is None or targets is None:
        batch = reference_batches.binary_batch()
        logits = batch.predictions(batch.margins).numpy()
        targets = batch.targets.numpy()
    sets = margins_by_set(np.asarray(logits, float), np.asarray(targets).ravel())
    margins = np.concatenate([sets["foreground"], sets["background"]])
    if not len(margins):
        raise BadInput("gradient norms: there are no examples with targets 0 or 1")
    positive = np.arange(len(margins)) < len(sets["foreground"])
    return _table(
        np.clip((expit(-margins) * bins).astype(int), 0, bins - 1),
        bins,
        {"positive": positive, "negative": ~positive},
        {
            "CE": loss_and_gradient("ce", margins)[1],
            "FL, γ = 2": loss_and_gradient("focal", margins, gamma=2.0)[1],
            "GHM-C": _slopes(GHMC(bins=bins, reduction="none"), margins, 1.0),
        },
    )


def regression_norms(errors: np.ndarray | None = None, bins: int = REGRESSION_BINS) -> pd.DataFrame:
    """Gradient norms g = |d| / sqrt(d^2 + mu^2) of errors d, and what three losses make of them.

    `errors`: any shape, mu 0.02. One row per bin of g, as in `classification_norms`, with `all` the
    fraction of the errors, for `REGRESSION`: smooth L1, authentic smooth L1 and GHM-R.

    >>> regression_norms(np.array([0.0, 3.0]))["all"].tolist()[::9]
    [0.5, 0.5]
    """
    if errors is None:
        errors = reference_batches.error_batch().margins.numpy()
    d = np.asarray(errors, float).ravel()
    if not len(d):
        raise BadInput("gradient norms: there are no errors")
    g = np.abs(d) / np.hypot(d, _MU)
    return _table(
        np.clip((g * bins).astype(int), 0, bins - 1),
        bins,
        {"all": np.ones(len(d), bool)},
        {
            "SL1, β = 1/9": _slopes(SmoothL1(link="identity", beta=1 / 9, reduction="none"), d),
            "ASL1, μ = 0.02": g,
            "GHM-R": _slopes(GHMR(mu=_MU, bins=bins, reduction="none"), d),
        },
    )


@print_style()
def classification_figure(norms: pd.DataFrame, source: str = "") -> Figure:
    """Distribution of g, gradients after CE, FL and GHM-C, and their totals; of `source`."""
    figure, axes = new_figure(PAGE, 2.5, 1, 3)
    for name, look in zip(("negative", "positive"), line_looks(2), strict=True):
        _steps(axes[0], norms, name, look, f"{name}s")
    axes[0].legend(title=plain(source, 30) or None, alignment="left")
    _losses(axes, norms, CLASSIFICATION)
    for axis in axes:
        axis.set_xlabel(r"gradient norm $g = |p - y|$")
    return figure


@print_style()
def regression_figure(norms: pd.DataFrame, source: str = "") -> Figure:
    """Distribution of g, gradients after smooth L1, ASL1 and GHM-R, and their totals."""
    figure, axes = new_figure(PAGE, 2.5, 1, 3)
    _steps(axes[0], norms, "all", {"color": "black"}, "errors")
    axes[0].legend(title=plain(source, 30) or None, alignment="left")
    _losses(axes, norms, REGRESSION)
    for axis in axes:
        axis.set_xlabel(r"gradient norm $g = |d| / \sqrt{d^2 + \mu^2}$")
    return figure


def _losses(axes: list[Axes], norms: pd.DataFrame, names: tuple[str, ...]) -> None:
    for name, look in zip(names, line_looks(len(names)), strict=True):
        _steps(axes[1], norms, name, look, name)
        _steps(axes[2], norms, f"{name} total", look, name)
    axes[1].legend()
    for axis, label in zip(
        axes,
        ("fraction of examples", "mean |gradient| in a bin", "sum of |gradient| / examples"),
        strict=True,
    ):
        axis.set(xlim=(0, 1), ylabel=label)
        logarithmic(axis)
    label_panels(axes, ["distribution", "reformulated gradient", "total contribution"])


def _steps(axis: Axes, norms: pd.DataFrame, column: str, look: dict, label: str) -> None:
    edges = np.linspace(0, 1, len(norms) + 1)
    height = norms[column].to_numpy()
    axis.stairs(np.where(height > 0, height, np.nan), edges, baseline=None, label=label, **look)


def _table(
    place: np.ndarray, bins: int, sets: dict[str, np.ndarray], slopes: dict[str, np.ndarray]
) -> pd.DataFrame:
    """One row per bin; `place` is the bin of every example."""
    number = len(place)
    count = np.bincount(place, minlength=bins)
    table = {"g": (np.arange(bins) + 0.5) / bins}
    for name, members in sets.items():
        table[name] = np.bincount(place[members], minlength=bins) / number
    for name, slope in slopes.items():
        total = np.bincount(place, np.abs(slope), minlength=bins)
        table[name] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        table[f"{name} total"] = total / number
    return pd.DataFrame(table)


def _slopes(loss: torch.nn.Module, at: np.ndarray, target: float = 0.0) -> np.ndarray:
    """dL/dx of a loss of one batch with the predictions `at`."""
    x = torch.from_numpy(np.array(at, dtype=np.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x, torch.full_like(x, target)).sum(), x)
    return gradient.numpy()
