"""The sigmoid focal loss on plain CPU tensors: in one pass, the gradient with the loss.

Memory is read and written once, chunk by chunk, and nothing but the gradient outlives the forward
pass. That values are looked at is why no transform may come through here.
"""

from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from losslab.losses.focal_chunk import ONE, Chunk
from losslab.losses.formulas import compute_dtype, focal_terms, is_plain
from losslab.losses.reduction import divisor


class OutOfRange(Exception):
    """A target of a reduced loss is neither in [0, 1] nor ignored."""


class FocalReduced(Function):
    """Reduced focal loss, whose gradient the forward pass finds already."""

    # forward with ctx: a separate setup_context costs .3 ms a call, for signatures read anew.
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        settings: tuple[float, float | None, int | None],
        reduction: str,
        wants_slopes: bool,
    ) -> Tensor:
        """`settings`: gamma, alpha and ignore_index. Raises `OutOfRange`."""
        dtype = compute_dtype(logits.dtype)
        keeps = wants_slopes and logits.dtype == dtype
        slopes = torch.empty(logits.shape, dtype=dtype, device="cpu") if keeps else None
        counts = reduction == "positives"
        sums = focal_pass(logits, targets, *settings, counts_positives=counts, slopes=slopes)
        ctx.settings = settings
        ctx.divisor = divisor(reduction, *sums[1:])
        ctx.save_for_backward(logits, targets, slopes)
        return torch.scalar_tensor(sums[0] / ctx.divisor, dtype=dtype, device="cpu")

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Slopes times upstream."""
        logits, targets, slopes = ctx.saved_tensors
        upstream = upstream / ctx.divisor
        by_logits = _by_logits(logits, targets, ctx.settings, slopes, upstream, checks=True)
        return by_logits, None, None, None, None


class FocalValues(Function):
    """Focal loss per element of plain tensors."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor | None,
        gamma: float,
        alpha: float | None,
        wants_slopes: bool,
    ) -> Tensor:
        """The losses; the slopes are kept where the backward pass will want them."""
        dtype = compute_dtype(logits.dtype)
        losses = torch.empty(logits.shape, dtype=dtype, device="cpu")
        slopes = torch.empty_like(losses) if wants_slopes and logits.dtype == dtype else None
        ctx.settings = gamma, alpha, None
        focal_pass(logits, targets, *ctx.settings, checks=False, losses=losses, slopes=slopes)
        ctx.save_for_backward(logits, targets, slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Slopes times upstream."""
        logits, targets, slopes = ctx.saved_tensors
        by_logits = _by_logits(logits, targets, ctx.settings, slopes, upstream, checks=False)
        return by_logits, None, None, None, None


def focal_pass(
    logits: Tensor,
    targets: Tensor | None,
    gamma: float,
    alpha: float | None,
    ignored: int | None,
    *,
    checks: bool = True,
    counts_positives: bool = True,
    losses: Tensor | None = None,
    slopes: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[float, int, float]:
    """One pass over the focal loss, to be called without grad mode.

    Returns the sum of the losses, the number of elements whose target is not `ignored` and the sum
    of their targets. Fills `losses` (the sum is 0 then) and `slopes`, contiguous and of the shape
    of `logits`, where they are given; `scale` (one number or one per element) multiplies the
    slopes. Raises `OutOfRange` for a target outside [0, 1] that is not `ignored`, unless `checks`
    is off: then the loss is the line through its values at 0 and 1, and nothing is ignored.

    >>> focal_pass(torch.zeros(3), torch.tensor([0, 1, -100]), 0.0, None, -100)[1:]
    (2, 1.0)
    """
    number, total, positives = logits.numel(), 0.0, 0.0
    if number == 0:
        return total, number, positives
    if targets is None:
        targets = ONE[compute_dtype(logits.dtype)].expand(logits.shape)
    work = Chunk(logits, gamma, alpha)
    for x, given, loss, slope, factor in zip(
        work.parts(logits),
        work.parts(targets),
        work.parts(losses),
        work.parts(slopes),
        repeat(scale) if scale is None or scale.ndim == 0 else work.parts(scale),
        strict=False,
    ):
        x, y = (t if t.dtype == work.dtype else t.to(work.dtype) for t in (x, given))
        work.fit(x.numel())
        low, high = work.hardness(y)
        if checks and not low >= 0:
            x, y, dropped = _without_ignored(x, y, given, ignored)
            number -= dropped
            positives -= dropped  # the ignored have become positives without loss
            low, high = work.hardness(y)
            if not low >= 0:
                raise OutOfRange
        hard = low == 0 and high == 0
        own = slope if slope is None or scale is None else torch.empty_like(x)
        total += (work.hard if hard else work.soft)(x, y, loss, own)
        if own is not slope:
            slope.copy_(own.mul_(factor))
        if counts_positives:
            positives += (torch.dot(y, y) if hard else y.sum(dtype=torch.float64)).item()
    return total, number, positives


def _by_logits(
    logits: Tensor,
    targets: Tensor | None,
    settings: tuple[float, float | None, int | None],
    slopes: Tensor | None,
    upstream: Tensor,
    checks: bool,
) -> Tensor:
    # Autograd's is_grads_batched still goes by a batched tensor older than torch.func.
    plain = is_plain(upstream) and not torch._C._functorch.is_legacy_batchedtensor(upstream)
    if torch.is_grad_enabled() or (slopes is None and not plain):
        return (_differentiable(logits, targets, *settings) * upstream).to(logits.dtype)
    if slopes is not None:
        # In place where the engine frees the slopes right after, so that nobody sees them again.
        return slopes.mul_(upstream) if plain and not _graph_is_kept() else slopes * upstream
    # Half precision: found anew, since a gradient kept in half would underflow before it is
    # multiplied by upstream, and one kept in float32 is big.
    result = torch.empty(logits.shape, dtype=logits.dtype, device="cpu")
    focal_pass(logits, targets, *settings, checks=checks, slopes=result, scale=upstream)
    return result


def _differentiable(
    logits: Tensor, targets: Tensor | None, gamma: float, alpha: float | None, ignored: int | None
) -> Tensor:
    numbers = _number(gamma or None), _number(alpha)
    if ignored is None or targets is None:
        return focal_terms(logits, targets, *numbers)[1]
    kept = targets != ignored
    x, y = torch.where(kept, logits, 0), torch.where(kept, targets, 0)
    return torch.where(kept, focal_terms(x, y, *numbers)[1], 0)


# The engine knows whether it will be asked for this graph again; a torch that does not tell keeps.
_graph_is_kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def _number(value: float | None) -> Tensor | None:
    return None if value is None else torch.scalar_tensor(value, dtype=torch.float64, device="cpu")


def _without_ignored(
    x: Tensor, y: Tensor, given: Tensor, ignored: int | None
) -> tuple[Tensor, Tensor, int]:
    """The ignored as positives of the largest logit, whose loss and slope are exactly 0."""
    if ignored is None:
        return x, y, 0
    kept = given != ignored
    dropped = len(x) - int(torch.count_nonzero(kept))
    return torch.where(kept, x, torch.finfo(x.dtype).max), torch.where(kept, y, 1), dropped
