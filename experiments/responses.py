"""A simulated response: what a configuration is truly worth, and the noise a training adds."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from losslab.experiments.simulation import Outcome
from losslab.experiments.states import Job
from losslab.randomness import generator

#: How much of the way from the floor a training has still to go when it begins.
UNTRAINED = 0.2


@dataclass(frozen=True)
class Response:
    """The value of a configuration by its learning rate, and noise, all in units of the metric.

    Without noise, floor + (peak − floor) · exp(−|log10(learning rate / best)/width|³), plus the
    `advantage` of its loss (by the loss's name; 0 for one that is not named). The standard
    deviations of what is added:

    - `run_seed`: to validation and test, the same for all that share a run seed, so it pairs off;
    - `training`: to validation and test, of one training (weights that came out well);
    - `validation`, `test`: of one training as judged on that split alone;
    - `split`: to test, fixed for a study, since all its runs are judged on one test split. Half
      of its variance is shared by all configurations of a loss, half is each configuration's.

    With `breakdown`, trainings diverge, half of them at that learning rate, by a logistic curve
    over log10 of the rate of scale `breakdown_scale`; they score `chance` on test. The curve of a
    training rises linearly from UNTRAINED below its value, with noise of size `training` of its own
    at each epoch. Everything is a function of the job: the same job has the same outcome.
    """

    peak: float
    floor: float
    best: float
    width: float
    run_seed: float
    training: float
    validation: float
    test: float
    split: float
    breakdown: float | None = None
    breakdown_scale: float = 0.2
    chance: float = 0.0
    advantage: Mapping[str, float] = field(default_factory=dict)

    def sound(self, config: Mapping[str, Any]) -> float:
        """The noise-free value of a training that does not diverge."""
        decades = math.log10(config["training"]["learning_rate"] / self.best)
        shape = math.exp(-(abs(decades / self.width) ** 3))
        gain = self.advantage.get(config["loss"]["name"], 0.0)
        return self.floor + (self.peak - self.floor) * shape + gain

    def failing(self, config: Mapping[str, Any]) -> float:
        """The probability that a training diverges."""
        if self.breakdown is None:
            return 0.0
        decades = math.log10(config["training"]["learning_rate"] / self.breakdown)
        return 1 / (1 + math.exp(-decades / self.breakdown_scale))

    def truth(self, config: Mapping[str, Any], study_seed: int | None = None) -> float:
        """The mean test value over fresh run seeds.

        With `study_seed` on the one test split of that study, else over test splits too.
        """
        shift = 0.0 if study_seed is None else self.on_split(config, study_seed)
        failing = self.failing(config)
        return (1 - failing) * (self.sound(config) + shift) + failing * self.chance

    def on_split(self, config: Mapping[str, Any], study_seed: int) -> float:
        """What a study's test split adds to a configuration."""
        own = _normal(study_seed, "configuration", _text(config))
        loss = self.loss_on_split(config["loss"]["name"], study_seed)
        return loss + self.split * math.sqrt(0.5) * own

    def loss_on_split(self, loss: str, study_seed: int) -> float:
        """What a study's test split adds to every configuration of a loss."""
        return self.split * math.sqrt(0.5) * _normal(study_seed, "loss", loss)

    def __call__(self, job: Job) -> Outcome:
        """The outcome of a training."""
        config, seed, epochs = job.config, job.run_seed, job.config["training"]["epochs"]
        shared = self.run_seed * _normal(job.study_seed, "run seed", seed)
        rng = generator(job.study_seed, "simulated", "training", _text(config), seed)
        if rng.random() < self.failing(config):
            stop = int(rng.integers(1, epochs + 1))
            values = (self.chance,) * (stop - 1)
            return Outcome(values, self.chance, f"simulated: diverged in epoch {stop}")
        training, validation, test, *steps = rng.standard_normal(3 + epochs - 1).tolist()
        value = self.sound(config) + shared + self.training * training
        judged = value + self.validation * validation
        rising = [
            judged - UNTRAINED * (judged - self.floor) * (1 - (epoch + 1) / epochs)
            + self.training * step
            for epoch, step in enumerate(steps)
        ]  # fmt: skip
        shift = self.on_split(config, job.study_seed)
        return Outcome((*rising, judged), value + self.test * test + shift)


#: Sizes as in the quickstart study (average precision on long-tailed digits, 10 seeds).
DIGITS = Response(
    peak=0.955, floor=0.15, best=0.02, width=2.2,
    run_seed=0.009, training=0.0036, validation=0.001, test=0.0022, split=0.0012,
)  # fmt: skip

#: Sizes as in the alpha and gamma studies (average precision on one anchor in a thousand), where
#: a rate that selection liked may diverge on other seeds.
ANCHORS = Response(
    peak=0.33, floor=0.085, best=0.02, width=1.0,
    run_seed=0.02, training=0.025, validation=0.017, test=0.017, split=0.01,
    breakdown=0.2, breakdown_scale=0.2, chance=0.001,
)  # fmt: skip


@lru_cache(maxsize=1024)
def _normal(study_seed: int, role: str, *index: int | str) -> float:
    return float(generator(study_seed, "simulated", role, *index).standard_normal())


def _text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)
