"""Synthetic modes: a mixture of Gaussians in the plane whose modes have long-tailed frequencies.

The generating formula. K modes have their centres on a ring, or on the points of a square grid in
row order (K a square number), so that neighbours lie 1 apart; the picture is centred at 0. A sample
of mode k is x = centre_k + spread · e with e from N(0, I_2). Sizes are n_k = trunc(n_max ·
imbalance_ratio^(-k/(K-1))), mode 0 the most frequent, with n_max such that they sum to the number
of samples (a little less through the truncation). Which place of the ring or grid a mode has is
drawn from the study seed, so that rare modes are not neighbours by rule.

The mixture is what a generative model has to learn, so all splits have the same frequencies. A ring
of 8 and a grid of 25 equally frequent modes are the usual ones (Srivastava et al., VEEGAN, NeurIPS
2017; Lin et al., PacGAN, NeurIPS 2018).
"""

import math
from typing import Any, Literal

import numpy as np

from losslab.datasets.base import Dataset, Split, content_hash
from losslab.datasets.options import OptionChecks
from losslab.datasets.splitting import (
    check_reachable,
    largest_factor_of_total,
    long_tail_counts_of_total,
)
from losslab.randomness import generator

# The circles of three spreads around two centres, 1 apart, then still touch in one point at most.
LARGEST_SPREAD = 1 / 6


def build(
    study_seed: int,
    *,
    modes: int = 8,
    layout: Literal["ring", "grid"] = "ring",
    spread: float = 0.05,
    imbalance_ratio: float = 20.0,
    examples: int = 8000,
    validation_examples: int = 4000,
    test_examples: int = 8000,
) -> "Modes":
    """Draw a mixture of Gaussians for a generative model; the module's text gives the formula.

    - `modes`: number of modes, >= 2; a square number on a grid.
    - `layout`: `ring` or `grid`.
    - `spread`: standard deviation of a mode in each direction, 1 being the distance of
      neighbours; above 0, at most 1/6.
    - `imbalance_ratio`: most to least frequent mode, >= 1.
    - `examples`, `validation_examples`, `test_examples`: samples in each split, all modes together,
      >= 2 a mode; at most 10 million.

    Raises `BadInput` with every mistake, and where a mode would have no sample in some split.

    >>> data = build(0, modes=3, examples=111, imbalance_ratio=100, test_examples=1110,
    ...              validation_examples=111)
    >>> train, validation = data.split(0)
    >>> data.class_counts(train).tolist(), train.features.shape
    ([100, 10, 1], (111, 2))
    """
    options = {key: value for key, value in locals().items() if key != "study_seed"}
    sizes = _check(options)
    return Modes(study_seed, options, sizes)


class Modes(Dataset):
    """The data set that `build` returns; `centres` (K, 2) are those of the modes, in their order.

    Targets are the modes that the samples were drawn from, which no training sees.
    """

    name = "modes"
    task = "adversarial"

    def __init__(self, study_seed: int, options: dict[str, Any], sizes: np.ndarray):
        self.options = options
        self.class_names = [str(k) for k in range(options["modes"])]
        places = generator(study_seed, "modes places").permutation(options["modes"])
        self.centres = _places(options["modes"], options["layout"])[places]
        self._seed = study_seed
        self._validation_sizes = sizes[1]
        self._targets = np.repeat(np.arange(len(places)), sizes[0] + sizes[1])
        self._features = self._draw(self._targets, "modes pool")
        test_targets = np.repeat(np.arange(len(places)), sizes[2])
        self._test = Split(
            self._draw(test_targets, "modes test"),
            test_targets,
            np.arange(len(test_targets), dtype=np.int64) + len(self._targets),
        )
        self.content_hash = content_hash(
            str(study_seed), self._features, self._targets, self._validation_sizes,
            self._test.features, self._test.targets,
        )  # fmt: skip

    def _draw(self, targets: np.ndarray, role: str) -> np.ndarray:
        noise = generator(self._seed, role).standard_normal((len(targets), 2))
        return (self.centres[targets] + self.options["spread"] * noise).astype(np.float32)

    def split(self, run_seed: int) -> tuple[Split, Split]:
        """Train and validation samples, drawn from each mode's pool without replacement."""
        random = generator(self._seed, "split", run_seed)
        held = np.zeros(len(self._targets), dtype=bool)
        for k, size in enumerate(self._validation_sizes):
            held[random.permutation(np.flatnonzero(self._targets == k))[:size]] = True
        train, validation = np.flatnonzero(~held), np.flatnonzero(held)
        return (
            Split(self._features[train], self._targets[train], train),
            Split(self._features[validation], self._targets[validation], validation),
        )

    def test(self, run_seed: int) -> Split:
        """The test samples; nothing is fitted here, so every run sees the same numbers."""
        return self._test


def _check(options: dict[str, Any]) -> np.ndarray:
    """Sizes of shape (3, modes): training, validation, test; raises `BadInput`."""
    checks = OptionChecks()
    modes = options["modes"]
    usable = checks.integer("modes", modes, 2, 10_000)
    checks.choice("layout", options["layout"], ["ring", "grid"])
    if usable and options["layout"] == "grid" and math.isqrt(modes) ** 2 != modes:
        nearest = max(round(math.sqrt(modes)), 2) ** 2
        checks.add("modes", f"must be a square number on a grid, such as {nearest}, got {modes}")
    if checks.number("spread", options["spread"]) and not 0 < options["spread"] <= LARGEST_SPREAD:
        checks.add("spread", f"must be above 0 and at most 1/6, got {options['spread']}")
    usable &= checks.number("imbalance_ratio", options["imbalance_ratio"], minimum=1)
    splits = ("examples", "validation_examples", "test_examples")
    for name in splits:
        usable &= checks.integer(name, options[name], 1, 10_000_000)
    sizes = []
    for name in splits if usable else ():
        if options[name] < 2 * modes:
            checks.add(name, f"must be at least 2 per mode ({2 * modes}), got {options[name]}")
            continue
        sizes.append(long_tail_counts_of_total(options[name], options["imbalance_ratio"], modes))
        largest = largest_factor_of_total(options[name], modes)
        if problem := check_reachable("imbalance_ratio", sizes[-1], largest):
            checks.problems.append(f"{problem} ({name}: {options[name]})")
    checks.done()
    return np.stack(sizes)


def _places(modes: int, layout: str) -> np.ndarray:
    """Places (modes, 2) whose neighbours lie 1 apart, centred at 0."""
    if layout == "grid":
        side = math.isqrt(modes)
        rows = np.arange(modes) // side, np.arange(modes) % side
        return np.stack(rows, axis=1) - (side - 1) / 2
    angle = 2 * np.pi * np.arange(modes) / modes
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) / (2 * math.sin(math.pi / modes))
