"""The figure of batch norm's drift, where a study has recorded it."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from losslab.analysis.figures.parts import (
    arm_panels,
    arm_words,
    columns_of,
    counted,
    label_outer,
    t_band,
)
from losslab.analysis.frames import StudyFrames
from losslab.analysis.recorded import recorded
from losslab.analysis.style import print_style

#: Below it the axis is linear, since a frozen norm drifts by nothing.
_LINEAR = 0.1
_TICKS = (0, 0.1, 0.3, 1, 3, 10, 30, 100, 1000, 10_000)


@print_style()
def batch_norm_drift_figure(frames: StudyFrames) -> Figure | None:
    """How far running statistics are from where they began, by epoch: mean and 95 % t band.

    Of the confirmation runs of the selected configurations, epoch 0 being before training; over
    all batch norms of the network, see `recorders.batch_norm.BatchNormDrift`. The axis is linear
    up to 0.1 and logarithmic above. None where no arm has recorded it (`training.record:
    [batch_norm]`).
    """
    curves = _curves(frames)
    if not curves:
        return None

    def draw(axis: Axes, arm: str, look: dict) -> None:
        mean, low, high = t_band(curves[arm].to_numpy())
        epochs = curves[arm].columns.to_numpy()
        axis.plot(epochs, mean, **look)
        if len(curves[arm]) > 1:
            low = np.clip(low, 0, None)
            axis.fill_between(epochs, low, high, color=look["color"], alpha=0.15, linewidth=0)

    figure, axes = arm_panels(
        frames, list(curves), draw, lambda arm: arm_words(arm, f"(n = {len(curves[arm])})")
    )
    label_outer(axes, columns_of(axes), "epoch", "drift of the running statistics")
    most = max(float(np.nanmax(t_band(table.to_numpy())[0])) for table in curves.values())
    top = max(1.5 * most, 2 * _LINEAR)
    for axis in axes:
        axis.set_yscale("symlog", linthresh=_LINEAR, linscale=0.4)
        axis.set_ylim(-0.1 * _LINEAR, top)
        axis.yaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if tick <= top]))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
        axis.margins(x=0.02)
    return figure


def batch_norm_drift_caption(frames: StudyFrames) -> str:
    """What `batch_norm_drift_figure` shows."""
    curves = _curves(frames)
    without = [arm for arm in frames.arms if arm not in curves]
    return (
        "How far the running statistics of batch norms are from where they began (epoch 0): root "
        "mean square over all channels of the Wasserstein distance between normal distributions "
        "of the running means and variances, in standard deviations of epoch 0. Confirmation runs "
        f"of the selected configurations, {counted('runs', [len(t) for t in curves.values()])} an "
        "arm: mean, and 95 % t band over run seeds at each epoch by itself. The axis is linear "
        f"up to {_LINEAR} and logarithmic above."
        + (f" Arms without running statistics: {', '.join(without)}." if without else "")
    )


def _curves(frames: StudyFrames) -> dict[str, pd.DataFrame]:
    """Of every arm that has any: one row per run, one column per epoch, from 0 on."""
    return {
        arm: table.reset_index().pivot_table(index="key", columns="epoch", values="all")
        for arm, table in recorded(frames, "batch_norm").items()
    }
