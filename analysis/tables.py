"""The results table of a study: what each arm reached, and how sure one can be.

`results_table` gives one tidy frame with everything; `display_table` and `typeset.py` turn it
into what people read.
"""

import math
from dataclasses import asdict

import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.statistics import compare_to_baseline, holm, mean_interval, paired_difference

RULES = {
    "": "test",
    "tuned threshold": "test_tuned",
    "prior correction": "test_prior_corrected",
}
# metrics of the ranking or of the probabilities: no decision rule changes them
THRESHOLD_FREE = ("average_precision", "roc_auc", "log_loss", "calibration_error", "brier", "ece")
_USUAL = ("balanced_accuracy", "roc_auc", "macro_f1", "log_loss", "brier", "ece")
_LOWER_IS_BETTER = ("loss", "error", "brier", "ece", "seconds")


def results_table(frames: StudyFrames, metrics: list[str] | None = None) -> pd.DataFrame:
    """Every row of a study's results for every metric, tidy: one line per row and metric.

    Rows are each arm's selected configuration, each arm at its defaults, and the baseline arm with
    the threshold tuned on validation and with post-hoc prior correction (the standing baseline).
    `metrics` are names as the study uses them (`average_precision`: on test, at 0.5 or argmax) or
    with their split (`test_tuned/balanced_accuracy`); by default everything recorded on test.

    Columns: `study, row, arm, variant` (selected | defaults), `rule` ("" | tuned threshold | prior
    correction), `is_baseline, metric, split, direction` (maximize | minimize), `is_primary`;
    `mean, low, high, half_width` of the 95 % t interval over run seeds, `n` runs, `dropped`
    undefined values, `diverged` runs (counted in the mean, at chance level), `seeds` planned,
    `missing` (the reason where there is no mean or no interval); `tied_best` (the best mean, or a
    Holm-corrected paired t-test against the best row has p > .05).
    For the primary metric also `difference` to the baseline arm's selected configuration with
    `difference_low, difference_high, p, p_holm, pairs, pairs_dropped, difference_missing`. Holm's
    correction is over the arms, separately for selected configurations, for defaults, and for the
    baseline's decision rules: these are different questions.
    """
    columns = _metric_columns(frames, metrics)
    values = {key: _row_values(frames, key, columns) for key in _row_keys(frames)}
    states = {key: _finished(frames, *key[:2])["state"] for key in values}
    lines = []
    for column in columns:
        series = {key: frame[column] for key, frame in values.items()}
        tied = _tied_best(series, direction(frames, column) == "minimize")
        for key, by_seed in series.items():
            lines.append(
                {
                    **_describe(frames, key, column),
                    **_estimate(frames, key, column, by_seed, states[key]),
                    "tied_best": key in tied,
                }
            )
    table = pd.DataFrame(lines)
    return _with_differences(frames, table, values) if len(table) else table


def direction(frames: StudyFrames, metric: str) -> str:
    """`maximize` or `minimize`: what the study says, else by the metric's name.

    The study gives the primary metric's `direction`, and may give `directions` of others. The name
    decides by its parts: `loss`, `error`, `brier`, `ece` and `seconds` are better low.
    """
    name = metric.split("/", 1)[1] if metric.startswith(("test", "val")) else metric
    if name == frames.study["primary"]:
        return frames.study.get("direction", "maximize")
    if name in frames.study.get("directions", {}):
        return frames.study["directions"][name]
    # what follows the slash is a class, called whatever its user likes
    lower = any(part in _LOWER_IS_BETTER for part in name.split("/")[0].split("_"))
    return "minimize" if lower else "maximize"


def per_seed(frames: StudyFrames, arm: str, variant: str, column: str) -> pd.Series:
    """One metric of an arm's confirmation runs, indexed by replicate; NaN where undefined.

    The replicate is the run seed. Where the study repeats its search, a replicate is a search with
    its confirmation: runs are averaged within each repeat and the index is the repeat.
    """
    runs = _finished(frames, arm, variant)
    if column not in runs:
        runs = runs.assign(**{column: math.nan})
    return runs.groupby(_replicate(frames))[column].mean().astype(float)


def compared_arms(frames: StudyFrames) -> pd.DataFrame:
    """Every arm's selected configuration against the baseline's, on the primary test metric.

    One row per other arm; the columns of `statistics.compare_to_baseline`.
    """
    column = f"test/{frames.study['primary']}"
    values = {arm: per_seed(frames, arm, "selected", column) for arm in frames.arms}
    frame = pd.DataFrame(values).astype(float)
    return compare_to_baseline(frame, frames.study["baseline"])


def _finished(frames: StudyFrames, arm: str, variant: str) -> pd.DataFrame:
    runs = frames.confirmation
    runs = runs[(runs["arm"] == arm) & (runs["variant"] == variant)]
    return runs[runs["state"].isin(["complete", "diverged"])]


