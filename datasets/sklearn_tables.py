"""Small real tables that come with scikit-learn, in the units that they were measured in."""

from typing import Any, Literal

import numpy as np

from losslab.datasets.base import Dataset, Split, content_hash
from losslab.datasets.options import OptionChecks, check_held_out_fractions
from losslab.datasets.splitting import check_reachable, duplicate_groups, stratified_split
from losslab.errors import BadInput
from losslab.randomness import generator

TABLES = ("breast_cancer", "wine")


def build(
    study_seed: int,
    *,
    table: Literal["breast_cancer", "wine"] = "breast_cancer",
    imbalance_factor: float | None = None,
    test_fraction: float = 0.25,
    validation_fraction: float = 0.2,
) -> "SklearnTable":
    """A table of scikit-learn's, its features as they are: no scaling.

    `breast_cancer` (UCI, Wisconsin diagnostic) has 569 rows, 212 of them malignant, which is the
    positive class, and 30 features whose standard deviations go from 0.003 to 569; `wine` (UCI) has
    178 rows of three classes and 13 features from 0.12 to 314.

    - `imbalance_factor`: largest to smallest class in the training split, whose rows are thinned by
      a draw of the run seed: class j of C, by falling size, keeps trunc(n_1 f^(-(j-1)/(C-1))) rows,
      or all where it has no more. By default nothing is thinned.
    - `test_fraction`, `validation_fraction`: shares of all rows, in (0, 1); the rest trains.

    Raises `BadInput` with every mistake, and where a factor would leave a class without rows.

    >>> data = build(0, imbalance_factor=10)
    >>> data.class_names, data.class_counts(data.split(0)[0]).tolist()
    (['benign', 'malignant'], [197, 19])
    """
    options = {key: value for key, value in locals().items() if key != "study_seed"}
    checks = OptionChecks()
    checks.choice("table", table, list(TABLES))
    if imbalance_factor is not None:
        checks.number("imbalance_factor", imbalance_factor, minimum=1)
    check_held_out_fractions(checks, test_fraction, validation_fraction)
    checks.done()
    return SklearnTable(study_seed, options)


class SklearnTable(Dataset):
    """The data set that `build` returns; the test rows are held out by the study seed."""

    name = "sklearn_table"
    task = "classification"

    def __init__(self, study_seed: int, options: dict[str, Any]):
        from sklearn import datasets

        self.options = options
        self._seed = study_seed
        source = getattr(datasets, f"load_{options['table']}")()
        # By falling size, so that the rarest class is the last and of two the positive one.
        order = np.argsort(-np.bincount(source.target), kind="stable")
        self.class_names = [str(source.target_names[old]) for old in order]
        self._targets = np.argsort(order)[source.target].astype(np.int64)
        self._features = source.data.astype(np.float32)
        self._groups = duplicate_groups(source.data)
        rows = np.arange(len(self._targets), dtype=np.int64)
        held = self._hold_out(
            rows, options["test_fraction"], generator(study_seed, "test split"), (2, 1)
        )
        self._pool, self._test_rows = rows[~held], rows[held]
        self._split_rows(0)  # an unreachable factor is told now, not in the first trial
        self.content_hash = content_hash(
            repr((study_seed, sorted(options.items()))),
            self._features, self._targets, self._test_rows,
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
        held = self._hold_out(self._pool, share, generator(self._seed, "split", run_seed), (1, 1))
        train = self._thin(self._pool[~held], generator(self._seed, "thinning", run_seed))
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

    def _thin(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """A sorted subset of `rows` with the class sizes that the factor asks for."""
        factor = self.options["imbalance_factor"]
        if factor is None:
            return rows
        targets = self._targets[rows]
        counts = np.bincount(targets, minlength=self.num_classes)
        falling = factor ** (-np.arange(self.num_classes) / (self.num_classes - 1))
        sizes = np.minimum(counts, np.trunc(counts[0] * falling + 1e-9).astype(np.int64))
        if problem := check_reachable("imbalance_factor", sizes, float(counts[0]), 1):
            raise BadInput(problem)
        kept = [
            random.permutation(rows[targets == label])[:size] for label, size in enumerate(sizes)
        ]
        return np.sort(np.concatenate(kept))

    def _take(self, rows: np.ndarray) -> Split:
        return Split(self._features[rows], self._targets[rows], rows)
