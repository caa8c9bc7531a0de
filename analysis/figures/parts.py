"""What the figures of studies share: interval bars, axes of arms, panels, looks and words."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losslab.analysis.frames import StudyFrames
from losslab.analysis.statistics import mean_interval
from losslab.analysis.statistics.columnwise import mean_intervals
from losslab.analysis.style import COLUMN, PAGE, line_looks, new_figure, plain

DARK, LIGHT, PALE = "0.15", "0.6", "0.85"
BLUE, ORANGE, GREEN, RED = sns.color_palette("colorblind")[:4]
OVERLAID = 4  # lines that one panel holds and a reader still tells apart
MOST_POINTS = 400  # of one row or panel; more hide each other and make files of megabytes
_MARKERS = "osD^vP"
# metrics that lie between 0 and 1, whatever an interval says
_SHARES = {
    "average_precision", "roc_auc", "balanced_accuracy", "accuracy", "macro_f1", "recall", "ece",
    "accuracy_many", "accuracy_medium", "accuracy_few", "ap", "ap50", "ap75", "ap_small",
    "ap_medium", "ap_large", "ar_100", "anchor_ap", "mode_coverage", "high_quality",
    "miou", "pixel_accuracy", "iou",
}  # fmt: skip

Draw = Callable[[Axes, str, dict[str, Any]], None]


def arm_panels(
    frames: StudyFrames,
    arms: Sequence[str],
    draw: Draw,
    label: Callable[[str], str],
    *,
    height: float = 2.5,
    title: str | None = None,
    notes: Sequence[Line2D] = (),
) -> tuple[Figure, list[Axes]]:
    """One line per arm: all in one panel up to four arms, else a panel each beside the baseline.

    `draw(axis, arm, look)` draws one arm, `label(arm)` names it. In panels of their own the arms
    are blue and the baseline stands behind each in grey: more than four lines with bands on one
    axis cannot be followed. `notes` are further entries of the legend, `title` its heading.
    Gives the figure and its axes; labels of the axes are left to the caller (`label_outer`).
    """
    if len(arms) <= OVERLAID:
        figure, axes = new_figure(COLUMN, height)
        handles = []
        for arm, look in zip(arms, arm_looks(arms), strict=True):
            draw(axes[0], arm, look)
            handles.append(Line2D([], [], label=label(arm), **look))
        legend_below(figure, [*handles, *notes], title, columns=2 if len(handles) > 1 else 1)
        return figure, axes
    baseline = frames.study["baseline"]
    figure, axes, _ = panel_grid(len(arms), ratio=0.8)
    grey: dict[str, Any] = {"color": LIGHT, "linestyle": (0, (4, 1.5)), "linewidth": 1.0}
    for axis, arm in zip(axes, arms, strict=True):
        if arm != baseline and baseline in arms:
            draw(axis, baseline, grey)
        draw(axis, arm, {"color": BLUE, "linestyle": "-"})
        axis.set_title(label(arm), loc="left")
    handles = [Line2D([], [], color=BLUE, label="arm named above the panel")]
    if baseline in arms:
        handles.append(Line2D([], [], label=f"baseline: {arm_words(baseline)}", **grey))
    legend_below(figure, [*handles, *notes], title, columns=4)
    return figure, axes


def panel_grid(
    count: int, *, across: int = 4, ratio: float = 0.85, share: bool = True
) -> tuple[Figure, list[Axes], int]:
    """`count` equal panels on the page's width, at most `across` in a row; the rest is removed.

    `ratio` is a panel's height by its width. Gives figure, axes and how many stand in a row.
    """
    across = min(across, count)
    if count > across:  # 5 in 3 + 2 rather than 4 + 1
        across = -(-count // -(-count // across))
    down = -(-count // across)
    width = PAGE if across > 2 else (COLUMN if across == 1 else PAGE * 0.72)
    height = 0.8 + down * (0.28 + ratio * width / across)
    figure, axes = new_figure(width, height, down, across, sharex=share, sharey=share)
    for axis in axes[count:]:
        axis.remove()
    for position, axis in enumerate(axes[:count]):
        if position + across >= count:  # nothing below it in its column
            axis.tick_params(labelbottom=True)
    return figure, axes[:count], across


def label_outer(axes: Sequence[Axes], across: int, xlabel: str, ylabel: str) -> None:
    """Axis labels at the bottom of each column, and one at the left for all rows."""
    for position, axis in enumerate(axes):
        if position + across >= len(axes):
            axis.set_xlabel(xlabel)
    if len(axes) > across:
        figure = axes[0].get_figure()
        assert isinstance(figure, Figure)
        figure.supylabel(ylabel, fontsize=8)
    else:
        axes[0].set_ylabel(ylabel)


def columns_of(axes: Sequence[Axes]) -> int:
    """How many of the axes stand in the first row."""
    spec = axes[0].get_subplotspec()
    return min(len(axes), spec.get_gridspec().ncols if spec else 1)


def arm_looks(arms: Sequence[str]) -> list[dict[str, Any]]:
    """Colour, dashes and marker of every arm; all different without colour, too."""
    return line_looks(len(arms))


def markers(count: int) -> list[str]:
    """`count` markers, in turn."""
    return [_MARKERS[i % len(_MARKERS)] for i in range(count)]


def t_bounds(values: pd.Series | np.ndarray) -> tuple[float, float]:
    """The 95 % t interval of the mean; the mean twice where there is one value."""
    estimate = mean_interval(values)
    if np.isnan(estimate.low):
        return estimate.mean, estimate.mean
    return estimate.low, estimate.high


def t_band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and 95 % t interval of every column of (replicates, points), NaN left out.

    Without a second value the interval is the mean itself: a line without a band.
    """
    table = mean_intervals(pd.DataFrame(np.atleast_2d(np.asarray(values, dtype=float))))
    mean = table["mean"].to_numpy(float)
    ends = (np.where(table[end].isna(), mean, table[end]) for end in ("low", "high"))
    return (mean, *ends)


