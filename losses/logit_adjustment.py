"""Logit adjustment, balanced softmax and the vector-scaling loss: the prior goes into the logits.

What is trained with them needs no correction afterwards: their raw logits are balanced.
`adjust_logits` is the other way round, for logits of a plain cross-entropy.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter
from losslab.losses.arguments import choice_problem, class_vector
from losslab.losses.base import Loss
from losslab.losses.closed_form import compute_dtype, focal, softmax_focal
from losslab.losses.identity import Identity
from losslab.losses.weighting import log_prior, over_classes, prior_log_odds

_MENON = (
    "Menon, Jayasumana, Rawat, Jain, Veit, Kumar, Long-tail Learning via Logit Adjustment, "
    "ICLR 2021"
)
_TAU = Hyperparameter(
    1.0,
    low=0.0,
    high=2.5,
    meaning="how many times the log prior is added to the logits; 0 is cross-entropy",
    paper="Menon et al. 2021, eq. 10",
    minimum=0.0,
)


def adjust_logits(
    logits: Tensor, class_counts: Sequence[int] | Tensor, tau: float | Tensor, link: str
) -> Tensor:
    """Take tau times the prior off logits that were trained with it (Menon et al. 2021, eq. 9).

    Softmax: z - tau log pi, `logits` (N, C, ...) with classes in dimension 1. Sigmoid:
    x - tau log(pi / (1 - pi)), one prior for all where there are two class counts, else one per
    column (dimension 1). The inverse of what `LogitAdjustment` adds in training. A class without
    examples counts as having one. Returns float32, or float64 for float64 logits; raises
    `BadInput` for counts that do not fit.

    >>> adjust_logits(torch.zeros(1), [75, 25], 1.0, "sigmoid")  # log 3
    tensor([1.0986])
    >>> adjust_logits(torch.zeros(1, 2), [75, 25], 1.0, "softmax")  # -log .75, -log .25
    tensor([[0.2877, 1.3863]])
    """
    problems: list[str] = []
    counts = class_vector("class_counts", class_counts, problems)
    if problem := choice_problem("link", link, LogitAdjustment.links):
        problems.append(problem)
    if problems:
        raise BadInput([f"adjust_logits: {problem}" for problem in problems])
    assert counts is not None
    classes, columns = len(counts), logits.shape[1] if logits.ndim > 1 else 1
    if columns != classes and not (link == "sigmoid" and classes == 2):
        raise BadInput(
            f"adjust_logits: {classes} class_counts do not fit logits of shape "
            f"{tuple(logits.shape)} under link={link!r}"
        )
    logits = logits.to(compute_dtype(logits.dtype))
    return logits - _shift(counts.to(logits.device), tau, logits, link)


class _PriorLoss(Loss):
    """What the losses of this file share."""

    second_order = True
    prior_shifted = True

    @classmethod
    def needs_class_counts(cls, link: str, values: dict[str, float]) -> bool:
        """True: the prior is made of them."""
        return True


class LogitAdjustment(_PriorLoss):
    """Logit-adjusted cross-entropy: that of z + tau log pi (Menon et al. 2021, eq. 10).

    pi is the share of every class in `class_counts`, without which `BadInput` is raised; a class
    without examples counts as having one. Softmax: log pi_j is added to the logits. Sigmoid:
    log(pi / (1 - pi)) is, that of the positives where there are two class counts, else one per
    column, every class against the rest; soft targets mix both losses. `tau` >= 0; 1 makes argmax
    (sigmoid: the sign) of the raw logits optimal for balanced classes, and no prior is to be taken
    off them afterwards. Other arguments, shapes, errors: see `Loss`.

    >>> loss = LogitAdjustment(link="softmax", class_counts=[75, 25], reduction="none")
    >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))  # -log .75, -log .25
    tensor([0.2877, 1.3863])
    >>> LogitAdjustment(class_counts=[75, 25], reduction="none")(torch.zeros(2), torch.arange(2))
    tensor([0.2877, 1.3863])
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {"tau": _TAU}
    formula = "softmax: CE(z + tau log pi);  sigmoid: BCE(x + tau log(pi / (1 - pi)))"
    citation = _MENON + ", eq. 10"
    soft_targets = "mixture"
    identities = (
        Identity("tau 0 is cross-entropy", {"tau": 0}, "ce"),
        Identity("tau 1 is balanced softmax", {"tau": 1}, "balanced_softmax", {}, ("softmax",)),
        Identity(
            "two-class softmax is sigmoid",
            {"tau": 1.5},
            "logit_adjustment",
            {"tau": 1.5},
            two_class=True,
        ),
    )
    tau: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the logits with the prior added."""
        assert self.class_counts is not None
        adjusted = logits + _shift(self.class_counts, self.tau, logits, self.link)
        if self.link == "sigmoid":
            return focal(adjusted, targets)
        return softmax_focal(adjusted, targets)


class BalancedSoftmax(_PriorLoss):
    """Balanced softmax, L = -log(n_t e^(z_t) / sum_j n_j e^(z_j)); no hyper-parameters.

    Ren et al. 2020, theorem 1; logit adjustment at tau 1, which also is its form under sigmoid.
    n_j are the `class_counts`, without which `BadInput` is raised; a class without examples counts
    as having one. Other arguments, shapes, errors: see `Loss`.

    >>> loss = BalancedSoftmax(link="softmax", class_counts=[75, 25], reduction="none")
    >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))  # -log .75, -log .25
    tensor([0.2877, 1.3863])
    """

    links = ("softmax",)
    formula = "L = -log(n_t e^(z_t) / sum_j n_j e^(z_j))"
    citation = (
        "Ren, Yu, Sheng, Ma, Zhao, Yi, Li, Balanced Meta-Softmax for Long-Tailed Visual "
        "Recognition, NeurIPS 2020, theorem 1"
    )
    soft_targets = "hard"
    identities = (Identity("it is logit adjustment at tau 1", {}, "logit_adjustment", {"tau": 1}),)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the logits with log n added."""
        assert self.class_counts is not None
        return softmax_focal(logits + _shift(self.class_counts, 1.0, logits), targets)


