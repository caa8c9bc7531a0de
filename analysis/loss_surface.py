"""The loss around trained networks, along directions that are normalised filter by filter.

Li, Xu, Taylor, Studer, Goldstein, "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018,
sections 4 and 5. A random Gaussian direction d is scaled so that each of its filters has the norm
of the network's own, d_ij <- d_ij |theta_ij| / |d_ij|, with zeros for biases and for the parameters
of norms. Otherwise networks of other scales cannot be compared: a layer before a batch norm
computes the same whatever the size of its weights.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from losslab.analysis.frames import StudyFrames
from losslab.errors import BadInput
from losslab.experiments.elements import ElementParts
from losslab.experiments.states import Job
from losslab.experiments.training import load_weights, prepare
from losslab.losses import LOSSES
from losslab.randomness import seed_integer

#: Training examples that the loss is taken of, at most; logits of so many at once.
EXAMPLES, CHUNK = 4096, 1024

Direction = dict[str, Tensor]


@dataclass(frozen=True)
class TrainedRun:
    """A confirmation run and the files beside which its weights lie."""

    arm: str
    seed_index: int
    record: Path

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.record.with_suffix(".pt")


def trained_runs(frames: StudyFrames, arms: Sequence[str] = ()) -> list[TrainedRun]:
    """The complete confirmation runs of selected configurations, by arm and then by seed.

    Of `arms`, or of those that the study file names. Raises `BadInput` for unknown arms, where the
    study has no folder, and where an arm has no such run.
    """
    if frames.folder is None:
        raise BadInput("the weights of a study lie in its folder, and it was read from MLflow")
    named = [arm for arm in frames.arms if not frames.study["arms"].get(arm, {}).get("implicit")]
    unknown = [arm for arm in arms if arm not in frames.arms]
    if unknown:
        known = ", ".join(frames.arms)
        raise BadInput(f"there is no arm {', '.join(unknown)}; the study has {known}")
    runs = frames.confirmation
    runs = runs[(runs["variant"] == "selected") & (runs["state"] == "complete")]
    runs = runs[(runs["repeat"] == 0) & runs["outputs"].notna() & (runs["outputs"] != "")]
    found = []
    for arm in arms or named:
        own = runs[runs["arm"] == arm].sort_values("seed_index")
        if own.empty:
            raise BadInput(f"arm {arm} has no complete test run yet; `losslab run` goes on with it")
        for run in own.itertuples():
            file = (frames.folder / str(run.outputs)).with_suffix(".json")
            found.append(TrainedRun(arm, int(run.seed_index), file))
    return found


class Surroundings:
    """A trained network, its loss, and the training examples that the loss is taken of.

    In evaluation mode, as Li et al. have it: batch norms use the running statistics that training
    left. Raises `BadInput` where record, weights or dataset are gone, and for detectors.

    >>> Surroundings(run, study_seed=0).losses_at([], [])  # doctest: +SKIP
    (0.0173, 0.0841)
    """

    def __init__(self, run: TrainedRun, study_seed: int, examples: int = EXAMPLES):
        self.job = job_of(run.record, study_seed)
        parts = prepare(self.job)
        if not isinstance(parts, ElementParts):
            raise BadInput(f"arm {run.arm}: the surface of this task's loss is not drawn")
        self.parts = parts
        self.model: nn.Module = parts.model
        load_weights(self.model, weights_of(run.weights))
        self.model.eval()
        parts.loss.eval()
        if any(True for _ in parts.loss.parameters()):
            raise BadInput(f"arm {run.arm}: its loss has trained parameters, which no run stores")
        parts.set_progress(1.0)
        train = parts.data.train
        self.features, self.targets = train.features[:examples], train.targets[:examples]
        self.plain = LOSSES.create("ce", link=self.job.link, ignore_index=parts.task.ignore_index)
        self.center = {n: p.detach().clone() for n, p in self.model.named_parameters()}

    def direction(self, number: int) -> Direction:
        """The filter-normalised direction of a number: the same draw in runs of one seed."""
        seed = seed_integer(self.job.study_seed, "surface", self.job.run_seed, number)
        return filter_normalised(self.model, torch.Generator().manual_seed(seed))

    def losses_at(
        self, directions: Sequence[Direction], steps: Sequence[float]
    ) -> tuple[float, float]:
        """The run's own loss and the mean cross-entropy, so many steps along each direction.

        Of the training examples; cross-entropy is what runs with different losses have in common.
        The weights are put back.
        """
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            try:
                for direction, step in zip(directions, steps, strict=True):
                    for name, change in direction.items():
                        parameters[name].add_(change, alpha=step)
                return self._losses()
            finally:
                for name, value in self.center.items():
                    parameters[name].copy_(value)

    def _losses(self) -> tuple[float, float]:
        link, task = self.job.link, self.parts.task
        outputs = torch.cat([self.model(part) for part in self.features.split(CHUNK)])
        logits, targets = task.logits(outputs, link), task.loss_targets(self.targets, link)
        return float(self.parts.loss(logits, targets)), float(self.plain(logits, targets))


def filter_normalised(model: nn.Module, random: torch.Generator) -> Direction:
    """A random direction of Li et al. 2018: filter by filter as long as the model's own weights.

    A filter is a row of a weight: an output channel of a convolution, a neuron of a linear layer.
    Biases and the parameters of norms, which have one dimension, are left out: they stay put.

    >>> layer = nn.Linear(3, 2)
    >>> found = filter_normalised(layer, torch.Generator().manual_seed(0))
    >>> list(found), torch.allclose(found["weight"].norm(dim=1), layer.weight.norm(dim=1))
    (['weight'], True)
    """
    found: Direction = {}
    for name, parameter in model.named_parameters():
        draw = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        if parameter.ndim < 2:
            continue
        rows, own = draw.flatten(1), parameter.detach().double().flatten(1)
        scale = own.norm(dim=1) / rows.norm(dim=1).clamp(min=1e-10)
        found[name] = (rows * scale[:, None]).view_as(draw).to(parameter.dtype)
    return found


def job_of(record: Path, study_seed: int) -> Job:
    """The job of a run's record, at its fixed configuration; `BadInput` where it is damaged."""
    try:
        content: dict[str, Any] = json.loads(record.read_bytes())
        return Job(content["config"], study_seed, content["run_seed"])
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{record} cannot be read: {error}") from error


def weights_of(file: Path) -> dict[str, Tensor]:
    """The weights that a confirmation run stored; `BadInput` where they are gone or damaged."""
    try:
        found: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return found
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput(f"{file} cannot be read: {error}") from error
