"""Your own folder of images and folder of masks of the same names.

    PATH/images/0001.jpg    PATH/masks/0001.png

A mask is a PNG of class indices, as grey levels or with a palette, as large as its image. Pixels of
the value `ignore` (255 by custom, as in Pascal VOC and Cityscapes), and what pads an image to the
common size, neither train nor count. Files belong together by their name without its ending.

How images are split. Identical image files form a group that is never torn apart. Images are dealt
by the rarest class that they show, each kind giving its share to every split, so that rare classes
are in all of them as far as there are enough images. A split that a list gives is taken as it is.

With `on_error: skip` an image is left out where it or its mask is missing or broken.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from losslab.datasets.base import IGNORE, Split, content_hash
from losslab.datasets.detection import cache
from losslab.datasets.detection.images import Resize, Unreadable
from losslab.datasets.detection.problems import Problems
from losslab.datasets.image_splits import ImageSplits
from losslab.datasets.options import OptionChecks, check_held_out_fractions
from losslab.datasets.segmentation.base import SegmentationDataset, scaled
from losslab.datasets.segmentation.masks import fit_mask, read_mask
from losslab.datasets.segmentation.pairs import LISTS, Pair, pairs_of
from losslab.datasets.splitting import duplicate_groups
from losslab.errors import BadInput

MOST_CLASSES = 1000


def build(
    study_seed: int,
    *,
    path: str | Path,
    images: str = "images",
    masks: str = "masks",
    classes: list[str] | None = None,
    ignore: int | None = 255,
    size: int | list[int] = 128,
    train_list: str | None = None,
    validation_list: str | None = None,
    test_list: str | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    test_fraction: float = 0.2,
    validation_fraction: float = 0.2,
    cache: str | Path | None = None,
) -> "MaskFolder":
    """Segmentation from a folder of images and a folder of masks.

    - `path`: the folder that holds both; `images`, `masks`: their names in it.
    - `classes`: the names of the classes 0, 1, 2 ...; by default as many as the masks show, called
      by their index.
    - `ignore`: the value of pixels that do not count; null where there is none.
    - `size`: images are stored in squares of so many pixels, or in [height, width], scaled to fit
      and padded at the right and the bottom. An image of 128 x 128 takes 0.3 MB of memory.
    - `train_list`, `validation_list`, `test_list`: text files in `path`, a name on each line, that
      give the splits. Validation and test are drawn where they are not given, from `train_list`
      or, without it, from all images that are in no other list.
    - `on_error`: `stop` at broken input and tell all of it, or `skip` and record it.
    - `test_fraction`, `validation_fraction`: shares of all images for splits that are drawn.
    - `cache`: folder for decoded images; by default LOSSLAB_CACHE or ~/.cache/losslab.

    Raises `BadInput` with every mistake.
    """
    options = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in locals().items()
        if name != "study_seed"
    }
    _check(options)
    return MaskFolder(study_seed, options)


class MaskFolder(SegmentationDataset):
    """The data set that `build` returns; `names[id]` is what an image is called."""

    name = "masks"

    def __init__(self, study_seed: int, options: dict[str, Any]):
        self.options = options
        self._seed = study_seed
        self._problems = problems = Problems("path")
        pairs = pairs_of(options, problems)
        read = {pair.name: mask for pair in pairs if (mask := _read(pair, problems)) is not None}
        pairs = [pair for pair in pairs if pair.name in read]
        if not pairs:
            problems.settle(options["on_error"])
            problems.nothing_left()
        self.class_names = _class_names(options, read)
        size = options["size"]
        height, width = size if isinstance(size, list) else (size, size)
        store = cache.stored(
            [cache.Wanted(pair.image, read[pair.name].shape[::-1]) for pair in pairs],
            Resize((height, width)),
            Path(options["cache"]).expanduser() if options["cache"] else cache.default_folder(),
        )
        usable = [
            row
            for row, (pair, failure) in enumerate(zip(pairs, store.failures, strict=True))
            if _sound(pair, read[pair.name], failure, self.num_classes, options, problems)
        ]
        problems.settle(options["on_error"])
        if not usable:
            problems.nothing_left()
        self.names = [pairs[row].name for row in usable]
        self._images = store.images
        self._rows = np.array(usable)  # of the store, for each image that is used
        self._masks = np.stack([
            fit_mask(_counted(read[pairs[row].name], options), store.scales[row], (height, width))
            for row in usable
        ])  # fmt: skip
        self._parts = np.array([pairs[row].part for row in usable])
        self._groups = duplicate_groups(np.array(store.hashes)[self._rows])
        self._divide()
        self.content_hash = content_hash(
            repr((study_seed, self.class_names, options["validation_fraction"], store.hashes)),
            self._masks, self._pool, self._test_rows,
        )  # fmt: skip

    def split(self, run_seed: int) -> tuple[Split, Split]:
        """Train and validation images; validation is drawn by the run seed or as given."""
        train, validation = self._split_rows(run_seed)
        return self._take(train), self._take(validation)

    def test(self, run_seed: int) -> Split:
        """The test images; every run sees the same."""
        return self._take(self._test_rows)

    def describe(self, run_seed: int = 0) -> dict[str, Any]:
        """The dataset record, with what was left out or found in two splits."""
        parts = [*self._split_rows(run_seed), self._test_rows]
        shared = np.concatenate([np.unique(self._groups[part]) for part in parts])
        return {
            **super().describe(run_seed),
            "left_out": self._problems.record(),
            "images_in_several_splits": len(shared) - len(np.unique(shared)),
        }

    def _divide(self) -> None:
        """Fix the test images and the pool from which training and validation come."""
        self._splits = ImageSplits(
            self._parts,
            _rarest_class(self._masks, self.num_classes),
            self._groups,
            self._seed,
            self.options["validation_list"] is not None,
            self.options["test_list"] is not None,
            self.options["validation_fraction"],
            self.options["test_fraction"],
        )
        self._pool, self._test_rows = self._splits.fixed()
        train, validation = self._split_rows(0)
        splits = {"training": train, "validation": validation, "test": self._test_rows}
        if empty := [name for name, rows in splits.items() if not len(rows)]:
            raise BadInput([f"path: no image is left for the {name} split" for name in empty])

    def _split_rows(self, run_seed: int) -> tuple[np.ndarray, np.ndarray]:
        return self._splits.drawn(self._pool, run_seed)

    def _take(self, rows: np.ndarray) -> Split:
        return Split(
            scaled(self._images[self._rows[rows]]),
            self._masks[rows].astype(np.int64),
            rows.astype(np.int64),
        )


def _check(options: Mapping[str, Any]) -> None:
    checks = OptionChecks()
    size = options["size"]
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2:
        checks.add("size", f"must be one number or height and width, got {size}")
    for side in dict.fromkeys(sides[:2]):
        checks.integer("size", side, 16, 4096)
    if options["ignore"] is not None:
        checks.integer("ignore", options["ignore"], 0, 65535)
    names = options["classes"]
    if names is not None and (len(names) < 2 or len(set(names)) != len(names)):
        checks.add("classes", f"must be two or more different names, got {names}")
    check_held_out_fractions(checks, options["test_fraction"], options["validation_fraction"])
    checks.choice("on_error", options["on_error"], ("stop", "skip"))
    root = Path(options["path"]).expanduser()
    for name in ("images", "masks"):
        if not (root / options[name]).is_dir():
            checks.add(name, f"there is no folder {root / options[name]}")
    for name in LISTS:
        if options[name] is not None and not (root / options[name]).is_file():
            checks.add(name, f"there is no list {root / options[name]} (null draws the split)")
    checks.done()


def _read(pair: Pair, problems: Problems) -> np.ndarray | None:
    try:
        return read_mask(pair.mask)
    except Unreadable as error:
        problems.add(error.kind, pair.mask.name, str(error))
        return None


def _class_names(options: Mapping[str, Any], masks: Mapping[str, np.ndarray]) -> list[str]:
    if options["classes"] is not None:
        return list(options["classes"])
    largest = max(int(_counted(mask, options).max(initial=0)) for mask in masks.values())
    if largest >= MOST_CLASSES:
        raise BadInput(
            f"classes: the masks show values up to {largest}; name the classes, or is this another "
            f"value of ignore?"
        )
    return [str(index) for index in range(max(largest + 1, 2))]


def _counted(mask: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    return mask if options["ignore"] is None else np.where(mask == options["ignore"], IGNORE, mask)


def _sound(
    pair: Pair,
    mask: np.ndarray,
    failure: tuple[str, str] | None,
    classes: int,
    options: Mapping[str, Any],
    problems: Problems,
) -> bool:
    """Whether an image and its mask can be used; if not, the problem is noted."""
    if failure is not None:
        text = failure[1].replace("its annotations say", "its mask has")
        problems.add(failure[0], pair.image.name, text)
        return False
    values = np.unique(_counted(mask, options))
    if values[-1] >= classes:
        strange = ", ".join(map(str, values[values >= classes][:5].tolist()))
        text = f"shows the value {strange}, but the classes are 0 to {classes - 1}"
        ignored = options["ignore"]
        text += "" if ignored is None else f" and {ignored} for pixels that do not count"
        problems.add("unknown class", pair.mask.name, text)
        return False
    if values[-1] == IGNORE:
        problems.add("mask without a class", pair.mask.name, "none of its pixels counts")
        return False
    return True


def _rarest_class(masks: np.ndarray, classes: int) -> np.ndarray:
    """The class of each mask that the fewest masks show (int64, (n,))."""
    shown = np.stack([(masks == c).any(axis=(1, 2)) for c in range(classes)], axis=1)
    counts = shown.sum(axis=0)
    rarity = np.where(shown, counts, len(masks) + 1)
    return rarity.argmin(axis=1).astype(np.int64)
