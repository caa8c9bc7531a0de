"""Synthetic dense detection: thousands of anchors an image, one foreground in about a thousand.

What is generated, for anchor j of image i with d features, all noise of unit variance:

    x = mu_kind + image_shift · s_i + e,     s_i, e ~ N(0, I_d)

- foreground: mu is one of `COMPONENTS` object centres, drawn as N(0, I_d) directions at length 3;
- hard background (`hard_fraction` of the background): one of as many centres, each at
  `hard_distance` from an object centre, so it looks like an object;
- easy background: one of as many centres at `easy_distance` from the mean of the object centres;
- ignored: mu = t · foreground centre + (1 - t) · hard background centre, t uniform in [0.4, 0.5),
  as the anchors whose overlap with an object lies in that band are ignored in the focal-loss
  paper (Lin et al. 2017, section 4.1).

An image has a weight drawn from an exponential distribution; the pool's foreground (exactly one
per 1 + background_per_foreground anchors that count) and ignored anchors are dealt to images by
these weights, so some images hold many objects and about a fifth none. Validation images are drawn
in strata of equal foreground count.

Why so: the three things that dense detection is known for are here and nothing else is: imbalance
of 1:1000 or more, mostly easy negatives, a few negatives near the objects. `hard_distance` 2
means that a hard negative and its object share a third of their area (2 · Phi(-1)), so that no
model ranks them perfectly: the true density ratio of a single anchor reaches an average precision
of 0.46 to 0.52 at the defaults. The numbers were fixed beforehand and not adjusted to any loss.
"""

from typing import Any

import numpy as np

from losslab.datasets.base import IGNORE, Dataset, Split, content_hash
from losslab.datasets.options import OptionChecks
from losslab.randomness import generator

COMPONENTS = 4  # centres of each kind
OBJECT_LENGTH = 3.0  # of the object centres, in standard deviations


def build(
    study_seed: int,
    *,
    train_images: int = 64,
    validation_images: int = 32,
    test_images: int = 48,
    anchors: int = 4096,
    dimensions: int = 16,
    background_per_foreground: float = 1000.0,
    hard_fraction: float = 0.01,
    hard_distance: float = 2.0,
    easy_distance: float = 8.0,
    ignore_fraction: float = 0.002,
    image_shift: float = 0.5,
) -> "Anchors":
    """Draw a synthetic dense-detection problem; the module's text gives the formula.

    - `train_images`, `validation_images`, `test_images`: images in each split, 1 to 100,000.
    - `anchors`: anchors an image, 2 to 1,000,000.
    - `dimensions`: features an anchor, 1 to 4,096.
    - `background_per_foreground`: background anchors for each foreground one, 1 to 1,000,000.
    - `hard_fraction`: share of the background that lies near the foreground, 0 to 1.
    - `hard_distance`, `easy_distance`: distance of background centres from an object centre and
      from the objects' mean, in standard deviations, 0 to 1,000.
    - `ignore_fraction`: share of all anchors that are ignored (target -1), 0 to 0.5.
    - `image_shift`: standard deviation of an image's common offset, 0 to 100.

    Features are float32 (images, anchors, dimensions), targets int64 (images, anchors). Raises
    `BadInput` with every mistake, and where the ratio leaves a split without foreground.

    >>> data = build(0, train_images=8, validation_images=4, test_images=4, anchors=2048)
    >>> train, validation = data.split(0)
    >>> train.features.shape, sorted(np.unique(train.targets).tolist())
    ((8, 2048, 16), [-1, 0, 1])
    """
    options = {key: value for key, value in locals().items() if key != "study_seed"}
    _check(options)
    return Anchors(study_seed, options)


class Anchors(Dataset):
    """The data set that `build` returns: a pool of images and a fixed set of test images."""

    name = "anchors"
    task = "dense"

    def __init__(self, study_seed: int, options: dict[str, Any]):
        self.options = options
        self.class_names = ["background", "foreground"]
        self._seed = study_seed
        pool = options["train_images"] + options["validation_images"]
        centres = _centres(study_seed, options)
        self._features, self._targets = _images(
            pool, centres, options, generator(study_seed, "anchors pool")
        )
        test_features, test_targets = _images(
            options["test_images"], centres, options, generator(study_seed, "anchors test")
        )
        ids = np.arange(pool, pool + options["test_images"], dtype=np.int64)
        self._test = Split(test_features, test_targets, ids)
        self.content_hash = content_hash(
            str((study_seed, options["train_images"])),
            self._features, self._targets, test_features, test_targets,
        )  # fmt: skip

    def split(self, run_seed: int) -> tuple[Split, Split]:
        """Train and validation images; validation takes one image out of every stratum."""
        random = generator(self._seed, "split", run_seed)
        foreground = (self._targets == 1).sum(axis=1)
        order = np.lexsort([random.random(len(foreground)), foreground])
        strata = np.array_split(order, self.options["validation_images"])
        held = np.array([random.choice(stratum) for stratum in strata])
        validation = np.sort(held).astype(np.int64)
        train = np.setdiff1d(np.arange(len(foreground), dtype=np.int64), validation)
        return self._take(train), self._take(validation)

    def test(self, run_seed: int) -> Split:
        """The test images; nothing is fitted here, so every run sees the same numbers."""
        return self._test

    def _take(self, images: np.ndarray) -> Split:
        return Split(self._features[images], self._targets[images], images)


