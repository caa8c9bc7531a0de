"""Whether a model trains alike in a stack and by itself: tried out, on two models and two steps.

A model may be anybody's code, and some code is silently wrong under `torch.func`: hooks on
gradients are not called, a buffer that is assigned keeps its old value, and what a model has drawn
into an attribute is every model's. None of that raises anything.
"""

import json

import torch
from torch import Tensor, nn

from losslab.experiments.building import build_model
from losslab.experiments.divergence import DIVERGENCES, of_the_machine
from losslab.experiments.elements import ElementParts, prepare_elements
from losslab.experiments.stack_parts import StackedModel, batched_layers
from losslab.experiments.states import Job, State
from losslab.experiments.training import copied
from losslab.randomness import seed_integer

#: Examples in a step, at most.
EXAMPLES = 32
#: Far above what rounding does, and far below what these mistakes do.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}

_found: dict[str, str] = {}


class _Misfit(Exception):
    """What differs in a stack."""


def misfit(job: Job, parts: ElementParts | None = None) -> str:
    """Why the model of a job cannot train in a stack, or nothing; tried once for each shape.

    `parts` are those of the job, where they are at hand.
    """
    training, link, device = job.config["training"], job.link, job.device
    shape = [training["batch_size"], training.get("precision"), link, device, job.study_seed]
    key = json.dumps([job.config["dataset"], job.config["model"], shape], sort_keys=True)
    if key not in _found:
        _found[key] = _tried(job, parts or prepare_elements(job))
    return _found[key]


def _tried(job: Job, parts: ElementParts) -> str:
    if batched_layers(parts.model) is not None:
        return ""  # written out layer by layer, with nothing of the author's in it
    try:
        with torch.random.fork_rng([] if job.device == "cpu" else [torch.cuda.current_device()]):
            _compare(job, parts)
    except _Misfit as error:
        return f"its {error} differ in a stack: it has a hook, or keeps state outside its buffers"
    except (*DIVERGENCES, StopIteration) as error:
        if of_the_machine(error):
            raise
        if "may have escaped" in str(error):
            return "it keeps tensors of one step for the next, outside its buffers"
        text = " ".join(str(error).split()).partition(". ")[0][:150]
        return f"it cannot be vectorised: {type(error).__name__}: {text}"
    return ""


def _compare(job: Job, parts: ElementParts) -> None:
    """Two models, each by itself and both in a stack; raises whatever is against a stack."""
    models = [_model(job, parts, number) for number in range(2)]
    states = [
        State(job, 0, copied(model.state_dict()), {}, {}, "of no use here") for model in models
    ]
    stack = StackedModel(_model(job, parts, 0), states, parts.task, job.link)
    size = min(job.config["training"]["batch_size"], EXAMPLES)
    gradient = torch.empty_like(stack.flat)
    for step in range(2):
        features = parts.data.train.features[step:][:size]
        stack.module.train()
        together = stack.logits(features.repeat(2, *[1] * features.ndim).clone())
        weights = torch.cos(torch.arange(together[0].numel()).to(together)).view_as(together[0])
        if not stack.gradient((together * weights).sum(), gradient):
            raise ValueError("some parameters take no part in the loss")
        for row, model in enumerate(models):
            model.train()
            model.zero_grad()
            alone = parts.task.logits(model(features.clone()), job.link)
            (alone * weights).sum().backward()
            _alike("outputs", together[row].detach(), alone.detach())
            whole = float(gradient[row].norm())
            for (_, part), parameter in zip(
                stack.columns.split(gradient),
                (p for p in model.parameters() if p.requires_grad),
                strict=True,
            ):
                assert parameter.grad is not None
                _alike("gradients", part[row], parameter.grad, 1e-3 * whole)
    _compare_evaluation(job, parts, models, stack)


def _compare_evaluation(
    job: Job, parts: ElementParts, models: list[nn.Module], stack: StackedModel
) -> None:
    features = parts.data.train.features[:EXAMPLES]
    for row, model in enumerate(models):
        stack.module.eval()
        model.eval()
        with torch.no_grad():
            together = stack.logits_of([row], features.clone())[0]
            _alike("outputs", together, parts.task.logits(model(features.clone()), job.link))
        ours = stack.state_dict(row)
        for name, theirs in model.state_dict().items():
            _alike("buffers", ours[name], theirs)


def _model(job: Job, parts: ElementParts, number: int) -> nn.Module:
    """A model moved off its initial weights, since zeros among them would hide what is behind."""
    model = build_model(
        job.config["model"],
        parts.task,
        job.link,
        tuple(parts.data.train.features.shape[1:]),
        parts.data.class_counts,
        seed_integer(job.study_seed, "probe", number),
        parts.data.train.features,
    )
    random = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.1)
    return model.to(job.device, parts.data.train.features.dtype)


def _alike(what: str, ours: Tensor, theirs: Tensor, floor: float = 0.0) -> None:
    if ours.shape != theirs.shape:
        raise _Misfit(what)
    if not theirs.is_floating_point():
        if not torch.equal(ours, theirs):
            raise _Misfit(what)
        return
    most = TOLERANCE.get(theirs.dtype, 1e-3) * (float(theirs.norm()) + floor + 1e-6)
    # Not finite in both is alike: the trainings diverge either way.
    if torch.isfinite(theirs).all() and not float((ours - theirs).norm()) <= most:
        raise _Misfit(what)
