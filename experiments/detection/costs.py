"""What a model costs: parameters, floating-point operations, milliseconds."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def model_costs(model: nn.Module, images: Tensor, repeats: int = 20) -> dict[str, float]:
    """Costs of a model at inference, per image of a batch `images` (B, 3, H, W).

    `parameters` that train; `flops` of one forward pass as torch counts them: convolutions and
    matrix products, a multiplication and an addition being two; `milliseconds`, the median of
    `repeats` passes in evaluation mode, after two that do not count, on one thread where the
    images are on the CPU. The model's mode is left as it was.
    """
    trains = model.training
    model.eval()
    try:
        with torch.no_grad():
            counter = FlopCounterMode(display=False)
            with counter:
                model(images)
            milliseconds = median_milliseconds(lambda: model(images), repeats, images.is_cuda)
    finally:
        model.train(trains)
    return {
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "flops": counter.get_total_flops() / len(images),
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
