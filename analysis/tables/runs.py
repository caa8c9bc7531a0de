"""From confirmation runs to the values that tables compare: one per replicate.

The replicate is the run seed; where a study repeats its search it is the repeat, a search with its
confirmation, and the runs of a repeat are averaged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.statistics import mean_intervals, paired_differences

RULES = {
    "": "test",
    "tuned threshold": "test_tuned",
    "prior correction": "test_prior_corrected",
}
Key = tuple[str, str, str]  # arm, variant, rule
_LOWER_IS_BETTER = (
    *("loss", "error", "brier", "ece", "divergence", "seconds"),
    *("milliseconds", "flops", "parameters"),
)
FINISHED = ("complete", "diverged")


def direction(frames: StudyFrames, metric: str) -> str:
    """`maximize` or `minimize`: what the study says, else by the metric's name.

    The study gives the primary metric's `direction`, and may give `directions` of others. The name
    decides by its parts: `loss`, `error`, `brier`, `ece`, `divergence` and what a model costs are
    better low.
    """
    name = metric.split("/", 1)[1] if metric.startswith(("test", "val")) else metric
    if name == frames.study["primary"]:
        return frames.study.get("direction", "maximize")
    if name in frames.study.get("directions", {}):
        return frames.study["directions"][name]
    # what follows the slash is a class, called whatever its user likes
    lower = any(part in _LOWER_IS_BETTER for part in name.split("/")[0].split("_"))
    return "minimize" if lower else "maximize"


def primary_column(frames: StudyFrames) -> str:
    """The column of the confirmation frame that holds the primary metric on test."""
    return f"test/{frames.study['primary']}"


def replicate_unit(frames: StudyFrames) -> str:
    """`repeat` where the study repeats its search, else `seed_index`."""
    repeated = int(frames.study.get("repeats") or 1) > 1
    return "repeat" if repeated or len(set(frames.confirmation["repeat"])) > 1 else "seed_index"


def per_seed(frames: StudyFrames, arm: str, variant: str, column: str) -> pd.Series:
    """One metric of an arm's confirmation runs, indexed by replicate; NaN where undefined.

    The replicate is the run seed. Where the study repeats its search, a replicate is a search with
    its confirmation: runs are averaged within each repeat and the index is the repeat.
    """
    runs = finished(frames, arm, variant)
    if column not in runs:
        runs = runs.assign(**{column: math.nan})
    return runs.groupby(replicate_unit(frames))[column].mean().astype(float)


def finished(frames: StudyFrames, arm: str, variant: str) -> pd.DataFrame:
    """The confirmation runs of an arm that came to an end; a diverged one has, at chance level."""
    runs = frames.confirmation
    runs = runs[(runs["arm"] == arm) & (runs["variant"] == variant)]
    return runs[runs["state"].isin(FINISHED)]


def row_name(key: Key) -> str:
    """What a table calls a row: the arm, and what is special about it.

    >>> row_name(("ce", "selected", "")), row_name(("ce", "selected", "tuned threshold"))
    ('ce', 'ce (tuned threshold)')
    """
    arm, variant, rule = key
    shown = rule or ("" if variant == "selected" else variant)
    return f"{arm} ({shown})" if shown else arm


@dataclass(frozen=True)
class Confirmed:
    """All finished confirmation runs of a study, laid out for fast look-ups by metric.

    `runs` has one row per run with `row` (its place along `replicates`, a (repeat, seed) index)
    and `owner` (its place in `owners`, the (arm, variant) pairs); `by_owner` has for each pair the
    `key, run_id, state` of its runs.
    """

    runs: pd.DataFrame
    replicates: pd.MultiIndex
    owners: dict[tuple[str, str], int]
    unit: str
    by_owner: dict[tuple[str, str], pd.DataFrame]

    @classmethod
    def of(cls, frames: StudyFrames) -> "Confirmed":
        """The finished runs of `frames`."""
        runs = frames.confirmation
        runs = runs[runs["state"].isin(FINISHED)]
        place = pd.MultiIndex.from_arrays(
            [runs["repeat"].fillna(0).astype(int), runs["seed_index"].fillna(0).astype(int)],
            names=["repeat", "seed_index"],
        )
        replicates = place.unique().sort_values()
        owner = pd.MultiIndex.from_arrays([runs["arm"], runs["variant"]])
        known = {pair: number for number, pair in enumerate(dict.fromkeys(owner))}
        numbers = [known[pair] for pair in owner]
        runs = runs.assign(row=replicates.get_indexer(place), owner=numbers)
        about = runs.reindex(columns=["key", "run_id", "state"]).fillna({"run_id": ""})
        parts = dict(list(about.groupby(runs["owner"])))
        by_owner = {pair: parts[number] for pair, number in known.items()}
        return cls(runs, replicates, known, replicate_unit(frames), by_owner)

    def values(self, keys: Sequence[Key], column: str) -> pd.DataFrame:
        """One metric, one row per (repeat, seed), one numbered column per key; NaN without a value.

        `column` is of the test split where a key has a rule: the rule says which split fills it.
        """
        matrix = np.full((len(self.replicates), len(keys)), np.nan)
        split, _, name = column.partition("/")
        table: dict[str, np.ndarray] = {}
        for j, (arm, variant, rule) in enumerate(keys):
            # a rule says which split's column it fills; on top of another rule it means nothing
            source = f"{RULES[rule]}/{name}" if split == "test" else column
            if rule and split not in ("test", RULES[rule]):
                continue
            if source not in self.runs or (arm, variant) not in self.owners:
                continue
            if source not in table:
                table[source] = self._spread(source)
            matrix[:, j] = table[source][:, self.owners[arm, variant]]
        return pd.DataFrame(matrix, self.replicates)

    def means(self, values: pd.DataFrame) -> pd.DataFrame:
        """`values` as one row per replicate: the runs of a repeat averaged."""
        if self.unit == "repeat":
            return values.groupby(level="repeat").mean()
        return values.droplevel("repeat")

    def intervals(self, values: pd.DataFrame) -> pd.DataFrame:
        """Mean and t interval over replicates, one row per column of `values`."""
        return mean_intervals(self.means(values))

    def differences(self, values: pd.DataFrame, reference: pd.Series) -> pd.DataFrame:
        """Every column's paired difference to `reference`, one row each.

        Runs are paired by repeat and seed; only then are those of a repeat averaged, so a seed that
        one side lacks does not shift the other's mean.
        """
        other = pd.DataFrame(dict.fromkeys(values.columns, reference))
        if self.unit != "repeat":
            return paired_differences(self.means(values), self.means(other))
        both = values.notna() & other.notna()
        pairs = paired_differences(self.means(values.where(both)), self.means(other.where(both)))
        either = (values.notna() | other.notna()).groupby(level="repeat").any().sum()
        return pairs.assign(dropped=either - pairs["n"])

    def counts(self, keys: Sequence[Key]) -> pd.DataFrame:
        """`present` replicates, `runs` and `diverged` runs of each key, one row each."""
        by_owner = self.runs.groupby("owner", sort=False)
        unit = by_owner[self.unit].nunique() if len(self.runs) else pd.Series(dtype=int)
        diverged = self.runs[self.runs["state"] == "diverged"].groupby("owner").size()
        owners = [self.owners.get(key[:2], -1) for key in keys]
        found = {"present": unit, "runs": by_owner.size(), "diverged": diverged}
        columns = {name: [int(counts.get(o, 0)) for o in owners] for name, counts in found.items()}
        return pd.DataFrame(columns)

    def behind(self, arm: str, variant: str) -> pd.DataFrame:
        """The `key, run_id, state` of the runs of an arm and variant."""
        none = self.runs.iloc[:0].reindex(columns=["key", "run_id", "state"])
        return self.by_owner.get((arm, variant), none)

    def _spread(self, source: str) -> np.ndarray:
        spread = np.full((len(self.replicates), max(len(self.owners), 1)), np.nan)
        given = pd.to_numeric(self.runs[source], errors="coerce").to_numpy(float)
        spread[self.runs["row"], self.runs["owner"]] = given
        return spread
