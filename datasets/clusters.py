"""Synthetic Gaussian clusters with a stated imbalance, overlap and label noise.

The generating formula. C classes have K clusters each, in d dimensions. Directions u_ck are drawn
from N(0, I_d); the centres are mu_ck = s · u_ck, where the one number s makes the closest two
clusters of different classes lie

    delta = -2 · Phi^-1(overlap / 2)

apart: two unit-variance Gaussians at that distance share exactly `overlap` of their area (and
their Bayes error at equal sizes is overlap / 2). An example of class c is x = mu_ck + e with k
uniform over the class's clusters and e from N(0, I_d). Classes share no other structure, and all
pairs but the closest overlap less.

Training sizes are n_c = trunc(n_max · imbalance_ratio^(-c/(C-1))), class 0 the largest, with n_max
such that they sum to `examples` (a little less through the truncation). Label noise replaces a
training label, independently with probability `label_noise`, by another class drawn uniformly;
validation and test labels are always true. Which rows are noisy, and how, belongs to the rows:
it is drawn from the study seed.
"""

from typing import Any, Literal

import numpy as np
from scipy.special import ndtri

from losslab.datasets.base import Dataset, Split, content_hash
from losslab.datasets.options import OptionChecks
from losslab.datasets.splitting import (
    check_reachable,
    largest_factor_of_total,
    long_tail_counts_of_total,
)
from losslab.randomness import generator


def build(
    study_seed: int,
    *,
    classes: int = 2,
    examples: int = 4000,
    validation_examples: int = 2000,
    test_examples: int = 4000,
    imbalance_ratio: float = 100.0,
    imbalance_applies_to: Literal["train", "all"] = "train",
    dimensions: int = 16,
    clusters_per_class: int = 2,
    overlap: float = 0.2,
    label_noise: float = 0.0,
) -> "Clusters":
    """Draw a synthetic classification problem; the module's text gives the formula.

    - `classes`: number of classes, >= 2; for two, class 1 is the rare, positive one.
    - `examples`, `validation_examples`, `test_examples`: rows in each split, all classes together,
      >= 2 per class; at most 10 million.
    - `imbalance_ratio`: largest to smallest class, >= 1.
    - `imbalance_applies_to`: `train` leaves validation and test balanced, `all` gives them the
      training distribution.
    - `dimensions`: features, 1 to 10,000.
    - `clusters_per_class`: 1 to 100.
    - `overlap`: shared area of the closest two clusters of different classes, 1e-6 to 1
      (1: the classes cannot be told apart).
    - `label_noise`: probability that a training label is replaced by another class, 0 to 0.9.

    Raises `BadInput` with every mistake, and where a class would have no row in some split.

    >>> data = build(0, classes=3, examples=111, imbalance_ratio=100, imbalance_applies_to="train")
    >>> train, validation = data.split(0)
    >>> data.class_counts(train).tolist(), train.features.shape
    ([100, 10, 1], (111, 16))
    """
    options = {key: value for key, value in locals().items() if key != "study_seed"}
    sizes = _check(options)
    return Clusters(study_seed, options, sizes)


