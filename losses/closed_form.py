"""Loss and gradient in closed form: the binary focal core, its softmax form and the margin.

Every focal and cross-entropy loss is built from these:

* `focal(logits, targets, gamma, alpha)`: the sigmoid focal loss; gamma None is cross-entropy;
* `focal_total(...)`: the same, reduced in one pass;
* `margin(logits, targets)`: z_t - logsumexp over the other classes, so that softmax(z)_t is
  sigmoid(margin), and a softmax loss is the binary core at u = margin;
* `softmax_focal(logits, targets, gamma)`: the focal loss of that margin.

All keep the gradient of the forward pass where plain autograd will ask for it, save nothing but
their inputs otherwise, and recompute differentiably under `create_graph`. Plain CPU tensors, where
looking at a value costs nothing and no transform watches, go through `chunked` and
`chunked_softmax`; everything else through the two `autograd.Function`s here, which transforms and
compilers understand.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from losslab.errors import LosslabError
from losslab.losses.chunked import FocalReduced, FocalValues, OutOfRange
from losslab.losses.chunked_softmax import SoftmaxFocalValues
from losslab.losses.formulas import compute_dtype as compute_dtype
from losslab.losses.formulas import focal_terms as focal_terms
from losslab.losses.formulas import focal_values
from losslab.losses.formulas import is_plain as is_plain
from losslab.losses.formulas import margin_terms as margin_terms


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
    if _shortcut(logits, targets, gamma, alpha):
        wants_slopes = logits.requires_grad and torch.is_grad_enabled()
        numbers = _number(gamma) or 0.0, _number(alpha)
        return FocalValues.apply(logits, targets, *numbers, wants_slopes)
    loss, _ = _Focal.apply(logits, targets, gamma, alpha, _keep_gradient(logits))
    return loss


def focal_total(
    logits: Tensor,
    targets: Tensor,
    gamma: Tensor | None,
    alpha: Tensor | None,
    ignore_index: int | None,
    reduction: str,
) -> Tensor | None:
    """`focal`, reduced by "sum", "mean" or "positives" in one pass; see `reduce`.

    None where there is no such way: tensors that are not plain CPU tensors, hyper-parameters with
    more than one value, targets that require a gradient or lie outside [0, 1]. An element whose
    target is `ignore_index` adds no loss and a gradient of exactly 0, whatever its logit.

    >>> x = torch.tensor([0.0, 0.0, float("nan")])
    >>> focal_total(x, torch.tensor([0, 1, -100]), None, None, -100, "mean")
    tensor(0.6931)
    """
    if _shortcut(logits, targets, gamma, alpha):
        settings = _number(gamma) or 0.0, _number(alpha), ignore_index
        wants_slopes = logits.requires_grad and torch.is_grad_enabled()
        try:
            return FocalReduced.apply(logits, targets, settings, reduction, wants_slopes)
        except OutOfRange:
            return None
    given = [each for each in (targets, gamma, alpha) if each is not None]
    # Plain tensors get here with something to be refused or with settings per element.
    if is_plain(logits, *given) or _is_transformed() or any(each.requires_grad for each in given):
        return None
    total, number, positives, _ = _FocalSum.apply(logits, targets, gamma, alpha, ignore_index)
    if reduction == "sum":
        return total
    return total / (number if reduction == "mean" else positives).clamp(min=1).to(total.dtype)


def softmax_focal(logits: Tensor, targets: Tensor, gamma: Tensor | None = None) -> Tensor:
    """Softmax focal loss per target, (1-P_t)^gamma (-log P_t) with P = softmax(z).

    Shapes: `logits` (N, C, ...) with C >= 2, integer `targets` (N, ...) in [0, C); `gamma` >= 0
    0-dimensional or broadcastable to the targets, None for cross-entropy. Returns (N, ...) in
    float32 (float64 for float64 logits). A class with logit -inf gets gradient 0.

    Raises `LosslabError` in the backward pass if gamma requires a gradient.

    >>> softmax_focal(torch.zeros(1, 4), torch.tensor([2]), torch.tensor(1.0))  # .75 log 4
    tensor([1.0397])
    """
    whole = logits.dtype == compute_dtype(logits.dtype)
    if whole and _shortcut(logits, targets, gamma):
        wants_slopes = logits.requires_grad and torch.is_grad_enabled()
        return SoftmaxFocalValues.apply(logits, targets, _number(gamma), wants_slopes)
    return focal(margin(logits, targets), None, gamma)


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


class _Focal(Function):
    @staticmethod
    def forward(
        logits: Tensor,
        targets: Tensor | None,
        gamma: Tensor | None,
        alpha: Tensor | None,
        keep_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        loss, gradient = focal_values(logits, targets, gamma, alpha)
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
            if not _is_kept(ctx.keep_gradient):
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


class _FocalSum(Function):
    """Sum of the loss with the gradient found beside it: compiled, one loop over the elements.

    The ignored elements are dealt with inside, since a mask outside would be wanted again in the
    backward pass, for which the compiler would rather compute everything twice.
    """

    @staticmethod
    def forward(
        logits: Tensor,
        targets: Tensor,
        gamma: Tensor | None,
        alpha: Tensor | None,
        ignore_index: int | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, y, kept = _without_ignored(logits, targets, ignore_index)
        loss, slope = focal_values(x, y, gamma, alpha)
        number = kept.sum()
        total, slope = torch.where(kept, loss, 0).sum(), torch.where(kept, slope, 0)
        return total, number, y.to(loss.dtype).sum(), slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        logits, *others, ctx.ignore_index = inputs
        *_, number, positives, slope = output
        ctx.mark_non_differentiable(number, positives, slope)
        ctx.set_materialize_grads(False)
        if slope.dtype != logits.dtype:
            slope = None
        ctx.save_for_backward(logits, *others, slope)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple:
        if upstream is None:
            return (None,) * 5
        logits, targets, gamma, alpha, slope = ctx.saved_tensors
        if not _is_kept(slope is not None):
            x, y, kept = _without_ignored(logits, targets, ctx.ignore_index)
            slope = torch.where(kept, focal_terms(x, y, gamma, alpha)[1], 0)
        return (upstream * slope).to(logits.dtype), None, None, None, None


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
        if not _is_kept(ctx.keep_gradient):
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


def _shortcut(logits: Tensor, targets: Tensor | None, *settings: Tensor | None) -> bool:
    """Whether the chunked way will do: plain tensors, plain numbers, slopes by logits only."""
    given = [setting for setting in settings if setting is not None]
    if any(setting.numel() != 1 for setting in given):
        return False
    constants = given if targets is None else [targets, *given]
    return is_plain(logits, *constants) and not any(each.requires_grad for each in constants)


def _without_ignored(
    logits: Tensor, targets: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    if ignore_index is None:
        return logits, targets, torch.ones_like(targets, dtype=torch.bool)
    kept = targets != ignore_index
    return torch.where(kept, logits, 0), torch.where(kept, targets, 0), kept


def _number(setting: Tensor | None) -> float | None:
    return None if setting is None else setting.item()


def _keep_gradient(logits: Tensor) -> bool:
    # A hint, never needed for a right result. Half precision recomputes, since a gradient kept in
    # half would underflow before the upstream factor is applied, and one kept in float32 is big.
    if logits.dtype not in (torch.float32, torch.float64):
        return False
    if torch.compiler.is_compiling():
        return True
    return torch.is_grad_enabled() and logits.requires_grad and not _is_transformed()


def _is_transformed() -> bool:
    return torch._C._are_functorch_transforms_active()


def _is_kept(keep_gradient: bool) -> bool:
    # Grad mode in a backward pass means create_graph; what is compiled has no second derivative.
    return keep_gradient and (torch.compiler.is_compiling() or not torch.is_grad_enabled())


def _batch_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _batch_first_of(ndim: int, tensor: Tensor) -> Tensor:
    # (batch, *rest) becomes (batch, 1, ..., 1, *rest), so that rest broadcasts from the right.
    return tensor.reshape(tensor.shape[0], *[1] * (ndim - tensor.ndim), *tensor.shape[1:])