def metric_bounds(metric: str) -> tuple[float, float]:
    """The least and the greatest value of a metric; infinite where they are not known.

    >>> metric_bounds("recall/7"), metric_bounds("log_loss"), metric_bounds("mine:score")
    ((0.0, 1.0), (0.0, inf), (-inf, inf))
    """
    if metric.split("/")[0] in _SHARES:
        return 0.0, 1.0
    return (0.0 if metric in ("log_loss", "brier", "mode_divergence") else -np.inf), np.inf


def limit_to_lines(
    axes: Sequence[Axes], values: np.ndarray, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> None:
    """A vertical range that shows `values`, and of `bounds` no more than their edge.

    The lines decide: an interval of few replicates may be many times as wide.
    """
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    space = 0.08 * (high - low) or 0.05
    edge = 0.15 * space  # a line on the edge is drawn whole
    for axis in axes:
        axis.set_ylim(max(low - space, bounds[0] - edge), min(high + space, bounds[1] + edge))


def interval_bar(
    axis: Axes,
    values: pd.Series,
    height: float,
    marker: str = "|",
    color: Any = DARK,
) -> None:
    """Mean and 95 % t interval of `values` as a horizontal bar at `height`."""
    estimate = mean_interval(values)
    width = 0.0 if np.isnan(estimate.half_width) else estimate.half_width
    axis.errorbar(
        estimate.mean, height, xerr=width, fmt=marker, color=color, capsize=2, linewidth=1.1,
        ms=8 if marker == "|" else 4,
    )  # fmt: skip


def arm_axis(axis: Axes, labels: Sequence[str]) -> None:
    """A vertical axis with one row per label, the first at the top."""
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", linewidth=0.4, color="0.9")
    axis.set_axisbelow(True)


def legend_below(
    figure: Figure, handles: Sequence[Line2D], title: str | None = None, columns: int = 2
) -> None:
    """One legend for the whole figure, under it."""
    columns = min(columns, len(handles))
    if columns:
        figure.legend(
            handles=list(handles), loc="outside lower center", ncols=columns, title=title,
            columnspacing=1.2,
        )  # fmt: skip


def thinned(frame: pd.DataFrame, most: int = MOST_POINTS) -> pd.DataFrame:
    """At most `most` rows, evenly out of their order: what a panel can show."""
    if len(frame) <= most:
        return frame
    return frame.iloc[np.linspace(0, len(frame) - 1, most).round().astype(int)]


def confirmed(frames: StudyFrames, arm: str, variant: str = "selected") -> pd.DataFrame:
    """An arm's confirmation runs."""
    runs = frames.confirmation
    return runs[(runs["arm"] == arm) & (runs["variant"] == variant)]


def any_diverged(frames: StudyFrames) -> bool:
    """Whether any confirmation run diverged."""
    return bool((frames.confirmation["state"] == "diverged").any())


def counted(word: str, numbers: Sequence[int]) -> str:
    """`n = 5 runs`, or `n = 3 to 5 runs` where the arms differ.

    >>> counted("runs", [5, 5]), counted("runs", [5, 3]), counted("runs", [1])
    ('n = 5 runs', 'n = 3 to 5 runs', 'n = 1 run')
    """
    low, high = min(numbers, default=0), max(numbers, default=0)
    word = word.removesuffix("s") if high == 1 == low else word
    return f"n = {low:,} {word}" if low == high else f"n = {low:,} to {high:,} {word}"


def short(name: str, most: int = 24) -> str:
    """A name in one line of at most `most` characters: its beginning and its end.

    >>> short("focal"), short("a name that is far too long for one line")
    ('focal', 'a name that …or one line')
    """
    name = " ".join(str(name).split())
    if len(name) <= most:
        return name
    return f"{name[: most // 2].rstrip()} …{name[-(most // 2 - 1) :]}"


def arm_words(arm: str, extra: str = "") -> str:
    """An arm's name as a label, two lines at most, with `extra` such as its n behind it."""
    unbroken = extra.replace(" ", "\N{NO-BREAK SPACE}")
    return plain(f"{short(arm, 46)} {unbroken}".strip())


def class_total(frames: StudyFrames) -> int:
    """How many classes the study's dataset has; two where it does not say."""
    return len(frames.study.get("dataset", {}).get("class_names") or [0, 1])


def sentence(words: str) -> str:
    """With a capital first letter, and the others as they are.

    >>> sentence("average precision"), sentence("ROC AUC")
    ('Average precision', 'ROC AUC')
    """
    return words[:1].upper() + words[1:]


def minimizes(frames: StudyFrames) -> bool:
    """Whether the primary metric is better low."""
    return frames.study.get("direction", "maximize") == "minimize"


def parameter_word(path: str) -> str:
    """A hyper-parameter as a label: `training.learning_rate` is `learning rate`.

    >>> parameter_word("params.training.learning_rate"), parameter_word("loss.gamma")
    ('learning rate', 'gamma')
    """
    return plain(path.removeprefix("params.").rsplit(".", 1)[-1].replace("_", " "), 40)
