"""Decoded images in a file that is mapped into memory, made once for the same content.

A folder of the cache holds the images of one list of files at one size. Its name is a hash of the
files' bytes, the sizes that are declared for them and how they are resized, so that another
content never meets an old entry. It is written under another name and renamed when it is
complete: what is there is whole, also when two processes make it at the same time.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL

from losslab.datasets.base import content_hash
from losslab.datasets.detection.images import (
    Resize,
    Unreadable,
    decode,
    fit,
    stored_size,
    upright_size,
)
from losslab.errors import BadInput

FORMAT = 1  # to be raised whenever the same files would be stored otherwise
IMAGES, ABOUT = "images.npy", "about.json"


@dataclass(frozen=True)
class Wanted:
    """An image file and the width and height that its annotations declare, if they do."""

    file: Path
    declared: tuple[int, int] | None = None


@dataclass(frozen=True)
class Stored:
    """Images as they are stored, in the order in which they were wanted.

    `images` uint8 (n, 3, H, W), a memory map; `originals` (n, 2) width and height of the file's
    picture; `sizes` int32 (n, 2) height and width as stored; `scales` float64 (n,); `hashes` of
    the files' bytes, for finding duplicates; `failures`: kind and text of what is the matter, or
    None. Where there is a failure the other values have no meaning.
    """

    images: np.ndarray
    originals: np.ndarray
    sizes: np.ndarray
    scales: np.ndarray
    hashes: list[str]
    failures: list[tuple[str, str] | None]


def default_folder() -> Path:
    """`LOSSLAB_CACHE`, else `losslab` in `XDG_CACHE_HOME` or in ~/.cache."""
    if given := os.environ.get("LOSSLAB_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "losslab"


def stored(wanted: Sequence[Wanted], resize: Resize, folder: Path) -> Stored:
    """The images as `Stored`, from the cache in `folder` or decoded now.

    `wanted` is not empty. Raises `BadInput` where the cache cannot be written.
    """
    hashes = [_file_hash(one.file) for one in wanted]
    described = [(digest, one.declared) for digest, one in zip(hashes, wanted, strict=True)]
    key = content_hash(repr((FORMAT, PIL.__version__, resize, described)))
    final = folder / f"images-{key}"
    if not (final / ABOUT).exists():
        try:
            _make(wanted, resize, final)
        except OSError as error:
            raise BadInput(
                f"cache: {folder} cannot be written ({error.strerror or error}); name another "
                f"folder there or in LOSSLAB_CACHE"
            ) from error
    about = json.loads((final / ABOUT).read_text())
    # Copy on write: nothing that is written to the arrays reaches the file.
    images = np.load(final / IMAGES, mmap_mode="c")
    return Stored(
        images,
        np.array(about["originals"], dtype=np.int64),
        np.array(about["sizes"], dtype=np.int32),
        np.array(about["scales"], dtype=np.float64),
        hashes,
        [None if failure is None else (failure[0], failure[1]) for failure in about["failures"]],
    )


def _make(wanted: Sequence[Wanted], resize: Resize, final: Path) -> None:
    originals = np.ones((len(wanted), 2), dtype=np.int64)
    failures: list[tuple[str, str] | None] = [None] * len(wanted)
    for row, one in enumerate(wanted):
        try:
            originals[row] = upright_size(one.file, one.declared)
        except Unreadable as error:
            failures[row] = (error.kind, str(error))
    scales = np.array([resize.scale(*size) for size in originals.tolist()])
    pairs = zip(originals.tolist(), scales.tolist(), strict=True)
    sizes = np.array(
        [stored_size(width, height, scale) for (width, height), scale in pairs], dtype=np.int32
    )
    readable = np.array([failure is None for failure in failures])
    canvas = resize.canvas_of(sizes[readable] if readable.any() else sizes)
    sizes = np.minimum(sizes, canvas).astype(np.int32)

    making = final.with_name(f"{final.name}.{uuid.uuid4().hex[:8]}")
    making.mkdir(parents=True)
    try:
        shape = (len(wanted), 3, *canvas)
        images = np.lib.format.open_memmap(making / IMAGES, "w+", np.uint8, shape)
        for row, one in enumerate(wanted):
            if failures[row] is None:
                try:
                    picture = decode(one.file, *originals[row].tolist())
                    images[row] = fit(picture, scales[row], canvas)
                except Unreadable as error:
                    failures[row] = (error.kind, str(error))
        images.flush()
        about = {
            "files": [one.file.name for one in wanted],
            "originals": originals.tolist(),
            "sizes": sizes.tolist(),
            "scales": scales.tolist(),
            "failures": failures,
        }
        (making / ABOUT).write_text(json.dumps(about))
        _rename(making, final)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _rename(making: Path, final: Path) -> None:
    """Put a complete entry in its place, unless another process was first."""
    try:
        making.rename(final)
    except OSError:
        if not (final / ABOUT).exists():
            raise


def _file_hash(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:  # told when the image is opened
        return f"unreadable {file}"
