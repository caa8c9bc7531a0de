"""Differences to the baseline, ours and published, side by side."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from losslab.analysis.figures.parts import DARK, ORANGE, arm_axis, arm_words, counted, legend_below
from losslab.analysis.frames import StudyFrames
from losslab.analysis.remembering import once
from losslab.analysis.style import COLUMN, new_figure, print_style
from losslab.analysis.tables.published_segmentation import published_rows
from losslab.analysis.tables.results import results_table


@print_style()
def gains_figure(frames: StudyFrames) -> Figure | None:
    """Each arm's gain of mean IoU over the baseline, and the published one, in percentage points.

    Ours: the mean paired difference with its 95 % t interval. None where the study's primary metric
    is not mean IoU, or the baseline or all other arms have no published row.
    """
    table = _gains(frames)
    if table.empty:
        return None
    figure, axes = new_figure(COLUMN, 1.1 + 0.3 * len(table))
    axis = axes[0]
    quoted: dict[str, Any] = {"color": ORANGE, "marker": "D", "mfc": "white", "ms": 4, "ls": ""}
    axis.axvline(0, color="0.6", linewidth=0.7)
    for row, line in enumerate(table.itertuples()):
        ends = np.array([[line.mean - line.low], [line.high - line.mean]])
        axis.errorbar(
            line.mean, row - 0.12, xerr=ends, fmt="o", color=DARK, capsize=2, ms=3.5, linewidth=1.1
        )
        axis.plot(line.published, row + 0.16, **quoted)
    arm_axis(axis, [arm_words(arm) for arm in table["arm"]])
    axis.set_xlabel(f"gain of mean IoU over {arm_words(frames.study['baseline'])}, points")
    handles = [
        Line2D([], [], color=DARK, marker="o", ms=3.5, label="ours, mean and 95 % interval"),
        Line2D([], [], label="published", **quoted),
    ]
    legend_below(figure, handles)
    return figure


def gains_caption(frames: StudyFrames) -> str:
    """What `gains_figure` shows."""
    table = _gains(frames)
    if table.empty:
        return ""
    return (
        f"What each arm's selected configuration gains in mean IoU on test over "
        f"{arm_words(frames.study['baseline'])}, in percentage points: dots are the mean paired "
        f"difference over run seeds with its 95 % t interval ({counted('pairs', table['pairs'])}); "
        f"diamonds the difference of the published numbers ({table['source'].iloc[0]}). "
        f"Dataset and network differ: compare signs and order."
    )


@once
def _gains(frames: StudyFrames) -> pd.DataFrame:
    """Arms with both differences: arm, mean, low, high (points), pairs, published, source."""
    quoted, baseline = published_rows(frames), frames.study["baseline"]
    if frames.study["primary"] != "miou" or baseline not in quoted.index:
        return pd.DataFrame()
    table = results_table(frames, ["miou"])
    table = table[(table["variant"] == "selected") & (table["rule"] == "")]
    table = table[table["arm"].isin(quoted.index) & table["difference_low"].notna()]
    gained = quoted["published_miou"] - quoted.loc[baseline, "published_miou"]
    return pd.DataFrame(
        {
            "arm": table["arm"],
            "mean": 100 * table["difference"],
            "low": 100 * table["difference_low"],
            "high": 100 * table["difference_high"],
            "pairs": table["pairs"].astype(int),
            "published": table["arm"].map(gained),
            "source": quoted["published_source"].iloc[0],
        }
    ).reset_index(drop=True)
