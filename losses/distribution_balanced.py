"""Distribution-balanced loss for multi-label problems with a long tail."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter
from losslab.losses.arguments import check_whole
from losslab.losses.base import Loss
from losslab.losses.closed_form import focal
from losslab.losses.identity import Identity
from losslab.losses.weighting import over_classes


class DistributionBalanced(Loss):
    """Distribution-balanced loss (Wu et al. 2020) for K labels, any number of which may hold.

    With n_k the `class_counts`, the training examples that have label k, and y_i the labels of an
    example, r_ik = (1 / n_k) / sum_j (y_ij / n_j) is how often class-level sampling would draw the
    example for label k, relative to drawing it at all; w_ik = map_alpha + sigmoid(map_beta (r_ik -
    map_mu)) (section 3.2), the largest value where an example has no label. With
    z = x + (kappa / neg_scale) log(n_k / (N - n_k)):

    L = w (1 - p_t)^gamma times -log sigmoid(z) for positives, p_t = sigmoid(z), and times
    -log sigmoid(-neg_scale z) / neg_scale for negatives, p_t = sigmoid(-neg_scale z) (section 3.3).

    Defaults are those for COCO-MLT; for VOC-MLT the authors have map_mu 0.3, neg_scale 5. The shift
    by kappa / neg_scale is that of their code and timm's; their constant factor of 2 is left out.
    N, the number of training examples, is the structural option `examples`; by default the sum of
    the counts, as if each example had one label. n_k counts as at least 1 and at most N - 1. Soft
    targets mix both losses, and w takes them as they are. `weight_sum` divides by the sum of w.
    Sigmoid with logits (N, K, ...). Two class counts, of the negatives and positives of one binary
    output, make it the only label: w is then nearly constant. Raises `BadInput` without
    `class_counts`. Other arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> loss = DistributionBalanced(kappa=0, map_mu=0.25, class_counts=[9, 3, 3], reduction="none")
    >>> loss(torch.zeros(1, 3), torch.tensor([[1, 1, 0]])) / 0.6931472  # r = 1/4, 3/4, 3/4
    tensor([[0.1500, 0.2733, 0.1367]])
    """

    links = ("sigmoid",)
    structural: ClassVar[tuple[str, ...]] = ("examples",)
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "map_alpha": Hyperparameter(
            0.1,
            low=0.0,
            high=0.5,
            meaning="smallest weight of an element; the largest is 1 more",
            paper="Wu et al. 2020, section 3.2",
            minimum=0.0,
        ),
        "map_beta": Hyperparameter(
            10.0,
            low=2.0,
            high=20.0,
            meaning="steepness of the weight as a function of the sampling ratio",
            paper="Wu et al. 2020, section 3.2",
            minimum=0.0,
        ),
        "map_mu": Hyperparameter(
            0.2,
            low=0.05,
            high=0.5,
            meaning="sampling ratio at which the weight is half-way",
            paper="Wu et al. 2020, section 3.2: 0.2 for COCO-MLT, 0.3 for VOC-MLT",
        ),
        "neg_scale": Hyperparameter(
            2.0,
            low=1.0,
            high=10.0,
            meaning="lambda: how fast the gradient of a rejected negative vanishes",
            paper="Wu et al. 2020, section 3.3: 2 for COCO-MLT, 5 for VOC-MLT",
            scale="log",
            minimum=1e-3,
        ),
        "kappa": Hyperparameter(
            0.05,
            low=0.0,
            high=0.5,
            meaning="shift of the logits by the log-odds of the labels, before neg_scale",
            paper="Wu et al. 2020, section 3.3",
            minimum=0.0,
        ),
        "gamma": Hyperparameter(
            2.0,
            low=0.0,
            high=5.0,
            meaning="focusing",
            paper="their code",
            minimum=0.0,
        ),
    }
    formula = (
        "L = w (1 - p_t)^gamma (-log p_t) / lambda_t,  p_t = sigmoid(z) (y = 1, lambda_t = 1) or "
        "sigmoid(-lambda z) (y = 0, lambda_t = lambda)\n"
        "z = x + (kappa / lambda) log(n_k / (N - n_k)),  w = map_alpha + sigmoid(map_beta (r - "
        "map_mu)),  r = (1 / n_k) / sum_j (y_j / n_j)"
    )
    citation = (
        "Wu, Huang, Liu, Wang, Lin, Distribution-Balanced Loss for Multi-Label Classification in "
        "Long-Tailed Datasets, ECCV 2020, section 3"
    )
    soft_targets = "mixture of both losses, weighted by w of the targets as they are"
    second_order = True
    identities = (
        Identity(
            "without weights, shift, scale and focusing it is cross-entropy",
            {
                "map_alpha": 0.5,
                "map_beta": 0,
                "neg_scale": 1,
                "kappa": 0,
                "gamma": 0,
            },
            "ce",
        ),
    )
    map_alpha: Tensor
    map_beta: Tensor
    map_mu: Tensor
    neg_scale: Tensor
    kappa: Tensor
    gamma: Tensor

    def __init__(self, *, examples: int | None = None, **arguments: Any):
        super().__init__(**arguments)
        owner = type(self).__name__
        if examples is not None:
            assert self.class_counts is not None
            most = int(self.class_counts.max())
            if check_whole(owner, "examples", examples, 2) < most:
                raise BadInput(
                    f"{owner}: examples={examples}, but a label has {most} of them (class_counts)"
                )
        self.examples = examples

    @classmethod
    def needs_class_counts(cls, link: str, values: dict[str, float]) -> bool:
        """True: weights and shift are made of them.

        >>> DistributionBalanced.needs_class_counts("sigmoid", {})
        True
        """
        return True

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Weighted, shifted, scaled and focused cross-entropy."""
        scale = self.neg_scale.to(logits.dtype)
        shift = self.kappa / self.neg_scale * self._log_odds()
        z = logits + over_classes(shift.to(logits.dtype), logits)
        on = focal(z, None, self.gamma)
        off = focal(-scale * z, None, self.gamma) / scale
        return self.element_weights(targets) * (targets * on + (1 - targets) * off)

    def element_weights(self, targets: Tensor) -> Tensor:
        """w, from the labels of each example."""
        rarity = over_classes((1 / self._positives()).to(targets.dtype), targets)
        drawn = targets * rarity
        if self.columns != 1:
            drawn = drawn.sum(1, keepdim=True)
        ratio = rarity / drawn.clamp(min=torch.finfo(targets.dtype).tiny)
        alpha, beta, mu = (
            value.to(targets.dtype) for value in (self.map_alpha, self.map_beta, self.map_mu)
        )
        return alpha + torch.sigmoid(beta * (ratio - mu))

    def _positives(self) -> Tensor:
        """Training examples with each label, (K,) in float64, or the number of a single label."""
        assert self.class_counts is not None
        counts = self.class_counts[1] if self.columns == 1 else self.class_counts
        return counts.clamp(min=1).to(torch.float64)

    def _log_odds(self) -> Tensor:
        assert self.class_counts is not None
        total = self.class_counts.sum()
        if self.examples is not None:
            total = torch.full_like(total, self.examples)
        total = total.clamp(min=2).to(torch.float64)
        positives = torch.minimum(self._positives(), total - 1)
        return torch.log(positives / (total - positives))
