"""A study's results as one line per cell, for programs and for LaTeX packages that read tables."""

import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.latex import escape
from losslab.analysis.tables.results import results_table

# The long form's columns, and those of the results table that they come from. Only letters, since
# LaTeX packages make macros or keys of a column's name.
COLUMNS = {
    "study": "study", "row": "row", "arm": "arm", "variant": "variant", "rule": "rule",
    "metric": "metric", "split": "split", "direction": "direction", "mean": "mean", "low": "low",
    "high": "high", "halfwidth": "half_width", "n": "n", "diverged": "diverged", "unit": "unit",
    "missing": "missing", "difference": "difference", "differencelow": "difference_low",
    "differencehigh": "difference_high", "p": "p", "pholm": "p_holm", "pairs": "pairs",
}  # fmt: skip


def long_form(frames: StudyFrames) -> pd.DataFrame:
    """One line per row and metric of the results table; docs/frames.md explains the columns.

    `mean` with the 95 % t interval `low` to `high` over `n` replicates, and for the primary metric
    the paired `difference` to the baseline with its interval and p values.
    """
    table = results_table(frames)
    if table.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    return table[list(COLUMNS.values())].set_axis(list(COLUMNS), axis=1)


def latex_csv(table: pd.DataFrame) -> str:
    r"""A table as a CSV file for pgfplotstable, csvsimple or datatool, whatever is in its cells.

    Texts are escaped and commas stand in braces, since these packages know no quotes; what is
    missing is `nan` among numbers and empty among texts.

    >>> print(latex_csv(pd.DataFrame({"arm": ["a_b, 5 %"], "mean": [float("nan")]})), end="")
    arm,mean
    a\_b{,} 5 \%,nan
    """
    lines = [",".join(table.columns)]
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table]
    for row in table.itertuples(index=False):
        lines.append(",".join(map(_cell, row, numeric)))
    return "".join(f"{line}\n" for line in lines)


def _cell(value: object, number: bool) -> str:
    if pd.isna(value):
        return "nan" if number else ""
    return repr(value) if isinstance(value, float) else escape(str(value)).replace(",", "{,}")
