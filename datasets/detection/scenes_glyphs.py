"""What scenes are made of: glyphs brought to size, pieces of photographs, strokes."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

INK = 0.5  # opacity from which on a pixel belongs to a glyph
FAINT = 0.2  # grey level below which a row or column at the glyph's edge is not ink
TURN = 12.0  # degrees by which a glyph leans at most, to either side
CUT = (0.3, 0.45)  # share of a cut glyph that is left
HALF = 320  # columns of the photographs, which have 640
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def trimmed(glyph: np.ndarray) -> np.ndarray:
    """The glyph without the empty rows and columns around it."""
    ink = glyph > FAINT
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return glyph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def cut(glyph: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """What is left of a trimmed glyph after a straight cut: one of its four sides."""
    if random.random() < 0.5:
        kept = max(2, round(len(glyph) * random.uniform(*CUT)))
        return glyph[:kept] if random.random() < 0.5 else glyph[-kept:]
    kept = max(2, round(glyph.shape[1] * random.uniform(*CUT)))
    return glyph[:, :kept] if random.random() < 0.5 else glyph[:, -kept:]


def opacity(glyph: np.ndarray, scale: float, random: np.random.Generator) -> np.ndarray:
    """A glyph enlarged, leaning and stretched a little: float32 (h, w) in [0, 1].

    `scale` is in pixels for each pixel of the glyph. Grey levels are steepened the more the glyph
    is enlarged, so that edges of large glyphs are not a blur.
    """
    angle = np.deg2rad(random.uniform(-TURN, TURN))
    wide, high = scale * random.uniform(0.85, 1.18, size=2)
    cosine, sine = np.cos(angle), np.sin(angle)
    rows, columns = glyph.shape
    height = int(np.ceil(rows * high * cosine + columns * wide * abs(sine))) + 2
    width = int(np.ceil(columns * wide * cosine + rows * high * abs(sine))) + 2
    source = Image.fromarray(np.pad(glyph, 2).astype(np.float32))
    middle = (columns / 2 + 2, rows / 2 + 2)
    # The transform that takes a place in the output to its place in the source.
    a, b, d, e = cosine / wide, sine / wide, -sine / high, cosine / high
    c = middle[0] - a * width / 2 - b * height / 2
    f = middle[1] - d * width / 2 - e * height / 2
    enlarged = source.transform(
        (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC
    )
    steepness = max(1.5, 0.35 * scale)
    return np.clip((np.asarray(enlarged) - 0.45) * steepness + 0.5, 0, 1)


class Photographs:
    """Pieces of the two photographs that come with scikit-learn, 427 x 640 pixels each.

    Those of `part` "test" come from the right halves, those of "pool" from the left ones, so that
    no background of a test scene has been trained on. The halves are alike but not equal: most of
    the one photograph's pagoda is in the left half.
    """

    def __init__(self, part: str):
        columns = slice(HALF, None) if part == "test" else slice(0, HALF)
        self._images = [Image.fromarray(image[:, columns]) for image in _photographs()]
        self._limits = (48, min(min(image.size) for image in self._images))

    def piece(self, random: np.random.Generator, height: int, width: int) -> np.ndarray:
        """A piece, float32 (height, width, 3) in [0, 255]: flipped, its colours changed."""
        image = self._images[random.integers(len(self._images))]
        long = np.exp(random.uniform(*np.log(self._limits)))
        sides = np.array([width, height]) * long / max(width, height)
        left, top = random.random(2) * (np.array(image.size) - sides)
        box = (left, top, left + sides[0], top + sides[1])
        piece = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))
        if random.random() < 0.5:
            piece = piece[:, ::-1]
        shade = random.uniform(0.6, 1.15, size=3) * piece[..., random.permutation(3)]
        return (shade + random.uniform(-20, 20)).astype(np.float32)


@lru_cache(maxsize=1)
def _photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)


def stroked(pixels: np.ndarray, strokes: int, random: np.random.Generator) -> np.ndarray:
    """The picture (h, w, 3) with lines and arcs across it, as thick as glyphs' strokes."""
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    brush = ImageDraw.Draw(picture)
    size = pixels.shape[0]
    for _ in range(strokes):
        colour = tuple(random.integers(0, 256, size=3).tolist())
        thick = int(random.integers(1, max(3, size // 20)))
        x, y = random.uniform(0, size, size=2)
        length = np.exp(random.uniform(np.log(size / 16), np.log(size / 2)))
        turn = random.uniform(0, 360)
        if random.random() < 0.5:
            across = length * np.cos(np.deg2rad(turn)), length * np.sin(np.deg2rad(turn))
            brush.line((x, y, x + across[0], y + across[1]), colour, thick)
        else:
            box = (x, y, x + length, y + length * random.uniform(0.4, 1))
            brush.arc(box, turn, turn + random.uniform(60, 300), colour, thick)
    return np.asarray(picture).astype(np.float32)


def ink_colour(under: np.ndarray, contrast: float, random: np.random.Generator) -> np.ndarray:
    """A colour (3,) whose grey level differs by at least `contrast` from the mean of `under`.

    `contrast` in [0, 1] of the whole range; black or white, whichever is farther, where no colour
    is found soon.
    """
    grey = float((under.reshape(-1, 3).mean(axis=0) * GREY).sum())
    for colour in random.uniform(0, 255, size=(8, 3)).astype(np.float32):
        if abs(float((colour * GREY).sum()) - grey) >= contrast * 255:
            return colour
    return np.full(3, 0.0 if grey > 127.5 else 255.0, dtype=np.float32)
