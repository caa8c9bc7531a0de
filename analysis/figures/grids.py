"""The class-balanced paper's heat maps, out of one's own runs."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from losslab.analysis.figures.levels import level_numbers
from losslab.analysis.figures.parts import counted
from losslab.analysis.frames import StudyFrames
from losslab.analysis.sweeps import sweep_values
from losslab.analysis.tables import per_seed

Mapped = Mapping[str, StudyFrames]
# class-balanced losses and what they are without weights, which is beta 0
_UNWEIGHTED = {"class_balanced_ce": "ce", "class_balanced_focal": "focal"}
_COLUMNS = ["imbalance_factor", "loss", "gamma", "beta", "error_pct", "n"]


def grid_table(mapping: Mapped) -> pd.DataFrame:
    """Test errors (%) of the arms that fix beta, at every level of the imbalance.

    One row per level and arm: `imbalance_factor, loss, gamma` (NaN where the loss has none),
    `beta, error_pct, n`, as `class_balanced_figures.grid_figure` takes them. Arms are
    class-balanced losses with a fixed `one_minus_beta`, and the losses without weights as beta 0;
    those that tune beta or gamma are left out. The error is 100 (1 − accuracy), mean over n
    replicates: accuracy must be among the study's metrics. Empty without levels that are numbers.
    """
    rows = []
    for name, factor in (level_numbers(mapping) or {}).items():
        frames = mapping[name]
        if "test/accuracy" not in frames.confirmation:
            continue
        rates, gammas = (sweep_values(frames, p) for p in ("one_minus_beta", "gamma"))
        for arm in frames.arms:
            settings = frames.study["arms"][arm]
            loss = str(((settings.get("config") or {}).get("loss") or {}).get("name"))
            tuned = {path.rsplit(".", 1)[-1] for path in settings.get("space", {})}
            accuracy = per_seed(frames, arm, "selected", "test/accuracy").dropna()
            known = loss in _UNWEIGHTED.values() or (loss in _UNWEIGHTED and arm in rates)
            if not known or "gamma" in tuned or accuracy.empty:
                continue
            beta = 1 - rates[arm] if loss in _UNWEIGHTED else 0.0
            error = 100 * (1 - accuracy.mean())
            row = (factor, _UNWEIGHTED.get(loss, loss), gammas.get(arm, float("nan")))
            rows.append((*row, round(beta, 12), error, len(accuracy)))
    return pd.DataFrame(rows, columns=_COLUMNS)


def grid_of_runs_figure(mapping: Mapped) -> Figure | None:
    """Figures 9 and 10 of Cui et al. 2019 for one's own arms: error over loss and beta, by level.

    None where no loss has two values of beta, or two arms have the same loss, gamma and beta.
    """
    from losslab.analysis.class_balanced_figures import grid_figure  # PyTorch takes two seconds

    table = grid_table(mapping)
    same = table.duplicated(["imbalance_factor", "loss", "gamma", "beta"]).any()
    if table["beta"].nunique() < 2 or same:
        return None
    return grid_figure(table, f"mean, {counted('runs', table['n'].tolist())} a cell")


def grid_of_runs_caption(mapping: Mapped) -> str:
    """What `grid_of_runs_figure` shows."""
    return (
        "Classification error on test (%) by loss and beta of the class-balanced weights (0: "
        "none), one panel for each imbalance, after Figures 9 and 10 of Cui et al. 2019: means, "
        f"{counted('runs', grid_table(mapping)['n'].tolist())} a cell; the lowest of a panel is "
        "bold and dark, which is no decision between them."
    )
