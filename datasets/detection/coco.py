"""Any folder of images with annotations in COCO's JSON format (boxes).

Read are `images` (id, file_name, width, height), `categories` (id, name; ids may have gaps; classes
are in the order of the ids) and `annotations` (image_id, category_id, bbox as x, y, width, height,
iscrowd, area). Outlines and masks are not read; of a crowd region the box is kept, as a region
that is neither object nor background. An image without annotations is an image without objects.
Files of the folder that the JSON does not name are counted in the record and otherwise ignored.

With `on_error: skip` an image is left out where its file is missing or broken or its id is not
unique, and a box where it lies outside its image, has no area, repeats an annotation's id or is of
an unknown category; what a box that is left out would have shown then counts as background. A JSON
file that cannot be read is never skipped.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

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


def build(
    study_seed: int,
    *,
    images: str | Path,
    annotations: str | Path,
    validation_annotations: str | Path | None = None,
    test_annotations: str | Path | None = None,
    validation_images: str | Path | None = None,
    test_images: str | Path | None = None,
    size: int | list[int] = 256,
    shorter_side: int | None = None,
    longer_side: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    test_fraction: float = 0.2,
    validation_fraction: float = 0.2,
    cache: str | Path | None = None,
) -> FolderDataset:
    """Object detection from images and COCO JSON annotations.

    - `images`, `annotations`: the folder that the file names start from, and the JSON file.
    - `test_annotations`, `validation_annotations`: the JSON files of given splits; a split that
      is not given is drawn from `annotations`. Categories are matched by name.
    - `test_images`, `validation_images`: their folders, if not `images`.
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
    problems = Problems("annotations")
    reader = _Reader(options, "", problems)
    found: dict[str, list[Picture] | None] = {"": reader.pictures()}
    files = set(reader.files)
    for part in ("validation_", "test_"):
        found[part] = None
        if options[f"{part}annotations"] is not None:
            other = _Reader(options, part, problems, reader.class_names)
            found[part] = other.pictures()
            files |= other.files
    there = {file for file in reader.folder.iterdir() if file.suffix.lower() in SUFFIXES}
    notes = {"files_not_named": len(there - files)}
    source = Source(
        reader.class_names, found[""] or [], found["validation_"], found["test_"], problems, notes
    )
    return FolderDataset("coco", study_seed, options, source)


