"""Loss and gradient in closed form: the binary focal core and the softmax margin.

Every focal and cross-entropy loss is built from two `autograd.Function`s:

* `focal(logits, targets, gamma, alpha)`: the sigmoid focal loss; gamma None is cross-entropy;
* `margin(logits, targets)`: z_t - logsumexp over the other classes, so that softmax(z)_t is
  sigmoid(margin), and a softmax loss is the binary core at u = margin.

Both keep the gradient of the forward pass where plain autograd will ask for it, save nothing but
their inputs otherwise, and recompute differentiably under `create_graph`. `focal_terms` and
`margin_terms` are ordinary torch code without branches on values; the shortcuts (chunks that stay
in cache, particular values of gamma, hard targets) are taken inside `forward` alone and only on
plain CPU tensors, where looking at a value costs nothing and no transform watches.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from losslab.errors import LosslabError

CHUNK = 1 << 16  # elements: the temporaries of a chunk stay in cache, the cost of a call is small


def focal(
    logits: Tensor,
    targets: Tensor | None,
    gamma: Tensor | None = None,
    alpha: Tensor | None = None,
) -> Tensor:
    """Sigmoid focal loss per element, alpha_t (1-p_t)^gamma (-log p_t) (Lin 2017, eq. 5).

    Shapes: `logits` any, of any floating dtype; `targets` the same shape in [0, 1], or None for
    all ones; `gamma` >= 0 and `alpha` in [0, 1] 0-dimensional or broadcastable, None for the
    loss without that factor. Soft targets mix the hard losses, y L(1) + (1-y) L(0). Returns
    float32 (float64 for float64 logits); the gradient has the dtype of the logits.

    Raises `LosslabError` in the backward pass if gamma or alpha requires a gradient.

    >>> x, y = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])
    >>> focal(x, y, torch.tensor(2.0), torch.tensor(0.25))  # .25 * .5^2 * log 2, .75 * ...
    tensor([0.0433, 0.1300])
    """
    loss, _ = _Focal.apply(logits, targets, gamma, alpha, _keep_gradient(logits))
    return loss


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Margin of the target class, m = z_t - log sum_{j != t} exp(z_j), so that P_t = sigmoid(m).

    Unlike 1 - P_t, sigmoid(-m) keeps its accuracy where P_t rounds to 1. Shapes: `logits`
    (N, C, ...) with C >= 2, integer `targets` (N, ...) in [0, C); returns (N, ...) in float32
    (float64 for float64 logits).

    >>> margin(torch.tensor([[1.0, 3.0], [5.0, 0.0]]), torch.tensor([1, 1]))
    tensor([ 2., -5.])
    """
    # Counted from the end, so that a dimension added in front by vmap does not move it.
    class_dim = 1 - logits.ndim
    value, _ = _Margin.apply(logits, targets, class_dim, _keep_gradient(logits))
    return value


def focal_terms(
    logits: Tensor, targets: Tensor | None, gamma: Tensor | None, alpha: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Loss and its derivative by the logits, both in differentiable, branch-free torch code.

    With u = +-x, c = -log sigmoid(u), l = log sigmoid(-u), q = sigmoid(-u), p = sigmoid(u):
    L = exp(gamma l) c and dL/du = -exp(gamma l) (q + gamma p c) (Lin 2017, appendix B, rid of
    its (1-p)^(gamma-1)). Arguments as for `focal`.

    >>> loss, slope = focal_terms(torch.tensor([0.0]), None, None, None)
    >>> loss, slope
    (tensor([0.6931]), tensor([-0.5000]))
    """
    x = _finite(logits)
    log_p, log_q = F.logsigmoid(x), F.logsigmoid(-x)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    if gamma is not None:
        gamma = gamma.to(x.dtype)
    on: Tensor | float = 1.0 if targets is None else targets.to(x.dtype)
    off = 1 - on
    if alpha is not None:
        alpha = alpha.to(x.dtype)
        on, off = on * alpha, off * (1 - alpha)
    loss, slope = _one_side(log_p, log_q, p, q, gamma)
    loss, slope = on * loss, -on * slope
    if targets is None:
        return loss, slope
    at_zero, slope_at_zero = _one_side(log_q, log_p, q, p, gamma)
    return loss + off * at_zero, slope + off * slope_at_zero


def margin_terms(logits: Tensor, targets: Tensor, class_dim: int) -> tuple[Tensor, Tensor]:
    """Margin and the softmax over the other classes, S, in differentiable torch code.

    dm/dz_t = 1 and dm/dz_j = -S_j; S_t is 0. `class_dim` counts from the end.

    >>> margin_terms(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0]), -1)[1]
    tensor([[0.0000, 0.5000, 0.5000]])
    """
    z = _finite(logits)
    index = targets.unsqueeze(class_dim)
    others = z.scatter(class_dim, index, float("-inf"))
    value = z.gather(class_dim, index).squeeze(class_dim) - torch.logsumexp(others, class_dim)
    return _finite(value), torch.softmax(others, class_dim)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a loss is computed: float64 for float64, float32 for all others.

    >>> compute_dtype(torch.bfloat16)
    torch.float32
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def is_plain(*tensors: Tensor) -> bool:
    """Whether the values of these tensors may be looked at: plain CPU tensors, nothing traced.

    False under `torch.compile`, inside a `torch.func` transform, for fake and meta tensors, and on
    a GPU, where looking costs a synchronisation.

    >>> is_plain(torch.zeros(1)), is_plain(torch.zeros(1, device="meta"))
    (True, False)
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return all(
        type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
        for tensor in tensors
    )


