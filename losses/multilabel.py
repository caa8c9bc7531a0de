"""Losses over the labels of an example: ZLPR and the two-way loss."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from losslab.hyperparameters import Hyperparameter
from losslab.losses.sets import SetLoss
from losslab.losses.weighting import over_classes

_TEMPERATURE = {"low": 0.5, "high": 8.0, "scale": "log", "minimum": 0.05}


class ZLPR(SetLoss):
    """ZLPR, L = log(1 + sum_neg exp(x_j)) + log(1 + sum_pos exp(-x_i)) of an example's labels.

    Su, Zhu, Murtadha, Pan, Wen, Liu, arXiv 2208.02955. Labels are ranked against each other and
    against 0, the threshold to decide at; the loss has no hyper-parameter. An example without
    positives or without negatives loses that term, log(1 + 0) = 0. Soft targets as in the paper's
    soft version: sum (1-y) exp(x) and sum y exp(-x).

    Logits (N, K) or (N, K, ...), labels in dimension 1; reduction `none` gives (N, ...). (N,) are N
    examples with one label each, where ZLPR is cross-entropy. With `class_weights` a label counts
    w times within its sums, and not at all for 0. Other arguments, errors: see `Loss`.

    >>> import torch
    >>> ZLPR()(torch.zeros(1, 3), torch.tensor([[1, 0, 0]]))  # log 3 + log 2
    tensor(1.7918)
    """

    links = ("sigmoid",)
    formula = "L = log(1 + sum_neg exp(x_j)) + log(1 + sum_pos exp(-x_i))"
    citation = (
        "Su, Zhu, Murtadha, Pan, Wen, Liu, ZLPR: A Novel Loss for Multi-label Classification, "
        "arXiv 2208.02955, 2022"
    )
    soft_targets = "log(1 + sum (1-y) exp(x)) + log(1 + sum y exp(-x))"
    second_order = True

    def setwise(
        self, logits: Tensor, targets: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """One value per example, (N, ...)."""
        x, y, mask = (_with_labels(each) for each in (_finite(logits), targets, kept))
        on, off = torch.where(mask, y, 0), torch.where(mask, 1 - y, 0)
        if self.class_weights is not None:
            weights = over_classes(self.class_weights.to(x.dtype), x)
            on, off = on * weights, off * weights
        return _log1p_sum(x, off) + _log1p_sum(-x, on), mask.sum(1) > 0


class TwoWay(SetLoss):
    """Two-way loss: the hardest negative against the hardest positive, by rows and by columns.

    Kobayashi, Two-way Multi-Label Loss, CVPR 2023. Of a set of elements

        l = softplus(T_n log sum_neg exp(x / T_n) + T_p log sum_pos exp(-x / T_p)),

    T_p = `positive_temperature` = 4, T_n = `negative_temperature` = 1. The sets are the rows
    (labels of an example) and the columns (examples of a label). As in the author's code, `mean`
    is the mean over rows with a positive plus the mean over columns with a positive; `sum` is
    over both, and `none` gives N + K values, rows first. A set without negatives is worth
    log(1 + 0) = 0 and counts; without positives it does not. Positives are targets above 1/2.

    Logits (N, K), or (N, K, ...) whose positions are further examples; (N,) are N examples of one
    label. With `class_weights` a label counts w times in its row, and its column's value is
    multiplied by w. Other arguments, errors: see `Loss`.

    >>> import torch
    >>> TwoWay()(torch.zeros(1, 3), torch.tensor([[1, 0, 0]]))  # log(1 + 2), and a column of 0
    tensor(1.0986)
    """

    links = ("sigmoid",)
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "positive_temperature": Hyperparameter(
            4.0,
            meaning="of the soft minimum of the positives: large looks at all, small at the worst",
            paper="Kobayashi 2023, T_p",
            **_TEMPERATURE,  # type: ignore[arg-type]
        ),
        "negative_temperature": Hyperparameter(
            1.0,
            meaning="of the soft maximum of the negatives: large looks at all, small at the worst",
            paper="Kobayashi 2023, T_n",
            **_TEMPERATURE,  # type: ignore[arg-type]
        ),
    }
    formula = (
        "l = softplus(T_n log sum_neg exp(x / T_n) + T_p log sum_pos exp(-x / T_p))\n"
        "L = mean of l over rows with a positive + mean over columns with a positive"
    )
    citation = "Kobayashi, Two-way Multi-Label Loss, CVPR 2023"
    soft_targets = "hard"
    second_order = True
    positive_temperature: Tensor
    negative_temperature: Tensor

    def setwise(
        self, logits: Tensor, targets: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """One value per row and per column, (N + K,)."""
        rows, columns = self.ways(logits, targets, kept)
        return torch.cat([rows[0], columns[0]]), torch.cat([rows[1], columns[1]])

    def reduced(
        self, logits: Tensor, targets: Tensor, kept: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """As for `SetLoss`, but `mean` is the sum of two means."""
        if self.reduction != "mean":
            return super().reduced(logits, targets, kept, dtype)
        mask = torch.ones_like(targets, dtype=torch.bool) if kept is None else kept
        rows, columns = (
            torch.where(counted, values, 0).sum() / counted.sum().clamp(min=1)
            for values, counted in self.ways(logits, targets, mask)
        )
        return rows + columns

    def ways(
        self, logits: Tensor, targets: Tensor, kept: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Values and mask of those that count, of the rows (N,) and of the columns (K,)."""
        x, y, mask = (
            _with_labels(each).movedim(1, -1).flatten(0, -2)
            for each in (_finite(logits), targets, kept)
        )
        share = mask.to(x.dtype)
        if self.class_weights is None:
            return self._hardest(x, y, share, 1), self._hardest(x, y, share, 0)
        weights = self.class_weights.to(x.dtype)
        columns, counted = self._hardest(x, y, share, 0)
        return self._hardest(x, y, share * weights, 1), (columns * weights, counted)

    def _hardest(self, x: Tensor, y: Tensor, share: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        on = y > 0.5
        positive, some = _soft_max(-x, torch.where(on, share, 0), self.positive_temperature, dim)
        negative, others = _soft_max(x, torch.where(on, 0, share), self.negative_temperature, dim)
        # logsigmoid: softplus turns into the identity above 20, at a loss of digits in float64.
        return torch.where(some & others, -F.logsigmoid(-positive - negative), 0), some


def _soft_max(x: Tensor, share: Tensor, temperature: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """T log sum share exp(x / T), and whether there is anything to sum (0 where not)."""
    temperature = temperature.to(x.dtype)
    some = (share > 0).sum(dim) > 0
    terms = _log_terms(x / temperature, share)
    # Nothing but -inf has a nan for a gradient, which anomaly detection would report.
    terms = torch.where(some.unsqueeze(dim), terms, 0)
    return torch.where(some, temperature * torch.logsumexp(terms, dim), 0), some


def _log1p_sum(x: Tensor, share: Tensor) -> Tensor:
    """log(1 + sum share exp(x)) over dimension 1."""
    terms = _log_terms(x, share)
    one = torch.zeros_like(terms.sum(1, keepdim=True))
    return torch.logsumexp(torch.cat([one, terms], 1), 1)


def _log_terms(x: Tensor, share: Tensor) -> Tensor:
    """x + log share; -inf, without gradient, where share is 0."""
    present = share > 0
    return torch.where(present, x + torch.where(present, share, 1).log(), float("-inf"))


def _with_labels(each: Tensor) -> Tensor:
    return each.reshape(-1, 1) if each.ndim < 2 else each


def _finite(x: Tensor) -> Tensor:
    # Infinite logits count as huge ones; sums of a few, over a temperature, stay finite.
    huge = torch.finfo(x.dtype).max ** 0.5
    return x.clamp(-huge, huge)
