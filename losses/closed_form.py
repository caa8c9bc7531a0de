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
`chunked_softmax`; everything else through `traced`.
"""

import torch
from torch import Tensor

from losslab.losses.chunked import FocalReduced, FocalValues, OutOfRange
from losslab.losses.chunked_softmax import SoftmaxFocalValues
from losslab.losses.formulas import compute_dtype as compute_dtype
from losslab.losses.formulas import focal_terms as focal_terms
from losslab.losses.formulas import is_plain as is_plain
from losslab.losses.formulas import margin_terms as margin_terms
from losslab.losses.traced import (
    TracedFocal,
    TracedFocalSum,
    TracedMargin,
    is_transformed,
    keeps_gradient,
)


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
    loss, _ = TracedFocal.apply(logits, targets, gamma, alpha, keeps_gradient(logits))
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

    None where there is no such way: under `torch.func` transforms, for targets that require a
    gradient, and for plain tensors (see `is_plain`) if a target lies outside [0, 1] or a
    hyper-parameter has more than one value. An element whose target is `ignore_index` adds no loss
    and a gradient of exactly 0, whatever its logit.

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
    if is_plain(logits, *given) or is_transformed() or any(each.requires_grad for each in given):
        return None
    total, number, positives, _ = TracedFocalSum.apply(logits, targets, gamma, alpha, ignore_index)
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
    value, _ = TracedMargin.apply(logits, targets, class_dim, keeps_gradient(logits))
    return value


def _shortcut(logits: Tensor, targets: Tensor | None, *settings: Tensor | None) -> bool:
    """Whether the Functions there will do: plain tensors, plain numbers, no other slopes."""
    for setting in settings:
        if setting is not None and (setting.numel() != 1 or not _is_constant(setting)):
            return False
    return is_plain(logits) and (targets is None or _is_constant(targets))


def _is_constant(tensor: Tensor) -> bool:
    return is_plain(tensor) and not tensor.requires_grad


def _number(setting: Tensor | None) -> float | None:
    return None if setting is None else setting.item()
