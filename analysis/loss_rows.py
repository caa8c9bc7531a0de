"""Which rows of panels the figure of a loss has."""

from typing import NamedTuple

import numpy as np

from losslab.analysis.loss_curves import Curves, points
from losslab.analysis.reference_batches import SHIFTED

MOST_ROWS = 8


class Row(NamedTuple):
    """One row of panels: a hyper-parameter, and the target whose curves are drawn."""

    hyperparameter: str
    target: str


def chosen_rows(curves: Curves) -> tuple[list[Row], list[Row]]:
    """The rows that are drawn, at most `MOST_ROWS`, and those of least effect that are left out."""
    active = curves.active()
    if SHIFTED in curves.targets:
        return [Row(name, "") for name in active], []
    rows = [Row(name, target) for name, targets in active.items() for target in targets]
    if len(rows) <= MOST_ROWS:
        return rows, []
    order = sorted(rows, key=lambda row: -_effect(curves, row))
    # One row for each hyper-parameter before a second one for any.
    first = {row.hyperparameter: row for row in reversed(order)}.values()
    kept = set([*first, *(row for row in order if row not in first)][:MOST_ROWS])
    return [row for row in rows if row in kept], [row for row in rows if row not in kept]


def _effect(curves: Curves, row: Row) -> float:
    """The largest change of the gradient over the range, by the gradient's size."""
    values = curves.values(row.hyperparameter)
    ends = [curves.line(*row, value) for value in (values[0], values[-1])]
    margins = ends[0]["margin"]
    at = np.linspace(0.9 * margins.min(), 0.9 * margins.max(), 60)
    low, high = (points(end, "gradient", at) for end in ends)
    return float(np.nanmax(np.abs(low - high)) / np.nanmax(np.abs([low, high])))
