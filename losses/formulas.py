"""Loss and slope of the focal loss and of the softmax margin, as torch code without branches.

`focal_terms` and `margin_terms` can be differentiated; `focal_values` gives what `focal_terms`
gives for less, for code that is not differentiated again.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from losslab.losses.inlined import exp_of_negative, log1p_of_unit

_PLAIN = (Tensor, torch.nn.Parameter)


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
    gamma = None if gamma is None else gamma.to(x.dtype)
    on, off = _side_weights(x, targets, alpha)
    loss, slope = _one_side(log_p, log_q, p, q, gamma)
    loss, slope = on * loss, -on * slope
    if targets is None:
        return loss, slope
    at_zero, slope_at_zero = _one_side(log_q, log_p, q, p, gamma)
    return loss + off * at_zero, slope + off * slope_at_zero


def focal_values(
    logits: Tensor, targets: Tensor | None, gamma: Tensor | None, alpha: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What `focal_terms` returns, with one exp and one log1p for both targets.

    With e = exp(-|x|) the two probabilities are 1/(1+e) and e/(1+e), and minus their logarithms
    log1p(e) and |x| + log1p(e). Not for differentiation: |x| has no slope at 0.

    >>> focal_values(torch.tensor([0.0]), None, None, None)
    (tensor([0.6931]), tensor([-0.5000]))
    """
    x = logits.to(compute_dtype(logits.dtype))
    size = x.abs().clamp(max=torch.finfo(x.dtype).max)
    e = _exp(-size)
    log = _log1p(e)
    larger = 1 / (1 + e)
    smaller = e * larger
    # The likely side is the one that the logit leans to.
    loss, slope = log, smaller
    other_loss, other_slope = size + log, larger
    if gamma is not None:
        gamma = gamma.to(x.dtype)
        other_factor = _exp(-gamma * log)
        factor = other_factor * _exp_of_product(gamma, size)
        loss, slope = factor * loss, factor * (slope + gamma * (larger * loss))
        other_slope = other_factor * (other_slope + gamma * (smaller * other_loss))
        other_loss = other_factor * other_loss
    on, off = _side_weights(x, targets, alpha)
    leans = x >= 0
    likely, unlikely = torch.where(leans, on, off), torch.where(leans, off, on)
    slope = unlikely * other_slope - likely * slope
    return likely * loss + unlikely * other_loss, torch.where(leans, slope, -slope)


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
    for tensor in tensors:  # noqa: SIM110 (a generator takes twice as long, and every call pays)
        if type(tensor) not in _PLAIN or not tensor.is_cpu:
            return False
    return True


def _side_weights(
    x: Tensor, targets: Tensor | None, alpha: Tensor | None
) -> tuple[Tensor | float, Tensor | float]:
    """Weights of L(1) and L(0)."""
    on: Tensor | float = 1.0 if targets is None else targets.to(x.dtype)
    off = 1 - on
    if alpha is None:
        return on, off
    alpha = alpha.to(x.dtype)
    return on * alpha, off * (1 - alpha)


def _one_side(
    log_p: Tensor, log_q: Tensor, p: Tensor, q: Tensor, gamma: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Focal loss of a hard target, and minus its derivative by the margin."""
    if gamma is None:
        return -log_p, q
    factor = torch.exp(gamma * log_q)
    return factor * -log_p, factor * (q - gamma * p * log_p)


def _exp_of_product(a: Tensor, b: Tensor) -> Tensor:
    """exp(-a b) for a, b >= 0, with the rounding of the product, 4e-6 at a b = 100, made good."""
    if b.dtype == torch.float64:
        return torch.exp(-a * b)
    b = b.clamp(max=1e18)  # keeps what follows finite; exp is 0 long before
    product = a * b
    a_high, b_high = _leading_half(a), _leading_half(b)
    missing = (a_high * b_high - product) + a_high * (b - b_high) + (a - a_high) * b
    return _exp(-product) * (1 - missing)


def _leading_half(x: Tensor) -> Tensor:
    # Veltkamp: twelve of the 24 binary digits, so that products of halves are exact.
    scaled = x * 4097
    return scaled - (scaled - x)


def _exp(x: Tensor) -> Tensor:
    return exp_of_negative(x) if _written_out(x) else torch.exp(x)


def _log1p(x: Tensor) -> Tensor:
    return log1p_of_unit(x) if _written_out(x) else torch.log1p(x)


def _written_out(x: Tensor) -> bool:
    return torch.compiler.is_compiling() and x.dtype == torch.float32 and x.device.type == "cpu"


def _finite(x: Tensor) -> Tensor:
    """Upcast, and infinities as the largest number: no inf * 0 can occur; nan stays nan."""
    x = x.to(compute_dtype(x.dtype))
    largest = torch.finfo(x.dtype).max
    return x.clamp(-largest, largest)
