"""Folders of images with boxes, whatever format they are annotated in.

A reader (`coco`, `voc`) says which images there are and which boxes each has; here the images are
decoded, what is broken is told or left out, and splits are made.

How images are split. Identical files form a group that is never torn apart. Images are dealt by
the rarest class that they show (images without objects are a kind of their own), each kind giving
its share to every split, so that rare classes are in all of them as far as there are enough
images. A split that is given is taken as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from losslab.datasets.base import content_hash
from losslab.datasets.detection import cache
from losslab.datasets.detection.annotations import Annotations
from losslab.datasets.detection.base import DetectionDataset, DetectionSplit
from losslab.datasets.detection.images import Resize
from losslab.datasets.detection.problems import Problems
from losslab.datasets.image_splits import ImageSplits
from losslab.datasets.options import OptionChecks, check_held_out_fractions
from losslab.datasets.splitting import duplicate_groups
from losslab.errors import BadInput

# Pixels that a box may reach beyond the image: rounding, and counting from 0 or from 1. It is cut.
SLACK = 1.0


@dataclass(frozen=True)
class Box:
    """A box as read: x1, y1, x2, y2 in original pixels from 0, and where it stands."""

    corners: tuple[float, float, float, float]
    label: int
    place: str
    crowd: bool = False
    area: float | None = None


@dataclass(frozen=True)
class Picture:
    """An image as read: its file, the name to call it by, declared width and height, boxes."""

    file: Path
    name: str
    declared: tuple[int, int] | None
    boxes: list[Box] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """What a reader found. `validation` and `test` are None where they are to be drawn.

    `notes` go into the dataset record.
    """

    class_names: list[str]
    pool: list[Picture]
    validation: list[Picture] | None
    test: list[Picture] | None
    problems: Problems
    notes: dict[str, Any] = field(default_factory=dict)


class FolderDataset(DetectionDataset):
    """A dataset made of what a reader found; `names[id]` is what an image is called."""

    def __init__(self, name: str, study_seed: int, options: dict[str, Any], source: Source):
        self.name = name
        self.options = options
        self.class_names = source.class_names
        self._seed = study_seed
        self._notes = source.notes
        given = {"pool": source.pool, "validation": source.validation, "test": source.test}
        pictures = [picture for part in given.values() for picture in part or []]
        self._problems = source.problems
        if not pictures:
            self._problems.settle(options["on_error"])
            self._problems.nothing_left()
        parts = np.repeat(list(given), [len(part or []) for part in given.values()])
        self.names = [picture.name for picture in pictures]
        self._store = cache.stored(
            [cache.Wanted(picture.file, picture.declared) for picture in pictures],
            _resize(options),
            _cache_folder(options),
        )
        usable = _usable_images(pictures, self._store, self._problems)
        boxes, self._trimmed = _usable_boxes(pictures, self._store, usable, self._problems)
        self._problems.settle(options["on_error"])
        if not usable.any():
            self._problems.nothing_left()

        self._rows = np.flatnonzero(usable)  # of the store, for each image that is used
        self._parts = parts[self._rows]
        self._annotations = _annotations(
            [boxes[row] for row in self._rows], self._store, self._rows
        )
        hashes = np.array(self._store.hashes)[self._rows]
        self._groups = duplicate_groups(hashes)
        self._divide(source)
        self.content_hash = content_hash(
            repr((study_seed, self.class_names, options["validation_fraction"])),
            repr((self._store.images.shape, hashes.tolist())),
            self._store.scales, *self._annotations.arrays(), self._pool, self._test_rows,
        )  # fmt: skip
        self._check_splits()

    def split(self, run_seed: int) -> tuple[DetectionSplit, DetectionSplit]:
        """Train and validation images; validation is drawn by the run seed or as given."""
        train, validation = self._split_rows(run_seed)
        return self._take(train), self._take(validation)

    def test(self, run_seed: int) -> DetectionSplit:
        """The test images; every run sees the same."""
        return self._take(self._test_rows)

    def describe(self, run_seed: int = 0) -> dict[str, Any]:
        """The dataset record, with what was left out, cut at the border or found in two splits."""
        parts = [*self._split_rows(run_seed), self._test_rows]
        groups = [np.unique(self._groups[part]) for part in parts]
        shared = np.concatenate(groups)
        return {
            **super().describe(run_seed),
            **self._notes,
            "left_out": self._problems.record(),
            "boxes_cut_at_the_border": self._trimmed,
            "images_in_several_splits": len(shared) - len(np.unique(shared)),
        }

    def _divide(self, source: Source) -> None:
        """Fix the test images and the pool from which training and validation come."""
        self._splits = ImageSplits(
            self._parts,
            _rarest_class(self._annotations, len(self.class_names)),
            self._groups,
            self._seed,
            source.validation is not None,
            source.test is not None,
            self.options["validation_fraction"],
            self.options["test_fraction"],
        )
        self._pool, self._test_rows = self._splits.fixed()

    def _split_rows(self, run_seed: int) -> tuple[np.ndarray, np.ndarray]:
        return self._splits.drawn(self._pool, run_seed)

    def _check_splits(self) -> None:
        train, validation = self._split_rows(0)
        splits = {"training": train, "validation": validation, "test": self._test_rows}
        problems = []
        for name, rows in splits.items():
            objects = int((~self._annotations.take(rows).crowd).sum())
            if not objects:
                problems.append(
                    f"{self._problems.option}: the {name} split has {len(rows)} images and no "
                    f"object; it needs at least one"
                )
        if problems:
            raise BadInput(problems)

    def _take(self, rows: np.ndarray) -> DetectionSplit:
        kept = self._rows[rows]
        return DetectionSplit(
            self._store.images[kept],
            self._annotations.take(rows),
            kept.astype(np.int64),
            self._store.sizes[kept],
            self._store.scales[kept].astype(np.float32),
        )


def checked_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a reader's `build` as options, those that all formats share checked.

    Raises `BadInput` with every mistake.
    """
    options = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in arguments.items()
        if name != "study_seed"
    }
    checks = OptionChecks()
    size = options["size"]
    if isinstance(size, list):
        if len(size) != 2:
            checks.add("size", f"must be one number or height and width, got {size}")
        for side in size[:2]:
            checks.integer("size", side, 32, 4096)
    else:
        checks.integer("size", size, 32, 4096)
    for name in ("shorter_side", "longer_side"):
        if options[name] is not None:
            checks.integer(name, options[name], 32, 4096)
    if options["longer_side"] is not None and options["shorter_side"] is None:
        checks.add("longer_side", "needs shorter_side")
    check_held_out_fractions(checks, options["test_fraction"], options["validation_fraction"])
    checks.choice("on_error", options["on_error"], ("stop", "skip"))
    checks.done()
    return options


