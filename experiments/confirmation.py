"""Judging a finished training: the only place where the test split is looked at."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from losslab.experiments.calibration import fitted_temperature
from losslab.experiments.data import held_out
from losslab.experiments.decisions import (
    Decision,
    decision_scores,
    default_decision,
    prior_corrected,
    tuned,
)
from losslab.experiments.elements import ElementParts, logits_and_targets, prepare_elements
from losslab.experiments.global_random import kept
from losslab.experiments.metrics import evaluate, metric
from losslab.experiments.score_metrics import Kind
from losslab.experiments.states import State
from losslab.experiments.training import at_precision, load_weights, seed_epoch, task_of
from losslab.registry import load


@dataclass(frozen=True)
class Verdict:
    """What a confirmation run is worth.

    `metrics` are named `test/…` (decided at argmax, or 0.5), `test_tuned/…` (decided as tuned on
    validation), `test_calibrated/…` (probabilities after temperature scaling fitted on validation,
    with the `temperature`) and, if asked for, `test_prior_corrected/…`; `outputs` are per-example
    arrays.
    """

    metrics: dict[str, float]
    outputs: dict[str, np.ndarray]
    pairing: dict[str, str] = field(default_factory=dict)


def judge(state: State, decision: str, with_prior_correction: bool) -> Verdict:
    """Judge a training's weights on the test split; one that diverged scores chance level.

    Chance level is what equal logits for every class score: the average precision of a coin is
    the prevalence, its balanced accuracy one over the number of classes.
    """
    with kept(state.job.device):
        seed_epoch(state.job, state.epoch)
        verdict: Verdict = load(task_of(state.job).judges)(state, decision, with_prior_correction)
        return verdict


def judge_elements(state: State, decision: str, with_prior_correction: bool) -> Verdict:
    """Judge a training whose examples, or anchors, have one class each; see `judge`."""
    job, parts = state.job, prepare_elements(state.job)
    test, test_digest = held_out(job.config["dataset"], job.study_seed, job.run_seed, job.device)
    load_weights(parts.model, state.judged_model)
    arrays: dict[str, np.ndarray] = {"train_class_counts": parts.data.class_counts}
    for name, examples in (("val", parts.data.validation), ("test", test)):
        examples = at_precision(examples, job)
        model = parts.model
        if state.diverged:  # its model may fail, or hang, once more
            model = Chance((*examples.targets.shape[1:], parts.task.outputs(job.link)))
        logits, targets, ids = logits_and_targets(model, examples, parts.task, job.link)
        if not np.isfinite(logits).all():
            logits = np.zeros_like(logits)
        arrays |= {f"{name}_logits": logits, f"{name}_targets": targets, f"{name}_ids": ids}
    counts = np.maximum(parts.data.class_counts, 0.5)  # a class may be missing from training
    prior = counts / counts.sum()
    scores = {name: decision_scores(arrays[f"{name}_logits"], job.link) for name in ("val", "test")}
    threshold = tuned(arrays["val_targets"], scores["val"], prior, decision)
    temperature = fitted_temperature(arrays["val_targets"], scores["val"])
    cooled, usual = scores["test"] / temperature, default_decision()
    metrics = {
        **_metrics("test", parts, state, arrays, scores["test"], usual),
        # a threshold changes decisions, a temperature probabilities, and nothing else
        **_metrics("test_tuned", parts, state, arrays, scores["test"], threshold, "decision"),
        **_metrics("test_calibrated", parts, state, arrays, cooled, usual, "probability"),
        "test_calibrated/temperature": temperature,
    }
    if with_prior_correction:
        corrected = prior_corrected(prior, scores["test"])
        metrics |= _metrics("test_prior_corrected", parts, state, arrays, scores["test"], corrected)
    return Verdict(
        metrics,
        {name: _compact(array) for name, array in arrays.items()},
        {**parts.data.pairing, "test": test_digest},
    )


class Chance(nn.Module):
    """Equal outputs for everything."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape

    def forward(self, features: Tensor) -> Tensor:
        """Zeros of `shape` for every example."""
        return torch.zeros(len(features), *self.shape).to(features)


def _metrics(
    prefix: str,
    parts: ElementParts,
    state: State,
    arrays: dict[str, np.ndarray],
    scores: np.ndarray,
    decision: Decision,
    kind: Kind | None = None,
) -> dict[str, float]:
    """The study's metrics, or those of one kind."""
    names = state.job.metrics
    if kind is not None:
        names = tuple(name for name in names if metric(name).kind == kind)
    values = evaluate(
        arrays["test_targets"],
        decision.probabilities(scores),
        decision.decide(scores),
        class_names=parts.data.dataset.class_names,
        train_class_counts=parts.data.class_counts,
        names=names,
    )
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _compact(array: np.ndarray) -> np.ndarray:
    """Logits came from float32 and lose nothing by going back."""
    return array.astype(np.float32) if array.dtype == np.float64 else array
