"""Two networks while they train: in turns, each with an optimiser of its own; validation."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from losslab.errors import BadInput
from losslab.experiments.adversarial.metrics import RealModes, generation_metrics
from losslab.experiments.building import add_l1, build_model, build_optimizer
from losslab.experiments.data import Examples
from losslab.experiments.models.gan import GAN
from losslab.experiments.states import Job
from losslab.experiments.tasks import Adversarial
from losslab.experiments.training import PRECISIONS, Parts, data_of
from losslab.losses import ADVERSARIAL
from losslab.losses.adversarial import AdversarialLoss
from losslab.randomness import generator, seed_integer

# Adam's decay rates (Radford et al., ICLR 2016): with 0.9 for the first, two players overshoot.
BETAS = (0.5, 0.999)


class TwoOptimizers:
    """The optimisers of generator and discriminator, to the runner as one."""

    def __init__(self, generator: torch.optim.Optimizer, discriminator: torch.optim.Optimizer):
        self.generator = generator
        self.discriminator = discriminator

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [*self.generator.param_groups, *self.discriminator.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The states of both, by network."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])


@dataclass
class AdversarialParts(Parts):
    """The live objects of an adversarial training."""

    model: GAN
    loss: AdversarialLoss

    @cached_property
    def optimizer(self) -> TwoOptimizers:  # type: ignore[override]
        """One optimiser for each network."""
        return TwoOptimizers(
            _optimizer(self.training, self.model.generator, nn.Module()),
            # What a loss has to learn is the discriminator's, which it measures.
            _optimizer(self.training, self.model.discriminator, self.loss),
        )

    def step(self, job: Job, batch: Tensor, epoch: int) -> Tensor:
        """One step of the discriminator, then one of the generator; the discriminator's loss."""
        real, players = self.data.train.features[batch], self.optimizer
        generated = self.model.generate(self._noise(real))
        # Detached: the generator's graph is neither walked through nor freed by this backward.
        loss = self.loss.discriminator(self.model(real), self.model(generated.detach()))
        self._update(players.discriminator, self.model.discriminator, loss)
        # The generator's lesson comes from the discriminator that has just learnt.
        against = self.loss.generator(self.model(generated))
        _follow(players.generator, self._rate_ratio)
        self._update(players.generator, self.model.generator, against)
        return loss.detach().double()

    def batch_loss(self, job: Job, batch: Tensor, epoch: int) -> Tensor:
        """Both players' losses on one graph; each network's gradient is that of its own loss."""
        real = self.data.train.features[batch]
        generated = self.model.generate(self._noise(real))
        frozen = {name: p.detach() for name, p in self.model.discriminator.named_parameters()}
        scores = functional_call(self.model.discriminator, frozen, (generated,))
        own = self.loss.discriminator(self.model(real), self.model(generated.detach()))
        return own + self.loss.generator(scores)

    def validate(self, job: Job) -> dict[str, float]:
        """The job's metrics of as many generated samples as the validation split has real ones."""
        validation = self.data.validation
        return self.scores(validation, self.generated(job, "validation", len(validation)), job)

    def scores(self, real: Examples, generated: np.ndarray, job: Job) -> dict[str, float]:
        """The job's metrics of generated samples (n, d) against the real ones of a split."""
        modes = RealModes.of(real.features.double().cpu().numpy(), real.targets.cpu().numpy())
        return generation_metrics(modes.counts, modes.count(generated), job.metrics)

    def generated(self, job: Job, split: str, count: int) -> np.ndarray:
        """Samples (count, d) out of noise that depends on study seed, run seed and split alone."""
        random = generator(job.study_seed, "noise", split, job.run_seed)
        noise = torch.from_numpy(random.standard_normal((count, self.model.noise)))
        self.model.eval()
        with torch.no_grad():
            return self.model.generate(noise.to(self.data.train.features)).cpu().numpy()

    def _noise(self, real: Tensor) -> Tensor:
        """Noise for as many samples as there are real ones; the runner seeds every epoch."""
        size = (len(real), self.model.noise)
        return torch.randn(size, dtype=real.dtype, device=real.device)

    @property
    def _rate_ratio(self) -> float:
        own = self.training.get("generator_learning_rate")
        return 1.0 if own is None else float(own) / float(self.training["learning_rate"])

    def _update(self, optimizer: torch.optim.Optimizer, network: nn.Module, loss: Tensor) -> None:
        """One step of one network; the other's gradients are neither computed nor added to."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)
        add_l1(network, self.training.get("l1", 0.0))
        if (clip_norm := self.training["clip_norm"]) is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()


def prepare_adversarial(job: Job) -> AdversarialParts:
    """Data, networks and loss of a job, the networks at their initial weights.

    Raises `BadInput` where the model is no pair of networks or the loss cannot be built.
    """
    data = data_of(job)
    config = job.config["model"]
    if config.get("prior_init", False) is not False:
        raise BadInput("prior_init: a discriminator of samples knows no classes; leave it off")
    model = build_model(
        config,
        Adversarial(data.dataset.num_classes),
        job.link,
        tuple(data.train.features.shape[1:]),
        data.class_counts,
        seed_integer(job.study_seed, "weights", job.run_seed),
        data.train.features,
    )
    if not isinstance(model, GAN):
        raise BadInput(f"name: {config['name']} is no pair of networks; write model: gan")
    options = {key: v for key, v in job.config["loss"].items() if key not in ("name", "link")}
    try:
        loss = ADVERSARIAL.create(job.config["loss"]["name"], **options)
    except (BadInput, TypeError, ValueError) as error:
        raise BadInput(f"loss: cannot be built: {error}") from error
    precision = PRECISIONS[job.config["training"].get("precision", "float32")]
    model, loss = model.to(job.device, precision), loss.to(job.device)
    return AdversarialParts(data, model, loss, job.config["training"])


def _optimizer(
    config: Mapping[str, Any], network: nn.Module, loss: nn.Module
) -> torch.optim.Optimizer:
    """The optimiser of one network; Adam and AdamW with decay rates of their own."""
    optimizer = build_optimizer(config, network, loss)
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = BETAS
    return optimizer


def _follow(optimizer: torch.optim.Optimizer, ratio: float) -> None:
    """Multiply the learning rate that the runner has set for all by the generator's part."""
    for group in optimizer.param_groups:
        group["lr"] *= ratio
