"""Judging a finished segmentation network on the test split."""

import numpy as np

from losslab.experiments.calibration import fitted_temperature
from losslab.experiments.confirmation import Chance, Verdict
from losslab.experiments.data import held_out
from losslab.experiments.decisions import (
    decision_scores,
    default_decision,
    prior_corrected,
    tuned,
)
from losslab.experiments.metrics import metric
from losslab.experiments.segmentation.evaluation import evaluated
from losslab.experiments.segmentation.parts import prepare_segmentation
from losslab.experiments.states import State
from losslab.experiments.tasks.segmentation import Segmentation
from losslab.experiments.training import at_precision, load_weights

#: Test images whose predicted masks are kept for being drawn.
SHOWN = 8


def judge_segmentation(state: State, decision: str, with_prior_correction: bool) -> Verdict:
    """Judge a network's weights on the test split; one that diverged scores chance level.

    `metrics` are as in `confirmation.Verdict`. Whatever counts decisions is exact over all pixels;
    what reads probabilities, the temperature and the tuned rule come from the sampled pixels.
    `outputs` hold the logits, targets and image ids of the sampled pixels (`test_logits` and so
    on), the confusion matrices of all pixels (`val_confusion`, `test_confusion`) and the predicted
    masks of some test images (`test_masks` with `test_mask_ids`), for a network's logits of all
    pixels would take a hundred times the room.
    """
    job, parts = state.job, prepare_segmentation(state.job)
    test, digest = held_out(job.config["dataset"], job.study_seed, job.run_seed, job.device)
    test = at_precision(test, job)
    load_weights(parts.model, state.judged_model)
    model = parts.model
    if state.diverged:  # its model may fail, or hang, once more
        model = Chance((parts.task.outputs(job.link), *test.targets.shape[1:]))
    usual, prior = default_decision(), _prior(parts.data.class_counts)
    val = evaluated(
        model, parts.data.validation, parts.task, job.link, parts.validation_sample, [usual]
    )
    val_scores = decision_scores(val.logits, job.link)
    threshold = tuned(val.targets, val_scores, prior, decision)
    temperature = fitted_temperature(val.targets, val_scores)
    rules = [usual, threshold]
    if with_prior_correction:
        rules.append(prior_corrected(prior, val_scores))
    shown = shown_images(test.targets.cpu().numpy(), test.ids)
    sample = parts.sample_of(test)
    found = evaluated(model, test, parts.task, job.link, sample, rules, shown)

    def named(*kinds: str) -> tuple[str, ...]:
        return tuple(name for name in job.metrics if metric(name).kind in kinds)

    deciding, probable = named("decision", "segmentation"), named("probability")
    groups = {
        "test": parts.scores(found, 0, usual, job.metrics, job),
        # a threshold changes decisions, a temperature probabilities, and nothing else
        "test_tuned": parts.scores(found, 1, threshold, deciding, job),
        "test_calibrated": parts.scores(found, 0, usual, probable, job, temperature),
    }
    if with_prior_correction:
        groups["test_prior_corrected"] = parts.scores(found, 2, rules[2], job.metrics, job)
    metrics = {f"{group}/{n}": v for group, values in groups.items() for n, v in values.items()}
    return Verdict(
        metrics | {"test_calibrated/temperature": temperature},
        {
            "train_class_counts": parts.data.class_counts,
            "val_logits": val.logits.astype(np.float32),
            "val_targets": val.targets,
            "val_ids": val.ids,
            "val_confusion": val.confusions[0],
            "test_logits": found.logits.astype(np.float32),
            "test_targets": found.targets,
            "test_ids": found.ids,
            "test_confusion": found.confusions[0],
            "test_masks": found.masks,
            "test_mask_ids": test.ids[shown],
        },
        {**parts.data.pairing, "test": digest},
    )


def shown_images(targets: np.ndarray, ids: np.ndarray) -> list[int]:
    """The places of the first images by id that show two classes or more, at most `SHOWN`."""
    several = [
        place
        for place in np.argsort(ids, kind="stable").tolist()
        if len(np.unique(targets[place][targets[place] != Segmentation.ignore_index])) > 1
    ]
    return sorted(several[:SHOWN])


def _prior(class_counts: np.ndarray) -> np.ndarray:
    counts = np.maximum(class_counts, 0.5)  # a class may be missing from training
    return counts / counts.sum()
