"""Which runs are behind each cell of a printed table: the sidecar `<table>.sources.csv`."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from losslab.analysis.layouts import Layout

COLUMNS = ["row", "column", "key", "run_id", "state"]


def cell_sources(
    layout: Layout, behind: Callable[[int, int], Sequence[pd.DataFrame]]
) -> pd.DataFrame:
    """One line per cell and run: `row, column, key, run_id, state`.

    `row` is the text of the row's first cell and `column` that of the column's head, as printed;
    `behind(i, j)` gives the frames of runs behind the cell in row i and column j. `run_id` is the
    MLflow run, empty where the frames do not know it. Cells without runs have no line.
    """
    found: list[tuple[str, str, pd.DataFrame]] = []
    for i, row in enumerate(layout.rows):
        for j in range(1, len(layout.header)):
            if row[j].text:
                found += [(row[0].text, layout.header[j], runs) for runs in behind(i, j)]
    lengths = [len(runs) for _, _, runs in found]
    columns = {
        "row": np.repeat(np.array([row for row, _, _ in found], dtype=object), lengths),
        "column": np.repeat(np.array([column for _, column, _ in found], dtype=object), lengths),
    }
    arrays: dict[tuple[int, str], np.ndarray] = {}
    for name in ("key", "run_id", "state"):
        for _, _, runs in found:
            # the same runs are behind many cells
            if (id(runs), name) not in arrays:
                arrays[id(runs), name] = _texts(runs, name)
        parts = [arrays[id(runs), name] for _, _, runs in found]
        columns[name] = np.concatenate(parts) if parts else np.array([], dtype=object)
    return pd.DataFrame(columns, columns=COLUMNS)


def _texts(runs: pd.DataFrame, name: str) -> np.ndarray:
    if name not in runs:
        return np.full(len(runs), "", dtype=object)
    return runs[name].fillna("").to_numpy(object)