class _Focal(Function):
    @staticmethod
    def forward(
        logits: Tensor,
        targets: Tensor | None,
        gamma: Tensor | None,
        alpha: Tensor | None,
        keep_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        given = [value for value in (targets, gamma, alpha) if value is not None]
        scalars = [value.numel() == 1 for value in (gamma, alpha) if value is not None]
        if all(scalars) and is_plain(logits, *given):
            return _focal_in_chunks(
                logits,
                targets,
                0.0 if gamma is None else gamma.item(),
                None if alpha is None else alpha.item(),
                keep_gradient,
            )
        loss, gradient = focal_terms(logits, targets, gamma, alpha)
        return loss, gradient if keep_gradient else loss.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        *tensors, ctx.keep_gradient = inputs
        _, gradient = output
        ctx.mark_non_differentiable(gradient)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, gradient)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, _: Any) -> tuple:
        if any(ctx.needs_input_grad[2:4]):
            raise LosslabError("the focal core has no gradient by gamma or alpha")
        if upstream is None:
            return (None,) * 5
        logits, targets, gamma, alpha, gradient = ctx.saved_tensors
        by_logits = by_targets = None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled() or not ctx.keep_gradient:
                _, gradient = focal_terms(logits, targets, gamma, alpha)
            by_logits = (upstream * gradient).to(logits.dtype)
        if ctx.needs_input_grad[1]:
            # The loss is linear in the target.
            at_one, _ = focal_terms(logits, torch.ones_like(targets), gamma, alpha)
            at_zero, _ = focal_terms(logits, torch.zeros_like(targets), gamma, alpha)
            by_targets = (upstream * (at_one - at_zero)).to(targets.dtype)
        return by_logits, by_targets, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple:
        *tensors, _ = inputs
        logits = _batch_first(tensors[0], in_dims[0], info.batch_size)
        targets = tensors[1]
        if targets is not None:
            targets = _batch_first(targets, in_dims[1], info.batch_size)
        gamma, alpha = (
            tensor if dim is None else _batch_first_of(logits.ndim, tensor.movedim(dim, 0))
            for tensor, dim in zip(tensors[2:], in_dims[2:4], strict=True)
        )
        return _Focal.apply(logits, targets, gamma, alpha, False), (0, None)


class _Margin(Function):
    @staticmethod
    def forward(
        logits: Tensor, targets: Tensor, class_dim: int, keep_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        value, others = margin_terms(logits, targets, class_dim)
        return value, others if keep_gradient else value.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        logits, targets, ctx.class_dim, ctx.keep_gradient = inputs
        _, others = output
        ctx.mark_non_differentiable(others)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, targets, others)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, _: Any) -> tuple:
        if upstream is None:
            return (None,) * 4
        logits, targets, others = ctx.saved_tensors
        if torch.is_grad_enabled() or not ctx.keep_gradient:
            _, others = margin_terms(logits, targets, ctx.class_dim)
        upstream = upstream.unsqueeze(ctx.class_dim)
        index = targets.unsqueeze(ctx.class_dim)
        by_logits = (others * -upstream).scatter(ctx.class_dim, index, upstream)
        return by_logits.to(logits.dtype), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple:
        logits, targets, class_dim, _ = inputs
        logits = _batch_first(logits, in_dims[0], info.batch_size)
        targets = _batch_first(targets, in_dims[1], info.batch_size)
        return _Margin.apply(logits, targets, class_dim, False), (0, None)


