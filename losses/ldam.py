"""Label-distribution-aware margins with deferred re-weighting."""

from typing import ClassVar

import torch
from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss
from losslab.losses.closed_form import focal, margin
from losslab.losses.effective_number import ONE_MINUS_BETA, effective_number_weights
from losslab.losses.identity import Identity


def label_margins(counts: Tensor, max_margin: Tensor | float) -> Tensor:
    """Margins Delta_j proportional to n_j^(-1/4), the rarest class's `max_margin`, in float64.

    Cao et al. 2019, eq. 13. `counts` (C,) >= 0; a class without examples gets `max_margin`.

    >>> label_margins(torch.tensor([1600, 100, 0]), 0.5)
    tensor([0.2500, 0.5000, 0.5000], dtype=torch.float64)
    """
    rarest = torch.where(counts > 0, counts, counts.max()).min()
    share = rarest.to(torch.float64) / torch.maximum(counts, rarest).to(torch.float64)
    return torch.as_tensor(max_margin, dtype=torch.float64, device=counts.device) * share**0.25


class LDAM(Loss):
    """LDAM-DRW: cross-entropy of s (z - Delta_t at the target), Delta_j ~ n_j^(-1/4).

    Cao et al. 2019, eq. 12, 13 and algorithm 1. The logits z are to be cosines, made by a last
    layer of normalised features and weights (`head` "cosine"); `scale` is s, and the largest
    margin, that of the rarest class, is `max_margin`. From the fraction `drw_start` of the training
    on (`set_progress`; 1 for never) the losses are weighted by class with
    `effective_number_weights` at `one_minus_beta`, and not at all before. `class_counts` are
    needed, else `BadInput` is raised; a class without examples gets the largest margin and the
    weight of one example.

    The margins make the boundary stay clear of rare classes; they do not take the prior off, and
    cosines are no log-probabilities, so a prior correction has nothing to correct
    (`prior_shifted` is False). The authors' reduction is `weight_sum`. Other arguments, shapes,
    errors: see `Loss`.

    >>> loss = LDAM(link="softmax", class_counts=[1600, 100], scale=2, max_margin=0.5)
    >>> loss(torch.zeros(1, 2), torch.tensor([0]))  # log(1 + e^(2 * .25))
    tensor(0.9741)
    >>> loss.set_progress(0.8)
    >>> loss.class_weighting()  # 1 / (1 - .9999^1600) to 1 / (1 - .9999^100), mean 1
    tensor([0.1261, 1.8739], dtype=torch.float64)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "max_margin": Hyperparameter(
            0.5,
            low=0.1,
            high=1.0,
            meaning="margin of the rarest class, between cosines",
            paper="Cao et al. 2019; 0.5 in the authors' code",
            minimum=0.0,
        ),
        "scale": Hyperparameter(
            30.0,
            low=5.0,
            high=64.0,
            meaning="factor s from cosines to logits",
            paper="30 in the authors' code",
            scale="log",
            minimum=1e-3,
        ),
        "drw_start": Hyperparameter(
            0.8,
            low=0.5,
            high=0.9,
            meaning="fraction of the training after which the losses are weighted by class",
            paper="Cao et al. 2019, algorithm 1; epoch 160 of 200 in the authors' code",
            minimum=0.0,
            maximum=1.0,
        ),
        "one_minus_beta": ONE_MINUS_BETA,
    }
    links = ("softmax",)
    formula = (
        "L = -w_t log(e^(s (z_t - Delta_t)) / (e^(s (z_t - Delta_t)) + sum_{j != t} e^(s z_j)))\n"
        "Delta_j = max_margin (n_j / min_k n_k)^(-1/4)\n"
        "w_j = 1 before drw_start, (1 - beta) / (1 - beta^n_j) rescaled to mean 1 from then on"
    )
    citation = (
        "Cao, Wei, Gaidon, Arechiga, Ma, Learning Imbalanced Datasets with "
        "Label-Distribution-Aware Margin Loss, NeurIPS 2019, eq. 12, 13 and algorithm 1"
    )
    soft_targets = "hard"
    second_order = True
    head = "cosine"
    identities = (
        Identity(
            "without margin, scale and weights it is cross-entropy",
            {"max_margin": 0, "scale": 1, "one_minus_beta": 1},
            "ce",
        ),
    )
    max_margin: Tensor
    scale: Tensor
    drw_start: Tensor
    one_minus_beta: Tensor

    @classmethod
    def needs_class_counts(cls, link: str, values: dict[str, float]) -> bool:
        """True: margins and weights are made of them.

        >>> LDAM.needs_class_counts("softmax", {})
        True
        """
        return True

    @classmethod
    def last_change(cls, values: dict[str, float]) -> float:
        """`drw_start`.

        >>> LDAM.last_change({"drw_start": 0.8})
        0.8
        """
        return values.get("drw_start", cls.hyperparameters["drw_start"].default)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with the target's margin, without weights."""
        assert self.class_counts is not None
        margins = label_margins(self.class_counts, self.max_margin).to(logits.dtype)
        scale = self.scale.to(logits.dtype)
        # The target's logit enters its margin over the others as it is, and so does what is taken
        # off it.
        return focal(margin(scale * logits, targets) - scale * margins[targets], None)

    def class_weighting(self) -> Tensor | None:
        """The effective number's class weights from `drw_start` on, ones before."""
        assert self.class_counts is not None
        weights = effective_number_weights(self.class_counts, self.one_minus_beta)
        return torch.where(self.progress >= self.drw_start, weights, 1)
