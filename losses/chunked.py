"""The sigmoid focal loss on plain CPU tensors: chunks that stay in cache, gradient at once.

A chunk is worked on in place in a few scratch buffers, so that memory is read and written once
and nothing but the gradient outlives the forward pass. Particular values of gamma and hard
targets take shorter ways; that values are looked at is why no transform may come through here.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from losslab.losses.formulas import compute_dtype, focal_terms, focal_values, is_plain
from losslab.losses.reduction import divisor

CHUNK = 1 << 17  # elements: the buffers stay in cache, the fixed cost of the operations is small
SMALLEST_CHUNK = 1 << 15
_ONE = {dtype: torch.ones((), dtype=dtype) for dtype in (torch.float32, torch.float64)}
# out = a * sigmoid(-u), from u and exp(-|u|): no exponential of its own.
_times_sigmoid = torch.ops.aten.log_sigmoid_backward.grad_input


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
        total, number, positives = focal_pass(
            logits, targets, *settings, reduction == "positives", slopes=slopes
        )
        ctx.settings = settings
        ctx.divisor = divisor(reduction, number, positives)
        ctx.save_for_backward(logits, targets, slopes)
        return torch.scalar_tensor(total / ctx.divisor, dtype=dtype, device="cpu")

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Slopes times upstream, in new memory: the graph may be walked again."""
        logits, targets, slopes = ctx.saved_tensors
        upstream = upstream / ctx.divisor
        return _by_logits(logits, targets, ctx.settings, slopes, upstream), *[None] * 4


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
        focal_pass(logits, targets, gamma, alpha, None, losses=losses, slopes=slopes)
        ctx.settings = gamma, alpha, None
        ctx.save_for_backward(logits, targets, slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Slopes times upstream, in new memory: the graph may be walked again."""
        logits, targets, slopes = ctx.saved_tensors
        return _by_logits(logits, targets, ctx.settings, slopes, upstream), *[None] * 4


def focal_pass(
    logits: Tensor,
    targets: Tensor | None,
    gamma: float,
    alpha: float | None,
    ignored: int | None,
    counts_positives: bool = True,
    *,
    losses: Tensor | None = None,
    slopes: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[float, int, float]:
    """One pass over the focal loss, to be called without grad mode.

    Returns the sum of the losses, the number of elements whose target is not `ignored` and the sum
    of their targets. Fills `losses` (the sum is 0 then) and `slopes`, contiguous and of the shape
    of `logits`, where they are given; `scale` (one number or one per element) multiplies the
    slopes. Raises `OutOfRange` for a sum with a target outside [0, 1].

    >>> focal_pass(torch.zeros(3), torch.tensor([0, 1, -100]), 0.0, None, -100)[1:]
    (2, 1.0)
    """
    number, total, positives = logits.numel(), 0.0, 0.0
    if number == 0:
        return total, number, positives
    if targets is None:
        targets = _ONE[compute_dtype(logits.dtype)].expand(logits.shape)
    work = _Chunk(logits, gamma, alpha)
    for x, given, loss, slope, factor in zip(
        work.parts(logits),
        work.parts(targets),
        work.parts(losses),
        work.parts(slopes),
        repeat(scale) if scale is None or scale.ndim == 0 else work.parts(scale),
        strict=False,
    ):
        x, y = x.to(work.dtype), given.to(work.dtype)
        low, high = work.hardness(y)
        if not low >= 0 and loss is None:
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


class _Chunk:
    """Scratch buffers, and what is done with a chunk in them."""

    def __init__(self, logits: Tensor, gamma: float, alpha: float | None):
        number, self.dtype = logits.numel(), compute_dtype(logits.dtype)
        self.gamma, self.alpha = gamma, alpha
        self.power = Power(gamma)
        buffers = 5 + self.power.needs_result + (alpha is not None)
        # Every thread wants a chunk's worth; all buffers together are no more than the logits.
        wanted = min(CHUNK * torch.get_num_threads(), number // buffers)
        self.size = min(number, max(SMALLEST_CHUNK, wanted))
        self.buffers = torch.empty(buffers, self.size, dtype=self.dtype, device="cpu").unbind()
        if alpha is not None:
            self.buffers[-1].fill_(1 - alpha)
            self.positive = torch.scalar_tensor(alpha, dtype=self.dtype, device="cpu")

    def parts(self, tensor: Tensor | None) -> Iterable[Any]:
        """The tensor, flat, chunk by chunk."""
        if tensor is None:
            return repeat(None)
        flat = tensor.reshape(-1)
        return (flat,) if flat.numel() <= self.size else flat.split(self.size)

    def hardness(self, y: Tensor) -> tuple[float, float]:
        """Bounds of y (1-y): both 0 where all targets are 0 or 1, negative or nan outside."""
        low, high = torch.addcmul(y, y, y, value=-1, out=self.scratch(y)[0]).aminmax()
        return low.item(), high.item()

    def scratch(self, like: Tensor) -> Sequence[Tensor]:
        """The buffers, as long as `like`."""
        number = like.numel()
        return self.buffers if number == self.size else [b[:number] for b in self.buffers]

    def hard(self, x: Tensor, y: Tensor, loss: Tensor | None, slope: Tensor | None) -> float:
        """Targets in {0, 1}: one side only, at u = (2y-1) x. Returns the sum of the losses.

        With e = exp(-|u|): c = log1p(e) + max(-u, 0) and -log q = log1p(e) + max(u, 0). p and q
        come of e each by itself, since 1 - q has lost the digits of a small p.
        """
        sign, minus_u, e, cost, spare, *more = self.scratch(x)
        largest = torch.finfo(self.dtype).max
        torch.sub(_ONE[self.dtype], y, alpha=2, out=sign)
        torch.mul(x, sign, out=minus_u)
        u = torch.neg(minus_u, out=spare)
        torch.minimum(u, minus_u, out=e).exp_()
        torch.log1p(e, out=cost)
        if self.power.needs_log:
            torch.clamp(u, 0, largest, out=more[0]).add_(cost)
        cost.add_(torch.clamp(minus_u, 0, largest, out=spare))
        if self.gamma and slope is not None:
            _times_sigmoid(cost, minus_u, e, grad_input=spare)  # p c
        u = minus_u.neg_()
        q = spare if slope is None else slope  # signed, and the slope of cross-entropy
        if self.gamma or slope is not None:
            _times_sigmoid(sign, u, e, grad_input=q)
        factor = self.power(q, e, more) if self.gamma else None
        if self.alpha is not None:
            weight = torch.lerp(more[-1], self.positive, y, out=u)
            factor = weight if factor is None else factor.mul_(weight)
        if slope is not None:
            if self.gamma:
                slope.addcmul_(sign, spare, value=self.gamma)
            if factor is not None:
                slope.mul_(factor)
        return _summed(cost, factor, loss)

    def soft(self, x: Tensor, y: Tensor, loss: Tensor | None, slope: Tensor | None) -> float:
        """Targets in between: y L(1) + (1-y) L(0). Returns the sum of the losses."""
        total = 0.0
        gamma, alpha = _number(self.gamma or None), _number(self.alpha)
        step = max(1, len(x) // 4)  # this way takes more temporaries
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            values, slopes = focal_values(x[part], y[part], gamma, alpha)
            total += _summed(values, None, None if loss is None else loss[part])
            if slope is not None:
                slope[part] = slopes
        return total


class Power:
    """q^gamma without the rounding of exp(gamma log q): whole powers by multiplication.

    >>> Power(2.5)(torch.tensor([0.25]), torch.empty(1), [torch.empty(1)])
    tensor([0.0312])
    """

    def __init__(self, gamma: float):
        self.whole = int(min(gamma, 64.0))
        self.rest = gamma - self.whole
        self.needs_log = self.rest not in (0.0, 0.5)
        # Whether a second buffer is wanted; with `needs_log` it has to hold -log |q|.
        self.needs_result = self.rest != 0 or self.whole & (self.whole - 1) != 0

    def __call__(self, q: Tensor, base: Tensor, more: Sequence[Tensor]) -> Tensor:
        """|q|^gamma in one of the buffers, `base` or the first of `more`."""
        result = more[0] if self.needs_result else base
        started, n = self.rest != 0, self.whole
        if self.needs_log:
            result.mul_(-self.rest).exp_()
        elif started:
            torch.abs(q, out=result).sqrt_()
        if n == 0:
            return result
        if n % 2:
            torch.abs(q, out=base)
        else:
            torch.mul(q, q, out=base)
            n //= 2
        while n > 1 or started:
            if n % 2:
                result = result.mul_(base) if started else result.copy_(base)
                started = True
            n //= 2
            if n == 0:
                return result
            base.mul_(base)
        return base


def _by_logits(
    logits: Tensor,
    targets: Tensor | None,
    settings: tuple[float, float | None, int | None],
    slopes: Tensor | None,
    upstream: Tensor,
) -> Tensor:
    if torch.is_grad_enabled() or (slopes is None and not is_plain(upstream)):
        return (_differentiable(logits, targets, *settings) * upstream).to(logits.dtype)
    if slopes is not None:
        return slopes * upstream if _graph_is_kept() else slopes.mul_(upstream)
    # Half precision: found anew, since a gradient kept in half would underflow before it is
    # multiplied by upstream, and one kept in float32 is big.
    result = torch.empty(logits.shape, dtype=logits.dtype, device="cpu")
    focal_pass(logits, targets, *settings, slopes=result, scale=upstream)
    return result


_graph_is_kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def _differentiable(
    logits: Tensor, targets: Tensor | None, gamma: float, alpha: float | None, ignored: int | None
) -> Tensor:
    kept = None
    if ignored is not None and targets is not None:
        kept = targets != ignored
        logits, targets = torch.where(kept, logits, 0), torch.where(kept, targets, 0)
    _, slope = focal_terms(logits, targets, _number(gamma or None), _number(alpha))
    return slope if kept is None else torch.where(kept, slope, 0)


def _number(value: float | None) -> Tensor | None:
    return None if value is None else torch.scalar_tensor(value, dtype=torch.float64, device="cpu")


def _summed(values: Tensor, factor: Tensor | None, into: Tensor | None) -> float:
    """Sum of values * factor, or 0 if they are written to `into` instead."""
    if factor is not None:
        values.mul_(factor)
    if into is None:
        return values.sum().item()  # in pairs: torch.dot would lose two digits
    into.copy_(values)
    return 0.0


def _without_ignored(
    x: Tensor, y: Tensor, given: Tensor, ignored: int | None
) -> tuple[Tensor, Tensor, int]:
    """The ignored as positives of the largest logit, whose loss and slope are exactly 0."""
    if ignored is None:
        return x, y, 0
    kept = given != ignored
    dropped = len(x) - int(torch.count_nonzero(kept))
    return torch.where(kept, x, torch.finfo(x.dtype).max), torch.where(kept, y, 1), dropped
