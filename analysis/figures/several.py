"""Figures over several datasets: critical-difference diagrams and a heat map of the scores."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from losslab.analysis.figures.levels import level_numbers
from losslab.analysis.figures.parts import DARK, minimizes, sentence, short
from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.statistics import RankComparison, nemenyi, pairwise_wilcoxon
from losslab.analysis.style import COLUMN, PAGE, new_figure, plain, print_style
from losslab.analysis.tables import per_seed
from losslab.errors import BadInput

Mapped = Mapping[str, StudyFrames]
_ROW = 0.19  # inches between two arms, or two bars, of a critical-difference diagram


def dataset_scores(mapping: Mapped) -> pd.DataFrame:
    """The mean of each arm's primary metric on test: one row per dataset, one column per arm.

    NaN where an arm has no run on a dataset. Each number is a mean over that dataset's replicates.
    """
    arms = list(dict.fromkeys(arm for frames in mapping.values() for arm in frames.arms))
    rows = {
        name: {
            arm: per_seed(frames, arm, "selected", f"test/{frames.study['primary']}").mean()
            for arm in arms
        }
        for name, frames in mapping.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=arms).astype(float)


def nemenyi_figure(mapping: Mapped) -> Figure | None:
    """Critical-difference diagram by Nemenyi's test at level .05 (Demšar 2006).

    None with fewer than two arms or two datasets that have all of them, with different metrics,
    and for levels that are numbers: those of one dataset are no sample of datasets.
    """
    comparison = _comparison(mapping, nemenyi)
    return None if comparison is None else critical_difference_figure(comparison, "Nemenyi")


def wilcoxon_figure(mapping: Mapped) -> Figure | None:
    """The same by pairwise Wilcoxon tests, Holm-corrected (Benavoli et al. 2016)."""
    comparison = _comparison(mapping, pairwise_wilcoxon)
    return None if comparison is None else critical_difference_figure(comparison, "Wilcoxon–Holm")


def nemenyi_caption(mapping: Mapped) -> str:
    """What `nemenyi_figure` shows."""
    comparison = _comparison(mapping, nemenyi)
    cd = f", critical difference {comparison.critical_difference:.2f}" if comparison else ""
    return _rank_caption(mapping, comparison, f"Nemenyi's test{cd}")


def wilcoxon_caption(mapping: Mapped) -> str:
    """What `wilcoxon_figure` shows."""
    comparison = _comparison(mapping, pairwise_wilcoxon)
    return _rank_caption(mapping, comparison, "pairwise Wilcoxon tests, Holm-corrected")


@print_style()
def critical_difference_figure(comparison: RankComparison, test: str = "") -> Figure:
    """The diagram of any `statistics.RankComparison`: average ranks, and bars over its `groups`.

    Arms on the axis by average rank, 1 the best, at the left; a bar joins arms that `different`
    does not tell apart. The critical difference, where there is one, stands above the axis.
    """
    ranks, count = comparison.ranks, len(comparison.ranks)
    bars = [group for group in comparison.groups if len(group) > 1]
    half = (count + 1) // 2
    below = _ROW * (len(bars) + half + 1.2)
    width = COLUMN * (1.0 if count <= 4 else 1.4)
    figure, (axis,) = new_figure(width, 0.75 + below)
    low, high = 1.0, float(count)
    side = 0.42 * (high - low)
    axis.set(xlim=(low - side, high + side), ylim=(-below, 0.62))
    axis.axis("off")
    _rank_scale(axis, low, high)
    for position, (arm, rank) in enumerate(ranks.items()):
        left = position < half
        row = position if left else count - 1 - position
        depth = -_ROW * (len(bars) + row + 1)
        end = low - 0.06 * (high - low) if left else high + 0.06 * (high - low)
        axis.plot([rank, rank, end], [0, depth, depth], color=DARK, linewidth=0.8)
        name = plain(short(str(arm)))
        text = f"{name} {rank:.2f}" if left else f"{rank:.2f} {name}"
        axis.text(end, depth, f" {text} ", ha="right" if left else "left", va="center", fontsize=7)
    for row, group in enumerate(bars):
        ends = [ranks[group[0]], ranks[group[-1]]]
        pad = 0.012 * (high - low)
        y = -_ROW * (row + 0.6)
        axis.plot([ends[0] - pad, ends[1] + pad], [y, y], color=DARK, lw=3, solid_capstyle="round")
    words = f"{test}, α = {comparison.level:g}, {comparison.datasets} datasets".lstrip(", ")
    if np.isfinite(comparison.critical_difference):
        _critical_bar(axis, low, comparison.critical_difference, high)
    axis.text((low + high) / 2, 0.62, f"average rank ({words})", ha="center", va="top", fontsize=7)
    return figure


@print_style()
def datasets_figure(mapping: Mapped) -> Figure | None:
    """Arms by datasets: the mean score as numbers, shaded by its rank on that dataset.

    None with one dataset, or without a score.
    """
    scores = dataset_scores(mapping)
    if len(scores) < 2 or scores.notna().sum().sum() == 0:
        return None
    lower = minimizes(next(iter(mapping.values())))
    ranks = scores.rank(axis=1, ascending=lower)
    arms = scores.shape[1]
    figure, (axis,) = new_figure(min(PAGE, 2.0 + 0.62 * arms), 1.1 + 0.26 * len(scores))
    shade = (arms - ranks) / max(1, arms - 1)  # the best is dark
    axis.imshow(np.nan_to_num(shade), cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    for row in range(len(scores)):
        for column in range(arms):
            value = scores.iloc[row, column]
            best = ranks.iloc[row, column] == ranks.iloc[row].min()
            dark = shade.iloc[row, column] > 0.75
            axis.text(
                column, row, "—" if pd.isna(value) else f"{value:.3f}", ha="center", va="center",
                fontsize=6.5, weight="bold" if best else "normal", color="white" if dark else "0.1",
            )  # fmt: skip
    turned = arms > 5 or max(len(str(arm)) for arm in scores) > 12
    axis.set_xticks(
        range(arms), [plain(str(arm), 24) for arm in scores], rotation=45 if turned else 0,
        ha="right" if turned else "center", rotation_mode="anchor",
    )  # fmt: skip
    axis.set_yticks(range(len(scores)), [plain(str(name), 30) for name in scores.index])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def datasets_caption(mapping: Mapped) -> str:
    """What `datasets_figure` shows."""
    first = next(iter(mapping.values()))
    return (
        f"{sentence(metric_words(first.study['primary']))} on test of every arm on every dataset: "
        "means over replicates, shaded by rank on the dataset (dark: best, bold too). The best "
        "mean is no decision: see the critical-difference diagram."
    )


def _comparison(mapping: Mapped, test) -> RankComparison | None:
    if len({frames.study["primary"] for frames in mapping.values()}) != 1:
        return None
    if level_numbers(mapping) is not None:  # levels of one dataset are no sample of datasets
        return None
    scores = dataset_scores(mapping)
    scores = scores.loc[:, scores.notna().any()]
    if scores.dropna().shape[0] < 2:
        return None
    try:
        return test(scores, higher_is_better=not minimizes(next(iter(mapping.values()))))
    except BadInput:  # one arm
        return None


def _rank_scale(axis: Axes, low: float, high: float) -> None:
    axis.plot([low, high], [0, 0], color=DARK, linewidth=0.9)
    for rank in range(int(low), int(high) + 1):
        axis.plot([rank, rank], [0, 0.07], color=DARK, linewidth=0.9)
        axis.text(rank, 0.1, str(rank), ha="center", va="bottom", fontsize=7)


def _critical_bar(axis: Axes, low: float, critical: float, high: float) -> None:
    end = min(low + critical, high + 0.3 * (high - low))
    cut = end < low + critical
    axis.plot([low, end], [0.36, 0.36], color=DARK, linewidth=1.2)
    for x, marker in ((low, "|"), (end, ">" if cut else "|")):
        axis.plot(x, 0.36, marker=marker, color=DARK, ms=4)
    axis.text(low, 0.38, f"CD = {critical:.2f}", ha="left", va="bottom", fontsize=6.5)


def _rank_caption(mapping: Mapped, comparison: RankComparison | None, test: str) -> str:
    if comparison is None:
        return ""
    lost = f" ({comparison.dropped} without all arms left out)" if comparison.dropped else ""
    metric = metric_words(next(iter(mapping.values())).study["primary"])
    return (
        f"Average ranks of the arms by mean {metric} on test over "
        f"{comparison.datasets} datasets{lost}, 1 the best. Bars join arms that {test} at level "
        f"{comparison.level:g} does not tell apart."
    )
