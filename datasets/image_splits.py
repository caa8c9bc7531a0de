"""Which images of a folder train, validate and test: as lists give them, else drawn."""

from dataclasses import dataclass

import numpy as np

from losslab.datasets.splitting import stratified_split
from losslab.randomness import generator


@dataclass(frozen=True)
class ImageSplits:
    """The splits of n images, by row; test is fixed by the study seed, validation by the run seed.

    - `parts` (n,): pool, validation or test, as the lists of a folder say.
    - `strata`, `groups` (n,): splits are stratified by the first, and keep images of one group (the
      same pixels) together.
    - `validation_given`, `test_given`: whether there was a list; otherwise the fractions of all
      images are drawn from the pool.
    """

    parts: np.ndarray
    strata: np.ndarray
    groups: np.ndarray
    study_seed: int
    validation_given: bool
    test_given: bool
    validation_fraction: float
    test_fraction: float

    def fixed(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows that train and validation come from, and rows of the test split."""
        pool = np.flatnonzero(self.parts == "pool")
        if self.test_given:
            return pool, np.flatnonzero(self.parts == "test")
        random = generator(self.study_seed, "test split")
        held = self._hold_out(pool, self.test_fraction, random)
        return pool[~held], pool[held]

    def drawn(self, pool: np.ndarray, run_seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the training and of the validation split of a run, out of `fixed`'s pool."""
        if self.validation_given:
            return pool, np.flatnonzero(self.parts == "validation")
        share = self.validation_fraction
        if not self.test_given:
            share /= 1 - self.test_fraction
        held = self._hold_out(pool, share, generator(self.study_seed, "split", run_seed))
        return pool[~held], pool[held]

    def _hold_out(
        self, rows: np.ndarray, fraction: float, random: np.random.Generator
    ) -> np.ndarray:
        if not len(rows):
            return np.zeros(0, dtype=bool)
        groups = np.unique(self.groups[rows], return_inverse=True)[1]
        return stratified_split(self.strata[rows], groups, fraction, random, (0, 0))
