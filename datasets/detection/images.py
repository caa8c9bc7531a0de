"""Image files: decoded to red, green and blue, resized to one size, padded."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

PADDING = 127  # grey level of what is not image; about zero once a model has standardised it
MULTIPLE = 32  # sizes that follow from the images are rounded up to what a pyramid can halve
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")


class Unreadable(Exception):
    """An image file that cannot be used: its kind of problem and what is the matter."""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Resize:
    """How large images are stored: fitted into `canvas` (height, width), or by their sides.

    With `shorter_side`, an image is scaled so that its shorter side has that many pixels, but its
    longer one at most `longer_side` (Ren et al. 2015; 600 and 1000 there).
    """

    canvas: tuple[int, int] | None = None
    shorter_side: int | None = None
    longer_side: int | None = None

    def scale(self, width: int, height: int) -> float:
        """Stored pixels for each original pixel of an image; the same for both axes.

        >>> Resize(canvas=(256, 256)).scale(640, 480)
        0.4
        >>> Resize(shorter_side=300, longer_side=500).scale(1000, 300)
        0.5
        """
        if self.canvas is not None:
            return min(self.canvas[0] / height, self.canvas[1] / width)
        assert self.shorter_side is not None
        assert self.longer_side is not None
        shorter, longer = min(width, height), max(width, height)
        return min(self.shorter_side / shorter, self.longer_side / longer)

    def canvas_of(self, sizes: np.ndarray) -> tuple[int, int]:
        """Height and width of the array that holds images of stored `sizes` (n, 2)."""
        if self.canvas is not None:
            return self.canvas
        height, width = (-(-int(side) // MULTIPLE) * MULTIPLE for side in sizes.max(axis=0))
        return height, width


def stored_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Height and width of an image once scaled: the last pixel may be filled only in part."""
    # 1e-6: 640 · 0.4 is a hair more than 256 in floating point.
    return math.ceil(height * scale - 1e-6), math.ceil(width * scale - 1e-6)


def upright_size(file: Path, declared: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height of an image file, from its header alone.

    A camera's note that the picture must be turned (EXIF orientation) is followed where, and only
    where, it brings about the size that the annotations declare (width, height). Raises
    `Unreadable` where the file is no image, or of another size than declared.
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            if declared is None or declared == (width, height):
                return width, height
            if declared == (height, width) and _is_turned(image):
                return height, width
    except Image.DecompressionBombError as error:
        raise Unreadable("image too large", str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise Unreadable("not an image", _reason(error, file)) from error
    raise Unreadable(
        "size differs",
        f"the image has {width} x {height} pixels, its annotations say "
        f"{declared[0]} x {declared[1]}",
    )


def decode(file: Path, width: int, height: int) -> np.ndarray:
    """The picture as uint8 (height, width, 3), turned if that is what gives its size.

    Grey levels become three equal channels, palettes and CMYK colours; of several frames the first
    counts, transparency is dropped, 16 bits are cut to the upper 8. Raises `Unreadable`.
    """
    try:
        with Image.open(file) as opened:
            opened.load()
            image: Image.Image = opened
            if image.size != (width, height):
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                deep = np.asarray(image).astype(np.int64)
                image = Image.fromarray((deep >> 8).clip(0, 255).astype(np.uint8))
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        kind = "truncated image" if "truncated" in str(error) else "broken image"
        raise Unreadable(kind, _reason(error, file)) from error


def fit(picture: np.ndarray, scale: float, canvas: tuple[int, int]) -> np.ndarray:
    """The picture (h, w, 3) scaled, at the upper left of an array (3, *canvas).

    What lies at (x, y) comes to lie at exactly (scale · x, scale · y): where the scaled size is
    no whole number, the last row or column goes on with the picture's own last one. Pixels are
    averaged where the picture is made smaller (Pillow's bilinear filter).
    """
    height, width = picture.shape[:2]
    rows, columns = stored_size(width, height, scale)
    rows, columns = min(rows, canvas[0]), min(columns, canvas[1])
    box = (0.0, 0.0, columns / scale, rows / scale)
    more = (max(math.ceil(box[3]) - height, 0), max(math.ceil(box[2]) - width, 0))
    if any(more):
        picture = np.pad(picture, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge")
    resized = Image.fromarray(picture).resize((columns, rows), Image.Resampling.BILINEAR, box=box)
    stored = np.full((3, *canvas), PADDING, dtype=np.uint8)
    stored[:, :rows, :columns] = np.asarray(resized).transpose(2, 0, 1)
    return stored


def _is_turned(image: Image.Image) -> bool:
    orientation = image.getexif().get(0x0112, 1)
    return orientation in (5, 6, 7, 8)


def _reason(error: Exception, file: Path) -> str:
    text = str(error).replace(str(file), file.name)
    return text or type(error).__name__
