"""A generator and a discriminator of feature vectors."""

from collections.abc import Sequence

from torch import Tensor, nn

from losslab.errors import BadInput
from losslab.experiments.models.mlp import build as build_mlp


class GAN(nn.Module):
    """Two networks: `generator` makes samples out of noise, `discriminator` scores samples.

    As a model of this house, which maps examples to outputs, it is its discriminator: `forward`
    gives scores (n, 1) of samples. `noise` is the dimension of the generator's input.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, noise: int):
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.noise = noise

    def forward(self, samples: Tensor) -> Tensor:
        """The discriminator's scores (n, outputs) of samples (n, d)."""
        scores: Tensor = self.discriminator(samples)
        return scores

    def generate(self, noise: Tensor) -> Tensor:
        """Samples (n, d) out of noise (n, noise) from N(0, I)."""
        samples: Tensor = self.generator(noise)
        return samples


def build(
    input_shape: Sequence[int],
    outputs: int,
    *,
    noise: int = 8,
    hidden: list[int] | None = None,
) -> nn.Module:
    """Two multi-layer perceptrons with the same `hidden` widths (default 128, 128) and ReLU.

    `noise` is the dimension of the Gaussian noise that samples are made of. Features are rows (d,).
    """
    if len(input_shape) != 1:
        raise BadInput(f"name: gan generates rows of numbers, not shape {tuple(input_shape)}")
    if noise < 1:
        raise BadInput(f"noise: must be at least 1, got {noise}")
    hidden = [128, 128] if hidden is None else hidden
    return GAN(
        build_mlp((noise,), input_shape[0], hidden=hidden),
        build_mlp(input_shape, outputs, hidden=hidden),
        noise,
    )
