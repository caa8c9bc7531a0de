"""Figures of generators: samples over the true modes, and what rare modes got."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from losslab.analysis.figures.parts import (
    BLUE,
    LIGHT,
    arm_panels,
    arm_words,
    columns_of,
    counted,
    label_outer,
    legend_below,
    limit_to_lines,
    panel_grid,
    t_band,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.generated import GeneratorRun, generator_runs
from losslab.analysis.style import logarithmic, print_style
from losslab.experiments.adversarial.metrics import COVERED, STANDARD_DEVIATIONS

MOST_ARMS, MOST_SAMPLES = 8, 2000


@print_style()
def samples_figure(frames: StudyFrames) -> Figure | None:
    """Samples of one run of each arm, over circles around the true modes.

    None where the study generates nothing in the plane.
    """
    shown = _shown(frames)
    if not shown:
        return None
    figure, axes, across = panel_grid(len(shown), across=3, ratio=0.9)
    for axis, run in zip(axes, shown, strict=True):
        _draw_samples(axis, run)
        axis.set_title(arm_words(run.arm), loc="left")
    label_outer(axes, across, "first coordinate", "second coordinate")
    handles = [
        Line2D([], [], color=BLUE, marker=".", linestyle="", label="generated sample"),
        Line2D([], [], color="black", marker="o", mfc="none", linestyle="", label="true mode"),
        Line2D([], [], color="black", marker="x", linestyle="", label="not covered"),
    ]
    legend_below(figure, handles, columns=3)
    return figure


def samples_caption(frames: StudyFrames) -> str:
    """What `samples_figure` shows."""
    shown = _shown(frames)
    if not shown:
        return ""
    seeds = sorted({run.seed_index for run in shown})
    left = len(generator_runs(frames)) - len(shown)
    return (
        f"Samples that one run (seed {', '.join(map(str, seeds))}) of the selected configuration "
        f"of each arm generates, the first {min(MOST_SAMPLES, len(shown[0].samples)):,} of "
        f"{len(shown[0].samples):,}. Circles: {STANDARD_DEVIATIONS:g} standard deviations around "
        f"the modes of the test samples, the thicker the more frequent; crossed out where the mode "
        f"gets less than {COVERED:g} of its part. Samples outside the picture are not drawn."
        + (f" {left} more arms are not drawn." if left else "")
    )


@print_style()
def mode_shares_figure(frames: StudyFrames) -> Figure | None:
    """What each mode got of the samples that it should have got, by its frequency.

    None where the study generates nothing.
    """
    runs = generator_runs(frames)
    if not runs:
        return None

    def draw(axis: Axes, arm: str, look: dict) -> None:
        order = _by_frequency(runs[arm][0])
        shares = np.stack([run.shares[order] for run in runs[arm]])
        frequency = _frequencies(runs[arm][0])[order]
        mean, low, high = t_band(shares)
        means.append(mean)
        axis.plot(frequency, mean, marker=".", **look)
        if len(shares) > 1:
            low = np.maximum(low, 0)
            axis.fill_between(frequency, low, high, color=look["color"], alpha=0.15, linewidth=0)

    means: list[np.ndarray] = []
    figure, axes = arm_panels(
        frames, list(runs), draw, lambda arm: arm_words(arm, f"(n = {len(runs[arm])})")
    )
    for axis in axes:
        logarithmic(axis, "x")
        axis.axhline(1, color=LIGHT, linewidth=0.8, zorder=0)
        axis.axhline(COVERED, color=LIGHT, linewidth=0.8, linestyle=":", zorder=0)
    limit_to_lines(axes, np.concatenate([*means, [0.0, 1.0]]), (0, np.inf))
    label_outer(axes, columns_of(axes), "share of the mode in the data", "generated / expected")
    return figure


def mode_shares_caption(frames: StudyFrames) -> str:
    """What `mode_shares_figure` shows."""
    runs = generator_runs(frames)
    if not runs:
        return ""
    return (
        "Samples that each mode gets, divided by what it should get, against its share of the "
        f"test samples, {counted('runs', [len(own) for own in runs.values()])} an arm of the "
        "selected configurations: mean, and 95 % t band over run seeds at each mode by itself. "
        f"The grey line is 1; the dotted one {COVERED:g}, from which a mode counts as covered."
    )


def _shown(frames: StudyFrames) -> list[GeneratorRun]:
    first = [runs[0] for runs in generator_runs(frames).values()]
    return [run for run in first if run.samples.shape[1] == 2][:MOST_ARMS]


def _frequencies(run: GeneratorRun) -> np.ndarray:
    return run.modes.counts[:-1] / run.modes.counts.sum()


def _by_frequency(run: GeneratorRun) -> np.ndarray:
    return np.argsort(-_frequencies(run), kind="stable")


def _draw_samples(axis: Axes, run: GeneratorRun) -> None:
    axis.plot(*run.samples[:MOST_SAMPLES].T, ".", color=BLUE, ms=1.2, alpha=0.5, rasterized=True)
    radius = STANDARD_DEVIATIONS * run.modes.spread
    widths = 0.4 + 1.6 * _frequencies(run) / _frequencies(run).max()
    for centre, width, share in zip(run.modes.centres, widths, run.shares, strict=True):
        axis.add_patch(Circle(centre, radius, fill=False, color="black", linewidth=width))
        if share < COVERED:
            axis.plot(*centre, "x", color="black", ms=6, mew=0.9)
    low, high = run.real.min(axis=0), run.real.max(axis=0)
    middle, half = (low + high) / 2, 0.62 * float((high - low).max())
    axis.set(
        xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half),
        aspect="equal",
    )  # fmt: skip
