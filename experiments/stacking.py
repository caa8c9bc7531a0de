"""Which trainings are stacked, and how many at once: a fixed rule of shapes and settings.

The rule was found by measuring (benchmarks/stacking.py, docs/engines.md). No clock is read when it
is applied, so a study has the same plan wherever it runs. The plan stands in the resolved study and
is used again when the study goes on.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from losslab.errors import BadInput
from losslab.experiments.elements import ElementParts, prepare_elements
from losslab.experiments.plans import Engine, Plan
from losslab.experiments.states import Job
from losslab.experiments.training import task_of

#: A stack's activations fit a core's caches up to here; more trainings at once gained nothing.
CACHE_BYTES = 8_000_000
LARGEST = 64
#: Above so many parameters, or rows times parameters a step, one training keeps a core busy.
BUSY_PARAMETERS = 200_000
BUSY_STEP = 100_000_000
#: Copies of the parameters while they train: weights, gradient, two moments, three temporaries.
COPIES = 7
#: A stack of convolutions, which is one grouped convolution, gains only below so many bytes of
#: activations a step, and loses again when the stack is large.
SMALL_CONVOLUTION, LARGEST_CONVOLUTION = 500_000, 16
RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)
CONVOLUTION = nn.modules.conv._ConvNd


def plan_of(job: Job, engine: str, memory: float) -> Plan:
    """The plan for trainings like `job`, with `memory` megabytes for a stack.

    `engine` is auto, plain or stacked. Raises `BadInput` where the memory is too little for two
    trainings and stacks were asked for.
    """
    if alone := _alone(job):
        return Plan("plain", 1, alone, 0.0, 0.0, memory)
    parts = prepare_elements(job)
    saved, each, data = _bytes(parts, job)
    needs = {"megabytes": each / 1e6, "data": data / 1e6, "memory": memory}
    reason = "engine: plain" if engine == "plain" else _cannot(parts)
    if not reason and engine == "auto":
        reason = _should_not(parts, job, saved)
    if not reason:
        # Here, since a study that is trained plain has no use for it.
        from losslab.experiments.stack_probe import misfit

        reason = misfit(job, parts)
    if reason:
        return Plan("plain", 1, reason, **needs)
    wanted = LARGEST
    if job.device == "cpu":
        most = LARGEST_CONVOLUTION if convolves(parts.model) else LARGEST
        wanted = min(most, max(4, CACHE_BYTES // max(saved, 1)))
    fitting = int((memory * 1e6 - data) // each)
    if fitting < 2:
        text = f"two trainings at once take about {(data + 2 * each) / 1e6:.2g} MB"
        if engine == "stacked":
            raise BadInput(f"memory: {memory:g} MB is too little for a stack: {text}")
        return Plan("plain", 1, f"{text}, more than memory allows", **needs)
    return Plan("stacked", min(wanted, fitting), "", **needs)


def pieces_of(
    jobs: Sequence[Job], plans: Sequence[Plan], until: Sequence[int]
) -> list[tuple[Engine, list[int]]]:
    """Cut jobs into pieces: engine and indices of each, in the order of their first members.

    Jobs stack where shapes and code paths agree; a stack is filled up to its plan's size, and
    eight or more make at least two stacks, so that two workers have something to do.
    """
    groups: dict[Any, list[int]] = {}
    for i, (job, plan) in enumerate(zip(jobs, plans, strict=True)):
        alone = i if plan.engine == "plain" else None
        groups.setdefault((alone, plan.stack, until[i], _likeness(job)), []).append(i)
    found: list[tuple[Engine, list[int]]] = []
    for members in groups.values():
        plan = plans[members[0]]
        found += [(plan.engine, piece) for piece in _cut(members, jobs, plan)]
    return sorted(found, key=lambda piece: piece[1][0])


def _cut(members: Sequence[int], jobs: Sequence[Job], plan: Plan) -> list[list[int]]:
    """Members in pieces as even as can be, each of which the plan allows."""
    count = max(-(-len(members) // plan.stack), 2 if len(members) >= 8 else 1)
    while True:
        bounds = [len(members) * n // count for n in range(count + 1)]
        pieces = [list(members[a:b]) for a, b in pairwise(bounds)]
        if all(plan.holds([jobs[i] for i in piece]) for piece in pieces):
            return pieces
        count += 1


def _likeness(job: Job) -> str:
    """What trainings of one stack have in common."""
    training, model = job.config["training"], dict(job.config["model"])
    model.pop("prior_init", None)  # it sets initial weights only
    shared = {
        key: training.get(key)
        for key in ("epochs", "batch_size", "optimizer", "judge", "precision")
    }
    return json.dumps(
        [job.config["dataset"], model, shared, job.link, job.study_seed], sort_keys=True
    )


def _alone(job: Job) -> str:
    """Why a job's trainings are never stacked, or nothing."""
    recorded = job.config["training"].get("record")
    return task_of(job).alone or ("what is recorded is recorded one by one" if recorded else "")


def _cannot(parts: ElementParts) -> str:
    """Why trainings cannot be one program, or nothing."""
    if any(True for _ in parts.loss.parameters()):
        return "its loss has parameters that train"
    for module in parts.model.modules():
        if isinstance(module, RANDOM):
            return f"{type(module).__name__} draws random numbers, which a stack would not repeat"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None:
            return f"{type(module).__name__} with momentum null counts its batches in Python"
    return ""


def _should_not(parts: ElementParts, job: Job, saved: int) -> str:
    """Why a stack would be slower than the plain loop, or nothing."""
    if job.device != "cpu":
        return ""
    if convolves(parts.model) and saved > SMALL_CONVOLUTION:
        return "on a CPU, stacked convolutions of this size gain nothing"
    parameters = sum(parameter.numel() for parameter in parts.model.parameters())
    elements = parts.data.train.targets[: job.config["training"]["batch_size"]].numel()
    if parameters > BUSY_PARAMETERS or parameters * elements > BUSY_STEP:
        return "a step is large enough to keep a core busy by itself"
    return ""


def convolves(model: nn.Module) -> bool:
    """Whether a model has convolutions."""
    return any(isinstance(module, CONVOLUTION) for module in model.modules())


def _bytes(parts: ElementParts, job: Job) -> tuple[int, int, int]:
    """Bytes of a step's activations, of a training in a stack, and of one run seed's data."""
    data, saved = parts.data, _saved(parts, job)
    weights = sum(_size(p) for p in parts.model.parameters())
    splits = sum(_size(e.features) + _size(e.targets) for e in (data.train, data.validation))
    # Validation holds float64 logits, targets and scores; backward holds two gradients beside the
    # activations.
    judged = data.validation.targets.numel() * parts.task.outputs(job.link) * 8 * 4
    return saved, COPIES * weights + 3 * saved + judged, splits


def step_bytes(job: Job) -> int:
    """Bytes of activations that one training's step keeps for its backward pass."""
    return _saved(prepare_elements(job), job)


def _saved(parts: ElementParts, job: Job) -> int:
    features = parts.data.train.features[: job.config["training"]["batch_size"]]
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = _size(tensor)
        return tensor

    own = {parameter.data_ptr() for parameter in parts.model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = parts.model(features)
    saved = sum(number for pointer, number in sizes.items() if pointer not in own)
    inside_the_loss = 8 * _size(outputs)
    return saved + inside_the_loss + _size(features)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
