"""Adversarial generation: a generator learns a distribution against a discriminator."""

from typing import ClassVar

from losslab.experiments.tasks.base import Link, Task
from losslab.losses import ADVERSARIAL
from losslab.registry import Registry


class Adversarial(Task):
    """A discriminator scores samples, a generator makes them; targets are modes, for judging alone.

    The losses are those of `losslab.losses.ADVERSARIAL`: what two players minimise.
    """

    kind = "adversarial"
    default_reduction = "mean"
    primary = "mode_coverage"
    measures = frozenset({"generation"})
    plain_loss = "non_saturating"
    losses: ClassVar[Registry] = ADVERSARIAL
    prepares = "losslab.experiments.adversarial.parts:prepare_adversarial"
    judges = "losslab.experiments.adversarial.judging:judge_adversarial"
    alone = "two networks train in turns"

    @property
    def default_link(self) -> Link:
        """Scores are taken as they are."""
        return "identity"

    def outputs(self, link: Link) -> int:
        """One score a sample."""
        return 1
