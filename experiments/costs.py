"""What a model and its training cost: parameters, floating-point operations, memory, time."""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from losslab.experiments.global_random import kept
from losslab.experiments.graph_memory import SavedTensors
from losslab.experiments.states import Job
from losslab.experiments.training import Parts, batches, prepare

_known: dict[str, dict[str, float]] = {}


def training_costs(job: Job) -> dict[str, float]:
    """What a job's training costs, found by one forward pass and one step; no clock is read.

    - `cost/parameters`: numbers that train, those of the loss included.
    - `cost/flops`: floating-point operations of one example's forward pass in evaluation mode, as
      torch counts them: convolutions and matrix products, a multiply and an add being two.
    - `cost/steps`: steps of the optimiser in an epoch.
    - `cost/peak_megabytes`: of one step, 1e6 bytes: weights, buffers, gradients, the optimiser's
      state, and at their peak the tensors that the graph keeps for its backward pass, the batch
      among them. What single operations need for a moment is not in it.

    Found once for each model, dataset, loss and batch size in a process.
    """
    config = job.config
    training = {key: config["training"][key] for key in ("batch_size", "optimizer")}
    like = [config["dataset"], config["model"], config["loss"]["name"], config.get("detector")]
    key = json.dumps([*like, training, job.link, job.study_seed, job.device], sort_keys=True)
    if key not in _known:
        with kept(job.device):
            _known[key] = _costs(prepare(job), job)
    return dict(_known[key])


def _costs(parts: Parts, job: Job) -> dict[str, float]:
    order = batches(len(parts.data.train), parts.training["batch_size"], job, 0)
    modules = nn.ModuleList([parts.model, parts.loss])
    counted = sum(p.numel() for p in modules.parameters() if p.requires_grad)
    operations = flops(parts.model, parts.example())
    parts.model.train()
    peak = peak_of_graph(lambda: parts.step(job, order[0].to(job.device), 0), modules)
    state = _tensors(parts.optimizer.state_dict())
    held = [*modules.parameters(), *modules.buffers(), *state]
    held += [p.grad for p in modules.parameters() if p.grad is not None]
    return {
        "cost/parameters": counted,
        "cost/flops": operations,
        "cost/steps": len(order),
        "cost/peak_megabytes": (peak + sum(_size(tensor) for tensor in held)) / 1e6,
    }


def flops(model: nn.Module, example: Tensor) -> float:
    """Floating-point operations of a forward pass in evaluation mode, as torch counts them."""
    trains = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(example)
    finally:
        model.train(trains)
    return float(counter.get_total_flops())


def peak_of_graph(call: Callable[[], Any], modules: nn.Module) -> int:
    """The most bytes that autograd's graphs hold at any moment of `call`.

    A storage counts once, however many nodes keep it, until the last of them lets go; parameters
    and buffers of `modules` do not count.
    """
    with SavedTensors(without=[*modules.parameters(), *modules.buffers()]) as saved:
        call()
    return saved.peak


def model_costs(model: nn.Module, images: Tensor, repeats: int = 20) -> dict[str, float]:
    """Costs of a model at inference, per image of a batch `images` (B, 3, H, W).

    `parameters` that train; `flops` of one forward pass, see `flops`; `milliseconds`, the median
    of `repeats` passes in evaluation mode, after two that do not count, on one thread where the
    images are on the CPU. The model's mode is left as it was.
    """
    trains = model.training
    model.eval()
    try:
        with torch.no_grad():
            milliseconds = median_milliseconds(lambda: model(images), repeats, images.is_cuda)
    finally:
        model.train(trains)
    return {
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "flops": flops(model, images) / len(images),
        "milliseconds": milliseconds / len(images),
    }


def median_milliseconds(call: Callable[[], object], repeats: int = 20, cuda: bool = False) -> float:
    """The median wall-clock time of a call in milliseconds, on one thread; two calls warm up.

    With `cuda`, the device is waited for.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        taken = []
        for index in range(repeats + 2):
            began = time.perf_counter()
            call()
            if cuda:
                torch.cuda.synchronize()
            if index >= 2:
                taken.append(1000 * (time.perf_counter() - began))
    finally:
        torch.set_num_threads(threads)
    return statistics.median(taken)


def _tensors(content: Any) -> list[Tensor]:
    """The tensors in nested dictionaries."""
    if isinstance(content, Tensor):
        return [content]
    if isinstance(content, dict):
        return [tensor for value in content.values() for tensor in _tensors(value)]
    return []


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
