"""The softmax focal loss on plain CPU tensors: rows in chunks, gradient at once."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from losslab.losses.focal_chunk import Power
from losslab.losses.formulas import focal_terms, margin_terms

CHUNK = 1 << 18  # logits: only the gradient's own chunk has to stay in cache
# exp of logits between these bounds, and a sum of as many as there can be, is a normal float32,
# even for the class that is 28 below the largest.
_LOWEST, _HIGHEST = -55.0, 70.0


class SoftmaxFocalValues(Function):
    """Softmax focal loss per target of plain float32 or float64 tensors."""

    # forward with ctx: see `FocalTotal`.
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, gamma: float | None, wants_slopes: bool
    ) -> Tensor:
        """The losses; the slopes are kept where the backward pass will want them."""
        losses = torch.empty(targets.shape, dtype=logits.dtype, device="cpu")
        slopes = torch.empty_like(logits) if wants_slopes else None
        softmax_pass(logits, targets, gamma, losses, slopes)
        ctx.gamma = gamma
        ctx.save_for_backward(logits, targets, slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Slopes times upstream."""
        logits, targets, slopes = ctx.saved_tensors
        if torch.is_grad_enabled():
            slopes = _differentiable(logits, targets, ctx.gamma)
        return slopes * upstream.unsqueeze(1), None, None, None


def softmax_pass(
    logits: Tensor, targets: Tensor, gamma: float | None, losses: Tensor, slopes: Tensor | None
) -> None:
    """Fill `losses`, of the shape of `targets`, and `slopes`, of the shape of `logits`.

    With E_j = exp(z_j) and O the sum over the classes other than t: q = O / (O + E_t),
    c = log1p(O / E_t); no digit is lost where P_t rounds to 1. A = q^gamma (q + gamma p c);
    dL/dz_t = -A and dL/dz_j = A E_j / O. To be called without grad mode.
    """
    power = Power(gamma) if gamma else None
    scratch = None
    for part in _parts(logits):
        z, t = logits[part], targets[part[:1] + part[2:]]
        if slopes is not None:
            e = slopes[part]
        else:
            if scratch is None or scratch.shape != z.shape:
                scratch = torch.empty_like(z)
            e = scratch
        index = t.unsqueeze(1)
        z_t = _exponentials(z, index, e)
        e_t = z_t.exp()
        e.scatter_(1, index, torch.zeros_like(e_t))
        others = e.sum(1, keepdim=True)
        both = others + e_t
        ratio = others / e_t
        loss = torch.where(ratio < 1e30, torch.log1p(ratio), torch.log(both) - z_t)
        loss.clamp_(max=torch.finfo(loss.dtype).max)
        slope = others / both
        if power is not None:
            p_loss = (e_t / both).mul_(loss)
            log_q = torch.log(slope).neg_() if power.needs_log else torch.empty_like(slope)
            factor = power(slope, torch.empty_like(slope), [log_q])
            slope = slope.add(p_loss, alpha=gamma).mul_(factor)
            loss.mul_(factor)
        losses[part[:1] + part[2:]] = loss.squeeze(1)
        if slopes is not None:
            # In two steps: the quotient of both factors can underflow where the product does not.
            e.div_(others.clamp(min=torch.finfo(e.dtype).tiny)).mul_(slope)
            e.scatter_(1, index, slope.neg_())


def _exponentials(z: Tensor, index: Tensor, out: Tensor) -> Tensor:
    """exp(z) into `out`, rows shifted by their largest only where they must be; z of the target.

    Without a shift nothing is rounded. With one, a class near enough to the largest to matter is
    subtracted exactly, since both are large.
    """
    low, high = z.aminmax()
    if low.item() >= _LOWEST and high.item() <= _HIGHEST:
        torch.exp(z, out=out)
        return z.gather(1, index)
    largest = torch.finfo(z.dtype).max
    z = z.clamp(-largest, largest)
    top = z.amax(1, keepdim=True)
    shift = torch.where((top >= _LOWEST) & (top <= _HIGHEST), 0, top)
    torch.sub(z, shift, out=out).exp_()
    return z.gather(1, index) - shift


def _differentiable(logits: Tensor, targets: Tensor, gamma: float | None) -> Tensor:
    value, others = margin_terms(logits, targets, 1)
    number = None if gamma is None else torch.tensor(gamma, dtype=torch.float64, device="cpu")
    _, slope = focal_terms(value, None, number, None)
    slope = slope.unsqueeze(1)
    return (others * -slope).scatter(1, targets.unsqueeze(1), slope)


def _parts(logits: Tensor) -> Iterator[tuple[slice, ...]]:
    """Slices of examples and, where one example is more than a chunk, of its first inner axis."""
    number, inner = len(logits), logits[:1, :, :1].numel() if logits.ndim > 2 else 1
    if logits.numel() == 0:
        return
    per_example = logits[0].numel()
    chunk = CHUNK * torch.get_num_threads()  # every thread wants a chunk's worth
    if per_example > chunk and logits.ndim > 2:
        step = max(1, chunk // inner)
        for i in range(number):
            for start in range(0, logits.shape[2], step):
                yield slice(i, i + 1), slice(None), slice(start, start + step)
        return
    step = max(1, chunk // per_example)
    for start in range(0, number, step):
        yield slice(start, start + step), slice(None)
