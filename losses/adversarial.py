"""Losses of two networks that play against each other: a discriminator and a generator.

They stand in a registry of their own, `losslab.losses.ADVERSARIAL`, beside the losses of
classes, whose contract (`losslab.losses.base`) they cannot keep: there are no targets, classes or
ignored elements, and each player minimises a formula of its own; the generator's hinge loss is no
hinge at all. What they take are the discriminator's scores, any real numbers, of real and of
generated samples.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import relu, softplus


class AdversarialLoss(nn.Module, ABC):
    """Base of adversarial losses: a subclass says what each player minimises.

    Scores are of any shape, one for each sample; a loss is the mean over the samples.
    """

    formula: ClassVar[str]
    citation: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()  # nn.Module's own takes any arguments, and a study's mistakes with them

    @abstractmethod
    def discriminator(self, real: Tensor, generated: Tensor) -> Tensor:
        """What the discriminator minimises, of its scores of real and of generated samples."""

    @abstractmethod
    def generator(self, generated: Tensor) -> Tensor:
        """What the generator minimises, of the discriminator's scores of its samples."""

    def set_progress(self, fraction: float) -> None:
        """These losses follow no schedule."""


class NonSaturating(AdversarialLoss):
    """Cross-entropy of real against generated; the generator's with the labels turned round.

    Goodfellow et al. 2014, section 3: the generator maximises log D(G(z)) in place of minimising
    log(1 - D(G(z))), whose gradient vanishes where the discriminator is sure.

    >>> import torch
    >>> NonSaturating().discriminator(torch.zeros(2), torch.zeros(2))  # 2 log 2
    tensor(1.3863)
    >>> NonSaturating().generator(torch.tensor([-20.0]))  # no end of loss where D is sure
    tensor(20.)
    """

    formula = "D: mean -log s(r) + mean -log(1 - s(g));  G: mean -log s(g);  s the sigmoid"
    citation = "Goodfellow et al., Generative Adversarial Nets, NeurIPS 2014, section 3"

    def discriminator(self, real: Tensor, generated: Tensor) -> Tensor:
        """-log s(r) and -log(1 - s(g)), from the scores."""
        return softplus(-real).mean() + softplus(generated).mean()

    def generator(self, generated: Tensor) -> Tensor:
        """-log s(g)."""
        return softplus(-generated).mean()


class LeastSquares(AdversarialLoss):
    """Squared distance of the scores to 1 for real and 0 for generated samples.

    Mao et al. 2017 with a = 0, b = c = 1.

    >>> import torch
    >>> loss = LeastSquares()
    >>> loss.discriminator(torch.tensor([0.0]), torch.tensor([2.0])), loss.generator(torch.zeros(1))
    (tensor(2.5000), tensor(0.5000))
    """

    formula = "D: mean (r - 1)^2 / 2 + mean g^2 / 2;  G: mean (g - 1)^2 / 2"
    citation = "Mao et al., Least Squares Generative Adversarial Networks, ICCV 2017"

    def discriminator(self, real: Tensor, generated: Tensor) -> Tensor:
        """Half the squared distances to 1 and to 0."""
        return ((real - 1).square().mean() + generated.square().mean()) / 2

    def generator(self, generated: Tensor) -> Tensor:
        """Half the squared distance to 1."""
        return (generated - 1).square().mean() / 2


class Hinge(AdversarialLoss):
    """Hinge loss of the discriminator with margin 1; the generator raises its scores.

    Lim and Ye 2017; Miyato et al. 2018.

    >>> import torch
    >>> loss = Hinge()
    >>> loss.discriminator(torch.tensor([0.0, 3.0]), torch.tensor([-2.0, 0.0]))
    tensor(1.)
    >>> loss.generator(torch.tensor([-2.0, 0.0]))
    tensor(1.)
    """

    formula = "D: mean max(0, 1 - r) + mean max(0, 1 + g);  G: mean -g"
    citation = (
        "Lim, Ye, Geometric GAN, arXiv:1705.02894; Miyato et al., Spectral Normalization for "
        "Generative Adversarial Networks, ICLR 2018"
    )

    def discriminator(self, real: Tensor, generated: Tensor) -> Tensor:
        """max(0, 1 - r) and max(0, 1 + g)."""
        return relu(1 - real).mean() + relu(1 + generated).mean()

    def generator(self, generated: Tensor) -> Tensor:
        """-g, without a margin."""
        return -generated.mean()
