"""The results table of a study: what each arm reached, and how sure one can be."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.statistics import holm
from losslab.analysis.tables.bold import best_and_tied
from losslab.analysis.tables.runs import RULES, Confirmed, Key, direction, primary_column, row_name

# metrics of the ranking or of the probabilities: no decision rule changes them
THRESHOLD_FREE = ("average_precision", "roc_auc", "log_loss", "calibration_error", "brier", "ece")
_USUAL = ("balanced_accuracy", "roc_auc", "macro_f1", "log_loss", "brier", "ece")
# tasks in which nothing is decided by a threshold
_UNDECIDED = ("detection", "adversarial")
_PREFIXES = ("test/", "test_", "val/")


def results_table(frames: StudyFrames, metrics: list[str] | None = None) -> pd.DataFrame:
    """Every row of a study's results for every metric, tidy: one line per row and metric.

    Rows are each arm's selected configuration, each arm at its defaults, and the baseline arm with
    the threshold tuned on validation and with post-hoc prior correction (the standing baseline).
    `metrics` are names as the study uses them (`average_precision`: on test, at 0.5 or argmax) or
    with their split (`test_tuned/balanced_accuracy`); by default everything recorded on test.

    The columns of `estimates`, and for the primary metric also `difference` to the baseline arm's
    selected configuration with `difference_low, difference_high, p, p_holm, pairs, pairs_dropped,
    difference_missing`. Holm's correction is over the arms, separately for selected configurations,
    for defaults, and for the baseline's decision rules: these are different questions.
    """
    confirmed = Confirmed.of(frames)
    keys = row_keys(frames)
    table = estimates(frames, confirmed, keys, metric_columns(frames, metrics))
    return _with_differences(frames, confirmed, table, keys) if len(table) else table


def estimates(
    frames: StudyFrames, confirmed: Confirmed, keys: Sequence[Key], columns: Sequence[str]
) -> pd.DataFrame:
    """What the rows `keys` reached in `columns`, tidy; bold is decided among these rows.

    Columns: `study, row, arm, variant` (selected | defaults), `rule` ("" | tuned threshold | prior
    correction), `is_baseline, metric, split, direction` (maximize | minimize), `is_primary`;
    `mean, low, high, half_width` of the 95 % t interval over replicates, `n` replicates with a
    value, `dropped` with an undefined one, `diverged` runs (counted in the mean, at chance level),
    `runs`, `unit` (seed_index | repeat), `seeds` and `repeats` planned, `missing` (the reason where
    there is no mean or no interval); `is_best, tied_best, p_best, untested`: see `bold`.
    """
    if not (columns and keys):
        return pd.DataFrame()
    counts = confirmed.counts(keys)
    about = pd.DataFrame([_about(frames, confirmed, key) for key in keys])
    parts: list[dict[str, np.ndarray]] = []
    for column in columns:
        values = confirmed.values(keys, column)
        better = direction(frames, column)
        found = {name: line.to_numpy() for name, line in confirmed.intervals(values).items()}
        reasons = zip(
            keys, found["n"], found.pop("reason"), counts["runs"], counts["diverged"], strict=True
        )
        split, _, name = column.partition("/")
        same: dict[str, str | bool] = {"metric": name, "split": split, "direction": better}
        same |= {"is_primary": column == primary_column(frames)}
        parts.append(
            {
                **{key: np.full(len(keys), value) for key, value in same.items()},
                **found,
                "dropped": np.maximum(counts["present"] - found["n"], 0),
                "missing": np.array([_missing(*r, column=column) for r in reasons], dtype=object),
                "diverged": counts["diverged"].to_numpy(),
                "runs": counts["runs"].to_numpy(),
                **best_and_tied(confirmed, values, better == "minimize"),
            }
        )
    table = pd.DataFrame({name: np.concatenate([p[name] for p in parts]) for name in parts[0]})
    repeated = pd.concat([about] * len(columns), ignore_index=True)
    return pd.concat([repeated, table], axis=1)


def row_keys(frames: StudyFrames) -> list[Key]:
    """The rows of the results table, in its order; defaults where the study confirms them.

    Detections are ranked and samples are generated: where nothing is decided, cross-entropy has no
    decision rules.
    """
    baseline, arms = frames.study["baseline"], frames.arms
    plain = frames.study.get("standing", baseline)
    planned = frames.study.get("resolved", {}).get("confirm", {}).get("defaults", True)
    defaults = planned or "defaults" in set(frames.confirmation["variant"])
    standing = [(plain, "selected", rule) for rule in RULES if rule]
    decided = frames.study.get("dataset", {}).get("task") not in _UNDECIDED
    return [
        *((arm, "selected", "") for arm in arms),
        *((arm, "defaults", "") for arm in arms if defaults),
        *(standing if plain in arms and decided else []),
    ]


def metric_columns(frames: StudyFrames, metrics: list[str] | None = None) -> list[str]:
    """Columns of the confirmation frame, the primary metric first, then the study's order."""
    if metrics is not None:
        return [name if name.startswith(_PREFIXES) else f"test/{name}" for name in metrics]
    study = frames.study
    asked = [study["primary"], study.get("decision"), *study.get("metrics", []), *_USUAL]
    known = [f"test/{name}" for name in asked if name]
    recorded = [c for c in frames.confirmation.columns if c.startswith("test/")]
    tuned = [c for c in frames.confirmation.columns if c.startswith("test_tuned/")]
    wanted = [c for c in known if c in recorded or c == known[0]]
    rest = sorted((c for c in recorded if c not in wanted), key=_natural)
    return list(dict.fromkeys([*wanted, *rest, *tuned]))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts recall/10 behind recall/9."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in name.split("/")]


