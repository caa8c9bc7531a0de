"""Forward and backward of the losses against torch's own, as ratios measured in one run.

The floor is `F.binary_cross_entropy_with_logits` (sigmoid) and `F.cross_entropy` (softmax) on the
same tensors with the same single thread; `formula` is focal loss as it is usually written down
with plain torch operations. Run it with `make bench`.
"""

import torch
import torch.nn.functional as F
from torch.utils.benchmark import Timer

from losslab.losses import LOSSES

GAMMA, ALPHA = 2.0, 0.25


def formula(logits, targets):
    """Sigmoid focal loss written out, mean reduction."""
    p = torch.sigmoid(logits)
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = ALPHA * targets + (1 - ALPHA) * (1 - targets)
    return (alpha_t * (1 - p_t) ** GAMMA * ce).mean()


def step(loss, logits, targets):
    """One forward and backward pass."""
    logits.grad = None
    loss(logits, targets).backward()


def compare(title, floor, others, logits, targets):
    """Print median milliseconds, and the ratio to the floor, of each loss."""
    print(f"\n{title}")
    times = {}
    for name, loss in {"torch (floor)": floor, **others}.items():
        scope = {"step": step, "loss": loss, "logits": logits, "targets": targets}
        timer = Timer("step(loss, logits, targets)", globals=scope, num_threads=1)
        times[name] = timer.blocked_autorange(min_run_time=1.0).median * 1e3
    base = times["torch (floor)"]
    for name, milliseconds in times.items():
        print(f"  {name:<16} {milliseconds:9.3f} ms   {milliseconds / base:6.2f} x")


def main():
    """Measure sigmoid losses at three sizes and softmax losses at three numbers of classes."""
    torch.manual_seed(0)
    create = LOSSES.create
    for size in (10_000, 1_000_000, 16_000_000):
        logits = (4 * torch.randn(size)).requires_grad_()
        targets = (torch.rand(size) < 0.01).float()
        others = {
            "ce": create("ce"),
            "focal gamma 2": create("focal", gamma=GAMMA, alpha=ALPHA),
            "focal gamma 1.5": create("focal", gamma=1.5, alpha=ALPHA),
            "formula": formula,
        }
        floor = F.binary_cross_entropy_with_logits
        compare(f"sigmoid, {size:,} logits, one thread", floor, others, logits, targets)
    for classes in (10, 100, 1000):
        logits = (4 * torch.randn(1_000_000 // classes, classes)).requires_grad_()
        targets = torch.randint(classes, (len(logits),))
        others = {
            "ce": create("ce", link="softmax"),
            "focal gamma 2": create("focal", link="softmax", gamma=GAMMA),
        }
        title = f"softmax, {len(logits):,} x {classes} logits, one thread"
        compare(title, F.cross_entropy, others, logits, targets)


if __name__ == "__main__":
    main()