def _one_side(
    log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor, gamma: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Focal loss of a hard target, and minus its derivative by the margin."""
    if gamma is None:
        return -log_p, q
    factor = torch.exp(gamma * log_q)
    return factor * -log_p, factor * (q - gamma * p * log_p)


def _focal_in_chunks(
    logits: Tensor,
    targets: Tensor | None,
    gamma: float,
    alpha: float | None,
    keep_gradient: bool,
) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(logits.dtype)
    loss = torch.empty(logits.shape, dtype=dtype)
    gradient = torch.empty(logits.shape if keep_gradient else 0, dtype=dtype)
    flat_loss, flat_gradient = loss.view(-1), gradient.view(-1)
    x, y = logits.reshape(-1), None if targets is None else targets.reshape(-1)
    for start in range(0, x.numel(), CHUNK):
        part = slice(start, start + CHUNK)
        chunk, y_chunk = x[part], None if y is None else y[part].to(dtype)
        # y (1-y) >= 0 sums to 0 only where every target is hard; a soft chunk, or nan, goes the
        # general way.
        if y_chunk is not None and torch.dot(y_chunk, 1 - y_chunk) != 0:
            weight = None if alpha is None else torch.tensor(alpha, dtype=dtype)
            terms: tuple[Tensor, Tensor | None] = focal_terms(
                chunk, y_chunk, torch.tensor(gamma, dtype=dtype), weight
            )
        else:
            terms = _hard_terms(chunk, y_chunk, gamma, alpha, keep_gradient)
        flat_loss[part] = terms[0]
        if keep_gradient:
            assert terms[1] is not None
            flat_gradient[part] = terms[1]
    return loss, gradient


def _hard_terms(
    x: Tensor, y: Tensor | None, gamma: float, alpha: float | None, keep_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """`focal_terms` for targets in {0, 1}: one side only, at u = (2y-1) x."""
    sign = None if y is None else y * 2 - 1
    u = _finite(x if sign is None else x * sign)
    loss = F.logsigmoid(u).neg_()
    weight: Tensor | float | None = alpha
    if alpha is not None and y is not None:
        weight = y * (2 * alpha - 1) + (1 - alpha)
    slope = None
    if keep_gradient or gamma != 0:
        q = torch.sigmoid(-u)
        factor = None
        if gamma != 0:  # q rounded to 0 gives exp(-inf) = 0, and q**gamma takes twice as long
            factor = q * q if gamma == 2 else torch.log(q).mul_(gamma).exp_()
        if keep_gradient:
            # 1 - q is wrong by half an ulp of 1 where p is tiny, and there p c stands beside q = 1.
            slope = q if factor is None else (1 - q).mul_(loss).mul_(gamma).add_(q).mul_(factor)
            slope.mul_(-1.0 if sign is None else sign.neg_())
            if weight is not None:
                slope.mul_(weight)
        if factor is not None:
            loss.mul_(factor)
    return loss if weight is None else loss.mul_(weight), slope


def _finite(x: Tensor) -> Tensor:
    """Upcast, and infinities as the largest number: no inf * 0 can occur; nan stays nan."""
    x = x.to(compute_dtype(x.dtype))
    largest = torch.finfo(x.dtype).max
    return x.clamp(-largest, largest)


def _keep_gradient(logits: Tensor) -> bool:
    # A hint, never needed for a right result. Half precision recomputes, since a gradient kept in
    # half would underflow before the upstream factor is applied, and one kept in float32 is big.
    plain_autograd = torch.is_grad_enabled() and is_plain(logits) and logits.requires_grad
    return plain_autograd and logits.dtype in (torch.float32, torch.float64)


def _batch_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _batch_first_of(ndim: int, tensor: Tensor) -> Tensor:
    # (batch, *rest) becomes (batch, 1, ..., 1, *rest), so that rest broadcasts from the right.
    return tensor.reshape(tensor.shape[0], *[1] * (ndim - tensor.ndim), *tensor.shape[1:])


def focal_total(
    logits: Tensor,
    targets: Tensor,
    gamma: Tensor | None,
    alpha: Tensor | None,
    ignore_index: int | None,
) -> tuple[Tensor, int, float] | None:
    """Placeholder until the one-pass sum is here: None sends the caller to `focal`."""
    return None
