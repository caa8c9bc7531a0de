"""The closed forms for everything but plain CPU tensors: compiled, transformed, on a GPU.

`autograd.Function`s without a branch on a value, which `torch.func` and `torch.compile` understand.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from losslab.errors import LosslabError
from losslab.losses.formulas import focal_terms, focal_values, margin_terms


class TracedFocal(Function):
    """Focal loss per element, and its gradient, empty unless `keep_gradient`."""

    @staticmethod
    def forward(
        logits: Tensor,
        targets: Tensor | None,
        gamma: Tensor | None,
        alpha: Tensor | None,
        keep_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        """Arguments as for `focal`."""
        loss, gradient = focal_values(logits, targets, gamma, alpha)
        return loss, gradient if keep_gradient else loss.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """Save the inputs, and the gradient if it is kept."""
        *tensors, ctx.keep_gradient = inputs
        _, gradient = output
        ctx.mark_non_differentiable(gradient)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, gradient)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, _: Any) -> tuple:
        """Slopes times upstream, found anew and differentiably in grad mode."""
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
        """The batch becomes the first dimension of every tensor."""
        *tensors, _ = inputs
        logits = _batch_first(tensors[0], in_dims[0], info.batch_size)
        targets = tensors[1]
        if targets is not None:
            targets = _batch_first(targets, in_dims[1], info.batch_size)
        gamma, alpha = (
            tensor if dim is None else _batch_first_of(logits.ndim, tensor.movedim(dim, 0))
            for tensor, dim in zip(tensors[2:], in_dims[2:4], strict=True)
        )
        return TracedFocal.apply(logits, targets, gamma, alpha, False), (0, None)


class TracedFocalSum(Function):
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
        """Sum of the losses, number of elements, sum of their targets, slopes."""
        x, y, kept = _without_ignored(logits, targets, ignore_index)
        loss, slope = focal_values(x, y, gamma, alpha)
        number = kept.sum()
        total, slope = torch.where(kept, loss, 0).sum(), torch.where(kept, slope, 0)
        return total, number, y.to(loss.dtype).sum(), slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """Save the inputs, and the gradient if it is kept."""
        logits, *others, ctx.ignore_index = inputs
        *_, number, positives, slope = output
        ctx.mark_non_differentiable(number, positives, slope)
        ctx.set_materialize_grads(False)
        kept = slope if slope.dtype == logits.dtype else None
        ctx.save_for_backward(logits, *others, kept)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *other: Any) -> tuple:
        """Slopes times upstream, found anew and differentiably in grad mode."""
        if upstream is None:
            return (None,) * 5
        logits, targets, gamma, alpha, slope = ctx.saved_tensors
        if not _is_kept(slope is not None):
            x, y, kept = _without_ignored(logits, targets, ctx.ignore_index)
            _, slope = focal_terms(x, y, gamma, alpha)
            slope = torch.where(kept, slope, 0)
        return (upstream * slope).to(logits.dtype), None, None, None, None


class TracedMargin(Function):
    """Margin per target, and the softmax over the others, empty unless `keep_gradient`."""

    @staticmethod
    def forward(
        logits: Tensor, targets: Tensor, class_dim: int, keep_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        """`class_dim` counts from the end."""
        value, others = margin_terms(logits, targets, class_dim)
        return value, others if keep_gradient else value.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """Save the inputs, and the gradient if it is kept."""
        logits, targets, ctx.class_dim, ctx.keep_gradient = inputs
        _, others = output
        ctx.mark_non_differentiable(others)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, targets, others)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, _: Any) -> tuple:
        """Slopes times upstream, found anew and differentiably in grad mode."""
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
        """The batch becomes the first dimension of every tensor."""
        logits, targets, class_dim, _ = inputs
        logits = _batch_first(logits, in_dims[0], info.batch_size)
        targets = _batch_first(targets, in_dims[1], info.batch_size)
        return TracedMargin.apply(logits, targets, class_dim, False), (0, None)


def keeps_gradient(logits: Tensor) -> bool:
    """Whether the gradient found in the forward pass should be kept: a hint, never needed.

    Half precision recomputes, since a gradient kept in half would underflow before the upstream
    factor is applied, and one kept in float32 is big.

    >>> keeps_gradient(torch.ones(1, requires_grad=True)), keeps_gradient(torch.ones(1))
    (True, False)
    """
    if logits.dtype not in (torch.float32, torch.float64):
        return False
    if torch.compiler.is_compiling():
        return True
    return torch.is_grad_enabled() and logits.requires_grad and not is_transformed()


def is_transformed() -> bool:
    """Whether a `torch.func` transform is active.

    >>> is_transformed()
    False
    """
    return torch._C._are_functorch_transforms_active()


def _without_ignored(
    logits: Tensor, targets: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    if ignore_index is None:
        return logits, targets, torch.ones_like(targets, dtype=torch.bool)
    kept = targets != ignore_index
    return torch.where(kept, logits, 0), torch.where(kept, targets, 0), kept


def _is_kept(keep_gradient: bool) -> bool:
    # Grad mode in a backward pass means create_graph; what is compiled has no second derivative.
    return keep_gradient and (torch.compiler.is_compiling() or not torch.is_grad_enabled())


def _batch_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _batch_first_of(ndim: int, tensor: Tensor) -> Tensor:
    # (batch, *rest) becomes (batch, 1, ..., 1, *rest), so that rest broadcasts from the right.
    return tensor.reshape(tensor.shape[0], *[1] * (ndim - tensor.ndim), *tensor.shape[1:])
