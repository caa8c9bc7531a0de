"""How sure the primary metric is over seeds, and over seeds and test examples.

Needs the per-example outputs that confirmation runs store (`frames.outputs`), and resamples the
test examples: seconds to minutes, by their number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.statistics import SeedsAndExamples, seeds_and_examples_of_arms
from losslab.analysis.tables.runs import FINISHED, primary_column, replicate_unit
from losslab.errors import BadInput

WORK = 20_000_000  # scores that a report's table may rank: one to two seconds
RESAMPLES, FEWEST = 400, 100
_TOO_MANY = "too many test examples for a report: examples_table(frames, work=None) does it"
_EDGES = ("seeds_low", "seeds_high", "low", "high", "seed_error", "example_error")


def examples_table(frames: StudyFrames, work: float | None = WORK, seed: int = 0) -> pd.DataFrame:
    """Two intervals of the primary test metric for every arm's selected configuration, tidy.

    One row per arm and `quantity`: `mean` and, but for the baseline, `difference` to it.
    `estimate, seeds_low, seeds_high` (over new seeds, this test set), `low, high` (over new seeds
    and a new test set of the same size), `seed_error, example_error` (standard errors that each
    brings in), `seeds, examples, resamples`, `missing` (why there is none). See
    `statistics.seeds_and_examples_interval`. The examples are resampled within their classes.

    `work` bounds the scores that are ranked (those of all runs × resamples; the default takes one
    to two seconds): resamples go down from 400 to 100, and where 100 are too many there is no
    interval; `work=None` always takes 400. `seed` makes the resampling repeatable. Anchors of a
    dense task are resampled one by one, as if those of an image had nothing in common.

    There is none either where the outputs do not give the recorded metric again, or where the study
    repeats its search (the outputs of its repeats are of several configurations).
    """
    loaded, missing = _load(frames, work)
    resamples = _resamples(loaded, work)
    means, differences = {}, {}
    try:
        means, differences = _intervals(loaded, frames.study["baseline"], resamples, seed)
    except BadInput as error:
        missing |= dict.fromkeys(loaded, str(error))
    about = {"study": frames.study["study"], "metric": frames.study["primary"]}
    rows = []
    for arm in frames.arms:
        reason = missing.get(arm, "")
        rows.append(_row(about, arm, "mean", means.get(arm), reason, resamples))
        if arm != frames.study["baseline"]:
            found = differences.get(arm)
            lack = reason or ("" if found else "no seed in common with the baseline")
            rows.append(_row(about, arm, "difference", found, lack, resamples))
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Outputs:
    """An arm's scores of the test examples by run seed, and the primary metric of them."""

    targets: np.ndarray
    scores: dict[int, np.ndarray]
    metric: Callable[[np.ndarray, np.ndarray], float]


def _row(
    about: dict, arm: str, quantity: str, found: SeedsAndExamples | None, reason: str, used: int
) -> dict[str, Any]:
    row = {**about, "arm": arm, "quantity": quantity, "estimate": np.nan}
    row |= {**dict.fromkeys(_EDGES, np.nan), "seeds": 0, "examples": 0}
    if found is not None:
        row |= {name: getattr(found, name) for name in (*_EDGES, "seeds", "examples")}
        row["estimate"] = found.mean
        reason = found.reason
    return {**row, "resamples": used if found else 0, "missing": reason}


def _intervals(loaded: dict[str, _Outputs], baseline: str, resamples: int, seed: int) -> tuple:
    if not loaded:
        return {}, {}
    first = next(iter(loaded.values()))
    return seeds_and_examples_of_arms(
        first.targets,
        {arm: outputs.scores for arm, outputs in loaded.items()},
        first.metric,
        baseline,
        strata=first.targets,
        resamples=resamples,
        seed=seed,
    )


def _resamples(loaded: dict[str, _Outputs], work: float | None) -> int:
    """As many as `work` allows, no fewer than the fewest that make sense."""
    scores = sum(array.size for outputs in loaded.values() for array in outputs.scores.values())
    if work is None or scores * RESAMPLES <= work:
        return RESAMPLES
    return max(int(work / scores), FEWEST)