class Clusters(Dataset):
    """The data set that `build` returns: a pool of rows per class, drawn from the study seed."""

    name = "clusters"
    task = "classification"

    def __init__(self, study_seed: int, options: dict[str, Any], sizes: np.ndarray):
        self.options = options
        self.class_names = [str(c) for c in range(options["classes"])]
        self._seed = study_seed
        self._validation_sizes = sizes[1]
        pool_sizes = sizes[0] + sizes[1]
        centres = _centres(study_seed, options)
        self._targets = np.repeat(np.arange(len(pool_sizes)), pool_sizes).astype(np.int64)
        self._features = _draw(self._targets, centres, generator(study_seed, "clusters pool"))
        self._noisy = _noisy(study_seed, self._targets, options)
        test_targets = np.repeat(np.arange(len(pool_sizes)), sizes[2]).astype(np.int64)
        self._test = Split(
            _draw(test_targets, centres, generator(study_seed, "clusters test")),
            test_targets,
            np.arange(len(test_targets), dtype=np.int64) + len(self._targets),
        )
        self.content_hash = content_hash(
            str(study_seed), self._features, self._targets, self._noisy,
            self._validation_sizes, self._test.features, self._test.targets,
        )  # fmt: skip

    def split(self, run_seed: int) -> tuple[Split, Split]:
        """Train and validation rows, drawn from each class's pool without replacement."""
        random = generator(self._seed, "split", run_seed)
        held = np.zeros(len(self._targets), dtype=bool)
        for c, size in enumerate(self._validation_sizes):
            held[random.permutation(np.flatnonzero(self._targets == c))[:size]] = True
        train, validation = np.flatnonzero(~held), np.flatnonzero(held)
        return (
            Split(self._features[train], self._noisy[train], train),
            Split(self._features[validation], self._targets[validation], validation),
        )

    def test(self, run_seed: int) -> Split:
        """The test rows; nothing is fitted here, so every run sees the same numbers."""
        return self._test


def _check(options: dict[str, Any]) -> np.ndarray:
    """Sizes of shape (3, classes): training, validation, test; raises `BadInput`."""
    checks = OptionChecks()
    splits = ("examples", "validation_examples", "test_examples")
    usable = checks.integer("classes", options["classes"], 2, 10_000)
    for name in splits:
        usable &= checks.integer(name, options[name], 1, 10_000_000)
    usable &= checks.number("imbalance_ratio", options["imbalance_ratio"], minimum=1)
    usable &= checks.choice(
        "imbalance_applies_to", options["imbalance_applies_to"], ["train", "all"]
    )
    checks.integer("dimensions", options["dimensions"], 1, 10_000)
    checks.integer("clusters_per_class", options["clusters_per_class"], 1, 100)
    checks.number("overlap", options["overlap"], 1e-6, 1.0)
    checks.number("label_noise", options["label_noise"], 0.0, 0.9)
    sizes = []
    if usable:
        classes, ratio = options["classes"], options["imbalance_ratio"]
        for name in splits:
            if options[name] < 2 * classes:
                checks.add(
                    name, f"must be at least 2 per class ({2 * classes}), got {options[name]}"
                )
                continue
            natural = name != "examples" and options["imbalance_applies_to"] == "train"
            sizes.append(long_tail_counts_of_total(options[name], 1 if natural else ratio, classes))
            largest = largest_factor_of_total(options[name], classes)
            if problem := check_reachable("imbalance_ratio", sizes[-1], largest):
                checks.problems.append(f"{problem} ({name}: {options[name]})")
    checks.done()
    return np.stack(sizes)


def _centres(study_seed: int, options: dict[str, Any]) -> np.ndarray:
    """Cluster centres of shape (classes, clusters, dimensions)."""
    shape = (options["classes"], options["clusters_per_class"], options["dimensions"])
    centres = generator(study_seed, "clusters centres").standard_normal(shape)
    distance = -2 * ndtri(options["overlap"] / 2)
    flat = centres.reshape(-1, shape[2])
    owner = np.repeat(np.arange(shape[0]), shape[1])
    closest = np.inf
    for centre, c in zip(flat, owner, strict=True):  # row by row: all pairs can be too large
        gaps = np.linalg.norm(flat[owner != c] - centre, axis=1)
        closest = min(closest, float(gaps.min()))
    return centres * (distance / closest)


def _draw(targets: np.ndarray, centres: np.ndarray, random: np.random.Generator) -> np.ndarray:
    cluster = random.integers(centres.shape[1], size=len(targets))
    noise = random.standard_normal((len(targets), centres.shape[2]), dtype=np.float32)
    return (centres.astype(np.float32)[targets, cluster] + noise).astype(np.float32)


def _noisy(study_seed: int, targets: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    random = generator(study_seed, "clusters label noise")
    flipped = random.random(len(targets)) < options["label_noise"]
    shift = random.integers(1, options["classes"], size=len(targets))
    return np.where(flipped, (targets + shift) % options["classes"], targets).astype(np.int64)
