"""What a loss makes of easy and hard examples: gradients by difficulty, before and after training.

The difficulty of an element is g, the gradient norm of cross-entropy at its logits: |p - y| of one
output under sigmoid, 1 - p_y under softmax (Li, Liu, Wang, AAAI 2019). What an arm pulls at it is
the norm of its own loss's gradient by the same logits: |dL/dx|, or half of sum_k |dL/dz_k| under
softmax, which is g again for cross-entropy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from losslab.analysis.detections import study_seed
from losslab.analysis.frames import StudyFrames
from losslab.analysis.predictions import NORM_EDGES
from losslab.analysis.remembering import once
from losslab.errors import BadInput, LosslabError
from losslab.experiments.building import build_loss, weights_digest
from losslab.experiments.data import held_out
from losslab.experiments.elements import ElementParts, logits_and_targets
from losslab.experiments.spaces import set_path
from losslab.experiments.states import Job
from losslab.experiments.tasks import TASKS, Classification, ElementTask
from losslab.experiments.training import at_precision, prepare
from losslab.randomness import generator

RUNS, ELEMENTS = 3, 400_000  # of each arm; of each run
STAGES = ("before", "after")


@dataclass(frozen=True)
class Difficulty:
    """An arm's test elements by difficulty, in the 30 bins of `NORM_EDGES`, before and after.

    `examples[stage]` (30,): share of the elements in each bin. `pull[stage]` (30,): share of the
    summed gradient norms of the arm's own loss. Both sum to 1; all `runs` together. Before training
    is there only where the initial weights could be built again.
    """

    runs: int
    elements: int
    examples: dict[str, np.ndarray]
    pull: dict[str, np.ndarray]


@once
def difficulties(frames: StudyFrames) -> dict[str, Difficulty]:
    """By arm, of the first three complete runs of selected configurations that stored outputs.

    Of a run at most 400,000 elements, drawn at random. Arms are left out whose task has no logits
    of single elements, or whose loss cannot be built here. Computed once for each `frames`.
    """
    runs = frames.confirmation
    runs = runs[(runs["variant"] == "selected") & (runs["state"] == "complete")]
    runs = runs[(runs["repeat"] == 0) & runs["outputs"].notna() & (runs["outputs"] != "")]
    found = {}
    for arm in frames.arms:
        own = runs[runs["arm"] == arm].sort_values("seed_index").head(RUNS)
        try:
            difficulty = _of_arm(frames, arm, own)
        except (LosslabError, OSError, TypeError, ValueError, RuntimeError):
            continue  # somebody's loss or data that is not here: figures say whose they show
        if difficulty is not None:
            found[arm] = difficulty
    return found


def norms(
    logits: np.ndarray, targets: np.ndarray, loss: torch.nn.Module, task: ElementTask, link: Any
) -> tuple[np.ndarray, np.ndarray]:
    """g and the arm's own gradient norm of every element, (n,) each.

    `logits` (N,) or (N, K) with `targets` (N,) of classes, as runs store them. Under sigmoid with K
    outputs each of the N·K is an element. The gradient is that of the loss of all of them as one
    batch, as it is reduced: norms are known up to one factor.
    """
    z = torch.from_numpy(np.asarray(logits, dtype=np.float64)).requires_grad_()
    classes = torch.from_numpy(np.asarray(targets, dtype=np.int64))
    wanted = task.loss_targets(classes, link)
    (gradient,) = torch.autograd.grad(loss(z, wanted), z)
    with torch.no_grad():
        if link == "softmax":
            p = torch.softmax(z, dim=1)
            others = torch.ones_like(p).scatter_(1, classes[:, None], 0.0)
            g, own = (p * others).sum(dim=1), gradient.abs().sum(dim=1) / 2
        else:
            g, own = (torch.sigmoid(z) - wanted).abs().flatten(), gradient.abs().flatten()
    return g.numpy(), own.numpy()


def _of_arm(frames: StudyFrames, arm: str, runs: pd.DataFrame) -> Difficulty | None:
    totals = {stage: np.zeros((2, len(NORM_EDGES) - 1)) for stage in STAGES}
    used, elements, untrained = 0, 0, True
    for row in runs.to_dict("records"):
        outputs = frames.outputs(row["key"])
        job = job_of(frames, arm, row)
        if job is None or outputs is None or "test_logits" not in outputs:
            continue
        if outputs["test_targets"].ndim != 1:
            continue  # several labels at once
        task, loss = _loss(frames, job, outputs)
        after = np.asarray(outputs["test_logits"]), np.asarray(outputs["test_targets"])
        stages = {"after": after, "before": _initial(job, row, after[1]) if untrained else None}
        untrained = stages["before"] is not None
        chosen = _chosen(job, len(after[1]))
        for stage, pair in stages.items():
            if pair is not None:
                g, own = norms(pair[0][chosen], pair[1][chosen], loss, task, job.link)
                totals[stage] += _binned(g, own / own.sum())
        used, elements = used + 1, elements + len(g)
    if not used:
        return None
    kept = [stage for stage in STAGES if stage == "after" or untrained]
    shares = {stage: totals[stage] / totals[stage].sum(axis=1, keepdims=True) for stage in kept}
    return Difficulty(
        used, elements, {s: shares[s][0] for s in kept}, {s: shares[s][1] for s in kept}
    )


def _binned(g: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Shares of the elements and of the gradient in every bin, (2, bins)."""
    bins = len(NORM_EDGES) - 1
    place = np.clip((g * bins).astype(int), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    return np.array([count / len(g), np.bincount(place, weights=own, minlength=bins)])


def job_of(frames: StudyFrames, arm: str, row: Mapping[str, Any]) -> Job | None:
    """The job of a confirmation run: the arm's configuration with the run's parameters in it."""
    config = frames.study["arms"].get(arm, {}).get("config")
    if not config:
        return None
    config = {section: dict(values) for section, values in config.items()}
    for name, value in row.items():
        if str(name).startswith("params.") and not pd.isna(value):
            set_path(config, str(name).removeprefix("params."), value)
    return Job(config, study_seed(frames), int(row["run_seed"]))


def _loss(
    frames: StudyFrames, job: Job, outputs: Mapping[str, np.ndarray]
) -> tuple[ElementTask, torch.nn.Module]:
    """The job's loss at the end of its schedule, for elements in rows, as outputs are stored."""
    names = frames.study["dataset"]["class_names"]
    kind = TASKS[frames.study["dataset"]["task"]]
    if not issubclass(kind, ElementTask):
        raise BadInput(f"{kind.kind}: its outputs are no logits of single elements")
    loss = build_loss(job.config["loss"], kind(len(names)), outputs["train_class_counts"])
    loss.eval()
    loss.set_progress(1.0)
    return Classification(len(names)), loss


def _initial(
    job: Job, row: Mapping[str, Any], targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Logits and targets of test at the run's initial weights, in evaluation mode.

    None where model or data are not here any more, or are not what they were.
    """
    try:
        parts = prepare(job)
        if not isinstance(parts, ElementParts):
            return None
        if weights_digest(parts.model) != row.get("pairing.initial_weights"):
            return None
        test, _ = held_out(job.config["dataset"], job.study_seed, job.run_seed, job.device)
        found = logits_and_targets(parts.model, at_precision(test, job), parts.task, job.link)
    except (LosslabError, OSError, TypeError, ValueError, RuntimeError):
        return None
    return (found[0], found[1]) if np.array_equal(found[1], targets) else None


def _chosen(job: Job, count: int) -> np.ndarray:
    """Which elements are counted: all, or as many as are allowed, the same for every arm."""
    if count <= ELEMENTS:
        return np.arange(count)
    return np.sort(
        generator(job.study_seed, "gradient norms", job.run_seed).choice(count, ELEMENTS, False)
    )