class _Reader:
    """Reads one JSON file: the main one, or that of the split whose options begin with `part`.

    `class_names` are those of the main file where this is another one.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        part: str,
        problems: Problems,
        class_names: list[str] | None = None,
    ):
        own = f"{part}images" if options[f"{part}images"] else "images"
        self.folder = Path(options[own]).expanduser()
        file = Path(options[f"{part}annotations"]).expanduser()
        self.problems = problems
        if not self.folder.is_dir():
            raise BadInput(f"{own}: there is no folder {self.folder}")
        self._content = _load(file, f"{part}annotations")
        self._categories = _categories(self._content["categories"], f"{part}annotations: {file}")
        self.class_names = class_names or list(self._categories.values())
        self._places = {name: place for place, name in enumerate(self.class_names)}
        # The files of several splits may have one name, in folders of their own.
        given = [options[f"{each}annotations"] for each in ("", "validation_", "test_")]
        names = [Path(each).name for each in given if each is not None]
        self._file = file.name if names.count(file.name) == 1 else f"{file.parent.name}/{file.name}"
        self.files: set[Path] = set()

    def pictures(self) -> list[Picture]:
        """Every image of the file that is there, with its boxes."""
        entries = self._images()
        pictures = {key: picture for key, picture in entries.items() if picture is not None}
        seen: set[Any] = set()
        for number, entry in enumerate(self._content["annotations"]):
            if not isinstance(entry, dict):
                self._add("malformed annotation", f"annotation no. {number}", "is no JSON object")
                continue
            place = f"annotation {entry.get('id', f'no. {number}')}"
            key = _key(entry.get("image_id"))
            if key not in entries:
                text = f"no image has the id {entry.get('image_id')!r}"
                self._add("annotation without its image", place, text)
            elif (picture := pictures.get(key)) is not None:
                place = f"{picture.name}, {place}"
                own = _key(entry.get("id"))  # some exports give annotations no id
                if own is not None and own in seen:
                    self._add("duplicated id", place, "another annotation has the same id")
                    continue
                seen.add(own)
                if (box := self._box(entry, place)) is not None:
                    picture.boxes.append(box)
        return list(pictures.values())

    def _images(self) -> dict[Any, Picture | None]:
        """Images by id; None for what cannot be used, so that its annotations are not told too."""
        found: dict[Any, Picture | None] = {}
        entries = self._content["images"]
        uses = Counter(_key(entry.get("id")) for entry in entries if isinstance(entry, dict))
        for number, entry in enumerate(entries):
            name = entry.get("file_name") if isinstance(entry, dict) else None
            key = _key(entry.get("id")) if isinstance(entry, dict) else None
            if not isinstance(name, str) or key is None:
                self._add("malformed image", f"image no. {number}", "needs id and file_name")
                continue
            found[key] = None
            if uses[key] > 1:
                text = f"the image id {entry['id']!r} is used {uses[key]} times"
                self._add("duplicated id", name, text)
                continue
            path = self._path(name)
            if path is None:
                self._add("missing image", name, f"there is no such file in {self.folder}")
            elif path in self.files:
                self._add("duplicated id", name, "another image of the JSON has the same file")
            else:
                self.files.add(path)
                found[key] = Picture(path, name, _declared(entry))
        return found

    def _path(self, name: str) -> Path | None:
        # Some exports write a folder into file_name that the images no longer lie in; Windows'
        # paths have either slash.
        for path in (self.folder / name, self.folder / PureWindowsPath(name).name):
            if path.is_file():
                return path
        return None

    def _box(self, entry: dict[str, Any], place: str) -> Box | None:
        category = self._categories.get(_key(entry.get("category_id")))
        numbers = _numbers(entry.get("bbox"), 4)
        if category is None:
            text = f"the category {entry.get('category_id')!r} is not among the categories"
            self._add("unknown category", place, text)
        elif category not in self._places:
            text = f"the category {category!r} is not in the file that `annotations` names"
            self._add("unknown category", place, text)
        elif numbers is None:
            text = f"bbox must be four numbers, got {str(entry.get('bbox'))[:60]}"
            self._add("malformed annotation", place, text)
        elif numbers[2] <= 0 or numbers[3] <= 0:
            text = f"the box is {numbers[2]:g} wide and {numbers[3]:g} high"
            self._add("box without area", place, text)
        else:
            x, y, width, height = numbers
            area = _numbers([entry.get("area")], 1)
            return Box(
                (x, y, x + width, y + height),
                self._places[category],
                f"{self._file}: {place}",
                bool(entry.get("iscrowd", 0)),
                area[0] if area and area[0] > 0 else None,
            )
        return None

    def _add(self, kind: str, place: str, text: str) -> None:
        self.problems.add(kind, f"{self._file}: {place}", text)


def _load(file: Path, option: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise BadInput(f"{option}: {file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise BadInput(f"{option}: {file} is not JSON: {error}") from error
    parts = ("images", "annotations", "categories")
    missing = [
        part
        for part in parts
        if not isinstance(content, dict) or not isinstance(content.get(part), list)
    ]
    if missing:
        raise BadInput(
            f"{option}: {file} is not in COCO's format, which has lists called images, "
            f"annotations and categories; missing: {', '.join(missing)}"
        )
    if not content["images"]:
        raise BadInput(f"{option}: {file} names no images")
    return content


def _categories(entries: list[Any], where: str) -> dict[Any, str]:
    """Names by id, in the order of the ids. Without them no box can be understood."""
    pairs: list[tuple[Any, Any]] = [
        (_key(e.get("id")), e.get("name")) if isinstance(e, dict) else (None, None) for e in entries
    ]
    problems = [
        f"{where}: category no. {number} needs an id and a name"
        for number, (key, name) in enumerate(pairs)
        if key is None or not isinstance(name, str)
    ]
    for kind, values in (("id", [p[0] for p in pairs]), ("name", [p[1] for p in pairs])):
        twice = [value for value, n in Counter(values).items() if n > 1 and value is not None]
        problems += [f"{where}: two categories have the {kind} {value!r}" for value in twice]
    if not entries:
        problems.append(f"{where}: there are no categories")
    if problems:
        raise BadInput(problems)
    known = [(number, str(name)) for number, name in pairs]
    return dict(sorted(known, key=lambda pair: (isinstance(pair[0], str), pair[0])))


def _key(value: Any) -> Any:
    """An id, if it can be one: a whole number or a text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _numbers(values: Any, count: int) -> list[float] | None:
    if not isinstance(values, list) or len(values) != count:
        return None
    good = all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
    return [float(v) for v in values] if good else None


def _declared(entry: dict[str, Any]) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return None
