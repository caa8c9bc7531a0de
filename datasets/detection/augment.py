"""Changes of training images and their boxes: mirroring and scale jitter.

Pure functions of arrays and a generator: what is given is never written to.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from losslab.datasets.detection.annotations import Annotations, box_areas
from losslab.datasets.detection.images import PADDING

KEPT_AS_OBJECT = 0.25  # share of its box that an object must show to remain one
NARROWEST = 1.0  # pixels; a box that is less wide or high after the change is dropped


def augment(
    images: np.ndarray,
    annotations: Annotations,
    generator: np.random.Generator,
    flip_share: float = 0.5,
    jitter_range: Sequence[float] | None = None,
) -> tuple[np.ndarray, Annotations]:
    """Mirror a `flip_share` of a batch at random, then jitter its scale if a range is given.

    `images` uint8 (n, 3, H, W). The focal loss paper mirrors half of the images, and its best
    models train with scale jitter (Lin et al. 2017, sections 4.1 and 5.3).
    """
    images, annotations = flip(images, annotations, generator.random(len(images)) < flip_share)
    if jitter_range is not None:
        images, annotations = jitter(images, annotations, generator, *jitter_range)
    return images, annotations


def flip(
    images: np.ndarray, annotations: Annotations, flipped: np.ndarray
) -> tuple[np.ndarray, Annotations]:
    """Mirror the images where `flipped` (bool, (n,)) left to right: x1' = W - x2, x2' = W - x1.

    The whole array is mirrored, so that padding at the right comes to lie at the left, and anchors
    come to lie on anchors. The boxes keep their order.

    >>> images = np.zeros((1, 3, 4, 10), dtype=np.uint8)
    >>> boxes = Annotations.of_images([[[1, 0, 4, 2]]], [[0]])
    >>> flip(images, boxes, np.array([True]))[1].boxes.tolist()
    [[6.0, 0.0, 9.0, 2.0]]
    """
    width = images.shape[3]
    mirrored = np.where(flipped[:, None, None, None], images[..., ::-1], images)
    own = flipped[annotations.images]
    boxes = annotations.boxes.copy()
    boxes[own, 0] = width - annotations.boxes[own, 2]
    boxes[own, 2] = width - annotations.boxes[own, 0]
    return mirrored, replace(annotations, boxes=boxes)


def jitter(
    images: np.ndarray,
    annotations: Annotations,
    generator: np.random.Generator,
    low: float,
    high: float,
) -> tuple[np.ndarray, Annotations]:
    """Scale every image by a factor of its own between `low` and `high`, its logarithm uniform.

    A larger image is cropped to the stored size at a random place, a smaller one put at a random
    place on grey. Boxes are scaled and moved by exactly what the pixels are: x' = factor · x + dx.
    They are cut at the border of the image. An object that shows less than a quarter of its box
    then becomes a crowd region, neither object nor background, and a box of which less than one
    pixel is left in width or height is dropped.
    """
    factors = np.exp(generator.uniform(np.log(low), np.log(high), size=len(images)))
    places = generator.random((len(images), 2))
    scaled = np.empty_like(images)
    shifts = np.empty((len(images), 2))
    for i, factor in enumerate(factors.tolist()):
        scaled[i], shifts[i] = _scaled(images[i], factor, places[i])
    return scaled, move(annotations, factors, shifts, images.shape[2:])


def move(
    annotations: Annotations, factors: np.ndarray, shifts: np.ndarray, size: Sequence[int]
) -> Annotations:
    """The annotations after x' = factor · x + dx, y' = factor · y + dy for each image.

    `factors` (n,), `shifts` (n, 2) as dx, dy, `size` height and width. `jitter` tells the rules
    for boxes that leave; areas fall with the share of the box that is left.
    """
    owner = annotations.images
    moved = annotations.boxes * factors[owner, None] + np.tile(shifts[owner], 2)
    height, width = size
    cut = np.clip(moved, 0.0, [width, height, width, height])
    whole = np.maximum(box_areas(moved), 1e-12)
    left = box_areas(cut) / whole
    changed = Annotations(
        annotations.offsets,
        cut.astype(np.float32),
        annotations.labels,
        annotations.crowd | (left < KEPT_AS_OBJECT),
        (annotations.areas * left).astype(np.float32),
    )
    return changed.keep((cut[:, 2:] - cut[:, :2] >= NARROWEST).all(axis=1))


def _scaled(
    image: np.ndarray, factor: float, place: np.ndarray
) -> tuple[np.ndarray, tuple[float, float]]:
    """One image (3, H, W) scaled, at `place` ((2,), each in [0, 1)) and by how much it is moved."""
    height, width = image.shape[1:]
    if factor >= 1:
        window = width / factor, height / factor
        left, top = place[0] * (width - window[0]), place[1] * (height - window[1])
        box = (left, top, left + window[0], top + window[1])
        return _resized(image, (width, height), box), (-left * factor, -top * factor)
    # Down to whole pixels: what is cut off at the right and bottom is less than one of them.
    columns, rows = max(int(width * factor), 1), max(int(height * factor), 1)
    left, top = int(place[0] * (width - columns + 1)), int(place[1] * (height - rows + 1))
    scaled = np.full_like(image, PADDING)
    scaled[:, top : top + rows, left : left + columns] = _resized(
        image, (columns, rows), (0.0, 0.0, min(columns / factor, width), min(rows / factor, height))
    )
    return scaled, (float(left), float(top))


def _resized(
    image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]
) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=box)).transpose(2, 0, 1)
