"""Weights and priors per class, and how they meet logits and targets."""

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


def log_prior(counts: Tensor) -> Tensor:
    """log pi_j of the classes, (C,) in float64; a class without examples counts as having one.

    >>> log_prior(torch.tensor([90, 10])).exp()
    tensor([0.9000, 0.1000], dtype=torch.float64)
    """
    log_counts = counts.clamp(min=1).to(torch.float64).log()
    return log_counts - torch.logsumexp(log_counts, dim=-1)


def prior_log_odds(counts: Tensor) -> Tensor:
    """log(pi / (1 - pi)) of every binary output: (1,) for two counts, else one against the rest.

    >>> prior_log_odds(torch.tensor([90, 10])).sigmoid()
    tensor([0.1000], dtype=torch.float64)
    >>> prior_log_odds(torch.tensor([90, 9, 1])).sigmoid()
    tensor([0.9000, 0.0900, 0.0100], dtype=torch.float64)
    """
    log_pi = log_prior(counts)
    odds = log_pi - torch.log(-torch.expm1(log_pi))
    return odds[1:] if counts.shape[-1] == 2 else odds


def over_classes(vector: Tensor, logits: Tensor) -> Tensor:
    """A vector of one value per class, or of one for all, shaped to broadcast over `logits`.

    Classes are dimension 1, (N, C, ...), or the only dimension's column, (N,).

    >>> over_classes(torch.tensor([1.0, 2.0]), torch.zeros(5, 2, 3)).shape
    torch.Size([2, 1])
    """
    return vector.reshape(-1, *[1] * (logits.ndim - 2)) if logits.ndim > 1 else vector
