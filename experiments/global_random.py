"""The global random generators of torch, numpy and Python, for other people's models and losses.

Nothing of losslab's own draws from them. They are seeded for every epoch of every training, and
given back to the caller as they were.
"""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class GlobalRandom:
    """The state of all of them at one moment."""

    torch_cpu: Tensor
    torch_cuda: Tensor | None
    numpy: np.random.BitGenerator
    python: Any

    @classmethod
    def now(cls, device: str) -> "GlobalRandom":
        """The state now, which stays the generators' own until another one is put in its place."""
        cuda = None if device == "cpu" else torch.cuda.get_rng_state()
        state = torch.default_generator.get_state()
        numpy = np.random.get_bit_generator()  # type: ignore[attr-defined]
        return cls(state, cuda, numpy, random.getstate())

    def put(self) -> None:
        """Let the generators go on from here."""
        torch.default_generator.set_state(self.torch_cpu)
        if self.torch_cuda is not None:
            torch.cuda.set_rng_state(self.torch_cuda)
        # Numpy's generator is exchanged as a whole: copying its state took longer than a loss.
        np.random.set_bit_generator(self.numpy)  # type: ignore[attr-defined]
        random.setstate(self.python)


def seed_all(seed: int, device: str) -> None:
    """Seed them all; numpy's is a new generator, so that nobody's old one is touched."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed does it too, in 3 ms
    if device != "cpu":
        torch.cuda.manual_seed(seed)
    np.random.set_bit_generator(np.random.MT19937(seed))  # type: ignore[attr-defined]
    random.seed(seed)


@contextlib.contextmanager
def kept(device: str) -> Iterator[None]:
    """Give the generators back as they were at the end of the block."""
    before = GlobalRandom.now(device)
    try:
        yield
    finally:
        before.put()