def _about(frames: StudyFrames, confirmed: Confirmed, key: Key) -> dict:
    return {
        "study": frames.study["study"],
        "row": row_name(key),
        "arm": key[0],
        "variant": key[1],
        "rule": key[2],
        "is_baseline": key == (frames.study["baseline"], "selected", ""),
        "unit": confirmed.unit,
        "seeds": int(frames.study.get("seeds") or 0),
        "repeats": int(frames.study.get("repeats") or 1),
    }


def _missing(key: Key, n: int, reason: str, runs: int, diverged: int, *, column: str) -> str:
    if runs == 0:
        return "no confirmation run yet"
    if n:
        return reason
    split, _, name = column.partition("/")
    if key[2] and split not in ("test", RULES[key[2]]):
        return "a row with a decision rule of its own"
    if key[2] == "tuned threshold" and name.startswith(THRESHOLD_FREE):
        return "does not depend on the threshold"
    if key[2] == "prior correction":
        return "recorded for plain cross-entropy only"
    return "every run diverged" if diverged == runs else "not recorded"


def _with_differences(
    frames: StudyFrames, confirmed: Confirmed, table: pd.DataFrame, keys: Sequence[Key]
) -> pd.DataFrame:
    names = ("difference", "difference_low", "difference_high", "p", "p_holm")
    table[list(names)] = math.nan
    table["pairs"] = table["pairs_dropped"] = pd.Series(pd.NA, index=table.index, dtype="Int64")
    table["difference_missing"] = ""
    baseline = (frames.study["baseline"], "selected", "")
    rows = table.index[table["is_primary"] & ~table["is_baseline"]]
    if baseline not in keys or rows.empty:
        return table
    others = [key for key in keys if key != baseline]
    values = confirmed.values(others, primary_column(frames))
    reference = confirmed.values([baseline], primary_column(frames)).iloc[:, 0]
    found = confirmed.differences(values, reference).set_axis(rows)
    table.loc[rows, ["difference", "difference_low", "difference_high", "p"]] = found[
        ["difference", "low", "high", "p"]
    ].to_numpy()
    table.loc[rows, "pairs"] = found["n"]
    table.loc[rows, "pairs_dropped"] = found["dropped"]
    table.loc[rows, "difference_missing"] = found["reason"]
    for _, family in table.loc[rows].groupby(["variant", table["rule"] != ""]):
        table.loc[family.index, "p_holm"] = holm(family["p"])
    return table
