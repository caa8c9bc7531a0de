"""What a run's per-example outputs say: curves, calibration, margins and decisions, by the numbers.

Confirmation runs store logits and targets of validation and test. `summarise_run` turns those of
one run into curves on common grids; `run_summaries` does so for a study, once for all figures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from losslab.analysis.frames import StudyFrames
from losslab.analysis.prediction_curves import precision_at, reliability_bins, sensitivity_at
from losslab.analysis.remembering import once
from losslab.errors import BadInput
from losslab.experiments.calibration import fitted_temperature
from losslab.experiments.decision_metrics import confusion
from losslab.experiments.decisions import (
    decision_scores,
    default_decision,
    prior_corrected,
    tuned,
)
from losslab.experiments.metrics import metric
from losslab.experiments.score_metrics import Ranked, ece, log_loss

RECALLS = np.linspace(0, 1, 201)
# an ROC curve of a rare class happens at its left edge
FALSE_POSITIVE_RATES = np.unique(np.concatenate([[0], np.geomspace(1e-5, 1, 120), RECALLS]))
MARGIN_EDGES = np.linspace(-100, 100, 2001)  # what lies outside counts in the outermost bins
NORM_EDGES = np.linspace(0, 1, 31)  # 30 bins, as in the GHM paper
RULES = ("default", "tuned on validation", "prior correction", "oracle (tuned on test)")
MOST_RUNS, MOST_EXAMPLES = 100, 8_000_000  # of one study; a report must not take minutes


@dataclass(frozen=True)
class RunSummary:
    """One confirmation run on test, in curves and counts.

    `precision` at `RECALLS` and `sensitivity` (true positive rate) at `FALSE_POSITIVE_RATES`: of
    class 1, or the mean over the classes that have targets, each against the rest; NaN where test
    has one class only. `bins` and `bins_after` (3, 15): examples, mean confidence and mean outcome
    in each bin of confidence, before and after temperature scaling fitted on validation; `ece` and
    `log_loss` before and after. `margins` (2, 2000) and `norms` (2, 30): counts of the score of the
    target above the best other one and of the gradient norm of cross-entropy, examples of the
    commoner half of the classes (by training rows) first, of the rarer half second. `decisions`:
    the decision metric under each of `RULES`.
    """

    arm: str
    seed_index: int
    repeat: int
    examples: int
    precision: np.ndarray
    sensitivity: np.ndarray
    bins: np.ndarray
    bins_after: np.ndarray
    temperature: float
    ece: tuple[float, float]
    log_loss: tuple[float, float]
    margins: np.ndarray
    norms: np.ndarray
    decisions: dict[str, float]


def run_summaries(frames: StudyFrames) -> dict[str, list[RunSummary]]:
    """Summaries of the selected configurations' complete runs that have outputs, by arm.

    At most 100 runs and 8 million test examples a study, the same number for every arm, the lowest
    seeds first: figures say how many there are. Arms without outputs are left out. Computed once
    for each `frames`.
    """
    return _summaries(frames)


def summarise_run(
    outputs: Mapping[str, np.ndarray],
    link: str,
    decision: str = "balanced_accuracy",
    **owner: Any,
) -> RunSummary | None:
    """The summary of one run's `outputs`; None where they are not classes of single examples.

    `link` is sigmoid or softmax; `decision` the metric that thresholds are tuned for; `owner` gives
    `arm`, `seed_index`, `repeat`. Elements with target -1 do not count.
    """
    val, test = _side(outputs, "val", link), _side(outputs, "test", link)
    if val is None or test is None:
        return None
    counts = _class_counts(outputs, test[1])
    temperature = fitted_temperature(*val)
    before, after = (_probabilities(test[1] / t) for t in (1.0, temperature))
    ranked = Ranked(test[0], before)
    return RunSummary(
        arm=owner.get("arm", ""),
        seed_index=owner.get("seed_index", 0),
        repeat=owner.get("repeat", 0),
        examples=len(test[0]),
        precision=_macro(ranked, test[0], before, precision_at, RECALLS),
        sensitivity=_macro(ranked, test[0], before, sensitivity_at, FALSE_POSITIVE_RATES),
        bins=reliability_bins(test[0], before),
        bins_after=reliability_bins(test[0], after),
        temperature=temperature,
        ece=(ece(test[0], before), ece(test[0], after)),
        log_loss=(log_loss(test[0], before), log_loss(test[0], after)),
        **_histograms(test, before, counts),
        decisions=_decisions(val, test, counts, decision),
    )


@once
def _summaries(frames: StudyFrames) -> dict[str, list[RunSummary]]:
    runs = frames.confirmation
    runs = runs[(runs["variant"] == "selected") & (runs["state"] == "complete")]
    runs = runs[runs["outputs"].notna() & (runs["outputs"] != "")]
    arms = [arm for arm in frames.arms if (runs["arm"] == arm).any()]
    found: dict[str, list[RunSummary]] = {arm: [] for arm in arms}
    decision = frames.study.get("decision") or "balanced_accuracy"
    queues = {
        arm: list(runs[runs["arm"] == arm].sort_values(["repeat", "seed_index"]).itertuples())
        for arm in arms
    }
    left, examples = MOST_RUNS, MOST_EXAMPLES
    # one run of each arm in turn, so that every arm has as many
    for place in range(max(map(len, queues.values()), default=0)):
        if left < len(arms) or examples <= 0:
            break
        for arm in arms:
            run = queues[arm][place] if place < len(queues[arm]) else None
            outputs = _outputs(frames, run.key) if run is not None else None
            if run is None or outputs is None:
                continue
            summary = summarise_run(
                outputs, _link(frames, arm), decision,
                arm=arm, seed_index=run.seed_index, repeat=run.repeat,
            )  # fmt: skip
            if summary is not None:
                found[arm].append(summary)
                left, examples = left - 1, examples - summary.examples
    return {arm: summaries for arm, summaries in found.items() if summaries}


def _outputs(frames: StudyFrames, key: str) -> Mapping[str, np.ndarray] | None:
    try:
        outputs = frames.outputs(key)
    except BadInput:  # a damaged file: figures say how many runs they show
        return None
    # those of a detector are boxes
    return outputs if outputs is not None and "test_logits" in outputs else None


def _link(frames: StudyFrames, arm: str) -> str:
    config = frames.study["arms"].get(arm, {}).get("config") or {}
    return (config.get("loss") or {}).get("link") or ""


def _side(
    outputs: Mapping[str, np.ndarray], name: str, link: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Targets and decision scores of one split: (N,) log odds, or (N, K)."""
    if f"{name}_logits" not in outputs or f"{name}_targets" not in outputs:
        return None
    logits = np.asarray(outputs[f"{name}_logits"], dtype=np.float64)
    targets = np.asarray(outputs[f"{name}_targets"])
    if targets.ndim != 1 or logits.ndim not in (1, 2) or len(logits) != len(targets):
        return None  # pixels, boxes or several labels at once
    counted = (targets >= 0) & np.isfinite(logits.reshape(len(logits), -1)).all(axis=1)
    if not counted.any() or (targets[counted] != targets[counted].round()).any():
        return None
    scores = decision_scores(logits[counted], link)
    if scores.ndim == 2 and scores.shape[1] <= 2:
        scores = scores[:, -1] - (scores[:, 0] if scores.shape[1] == 2 else 0.0)
    return targets[counted].astype(np.int64), scores


