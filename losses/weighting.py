"""Weights per class and per element."""

import torch
from torch import Tensor


def class_weights_from_counts(counts: Tensor, a: Tensor | float) -> Tensor:
    """Class weights w_j proportional to n_j^-a with mean 1, in float64.

    `counts` (C,) >= 0, `a` a number or 0-dimensional tensor. A class without examples is weighted
    as if it had one, and the mean is taken over the other classes, so that it does not shrink
    theirs.

    >>> class_weights_from_counts(torch.tensor([90, 10]), 1.0)
    tensor([0.2000, 1.8000], dtype=torch.float64)
    """
    exponent = torch.as_tensor(a, dtype=torch.float64, device=counts.device)
    raw = torch.exp(-exponent * counts.clamp(min=1).to(torch.float64).log())
    present = counts > 0
    return raw * (present.sum() / torch.where(present, raw, 0).sum())


def alpha_t(alpha: Tensor, targets: Tensor) -> Tensor:
    """alpha for targets 1, 1 - alpha for targets 0, linear in between.

    >>> alpha_t(torch.tensor(0.25), torch.tensor([0.0, 1.0, 0.5]))
    tensor([0.7500, 0.2500, 0.5000])
    """
    alpha = alpha.to(targets.dtype)
    return targets * alpha + (1 - targets) * (1 - alpha)