def _load(frames: StudyFrames, work: float | None) -> tuple[dict[str, _Outputs], dict[str, str]]:
    """The outputs of every arm that has them, and for the others the reason why not."""
    runs = frames.confirmation
    runs = runs[(runs["variant"] == "selected") & runs["state"].isin(FINISHED)]
    if replicate_unit(frames) == "repeat":
        return {}, dict.fromkeys(frames.arms, "each repeat has a configuration of its own")
    most = np.inf if work is None else work / FEWEST / max(len(runs), 1)
    loaded: dict[str, _Outputs] = {}
    missing = {}
    for arm in frames.arms:
        found, reason = _read(frames, runs[runs["arm"] == arm], most)
        if not reason:
            outputs, reason = _scored(frames, arm, found)
            others = next(iter(loaded.values()), outputs)
            if not np.array_equal(outputs.targets, others.targets):
                reason = reason or "other test examples than the other arms'"
        if reason:
            missing[arm] = reason
        else:
            loaded[arm] = outputs
    return loaded, missing


def _read(
    frames: StudyFrames, runs: pd.DataFrame, most: float
) -> tuple[dict[int, tuple[dict[str, np.ndarray], float]], str]:
    """The arrays and the recorded metric of each run, by seed, or the reason why not.

    `most` is how many scores a run may have.
    """
    found: dict[int, tuple[dict[str, np.ndarray], float]] = {}
    stored = runs[runs["outputs"].notna()]
    recorded = stored.get(primary_column(frames), pd.Series(np.nan, index=stored.index))
    for key, seed, value in zip(stored["key"], stored["seed_index"], recorded, strict=True):
        try:
            arrays = frames.outputs(key)
        except BadInput as error:
            return {}, str(error)
        if arrays is not None:
            if "test_logits" not in arrays:
                return {}, "outputs are detections, which belong to images and not to examples"
            if "test_confusion" in arrays and _counts_decisions(frames.study["primary"]):
                return {}, "its metric counts all pixels, and the outputs hold a sample of them"
            if arrays["test_logits"].size > most:
                return {}, _TOO_MANY
            found[int(seed)] = (arrays, value)
    if not found:
        return {}, "no per-example outputs"
    # the mean of some seeds would leave out those that diverged, and flatter the arm
    lacking = len(runs) - len(found)
    return found, f"{lacking} of {len(runs)} runs have no outputs" if lacking else ""


def _counts_decisions(name: str) -> bool:
    from losslab.experiments.metrics import metric

    return metric(name).kind in ("decision", "segmentation")


def _scored(
    frames: StudyFrames, arm: str, found: dict[int, tuple[dict[str, np.ndarray], float]]
) -> tuple[_Outputs, str]:
    from losslab.experiments.decisions import decision_scores

    first = next(iter(found.values()))[0]
    config = frames.study["arms"].get(arm, {}).get("config", {})
    link = config.get("loss", {}).get("link", "softmax")
    metric = _metric(frames, first)
    outputs = _Outputs(first["test_targets"], {}, metric)
    for seed, (arrays, recorded) in found.items():
        if not np.array_equal(arrays["test_targets"], outputs.targets):
            return outputs, "its runs have differing test examples"
        outputs.scores[seed] = decision_scores(arrays["test_logits"], link)
        again = metric(outputs.targets, outputs.scores[seed])
        if not np.isclose(again, recorded, rtol=1e-4, atol=1e-6, equal_nan=True):
            return outputs, "the outputs do not give the recorded metric"
    return outputs, ""


def _metric(frames: StudyFrames, arrays: dict[str, np.ndarray]) -> Callable:
    """The study's primary metric of scores, decided at argmax or 0.5, as the runner takes it."""
    from losslab.experiments.decisions import default_decision
    from losslab.experiments.metrics import evaluate

    name, rule = frames.study["primary"], default_decision()
    scores = arrays["test_logits"]
    classes = 2 if scores.ndim == 1 else scores.shape[1]
    names = [str(name) for name in frames.study["dataset"].get("class_names", range(classes))]
    counts = arrays.get("train_class_counts", np.ones(classes))

    def metric(targets: np.ndarray, scores: np.ndarray) -> float:
        values = evaluate(
            targets,
            rule.probabilities(scores),
            rule.decide(scores),
            class_names=names,
            train_class_counts=counts,
            names=[name],
        )
        return values.get(name, np.nan)

    return metric
