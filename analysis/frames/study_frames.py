"""The frames of a study: what they are and what is in their columns."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from losslab.errors import BadInput


@dataclass(frozen=True)
class Tracking:
    """Where a study's runs are in MLflow: the tracking URI and the id of its experiment."""

    uri: str
    experiment_id: str


@dataclass(frozen=True)
class StudyFrames:
    """Everything that analysis knows about one study.

    `study` is the resolved study (`study.json`). The frames, whose columns docs/frames.md explains
    one by one:

    - `trials`: one row per search trial and re-training. `key, run_id, arm, phase` (search |
      select), `trial, repeat, generation, seed_index, run_seed, state` (complete | pruned |
      diverged), `reason, value` (the objective on validation; NaN without one), `judged_epoch,
      epochs, seconds` (wall time), `started, ended` (UTC), and one `params.<path>` column per tuned
      value.
    - `epochs`: one row per epoch of every run, with `key, arm, phase, variant, trial, repeat,
      seed_index, epoch` and one column per recorded metric (`train/loss`, `val/...`).
    - `confirmation`: one row per confirmation run. The columns of `trials`, `variant` (selected |
      defaults), the metrics (`val/...` at the judged epoch, `test/...`, `test_tuned/...`, ...),
      `pairing.<what>` (digests of what the run shared with others) and `outputs` (file of
      per-example outputs, read by `StudyFrames.outputs`).
    - `ledger`: one row per arm with what it spent; see `ledger.ledger_of`.
    - `selected`: one row per search that has selected: `arm, repeat, trial, value, candidates` (how
      many were re-trained), `flags`, and `params.<path>` columns.
    - `arm_table`: one row per arm: `arm, slug, of, level, loss, summary, implicit, baseline,
      budget, tuned`.

    `folder` is the study's folder, or None where the frames came from MLflow; `tracking` says where
    the study is in MLflow, or None where that is not known.

    >>> frames = frames_from_folder("runs/quickstart")                     # doctest: +SKIP
    >>> frames.confirmation.groupby("arm")["test/average_precision"].mean()  # doctest: +SKIP
    """

    study: dict[str, Any]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    confirmation: pd.DataFrame
    ledger: pd.DataFrame
    selected: pd.DataFrame
    arm_table: pd.DataFrame = field(default_factory=pd.DataFrame)
    folder: Path | None = field(default=None, compare=False)
    tracking: Tracking | None = field(default=None, compare=False)
    open_outputs: Callable[[Mapping[str, Any]], Path | None] | None = field(
        default=None, compare=False, repr=False
    )

    @property
    def arms(self) -> list[str]:
        """The arms in the order of the study file, then those only records know."""
        return arm_names(self.study, [*self.trials["arm"], *self.confirmation["arm"]])

    def outputs(self, key: str) -> dict[str, np.ndarray] | None:
        """The per-example arrays of a confirmation run, by its key.

        `val_logits, val_targets, val_ids, test_logits, test_targets, test_ids` and what else the
        run stored (docs/frames.md). None where there are none: the run diverged, the file is gone,
        or it was too large to be attached in MLflow. `BadInput` where no run has this key or its
        file is damaged.
        """
        rows = self.confirmation[self.confirmation["key"] == key]
        if rows.empty:
            raise BadInput(f"no confirmation run has the key {key!r}")
        row = rows.iloc[0]
        if self.open_outputs is None or pd.isna(row["outputs"]):
            return None
        file = self.open_outputs(row.to_dict())
        if file is None:
            return None
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, BadZipFile) as error:
            raise BadInput(f"{file} cannot be read: {error}") from error


def arm_names(study: Mapping[str, Any], recorded: Iterable[str]) -> list[str]:
    """The study's arms in the order of its file, then others that have records."""
    return list(dict.fromkeys([*study.get("arms", {}), *sorted(set(recorded))]))