def _check(options: dict[str, Any]) -> None:
    checks = OptionChecks()
    usable = True
    splits = ("train_images", "validation_images", "test_images")
    for name in splits:
        usable &= checks.integer(name, options[name], 1, 100_000)
    usable &= checks.integer("anchors", options["anchors"], 2, 1_000_000)
    checks.integer("dimensions", options["dimensions"], 1, 4096)
    ratio = options["background_per_foreground"]
    usable &= checks.number("background_per_foreground", ratio, 1, 1_000_000)
    checks.number("hard_fraction", options["hard_fraction"], 0, 1)
    checks.number("hard_distance", options["hard_distance"], 0, 1000)
    checks.number("easy_distance", options["easy_distance"], 0, 1000)
    usable &= checks.number("ignore_fraction", options["ignore_fraction"], 0, 0.5)
    checks.number("image_shift", options["image_shift"], 0, 100)
    if usable and options["validation_images"] > options["train_images"]:
        usable = checks.add(
            "validation_images",
            f"must be at most train_images ({options['train_images']}), since it is drawn in "
            f"strata of the images, got {options['validation_images']}",
        )
    if usable:
        for name in splits:
            counted = options[name] * options["anchors"] * (1 - options["ignore_fraction"])
            # Eight expected foreground anchors keep a split without any a rarity.
            if counted / (1 + ratio) < 8:
                checks.add(
                    "background_per_foreground",
                    f"{ratio:g} leaves {name} with {counted / (1 + ratio):.1f} foreground anchors; "
                    f"at least 8 are needed, so at most {max(int(counted / 8) - 1, 0)}, or more "
                    f"{name} or anchors",
                )
    checks.done()


def _centres(study_seed: int, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """Centres of each kind, float32 of shape (COMPONENTS, dimensions)."""
    random = generator(study_seed, "anchors centres")
    shape = (COMPONENTS, options["dimensions"])

    def directions() -> np.ndarray:
        vectors = random.standard_normal(shape)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    objects = OBJECT_LENGTH * directions()
    hard = objects + options["hard_distance"] * directions()
    easy = objects.mean(axis=0) + options["easy_distance"] * directions()
    kinds = {"objects": objects, "hard": hard, "easy": easy}
    return {name: values.astype(np.float32) for name, values in kinds.items()}


def _images(
    images: int,
    centres: dict[str, np.ndarray],
    options: dict[str, Any],
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Features (images, anchors, d) float32 and targets (images, anchors) int64."""
    anchors, d = options["anchors"], options["dimensions"]
    total = images * anchors
    ignored = round(total * options["ignore_fraction"])
    foreground = round((total - ignored) / (1 + options["background_per_foreground"]))
    targets = _deal(images, anchors, foreground, ignored, random)

    component = random.integers(COMPONENTS, size=targets.shape)
    hard = random.random(targets.shape) < options["hard_fraction"]
    means = centres["easy"][component]
    means[hard] = centres["hard"][component[hard]]
    means[targets == 1] = centres["objects"][component[targets == 1]]
    band = targets == IGNORE
    share = random.uniform(0.4, 0.5, size=(int(band.sum()), 1)).astype(np.float32)
    near = component[band]
    means[band] = share * centres["objects"][near] + (1 - share) * centres["hard"][near]

    shift = random.standard_normal((images, 1, d), dtype=np.float32) * options["image_shift"]
    means += shift.astype(np.float32)
    means += random.standard_normal((images, anchors, d), dtype=np.float32)
    return means, targets


def _deal(
    images: int, anchors: int, foreground: int, ignored: int, random: np.random.Generator
) -> np.ndarray:
    """Targets (images, anchors) with exactly `foreground` ones and `ignored` minus ones."""
    weights = random.exponential(size=images)
    # Each anchor gets a key; the smallest keys win. Weighted sampling without replacement over
    # anchors (Efraimidis and Spirakis 2006) never asks an image for more anchors than it has.
    keys = random.exponential(size=(images, anchors)) / weights[:, None]
    chosen = np.argpartition(keys.ravel(), foreground + ignored - 1)[: foreground + ignored]
    chosen = random.permutation(np.sort(chosen))
    targets = np.zeros(images * anchors, dtype=np.int64)
    targets[chosen[:foreground]] = 1
    targets[chosen[foreground:]] = IGNORE
    return targets.reshape(images, anchors)
