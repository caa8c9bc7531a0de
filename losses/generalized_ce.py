"""Generalised cross-entropy for noisy labels, plain and truncated."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.closed_form import margin
from losslab.losses.identity import Identity

_CITATION = (
    "Zhang, Sabuncu, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy "
    "Labels, NeurIPS 2018"
)
_Q = Hyperparameter(
    0.7,
    low=0.05,
    high=1.0,
    meaning="from cross-entropy (towards 0) to mean absolute error (1)",
    paper="Zhang & Sabuncu 2018, eq. 6: 0.7",
    minimum=1e-6,
    maximum=1.0,
)


class GeneralizedCrossEntropy(Loss):
    """Generalised cross-entropy, L = (1 - p_t^q) / q (Zhang & Sabuncu 2018, eq. 6).

    `q` in (0, 1]: towards 0 it is cross-entropy, at 1 the absolute error 1 - p_t; its gradient is
    that of cross-entropy times p_t^q, so that elements whose label the model contradicts count
    little. Softmax: p_t = softmax(z)_t. Sigmoid: p_t of every binary output; soft targets mix both
    losses. Other arguments, shapes, errors: see `Loss`.

    >>> GeneralizedCrossEntropy(q=0.5)(torch.zeros(1), torch.ones(1))  # 2 (1 - .5^.5)
    tensor(0.5858)
    >>> GeneralizedCrossEntropy(link="softmax", q=0.5)(torch.zeros(1, 4), torch.tensor([3]))
    tensor(1.)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {"q": _Q}
    formula = "L = (1 - p_t^q) / q"
    citation = _CITATION + ", eq. 6"
    soft_targets = "mixture"
    second_order = True
    identities = (
        Identity(
            "q 1 is a quarter of reverse cross-entropy",
            {"q": 1},
            "symmetric_ce",
            {"alpha": 0, "beta": 0.25},
        ),
        Identity("two-class softmax is sigmoid", {"q": 0.5}, "gce", {"q": 0.5}, two_class=True),
    )
    q: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(1 - p_t^q) / q."""
        if self.link == "softmax":
            return self.of_log_probability(F.logsigmoid(margin(logits, targets)))
        on, off = (self.of_log_probability(F.logsigmoid(x)) for x in (logits, -logits))
        return targets * on + (1 - targets) * off

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """The loss as a function of log p_t."""
        q = self.q.to(log_p.dtype)
        exponent = q * log_p
        # torch takes result + 1 for the slope of expm1, which has no digits left where p_t^q is
        # small.
        rest = torch.where(exponent > -1, torch.expm1(exponent), torch.exp(exponent) - 1)
        return -rest / q


class TruncatedGeneralizedCrossEntropy(GeneralizedCrossEntropy):
    """Truncated generalised cross-entropy: (1 - max(p_t, k)^q) / q from `start` on.

    Zhang & Sabuncu 2018, truncated: where p_t <= k the loss is constant and the gradient 0, so
    that elements which the model finds mislabelled drop out. `k` in [0, 1); 0 is generalised
    cross-entropy. With more than 1 / k classes an untrained model is below k nearly everywhere and
    would learn nothing; so the truncation begins after the fraction `start` of the training
    (`set_progress`), as the unofficial code AlanChou/Truncated-Loss begins at epoch 40 of 120. It
    then chooses the elements anew every ten epochs; here that happens at every step. Links and soft
    targets: see `GeneralizedCrossEntropy`.

    >>> loss = TruncatedGeneralizedCrossEntropy(q=0.5, k=0.25, reduction="none")
    >>> x = torch.logit(torch.tensor([0.01, 0.25, 0.64]))
    >>> loss(x, torch.ones(3))  # 2 (1 - p^.5)
    tensor([1.8000, 1.0000, 0.4000])
    >>> loss.set_progress(0.5)
    >>> loss(x, torch.ones(3))
    tensor([1.0000, 1.0000, 0.4000])
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "q": _Q,
        "k": Hyperparameter(
            0.5,
            low=0.0,
            high=0.8,
            meaning="probability below which the loss is constant; 0 truncates nothing",
            paper="Zhang & Sabuncu 2018: 0.5",
            minimum=0.0,
            maximum=0.99,
        ),
        "start": Hyperparameter(
            1 / 3,
            low=0.1,
            high=0.6,
            meaning="fraction of the training after which the loss is truncated",
            paper="epoch 40 of 120 in the unofficial AlanChou/Truncated-Loss",
            minimum=0.0,
            maximum=1.0,
        ),
    }
    formula = "L = (1 - max(p_t, k)^q) / q from the fraction `start` of the training on"
    citation = _CITATION + ", truncated loss"
    identities = (
        Identity("k 0 is generalised cross-entropy", {"q": 0.5, "k": 0}, "gce", {"q": 0.5}),
        Identity(
            "two-class softmax is sigmoid",
            {"q": 0.5, "k": 0.4, "start": 0},
            "truncated_gce",
            {"q": 0.5, "k": 0.4, "start": 0},
            two_class=True,
        ),
    )
    k: Tensor
    start: Tensor

    @classmethod
    def last_change(cls, values: dict[str, float]) -> float:
        """`start`.

        >>> TruncatedGeneralizedCrossEntropy.last_change({"start": 0.25})
        0.25
        """
        return values.get("start", cls.hyperparameters["start"].default)

    def of_log_probability(self, log_p: Tensor) -> Tensor:
        """The loss as a function of log p_t, constant below log k."""
        floor = torch.where(self.progress >= self.start, self.k.log(), -torch.inf).to(log_p.dtype)
        return super().of_log_probability(torch.where(log_p > floor, log_p, floor))
