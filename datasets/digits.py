"""Real handwritten digits (scikit-learn's 1,797 images of 8 x 8), made imbalanced."""

from typing import Any, Literal

import numpy as np

from losslab.datasets.base import Dataset, Split, content_hash
from losslab.datasets.options import OptionChecks, check_held_out_fractions
from losslab.datasets.splitting import (
    check_reachable,
    duplicate_groups,
    long_tail_counts,
    stratified_split,
)
from losslab.errors import BadInput
from losslab.randomness import generator

CLASSES = 10


def build(
    study_seed: int,
    *,
    imbalance: Literal["long_tail", "rare_class", "none"] = "long_tail",
    imbalance_factor: float = 20.0,
    rare_class: int = 8,
    imbalance_applies_to: Literal["train", "all"] = "train",
    as_images: bool = False,
    test_fraction: float = 0.25,
    validation_fraction: float = 0.2,
) -> "Digits":
    """Handwritten digits 0 to 9 with a long tail or one rare class.

    Under `long_tail`, digit i keeps n_i = trunc(n_max · imbalance_factor^(-i/9)) rows (Cui et al.
    2019); under `rare_class`, that digit keeps trunc(n_max / imbalance_factor) and the others
    n_max; n_max is the smallest digit's number of rows, so that the formula is met exactly.

    - `imbalance`: `long_tail`, `rare_class` or `none` (all rows are kept).
    - `imbalance_factor`: largest to smallest class, >= 1; not used under `none`.
    - `rare_class`: the digit that is rare under `rare_class`, 0 to 9.
    - `imbalance_applies_to`: `train` thins the training split, by a draw of the run seed, and
      leaves validation and test as they are; `all` thins all rows first, by the study seed.
    - `as_images`: features of shape (1, 8, 8) instead of (64,).
    - `test_fraction`, `validation_fraction`: shares of all rows, in (0, 1); the rest trains.

    Features are float32 in [0, 1] (grey levels 0 to 16, divided by 16). Raises `BadInput` with
    every mistake, and with the largest factor that can be reached where a digit would be lost.

    >>> data = build(0, imbalance_factor=20)
    >>> data.class_counts(data.split(0)[0]).tolist()
    [95, 68, 48, 34, 25, 17, 12, 9, 6, 4]
    """
    options = {key: value for key, value in locals().items() if key != "study_seed"}
    _check(options)
    return Digits(study_seed, options)


class Digits(Dataset):
    """The data set that `build` returns; the test rows are held out by the study seed."""

    name = "digits"
    task = "classification"

    def __init__(self, study_seed: int, options: dict[str, Any]):
        from sklearn.datasets import load_digits

        self.options = options
        self.class_names = [str(digit) for digit in range(CLASSES)]
        self._seed = study_seed
        source = load_digits()
        shape = (-1, 1, 8, 8) if options["as_images"] else (-1, 64)
        self._features = (source.data / 16.0).astype(np.float32).reshape(shape)
        self._targets = source.target.astype(np.int64)
        self._groups = duplicate_groups(source.data)
        rows = np.arange(len(self._targets), dtype=np.int64)
        if options["imbalance_applies_to"] == "all":
            rows = self._thin(rows, generator(study_seed, "digits thinning"), needed=3)
        held = self._hold_out(
            rows, options["test_fraction"], generator(study_seed, "test split"), (2, 1)
        )
        self._pool, self._test_rows = rows[~held], rows[held]
        if options["imbalance_applies_to"] == "train":
            self._split_rows(0)  # an unreachable factor is told now, not in the first trial
        self.content_hash = content_hash(
            repr((study_seed, sorted(options.items()))),
            self._features, self._targets, self._pool, self._test_rows,
        )  # fmt: skip

    def split(self, run_seed: int) -> tuple[Split, Split]:
        """Train rows (thinned by this run's draw) and validation rows."""
        train, validation = self._split_rows(run_seed)
        return self._take(train), self._take(validation)

    def test(self, run_seed: int) -> Split:
        """The test rows; nothing is fitted here, so every run sees the same numbers."""
        return self._take(self._test_rows)

    def _split_rows(self, run_seed: int) -> tuple[np.ndarray, np.ndarray]:
        share = self.options["validation_fraction"] / (1 - self.options["test_fraction"])
        random = generator(self._seed, "split", run_seed)
        held = self._hold_out(self._pool, share, random, (1, 1))
        train = self._pool[~held]
        if self.options["imbalance_applies_to"] == "train":
            train = self._thin(train, generator(self._seed, "digits thinning", run_seed))
        return train, self._pool[held]

    def _hold_out(
        self,
        rows: np.ndarray,
        fraction: float,
        random: np.random.Generator,
        minimum: tuple[int, int],
    ) -> np.ndarray:
        groups = np.unique(self._groups[rows], return_inverse=True)[1]
        return stratified_split(
            self._targets[rows], groups, fraction, random, minimum, self.class_names
        )

    def _thin(self, rows: np.ndarray, random: np.random.Generator, needed: int = 1) -> np.ndarray:
        """A sorted subset of `rows` with the class sizes that the options ask for."""
        if self.options["imbalance"] == "none":
            return rows
        targets = self._targets[rows]
        largest = int(np.bincount(targets, minlength=CLASSES).min())
        factor = self.options["imbalance_factor"]
        if self.options["imbalance"] == "long_tail":
            sizes = long_tail_counts(largest, factor, CLASSES)
        else:
            sizes = np.full(CLASSES, largest)
            sizes[self.options["rare_class"]] = long_tail_counts(largest, factor, 2)[1]
        if problem := check_reachable("imbalance_factor", sizes, largest / needed, needed):
            raise BadInput(problem)
        kept = [
            random.permutation(rows[targets == digit])[:size] for digit, size in enumerate(sizes)
        ]
        return np.sort(np.concatenate(kept))

    def _take(self, rows: np.ndarray) -> Split:
        return Split(self._features[rows], self._targets[rows], rows)


def _check(options: dict[str, Any]) -> None:
    checks = OptionChecks()
    checks.choice("imbalance", options["imbalance"], ["long_tail", "rare_class", "none"])
    checks.number("imbalance_factor", options["imbalance_factor"], minimum=1)
    checks.integer("rare_class", options["rare_class"], 0, CLASSES - 1)
    checks.choice("imbalance_applies_to", options["imbalance_applies_to"], ["train", "all"])
    checks.flag("as_images", options["as_images"])
    check_held_out_fractions(checks, options["test_fraction"], options["validation_fraction"])
    checks.done()