class VectorScaling(_PriorLoss):
    """VS loss: cross-entropy of Delta_j z_j + tau log pi_j, Delta_j = (n_j / n_max)^gamma.

    Kini et al. 2021, the multi-class VS-loss in the authors' parametrisation. n_j are the
    `class_counts`, without which `BadInput` is raised, and pi_j their shares; a class without
    examples counts as having one. `gamma` >= 0: 0 is logit adjustment; tau 0 is the CDT loss. The
    defaults are those of the authors' code. Predictions are made from the raw logits. There is no
    sigmoid form: the scaled logits do not depend on the difference of two logits alone. Other
    arguments, shapes, errors: see `Loss`.

    >>> loss = VectorScaling(link="softmax", class_counts=[81, 1], gamma=0.25, tau=0)
    >>> loss(torch.tensor([[1.0, 3.0]]), torch.tensor([0]))  # Delta 1, 1/3: both logits are 1
    tensor(0.6931)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "gamma": Hyperparameter(
            0.3,
            low=0.0,
            high=0.4,
            meaning="exponent of the class-dependent factor on the logits; 0 is logit adjustment",
            paper="Kini et al. 2021; 0.3 in the authors' code",
            minimum=0.0,
        ),
        "tau": _TAU,
    }
    links = ("softmax",)
    formula = "L = CE(Delta z + tau log pi),  Delta_j = (n_j / n_max)^gamma"
    citation = (
        "Kini, Paraskevas, Oymak, Thrampoulidis, Label-Imbalanced and Group-Sensitive "
        "Classification under Overparameterization, NeurIPS 2021, multi-class VS-loss"
    )
    soft_targets = "hard"
    identities = (
        Identity(
            "gamma 0 is logit adjustment",
            {"gamma": 0, "tau": 1.5},
            "logit_adjustment",
            {"tau": 1.5},
        ),
        Identity("gamma 0, tau 0 is cross-entropy", {"gamma": 0, "tau": 0}, "ce"),
    )
    gamma: Tensor
    tau: Tensor

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the scaled and shifted logits."""
        assert self.class_counts is not None
        log_share = log_prior(self.class_counts)
        factors = torch.exp(self.gamma * (log_share - log_share.max())).to(logits.dtype)
        adjusted = over_classes(factors, logits) * logits
        return softmax_focal(adjusted + _shift(self.class_counts, self.tau, logits), targets)


def _shift(counts: Tensor, tau: float | Tensor, logits: Tensor, link: str = "softmax") -> Tensor:
    """tau times the log prior, or the log odds, of every class, shaped to fit the logits."""
    prior = log_prior(counts) if link == "softmax" else prior_log_odds(counts)
    return over_classes((tau * prior).to(logits.dtype), logits)
