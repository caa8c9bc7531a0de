"""Splits in files that all workers of a study map, so that memory holds them once.

The driver, which has the datasets at hand, writes what a piece of work needs before it hands the
piece out. So workers neither build datasets nor import what builds them.
"""

import json
import shutil
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from losslab.datasets.base import Split, content_hash
from losslab.datasets.detection.base import DetectionSplit
from losslab.experiments.data import Facts, Laid, Need, lay_out, needs_of
from losslab.experiments.work import Piece

# What the files may take on disk; the ones that were needed longest ago go first.
LIMIT_BYTES = 4 << 30
ABOUT = "about.json"


class SharedData:
    """The driver's side: a folder that is filled as pieces of work need it, and gone at the end."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES):
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._kept: OrderedDict[Need, int] = OrderedDict()

    def provide(self, piece: Piece) -> None:
        """See to it that everything a piece needs lies in the folder.

        Where the disk does not take it, workers build it themselves. Raises `BadInput` if a split
        cannot be drawn.
        """
        needs = needs_of_piece(piece)
        for need in needs:
            if need not in self._kept:
                laid = lay_out(need)
                try:
                    self._kept[need] = write(self.folder, need, laid)
                except OSError:
                    self._kept[need] = 0
            self._kept.move_to_end(need)
        for need in list(self._kept):
            if sum(self._kept.values()) <= self.limit_bytes or need in needs:
                break
            # Whoever has mapped it keeps it; a worker that does not find it builds it.
            del self._kept[need]
            shutil.rmtree(place(self.folder, need), ignore_errors=True)

    def close(self) -> None:
        """Remove what was written; the folder may be another driver's if nothing was."""
        if self._kept:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._kept.clear()


def needs_of_piece(piece: Piece) -> list[Need]:
    """The splits that a piece of work needs, each once."""
    found: dict[Need, None] = {}
    for member in piece.members:
        job = member.job
        judged = member.outputs is not None
        needs = needs_of(job.config["dataset"], job.study_seed, job.run_seed, judged)
        found.update(dict.fromkeys(needs))
    return list(found)


def mapped_from(folder: Path) -> Callable[[Need], Laid | None]:
    """The worker's side: a source for `data.take_from`."""
    return lambda need: read(folder, need)


def place(folder: Path, need: Need) -> Path:
    """Where a need's files lie."""
    return folder / content_hash(repr(tuple(need)))


def write(folder: Path, need: Need, laid: Laid) -> int:
    """Write splits so that they are there whole or not at all; how many bytes they take."""
    final = place(folder, need)
    making = final.with_name(f"{final.name}.{uuid.uuid4().hex[:8]}")
    try:
        making.mkdir(parents=True)
        size = 0
        for name, split in laid.splits.items():
            for kind, given in split.arrays().items():
                array = np.ascontiguousarray(given)
                np.save(making / f"{name}-{kind}.npy", array, allow_pickle=False)
                size += array.nbytes
        (making / ABOUT).write_text(json.dumps(_about(laid)))
        making.rename(final)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return size


def read(folder: Path, need: Need) -> Laid | None:
    """Map the splits that lie in the folder; None if they do not.

    Nothing that is written to the arrays reaches the files or another process.
    """
    found = place(folder, need)
    try:
        about = json.loads((found / ABOUT).read_text())
        kind = DetectionSplit if about["task"] == "detection" else Split
        splits = {
            name: kind.from_arrays({
                array: _mapped(found / f"{name}-{array}.npy") for array in arrays
            })
            for name, arrays in about["arrays"].items()
        }  # fmt: skip
    except FileNotFoundError:
        return None
    counts = about["class_counts"]
    return Laid(
        Facts(about["task"], about["class_names"]),
        splits,
        about["digests"],
        None if counts is None else np.array(counts, dtype=np.int64),
    )


def _mapped(file: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(file, mmap_mode="c")
    except ValueError:  # no system maps an empty array
        found = np.load(file)
    return found


def _about(laid: Laid) -> dict[str, Any]:
    counts = laid.class_counts
    return {
        "task": laid.facts.task,
        "class_names": laid.facts.class_names,
        "arrays": {name: list(split.arrays()) for name, split in laid.splits.items()},
        "digests": laid.digests,
        "class_counts": None if counts is None else [int(count) for count in counts],
    }
