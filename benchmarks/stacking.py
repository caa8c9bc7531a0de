"""Where stacking pays: milliseconds a training and step, in stacks of several sizes, by shape.

    python benchmarks/stacking.py [--device cuda] [--convolutions]

The rule of `--engine auto` (experiments/stacking.py) was read off this table. CPU time on a CPU, so
that others' load does not count; ratios are to the plain loop in the same run.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from losslab.experiments.config import load_study
from losslab.experiments.stacked import advance_stack
from losslab.experiments.stacking import plan_of, step_bytes
from losslab.experiments.states import Job
from losslab.experiments.training import advance, start

WIDTHS = (16, 64, 256, 512, 1024)
CHANNELS = [[8, 16], [16, 32], [32, 64], [32, 64, 128]]
BATCHES = (32, 64, 256, 1024, 4096)
STACKS = (4, 8, 16, 32, 64)
ROWS = 40_000
STEPS = 30
WORK = 4e8  # rows times parameters that one cell may take
MEGABYTES = 400  # what a stack may take here


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options.add_argument("--convolutions", action="store_true", help="cnn on digits, not mlp")
    given = options.parse_args()
    torch.set_num_threads(1)
    heads = "".join(f"{f'stack of {n}':>16}" for n in STACKS)
    first = f"{'hidden':>14}{'batch':>7}{'rows x params':>15}{'saved MB':>10}{'plain ms':>10}"
    print(f"{first}{heads}   auto")
    shapes: list[Any] = CHANNELS if given.convolutions else [[w, w] for w in WIDTHS]
    for shape in shapes:
        for batch in BATCHES:
            row(shape, batch, given.device, given.convolutions)


def row(shape: list[int], batch: int, device: str, convolutions: bool) -> None:
    """Print one line; shapes too large for a minute are left out."""
    job, steps = job_of(shape, batch, device, convolutions)
    state = start(job)
    parameters = sum(tensor.numel() for tensor in state.model.values())
    plan = plan_of(job, "auto", 1000.0)
    saved = step_bytes(job) / 1e6
    if steps < 2:
        return
    plain = seconds(lambda: advance(state, 1), device) / steps * 1e3
    cells = ""
    for number in STACKS:
        if number * plan.megabytes > MEGABYTES:
            break
        taken = seconds(lambda n=number: advance_stack([state] * n, 1), device)
        each = taken / steps / number * 1e3
        cells += f"{f'{each:.3f} ({plain / each:.1f}x)':>16}"
    named = "-".join(map(str, shape))
    print(f"{named:>14}{batch:>7}{batch * parameters:>15.1e}{saved:>10.2f}{plain:>10.3f}{cells}   "
          f"{plan.engine} {plan.stack}", flush=True)  # fmt: skip


def job_of(shape: list[int], batch: int, device: str, convolutions: bool) -> tuple[Job, int]:
    """A training of one epoch of that shape, and its number of steps."""
    if convolutions:
        data: dict[str, Any] = {"name": "digits", "as_images": True}
        model: dict[str, Any] = {"name": "cnn", "channels": shape}
        steps = 1257 // batch
    else:
        parameters = shape[0] * shape[1] + 20 * shape[0]
        steps = int(min(STEPS, WORK // (batch * parameters) + 2, ROWS // batch))
        sizes = {"examples": max(batch * steps, 200), "validation_examples": 100}
        data = {"name": "clusters", "dimensions": 20, "imbalance_ratio": 9, **sizes}
        model = {"name": "mlp", "hidden": shape}
    study = load_study(
        {
            "dataset": data,
            "model": model,
            "training": {"epochs": 1, "batch_size": batch},
            "arms": ["focal"],
        }
    )
    config = study.arms["focal"].configure({})
    return Job(config, study_seed=0, run_seed=1, metrics=("log_loss",), device=device), steps


def seconds(work: Callable[[], object], device: str) -> float:
    """The faster of two runs."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    taken = []
    for _ in range(2):
        began = clock()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(clock() - began)
    return min(taken)


if __name__ == "__main__":
    main()
