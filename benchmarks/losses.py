"""Forward and backward of the losses against torch's own and other libraries, in one run.

Every contender of a case gets the same tensors and takes its turn in every round, so that noise
hits all alike; a turn is a few steps in a row, of which the fastest counts. A row gives the median
over the rounds of one step's milliseconds (forward, backward, fresh gradient) and its ratio to the
floor, then the peak extra memory of one step: the highest running sum of what torch's CPU
allocator gave out and took back, as torch.profiler records it, the new gradient included.

The floor is `F.binary_cross_entropy_with_logits` (sigmoid) and `F.cross_entropy` (softmax).
Run it with `make bench`; `python benchmarks/losses.py sigmoid 1000000` measures one part of it.
"""

import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # no note on stderr at every profile

import torch
import torch.nn.functional as F
from contenders import sigmoid_contenders, softmax_contenders
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from losslab.losses import LOSSES

Contender = Callable[[Tensor, Tensor], Tensor]
ROUNDS = {10_000: 100, 1_000_000: 15, 16_000_000: 3}  # rounds at so many logits
STEPS = {10_000: 10, 1_000_000: 3, 16_000_000: 1}  # steps in a turn
PATIENCE = 2.0  # seconds of a contender's turns, after which it sits the other rounds out
CLASSES = (10, 100, 1000)
SOFTMAX_LOGITS = 1_000_000
FLOOR = "torch (floor)"


def main() -> None:
    """Measure what the arguments name, links and sizes, or everything."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    wanted = sys.argv[1:]
    links = [link for link in ("sigmoid", "softmax") if link in wanted] or ["sigmoid", "softmax"]
    sizes = [size for size in ROUNDS if str(size) in wanted] or list(ROUNDS)
    if not has_compiler():
        print("no C++ compiler found (c++, g++, clang++ or $CXX): compiled rows are left out")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        if "sigmoid" in links:
            for size in sizes:
                compare_sigmoid(size, threads)
        if "softmax" in links:
            for classes in CLASSES:
                compare_softmax(classes, threads)


def compare_sigmoid(size: int, threads: int) -> None:
    """Measure the sigmoid losses at `size` logits, one in a hundred targets positive."""
    logits = (4 * torch.randn(size // 10, 10)).requires_grad_()
    targets = (torch.rand(size // 10, 10) < 0.01).float()
    create = LOSSES.create
    ours: dict[str, Contender] = {
        "ce": create("ce"),
        "focal gamma 0": create("focal", gamma=0.0),
        "focal gamma 1": create("focal", gamma=1.0),
        "focal gamma 2": create("focal", gamma=2.0),
        "focal gamma 1.7": create("focal", gamma=1.7),
    }
    if has_compiler() and size >= 1_000_000:
        ours["ce, compiled"] = compiled(create("ce"))
        ours["focal, compiled"] = compiled(create("focal", gamma=2.0))
    contenders = {FLOOR: F.binary_cross_entropy_with_logits, **ours, **sigmoid_contenders()}
    title = f"sigmoid, {size:,} logits, {threads} thread(s)"
    compare(title, contenders, logits, targets, ROUNDS[size], STEPS[size])


def compare_softmax(classes: int, threads: int) -> None:
    """Measure the softmax losses at a million logits."""
    logits = (4 * torch.randn(SOFTMAX_LOGITS // classes, classes)).requires_grad_()
    targets = torch.randint(classes, (len(logits),))
    create = LOSSES.create
    contenders = {
        FLOOR: F.cross_entropy,
        "ce": create("ce", link="softmax"),
        "focal gamma 2": create("focal", link="softmax", gamma=2.0),
        "focal gamma 1.7": create("focal", link="softmax", gamma=1.7),
        **softmax_contenders(),
    }
    title = f"softmax, {len(logits):,} x {classes} logits, {threads} thread(s)"
    compare(title, contenders, logits, targets, ROUNDS[SOFTMAX_LOGITS], STEPS[SOFTMAX_LOGITS])


def compare(
    title: str,
    contenders: dict[str, Contender],
    logits: Tensor,
    targets: Tensor,
    rounds: int,
    steps: int,
) -> None:
    """Print time, peak extra memory and their ratios to the floor, of each contender."""
    memory = {name: peak_memory(loss, logits, targets) for name, loss in contenders.items()}
    turns: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, loss in contenders.items():
            if sum(turns[name]) * steps < PATIENCE:
                turns[name].append(min(seconds(loss, logits, targets) for _ in range(steps)))
    times = {name: statistics.median(turn) * 1e3 for name, turn in turns.items()}
    print(f"\n{title}\n  {'':<18}{'ms':>10}{'ratio':>8}{'peak MB':>11}{'ratio':>8}")
    for name, milliseconds in times.items():
        time_ratio, memory_ratio = milliseconds / times[FLOOR], memory[name] / memory[FLOOR]
        print(
            f"  {name:<18}{milliseconds:>10.3f}{time_ratio:>8.2f}"
            f"{memory[name]:>11.2f}{memory_ratio:>8.2f}",
            flush=True,
        )


def seconds(loss: Contender, logits: Tensor, targets: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    logits.grad = None
    begin = time.perf_counter()
    loss(logits, targets).backward()
    return time.perf_counter() - begin


def peak_memory(loss: Contender, logits: Tensor, targets: Tensor) -> float:
    """Most megabytes that one forward and backward pass has taken at a time."""
    if hasattr(loss, "_torchdynamo_orig_callable"):
        seconds(loss, logits, targets)  # compiles
    logits.grad = None
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        loss(logits, targets).backward()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    events = [event for event in events if event.get("name") == "[memory]"]
    taken = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        taken += event["args"]["Bytes"]
        peak = max(peak, taken)
    return peak / 1e6


def compiled(loss: torch.nn.Module) -> Contender:
    """The loss through torch.compile, for tensors of one size."""
    torch.compiler.reset()
    return torch.compile(loss, fullgraph=True, dynamic=False)


def has_compiler() -> bool:
    """Whether there is a C++ compiler for torch.compile."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))


if __name__ == "__main__":
    main()
