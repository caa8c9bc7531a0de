"""How one scene is put together: a background, then glyphs, then what covers some of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from losslab.datasets.detection.scenes_glyphs import (
    INK,
    Photographs,
    cut,
    ink_colour,
    opacity,
    stroked,
    trimmed,
)

MIN_VISIBLE = 0.6  # share of its ink that every object shows; more than any cut glyph has left
PLACES = 20  # tried for a glyph before it gets smaller
SMALLER = 0.8  # times its size
SIZES = 5  # tried before a glyph is left out

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Thing:
    """A glyph to draw: 8 x 8 grey levels in [0, 1], its longest side in pixels, class if any."""

    glyph: np.ndarray
    side: float
    label: int | None = None
    is_cut: bool = False
    is_covered: bool = False


@dataclass
class Canvas:
    """A scene while it is drawn.

    `pixels` float32 (H, W, 3); `seen` int16 (H, W): 1 + the index of the object that is seen
    there, or 0; `objects` those drawn so far, `ink` their numbers of pixels before anything
    covered them, `windows` where they were drawn.
    """

    pixels: np.ndarray
    seen: np.ndarray
    objects: list[Thing] = field(default_factory=list)
    ink: list[int] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)

    def would_hide(self, window: Window, mask: np.ndarray) -> bool:
        """Whether something at `mask` would leave an object less than `MIN_VISIBLE` of its ink."""
        under = np.bincount(self.seen[window][mask], minlength=len(self.objects) + 1)[1:]
        for index in np.flatnonzero(under):
            left = int((self.seen == index + 1).sum()) - int(under[index])
            if left < MIN_VISIBLE * self.ink[index]:
                return True
        return False

    def paint(self, window: Window, share: np.ndarray, colour: np.ndarray, mark: int) -> None:
        """Blend in `colour`, (3,) or (h, w, 3), by `share` (h, w); `mark` what is opaque."""
        under = self.pixels[window]
        under += share[..., None] * (colour - under)
        self.seen[window][share >= INK] = mark


@dataclass(frozen=True)
class Scene:
    """A finished scene: image uint8 (3, H, W), boxes float32 (m, 4), labels (m,), mask (H, W)."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    mask: np.ndarray


def draw(
    size: int,
    things: Sequence[Thing],
    strokes: int,
    contrast: float,
    photographs: Photographs,
    random: np.random.Generator,
) -> Scene:
    """Draw a scene of `size` x `size` pixels.

    Things are drawn in the order given, later ones over earlier ones, at random places where no
    object keeps less than `MIN_VISIBLE` of its ink; one that finds no place is made smaller, and
    left out where that does not help either. A box is tight around the ink of its object that is
    seen in the end, the mask is 1 + class there. `contrast`: see `ink_colour`.
    """
    pixels = stroked(photographs.piece(random, size, size), strokes, random)
    canvas = Canvas(pixels, np.zeros((size, size), dtype=np.int16))
    for thing in things:
        _place(canvas, thing, contrast, random)
    for index, thing in enumerate(canvas.objects):
        if thing.is_covered:
            _cover(canvas, index, photographs, random)
    grain = random.integers(-6, 7, size=pixels.shape, dtype=np.int8)
    image = np.clip(canvas.pixels + grain, 0, 255).astype(np.uint8)
    labels = np.array([thing.label for thing in canvas.objects], dtype=np.int64)
    classes = np.concatenate([[0], labels + 1]).astype(np.uint8)
    boxes = visible_boxes(canvas.seen, len(labels))
    return Scene(
        np.ascontiguousarray(image.transpose(2, 0, 1)), boxes, labels, classes[canvas.seen]
    )


def visible_boxes(seen: np.ndarray, objects: int) -> np.ndarray:
    """Tight boxes, float32 (objects, 4), around the pixels with the values 1 to `objects`."""
    boxes = np.zeros((objects, 4), dtype=np.float32)
    for index in range(objects):
        own = seen == index + 1
        rows, columns = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
        boxes[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _place(canvas: Canvas, thing: Thing, contrast: float, random: np.random.Generator) -> None:
    glyph = trimmed(thing.glyph)
    scale = thing.side / max(glyph.shape)
    if thing.is_cut:
        glyph = cut(glyph, random)
    for _ in range(SIZES):
        share = opacity(glyph, scale, random)
        mask = share >= INK
        ink = int(mask.sum())
        room = np.array(canvas.seen.shape) - share.shape
        if (room >= 0).all() and ink:
            for top, left in random.integers(0, room + 1, size=(PLACES, 2)).tolist():
                window = slice(top, top + share.shape[0]), slice(left, left + share.shape[1])
                if not canvas.would_hide(window, mask):
                    _draw_glyph(canvas, thing, window, share, ink, contrast, random)
                    return
        scale *= SMALLER


def _draw_glyph(
    canvas: Canvas,
    thing: Thing,
    window: Window,
    share: np.ndarray,
    ink: int,
    contrast: float,
    random: np.random.Generator,
) -> None:
    mark = 0
    if thing.label is not None:
        canvas.objects.append(thing)
        canvas.ink.append(ink)
        canvas.windows.append(window)
        mark = len(canvas.objects)
    colour = ink_colour(canvas.pixels[window], contrast, random)
    canvas.paint(window, share, colour, mark)


def _cover(
    canvas: Canvas, index: int, photographs: Photographs, random: np.random.Generator
) -> None:
    """Lay a piece of a photograph, round or square, over one side of an object."""
    rows, columns = canvas.windows[index]
    height, width = rows.stop - rows.start, columns.stop - columns.start
    side = random.integers(4)
    depth = random.uniform(0.3, 0.6)
    is_round = random.random() < 0.5
    patch = photographs.piece(random, height, width)
    y, x = np.mgrid[:height, :width] + 0.5
    # How far a pixel lies from the side that is covered, as a share of the way across.
    away = (y / height, 1 - y / height, x / width, 1 - x / width)[side]
    along = (x / width, y / height)[side // 2] - 0.5
    if is_round:
        away = away + along**2
    for _ in range(SIZES):
        mask = away < depth
        if mask.any() and not canvas.would_hide((rows, columns), mask):
            canvas.paint((rows, columns), mask.astype(np.float32), patch, 0)
            return
        depth *= SMALLER