def _resize(options: dict[str, Any]) -> Resize:
    shorter = options["shorter_side"]
    if shorter is not None:
        # 5/3 is what 600 and 1000 (Ren et al. 2015) or 800 and 1333 come to.
        return Resize(None, shorter, options["longer_side"] or round(shorter * 5 / 3))
    size = options["size"]
    height, width = size if isinstance(size, list) else (size, size)
    return Resize((height, width))


def _cache_folder(options: dict[str, Any]) -> Path:
    given = options["cache"]
    return Path(given).expanduser() if given else cache.default_folder()


def _usable_images(
    pictures: Sequence[Picture], store: cache.Stored, problems: Problems
) -> np.ndarray:
    usable = np.ones(len(pictures), dtype=bool)
    for row, (picture, failure) in enumerate(zip(pictures, store.failures, strict=True)):
        if failure is not None:
            problems.add(failure[0], picture.name, failure[1])
            usable[row] = False
    return usable


def _usable_boxes(
    pictures: Sequence[Picture], store: cache.Stored, usable: np.ndarray, problems: Problems
) -> tuple[list[list[Box]], int]:
    """Boxes of every picture that lie in it, cut to it; and how many had to be cut."""
    found: list[list[Box]] = []
    trimmed = 0
    for row, picture in enumerate(pictures):
        width, height = store.originals[row].tolist()
        kept = []
        for box in picture.boxes if usable[row] else []:
            x1, y1, x2, y2 = box.corners
            cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
            beyond = max(abs(a - b) for a, b in zip(cut, box.corners, strict=True))
            if beyond > SLACK or cut[2] <= cut[0] or cut[3] <= cut[1]:
                corners = ", ".join(f"{corner:g}" for corner in box.corners)
                problems.add(
                    "box outside the image",
                    box.place,
                    f"box {corners} lies outside the image of {width} x {height} pixels",
                )
                continue
            trimmed += beyond > 0
            kept.append(Box(cut, box.label, box.place, box.crowd, box.area))
        found.append(kept)
    return found, trimmed


def _annotations(
    boxes: Sequence[Sequence[Box]], store: cache.Stored, rows: np.ndarray
) -> Annotations:
    scales = store.scales[rows].tolist()
    return Annotations.of_images(
        [
            np.array([box.corners for box in of_image]).reshape(-1, 4) * scale
            for of_image, scale in zip(boxes, scales, strict=True)
        ],
        [[box.label for box in of_image] for of_image in boxes],
        [[box.crowd for box in of_image] for of_image in boxes],
        [[_area(box) for box in of_image] for of_image in boxes],
    )


def _area(box: Box) -> float:
    x1, y1, x2, y2 = box.corners
    return box.area if box.area is not None else (x2 - x1) * (y2 - y1)


def _rarest_class(annotations: Annotations, classes: int) -> np.ndarray:
    """The rarest class among each image's objects, `classes` where it has none (int64, (n,))."""
    counts = np.bincount(annotations.labels[~annotations.crowd], minlength=classes)
    order = np.argsort(counts, kind="stable")  # from rare to frequent
    rank = np.empty(classes + 1, dtype=np.int64)
    rank[order], rank[classes] = np.arange(classes), classes
    lowest = np.full(len(annotations), classes, dtype=np.int64)
    objects = ~annotations.crowd
    np.minimum.at(lowest, annotations.images[objects], rank[annotations.labels[objects]])
    return np.append(order, classes)[lowest]