def _class_counts(outputs: Mapping[str, np.ndarray], scores: np.ndarray) -> np.ndarray:
    """Training rows of every class, as the prior correction counts them: 0.5 for none."""
    classes = 2 if scores.ndim == 1 else scores.shape[1]
    counts = np.asarray(outputs.get("train_class_counts", np.ones(classes)), dtype=float)
    return np.maximum(counts if counts.shape == (classes,) else np.ones(classes), 0.5)


def _probabilities(scores: np.ndarray) -> np.ndarray:
    return default_decision().probabilities(scores)


def _macro(
    ranked: Ranked, targets: np.ndarray, probabilities: np.ndarray, curve: Any, grid: np.ndarray
) -> np.ndarray:
    present = np.unique(targets)
    if len(present) < 2:
        return np.full(len(grid), np.nan)
    classes = [1] if probabilities.ndim == 1 else present.tolist()
    return np.mean([curve(*ranked.curve(c), grid) for c in classes], axis=0)


def _histograms(
    test: tuple[np.ndarray, np.ndarray], probabilities: np.ndarray, counts: np.ndarray
) -> dict[str, np.ndarray]:
    targets, scores = test
    if scores.ndim == 1:
        margin = np.where(targets == 1, scores, -scores)
        norm = np.abs(probabilities - (targets == 1))
    else:
        rows = np.arange(len(targets))
        others = scores.copy()
        others[rows, targets] = -np.inf
        margin = scores[rows, targets] - others.max(axis=1)
        norm = 1 - probabilities[rows, targets]
    rare = rarer_classes(counts)[targets]
    return {
        "margins": _counts(margin, rare, MARGIN_EDGES),
        "norms": _counts(norm, rare, NORM_EDGES),
    }


def rarer_classes(counts: np.ndarray) -> np.ndarray:
    """Which classes are the rarer half by training rows; the middle one of an odd number is not.

    >>> rarer_classes(np.array([90, 10, 50])).tolist()
    [False, True, False]
    """
    order = np.argsort(counts, kind="stable")
    rare = np.zeros(len(counts), bool)
    rare[order[: len(counts) // 2]] = True
    return rare


def _counts(values: np.ndarray, rare: np.ndarray, edges: np.ndarray) -> np.ndarray:
    low, width, bins = edges[0], edges[1] - edges[0], len(edges) - 1
    place = np.clip((values - low) / width, 0, bins - 1).astype(int)
    return np.array([np.bincount(place[side], minlength=bins) for side in (~rare, rare)])


def _decisions(
    val: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    counts: np.ndarray,
    name: str,
) -> dict[str, float]:
    prior = counts / counts.sum()
    rules = (
        default_decision(),
        tuned(*val, prior, name),
        prior_corrected(prior, test[1]),
        tuned(*test, prior, name),
    )
    score, values = metric(name).function, []
    for rule in rules:
        predicted = rule.decide(test[1])
        matrix = confusion(test[0], predicted, len(counts))
        values.append(float(score(test[0], predicted, confusion=matrix)))
    return dict(zip(RULES, values, strict=True))
