"""Which mask belongs to which image, and which split a list gives them to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losslab.datasets.detection.images import SUFFIXES
from losslab.datasets.detection.problems import Problems

LISTS = ("train_list", "validation_list", "test_list")


@dataclass(frozen=True)
class Pair:
    """An image, its mask, and the split that a list gives it to, or pool."""

    name: str
    image: Path
    mask: Path
    part: str


def pairs_of(options: Mapping[str, Any], problems: Problems) -> list[Pair]:
    """Images with their masks by name, each in one part; what lacks the other is a problem."""
    root = Path(options["path"]).expanduser()
    images = _files(root / options["images"], SUFFIXES, problems)
    masks = _files(root / options["masks"], (".png",), problems)
    part_of = _listed(root, options, problems)
    every = sorted({*images, *masks})
    if options["train_list"] is not None:
        every = sorted(part_of)
    pairs = []
    for name in every:
        if name in images and name in masks:
            pairs.append(Pair(name, images[name], masks[name], part_of.get(name, "pool")))
        elif name in images:
            text = f"there is no mask {name}.png in {options['masks']}"
            problems.add("image without mask", images[name].name, text)
        elif name in masks:
            text = f"there is no image of this name in {options['images']}"
            problems.add("mask without image", masks[name].name, text)
        else:
            problems.add("missing image", name, "listed, but neither image nor mask is there")
    return pairs


def _files(folder: Path, suffixes: tuple[str, ...], problems: Problems) -> dict[str, Path]:
    """The files of a kind by name without ending; hidden ones are what systems leave behind."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or file.suffix.lower() not in suffixes:
            continue
        if (first := found.setdefault(file.stem, file)) != file:
            text = f"{first.name} has the same name, and it is not told which is meant"
            problems.add("duplicated name", file.name, text)
    return found


def _listed(root: Path, options: Mapping[str, Any], problems: Problems) -> dict[str, str]:
    """The part that a list gives each name to."""
    part_of: dict[str, str] = {}
    for option, part in zip(LISTS, ("pool", "validation", "test"), strict=True):
        if options[option] is None:
            continue
        for line in (root / options[option]).read_text(encoding="utf-8").splitlines():
            if (name := line.strip()) and part_of.setdefault(name, part) != part:
                text = f"{name} stands in another list too"
                problems.add("name in two lists", options[option], text)
    return part_of