def _replicate(frames: StudyFrames) -> str:
    return "repeat" if len(set(frames.confirmation["repeat"])) > 1 else "seed_index"


Key = tuple[str, str, str]  # arm, variant, rule


def _row_keys(frames: StudyFrames) -> list[Key]:
    baseline, arms = frames.study["baseline"], frames.arms
    plain = frames.study.get("standing", baseline)
    standing = [(plain, "selected", rule) for rule in RULES if rule]
    return [
        *((arm, "selected", "") for arm in arms),
        *((arm, "defaults", "") for arm in arms),
        *(standing if plain in arms else []),
    ]


def _metric_columns(frames: StudyFrames, metrics: list[str] | None) -> list[str]:
    """Columns of the confirmation frame, the primary metric first, then the study's order."""
    if metrics is not None:
        prefixes = ("test/", "test_", "val/")
        return [name if name.startswith(prefixes) else f"test/{name}" for name in metrics]
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
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in name.split("/")]


def _row_values(frames: StudyFrames, key: Key, columns: list[str]) -> dict[str, pd.Series]:
    arm, variant, rule = key
    runs = _finished(frames, arm, variant)
    unit = _replicate(frames)
    means = runs.groupby(unit)[[c for c in runs if "/" in c]].mean()
    found = {}
    for column in columns:
        split, _, name = column.partition("/")
        # a rule says which split's column it fills; on top of another rule it means nothing
        source = f"{RULES[rule]}/{name}" if split == "test" else column
        known = source in means and not (rule and split not in ("test", RULES[rule]))
        found[column] = means[source] if known else pd.Series(math.nan, index=means.index)
    return found


def _describe(frames: StudyFrames, key: Key, column: str) -> dict:
    arm, variant, rule = key
    split, _, name = column.partition("/")
    shown = rule or ("" if variant == "selected" else variant)
    return {
        "study": frames.study["study"],
        "row": f"{arm} ({shown})" if shown else arm,
        "arm": arm,
        "variant": variant,
        "rule": rule,
        "is_baseline": key == (frames.study["baseline"], "selected", ""),
        "metric": name,
        "split": split,
        "direction": direction(frames, column),
        "is_primary": column == f"test/{frames.study['primary']}",
    }


def _estimate(
    frames: StudyFrames, key: Key, column: str, by_seed: pd.Series, states: pd.Series
) -> dict:
    estimate = asdict(mean_interval(by_seed))
    missing = estimate.pop("reason")
    if states.empty:
        missing = "no confirmation run yet"
    elif estimate["n"] == 0:
        name = column.partition("/")[2]
        free = key[2] == "tuned threshold" and name.startswith(THRESHOLD_FREE)
        missing = "does not depend on the threshold" if free else "not recorded"
    return {
        **estimate,
        "diverged": int((states == "diverged").sum()),
        "seeds": int(frames.study.get("seeds") or 0),
        "missing": missing,
    }


def _tied_best(series: dict[Key, pd.Series], minimize: bool) -> set[Key]:
    """The row with the best mean, and those a paired test does not tell from it."""
    means = {key: by_seed.mean() for key, by_seed in series.items() if by_seed.notna().any()}
    if not means:
        return set()
    best = (min if minimize else max)(means, key=lambda key: means[key])
    p = pd.Series(
        {
            position: paired_difference(series[key], series[best]).p
            for position, key in enumerate(means)
            if key != best
        },
        dtype=float,
    )
    corrected, keys = holm(p), list(means)
    return {best} | {keys[position] for position in corrected.index[corrected > 0.05]}


def _with_differences(
    frames: StudyFrames, table: pd.DataFrame, values: dict[Key, dict[str, pd.Series]]
) -> pd.DataFrame:
    reference_key = (frames.study["baseline"], "selected", "")
    column = f"test/{frames.study['primary']}"
    names = ("difference", "difference_low", "difference_high", "p", "p_holm")
    table[list(names)] = math.nan
    table["pairs"] = table["pairs_dropped"] = pd.Series(pd.NA, index=table.index, dtype="Int64")
    table["difference_missing"] = ""
    reference = values.get(reference_key, {}).get(column)
    if reference is None:
        return table
    rows = table["is_primary"] & ~table["is_baseline"]
    for index in table.index[rows]:
        key = tuple(table.loc[index, ["arm", "variant", "rule"]])
        result = paired_difference(values[key][column], reference)
        table.loc[index, ["difference", "difference_low", "difference_high", "p"]] = [
            result.difference,
            result.low,
            result.high,
            result.p,
        ]
        table.loc[index, ["pairs", "pairs_dropped"]] = [result.n, result.dropped]
        table.loc[index, "difference_missing"] = result.reason
    for _, family in table[rows].groupby(["variant", table["rule"] != ""]):
        table.loc[family.index, "p_holm"] = holm(family["p"])
    return table
