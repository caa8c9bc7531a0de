"""COCO's files of annotations and of results, checked before they are evaluated."""

import json
import math
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

from losslab.errors import BadInput

Entry = dict[str, Any]
SHOWN = 20  # lines of a message


def read_results(
    annotations: str | Path, results: str | Path
) -> tuple[dict[str, list[Entry]], list[Entry]]:
    """A dataset's annotations and the detections in it, as evaluators take them.

    What the annotations may lack is filled in: `iscrowd` is 0, `area` that of the box. All ids are
    given anew from 1 on, in their order, which decides between equal scores: evaluators know whole
    numbers only. Detections of categories that the annotations have not are left out.

    Raises `BadInput` with what is wrong with either file.
    """
    dataset = _dataset(annotations)
    found = _json(results)
    if not isinstance(found, list):
        raise BadInput(
            f"{results}: is not a file of COCO results, which is a list of detections, each with "
            f"image_id, category_id, bbox and score"
        )
    images = _numbers(dataset["images"])
    _check(results, "result", found, lambda entry: _result_problem(entry, images, annotations))
    categories = _numbers(dataset["categories"])

    def renamed(entries: Sequence[Entry]) -> list[Entry]:
        return [
            {**entry, "image_id": images[entry["image_id"]],
             "category_id": categories[entry["category_id"]]}
            for entry in entries if entry["category_id"] in categories
        ]  # fmt: skip

    truth = {
        "images": [{"id": number} for number in images.values()],
        "categories": [
            {"id": categories[each["id"]], "name": each["name"]} for each in dataset["categories"]
        ],
        "annotations": renamed(dataset["annotations"]),
    }
    return truth, renamed(found)


def _dataset(path: str | Path) -> dict[str, list[Entry]]:
    content = _json(path)
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(p), list) for p in parts):
        raise BadInput(
            f"{path}: is not in COCO's format, which has lists called images, annotations and "
            f"categories"
        )
    _check(path, "image", content["images"], lambda e: _id_problem(e.get("id"), "id"))
    _check(path, "category", content["categories"], _category_problem)
    images = _numbers(content["images"])
    _check(path, "annotation", content["annotations"], lambda e: _annotation_problem(e, images))
    return {**content, "annotations": [
        {"iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3], **entry, "id": number}
        for number, entry in enumerate(content["annotations"], start=1)
    ]}  # fmt: skip


def _numbers(entries: Sequence[Entry]) -> dict[Any, int]:
    """The ids of images or categories, numbered in their order from 1 on; texts come last."""
    ids = sorted({entry["id"] for entry in entries}, key=lambda i: (isinstance(i, str), i))
    return {own: number for number, own in enumerate(ids, start=1)}


def _json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON: {error}") from error


def _check(
    path: str | Path, kind: str, entries: Sequence[Any], problem: Callable[[Entry], str]
) -> None:
    """Raise `BadInput` with the entries that have a problem, the first of many."""
    told = [
        f"{path}: {kind} no. {number}: {text}"
        for number, entry in enumerate(entries)
        if (text := problem(entry) if isinstance(entry, dict) else "is no JSON object")
    ]
    if hidden := len(told) - SHOWN:
        told = [*told[:SHOWN], f"{path}: and {hidden} more"] if hidden > 0 else told
    if told:
        raise BadInput(told)


def _result_problem(entry: Entry, images: Container[Any], annotations: str | Path) -> str:
    score = entry.get("score")
    if text := _id_problem(entry.get("image_id"), "image_id"):
        return text
    if entry["image_id"] not in images:
        return f"the image id {entry['image_id']!r} is not in {annotations}"
    if not _is_number(score):
        return f"score must be a number, got {score!r}"
    return _box_problem(entry)


def _annotation_problem(entry: Entry, images: Container[Any]) -> str:
    if text := _id_problem(entry.get("image_id"), "image_id"):
        return text
    if entry["image_id"] not in images:
        return f"no image has the id {entry['image_id']!r}"
    return _box_problem(entry)


def _category_problem(entry: Entry) -> str:
    named = isinstance(entry.get("name"), str)
    return _id_problem(entry.get("id"), "id") or ("" if named else "needs a name")


def _box_problem(entry: Entry) -> str:
    if text := _id_problem(entry.get("category_id"), "category_id"):
        return text
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
        return f"bbox must be four numbers, got {str(box)[:60]}"
    return ""


def _id_problem(value: Any, name: str) -> str:
    good = isinstance(value, int | str) and not isinstance(value, bool)
    return "" if good else f"{name} must be a whole number or a text, got {value!r}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
