"""A chunk of logits and targets, worked on in place in a few scratch buffers.

Chunks are as large as they may be to stay in cache, since every operation has a fixed cost too.
Particular values of gamma and hard targets take shorter ways.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from losslab.losses.formulas import compute_dtype

CHUNK = 1 << 17
SMALLEST_CHUNK = 1 << 15
ONE = {dtype: torch.ones((), dtype=dtype) for dtype in (torch.float32, torch.float64)}
# out = a * sigmoid(-u), from u and exp(-|u|): no exponential of its own.
_times_sigmoid = torch.ops.aten.log_sigmoid_backward.grad_input

_Weigh = Callable[[Tensor], Tensor]  # fills a buffer with the weights of the elements


class Chunk:
    """Scratch buffers, and what is done with a chunk in them."""

    def __init__(self, logits: Tensor, gamma: float, alpha: float | None):
        number, self.dtype = logits.numel(), compute_dtype(logits.dtype)
        self.one, self.largest = ONE[self.dtype], torch.finfo(self.dtype).max
        self.gamma, self.alpha = gamma, alpha
        self.power = Power(gamma)
        buffers = 5 + self.power.needs_result + (alpha is not None)
        # Every thread wants a chunk's worth; all buffers together are less than the logits.
        wanted = min(CHUNK * torch.get_num_threads(), number // (buffers + 1))
        self.size = min(number, max(SMALLEST_CHUNK, wanted))
        scratch = torch.empty(buffers, self.size, dtype=self.dtype, device="cpu")
        self.buffers: Sequence[Tensor] = scratch.unbind()
        if alpha is not None:
            self.buffers[-1].fill_(1 - alpha)
            self.positive = torch.scalar_tensor(alpha, dtype=self.dtype, device="cpu")

    def parts(self, tensor: Tensor | None) -> Iterable[Any]:
        """The tensor, flat, chunk by chunk."""
        if tensor is None:
            return repeat(None)
        flat = tensor.reshape(-1)
        return (flat,) if flat.numel() <= self.size else flat.split(self.size)

    def fit(self, number: int) -> None:
        """Make the buffers as long as the chunk, which is shorter at the end of the tensor only."""
        if number != self.buffers[0].numel():
            self.buffers = [buffer[:number] for buffer in self.buffers]

    def hardness(self, y: Tensor) -> tuple[float, float]:
        """Bounds of y (1-y): both 0 where all targets are 0 or 1, negative or nan outside."""
        low, high = torch.addcmul(y, y, y, value=-1, out=self.buffers[0]).aminmax()
        return low.item(), high.item()

    def hard(self, x: Tensor, y: Tensor, loss: Tensor | None, slope: Tensor | None) -> float:
        """Targets in {0, 1}. Returns the sum of the losses."""
        torch.sub(self.one, y, alpha=2, out=self.buffers[0])
        if self.alpha is None:
            return self.side(x, None, loss, slope)
        ends = self.buffers[-1], self.positive
        return self.side(x, lambda out: torch.lerp(*ends, y, out=out), loss, slope)

    def soft(self, x: Tensor, y: Tensor, loss: Tensor | None, slope: Tensor | None) -> float:
        """Targets in between: y L(1) + (1-y) L(0). Returns the sum of the losses."""
        at_one, at_zero = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        sign, one = self.buffers[0], self.one
        sign.fill_(-1)
        total = self.side(x, lambda out: torch.mul(y, at_one, out=out), loss, slope)
        sign.fill_(1)
        others = [None if given is None else torch.empty_like(x) for given in (loss, slope)]
        total += self.side(x, lambda out: torch.sub(one, y, out=out).mul_(at_zero), *others)
        for given, other in zip((loss, slope), others, strict=True):
            if given is not None and other is not None:
                given.add_(other)
        return total

    def side(
        self, x: Tensor, weigh: _Weigh | None, loss: Tensor | None, slope: Tensor | None
    ) -> float:
        """Loss and slope at u = -sign x, with the sign in the first buffer; returns the sum.

        With e = exp(-|u|): c = log1p(e) + max(-u, 0) and -log q = log1p(e) + max(u, 0). p and q
        come of e each by itself, since 1 - q has lost the digits of a small p.
        """
        sign, minus_u, e, cost, spare, *more = self.buffers
        torch.mul(x, sign, out=minus_u)
        u = torch.neg(minus_u, out=spare)
        torch.minimum(u, minus_u, out=e).exp_()
        torch.log1p(e, out=cost)
        if self.power.needs_log:
            torch.clamp(u, 0, self.largest, out=more[0]).add_(cost)
        cost.add_(torch.clamp(minus_u, 0, self.largest, out=spare))
        if self.gamma and slope is not None:
            _times_sigmoid(cost, minus_u, e, grad_input=spare)  # p c
        u = minus_u.neg_()
        q = spare if slope is None else slope  # signed, and the slope of cross-entropy
        if self.gamma or slope is not None:
            _times_sigmoid(sign, u, e, grad_input=q)
        factor = self.power(q, e, more) if self.gamma else None
        if weigh is not None:
            factor = weigh(u) if factor is None else factor.mul_(weigh(u))
        if slope is not None:
            if self.gamma:
                slope.addcmul_(sign, spare, value=self.gamma)
            if factor is not None:
                slope.mul_(factor)
        if factor is not None:
            cost.mul_(factor)
        if loss is None:
            return cost.sum().item()  # in pairs: torch.dot would lose two digits
        loss.copy_(cost)
        return 0.0


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
