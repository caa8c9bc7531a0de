"""What recorders have measured in the confirmation runs of a study, epoch by epoch."""

import pandas as pd

from losslab.analysis.frames import StudyFrames


def recorded(frames: StudyFrames, recorder: str) -> dict[str, pd.DataFrame]:
    """By arm what a recorder has measured: one row per run and epoch, one column per key.

    Of the confirmation runs of the selected configurations. Rows are indexed by `key` (the run's)
    and `epoch`, which is 0 before the first one; columns are sorted, so that layers stand from the
    input to the output. Arms without any are left out.
    """
    epochs, start, later = frames.epochs, f"initial/{recorder}/", f"record/{recorder}/"
    if not any(str(column).startswith(later) for column in epochs):
        return {}
    epochs = epochs[(epochs["phase"] == "confirm") & (epochs["variant"] == "selected")]
    before = _keys(epochs[epochs["epoch"] == 1].assign(epoch=0), start)
    both = pd.concat([before, _keys(epochs, later)])
    found = {}
    for arm in frames.arms:
        own = both[both["arm"] == arm].drop(columns="arm").astype({"epoch": int})
        own = own.set_index(["key", "epoch"]).sort_index().dropna(axis=1, how="all")
        own = own.dropna(how="all")
        if own.size:
            found[arm] = own[sorted(own)]
    return found


def _keys(epochs: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Runs, epochs and the columns that begin with `prefix`, without it."""
    columns = [str(column) for column in epochs if str(column).startswith(prefix)]
    return epochs[["arm", "key", "epoch", *columns]].rename(
        columns={column: column.removeprefix(prefix) for column in columns}
    )
