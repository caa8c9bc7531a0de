"""Which rows of a column are set bold: the best, and all that are not shown to be worse."""

import numpy as np
import pandas as pd

from losslab.analysis.statistics import holm
from losslab.analysis.tables.runs import Confirmed

LEVEL = 0.05


def best_and_tied(confirmed: Confirmed, values: pd.DataFrame, minimize: bool) -> pd.DataFrame:
    """One row per column of `values`: `is_best, tied_best, p_best, untested`.

    Bold is (1) the best row, (2) every row whose mean paired difference to the best is not
    significant: two-sided paired t-test, Holm-corrected over the rows, p > 0.05. In detail:

    - The best row is the one that beats most others by the mean over their common replicates; with
      complete runs that is the best mean. So a row that has only its easy seeds is not the best.
    - A row that is better on the common replicates is never "worse", whatever its p.
    - Differences that are the same in every replicate have no p; they decide by their sign.
    - A row with fewer than two replicates in common with the best was not tested: it is not bold
      and `untested` says so. With one replicate each nothing is tested, and nothing is bold.
    - A run that diverged is there at chance level, and pulls its row down.
    """
    means = confirmed.means(values).to_numpy(float)
    known = np.isfinite(means).any(axis=0)
    rows = np.arange(len(known))
    best = _best(-means if minimize else means)
    if best is None:
        few = known & (known.sum() > 1)
        untested = np.where(few, "too few runs to test against the best", "")
        nothing = np.zeros(len(known), dtype=bool)
        return _frame(nothing, nothing, np.full(len(known), np.nan), untested)
    table = confirmed.differences(values, values.iloc[:, best])
    difference, pairs = table["difference"].to_numpy(), table["n"].to_numpy()
    corrected = holm(table["p"].where(rows != best)).to_numpy()
    better = (difference < 0) if minimize else (difference > 0)
    tested = pairs >= 2
    tied = (rows == best) | (known & tested & ((corrected > LEVEL) | better))
    few = [f"{n} run{'' if n == 1 else 's'} in common with the best row" for n in pairs]
    untested = np.where(known & ~tested, [f"{text}: not tested against it" for text in few], "")
    return _frame(rows == best, tied, corrected, untested)


def _frame(best: np.ndarray, tied: np.ndarray, p: np.ndarray, untested: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {"is_best": best, "tied_best": tied, "p_best": p, "untested": untested.astype(object)}
    )


def _best(means: np.ndarray) -> int | None:
    """The column that beats most others by its mean over common rows, ties by the plain mean.

    None where no two columns have two rows in common.
    """
    known = np.isfinite(means)
    filled = np.where(known, means, 0.0)
    shared = known.T.astype(float) @ known
    # entry (i, j): the sum of column i over the rows that it has in common with column j
    sums = filled.T @ known.astype(float)
    np.fill_diagonal(shared, 0)
    wins = ((sums > sums.T) & (shared >= 2)).sum(axis=1)
    tested = (shared >= 2).any(axis=1)
    if not tested.any():
        return None
    plain = np.where(known.any(axis=0), filled.sum(axis=0) / np.maximum(known.sum(axis=0), 1), 0)
    order = np.lexsort((plain, wins, tested))
    return int(order[-1])
