"""Any folder in Pascal VOC's layout: Annotations/*.xml, JPEGImages/*, ImageSets/Main/*.txt.

An object's name is its class; its `bndbox` its box; one that is `difficult` is neither object nor
background, as in VOC's own evaluation (Everingham et al. 2010). Files belong together by their
name without its ending; what the XML says of file names and folders is not read.

VOC counts pixels from 1 and both ends of a box belong to it, so that a box over the whole of a
640 x 480 image is 1, 1, 640, 480: here 0, 0, 640, 480. A box whose ends are equal counts as one
without area although it is a pixel wide by that rule: where it occurs it is a slip of the mouse.

With `on_error: skip` an image is left out where its file or its XML is missing or broken, and a box
where it lies outside its image, has no area or is of an unknown class; what a box that is left out
would have shown then counts as background.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from losslab.datasets.detection.folders import (
    Box,
    FolderDataset,
    Picture,
    Source,
    checked_options,
)
from losslab.datasets.detection.images import SUFFIXES
from losslab.datasets.detection.problems import Problems
from losslab.errors import BadInput
from losslab.registry import nearest

FOLDERS = ("Annotations", "JPEGImages")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def build(
    study_seed: int,
    *,
    path: str | Path,
    classes: list[str] | None = None,
    train_set: str | None = None,
    validation_set: str | None = None,
    test_set: str | None = None,
    coordinates: Literal["voc", "continuous"] = "voc",
    size: int | list[int] = 256,
    shorter_side: int | None = None,
    longer_side: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    test_fraction: float = 0.2,
    validation_fraction: float = 0.2,
    cache: str | Path | None = None,
) -> FolderDataset:
    """Object detection from a folder in Pascal VOC's layout.

    - `path`: the folder that holds Annotations and JPEGImages.
    - `classes`: the names of the classes, in order; by default all that occur, sorted.
    - `train_set`, `validation_set`, `test_set`: names of lists in ImageSets/Main (train, trainval,
      val, test ...) that give the splits. Validation and test are drawn where they are not given,
      from `train_set` or, without it, from all images that are in no other list.
    - `coordinates`: `voc` (pixels counted from 1, ends included) or `continuous` (edges counted
      from 0, as many converters write them).
    - `size`: images are stored in squares of so many pixels, or in [height, width], scaled to fit
      and padded at the right and the bottom.
    - `shorter_side`, `longer_side`: scale by sides instead: the shorter one to `shorter_side`, but
      the longer one to at most `longer_side` (5/3 of `shorter_side` by default).
    - `on_error`: `stop` at broken input and tell all of it, or `skip` and record it.
    - `test_fraction`, `validation_fraction`: shares of all images for splits that are drawn.
    - `cache`: folder for decoded images; by default LOSSLAB_CACHE or ~/.cache/losslab.

    Raises `BadInput` with every mistake.
    """
    options = checked_options(locals())
    reader = _Reader(Path(path).expanduser(), coordinates == "voc", classes)
    lists = {"train_set": train_set, "validation_set": validation_set, "test_set": test_set}
    train, validation, test = reader.listed(lists)
    taken = {*(validation or []), *(test or [])}
    pool = [name for name in reader.all() if name not in taken] if train is None else train
    pictures = reader.pictures([*pool, *(validation or []), *(test or [])])

    def found(names: Iterable[str]) -> list[Picture]:
        return [pictures[name] for name in names if name in pictures]

    source = Source(
        reader.class_names,
        found(pool),
        None if validation is None else found(validation),
        None if test is None else found(test),
        reader.problems,
    )
    return FolderDataset("voc", study_seed, options, source)


class _Reader:
    """Reads the files of one folder."""

    def __init__(self, root: Path, one_based: bool, classes: list[str] | None):
        _check_layout(root)
        self.root = root
        self.one_based = one_based
        self.problems = Problems("path")
        self._classes = classes
        self._xml = {file.stem: file for file in _files(root / "Annotations", (".xml",))}
        self._images: dict[str, Path] = {}
        for file in _files(root / "JPEGImages", SUFFIXES):
            first = self._images.setdefault(file.stem, file)
            if first != file:
                text = f"{first.name} has the same name, and it is not told which is meant"
                self.problems.add("duplicated id", file.name, text)
        if not (self._xml or self._images):
            raise BadInput(f"path: {root} has neither images nor annotations")
        self.class_names = list(classes or [])

    def all(self) -> list[str]:
        """The names of all images and annotations, sorted."""
        return sorted({*self._xml, *self._images})

    def listed(self, lists: Mapping[str, str | None]) -> list[list[str] | None]:
        """The names in lists of ImageSets/Main, given by option; None where none is asked for."""
        folder = self.root / "ImageSets" / "Main"
        there = sorted(file.stem for file in folder.glob("*.txt"))
        missing = [
            f"{option}: there is no list {folder / name}.txt{nearest(name, there)} (lists: "
            f"{', '.join(there) or 'none'}; null draws the split)"
            for option, name in lists.items()
            if name is not None and name not in there
        ]
        if missing:
            raise BadInput(missing)
        return [
            None if name is None else self._names(folder / f"{name}.txt") for name in lists.values()
        ]

    def _names(self, file: Path) -> list[str]:
        """The names in a list; what follows a name on its line is not read."""
        lines = file.read_text(encoding="utf-8").splitlines()
        names = [line.split()[0] for line in lines if line.strip()]
        unique = list(dict.fromkeys(names))
        for repeated in sorted({n for n in unique if names.count(n) > 1}):
            self.problems.add("duplicated id", file.name, f"{repeated} stands in it twice")
        return unique

    def pictures(self, names: list[str]) -> dict[str, Picture]:
        """What can be used of the images `names`; sets `class_names` where they are not given."""
        roots = {name: tree for name in names if (tree := self._parsed(name)) is not None}
        if self._classes is None:
            found = {
                (entry.findtext("name") or "").strip()
                for tree in roots.values()
                for entry in tree.findall("object")
            }
            self.class_names = sorted(found - {""})
        return {name: self._picture(name, tree) for name, tree in roots.items()}

    def _parsed(self, name: str) -> ElementTree.Element | None:
        """The XML of an image if both are there and it can be read."""
        if name not in self._xml and name not in self._images:
            text = "listed, but neither its image nor its annotation is there"
            self.problems.add("missing image", name, text)
        elif name not in self._images:
            text = "there is no image of this name in JPEGImages"
            self.problems.add("annotation without its image", f"{name}.xml", text)
        elif name not in self._xml:
            text = "there is no annotation of this name in Annotations"
            self.problems.add("image without annotation", self._images[name].name, text)
        else:
            try:
                return ElementTree.parse(self._xml[name]).getroot()
            except (ElementTree.ParseError, OSError, ValueError) as error:
                self.problems.add("unreadable XML", f"{name}.xml", str(error))
        return None

    def _picture(self, name: str, tree: ElementTree.Element) -> Picture:
        sides = [_number(tree.findtext(f"size/{side}")) for side in ("width", "height")]
        # A size of 0 is what some tools write where they do not know it.
        known = all(side is not None and side >= 1 for side in sides)
        declared = (int(sides[0] or 0), int(sides[1] or 0)) if known else None
        picture = Picture(self._images[name], self._images[name].name, declared)
        for number, entry in enumerate(tree.findall("object"), start=1):
            if (box := self._box(entry, f"{name}.xml, object {number}")) is not None:
                picture.boxes.append(box)
        return picture

    def _box(self, entry: ElementTree.Element, place: str) -> Box | None:
        name = (entry.findtext("name") or "").strip()
        corners = [_number(entry.findtext(f"bndbox/{corner}")) for corner in CORNERS]
        if not name or any(corner is None for corner in corners):
            text = f"needs a name and a bndbox of {', '.join(CORNERS)}, all numbers"
            self.problems.add("malformed annotation", place, text)
            return None
        x1, y1, x2, y2 = (float(corner) for corner in corners if corner is not None)
        if name not in self.class_names:
            text = f"{name!r} is not among the classes{nearest(name, self.class_names)}"
            self.problems.add("unknown category", place, text)
            return None
        if x2 <= x1 or y2 <= y1:
            text = f"the box reaches from {x1:g} to {x2:g} and from {y1:g} to {y2:g}"
            self.problems.add("box without area", place, text)
            return None
        first = 1.0 if self.one_based else 0.0
        difficult = (entry.findtext("difficult") or "0").strip() == "1"
        label = self.class_names.index(name)
        return Box((x1 - first, y1 - first, x2, y2), label, place, difficult)


def _check_layout(root: Path) -> None:
    """Both folders are there; a folder just below that has them is named, since archives nest."""
    if not root.is_dir():
        raise BadInput(f"path: there is no folder {root}")
    lacking = [name for name in FOLDERS if not (root / name).is_dir()]
    if not lacking:
        return
    below = [f for f in sorted(root.iterdir()) if all((f / name).is_dir() for name in FOLDERS)]
    hint = f"did you mean {below[0]}?" if below else "give the folder that they are in"
    raise BadInput(
        f"path: {root} has no folder {' and no folder '.join(lacking)}, which VOC's layout has; "
        f"{hint}"
    )


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a kind, sorted; hidden ones are what systems leave beside the data."""
    files = (file for file in folder.iterdir() if not file.name.startswith("."))
    return sorted(file for file in files if file.suffix.lower() in suffixes)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
