import numpy as np
import pytest

from losslab.datasets.detection.annotations import Annotations
from losslab.datasets.detection.augment import augment, flip, jitter, move

SIZE = 64


def drawn(count=30, seed=0):
    """Black images with one white box each, and the boxes."""
    random = np.random.default_rng(seed)
    corners = random.integers(8, 36, size=(count, 2))
    boxes = np.hstack([corners, corners + random.integers(10, 20, size=(count, 2))])
    images = np.zeros((count, 3, SIZE, SIZE), dtype=np.uint8)
    for image, (x1, y1, x2, y2) in zip(images, boxes, strict=True):
        image[:, y1:y2, x1:x2] = 255
    return images, Annotations.of_images(boxes[:, None], np.zeros((count, 1), int))


def found(image):
    """The white box of an image, to a fraction of a pixel: grey at an edge says how far it goes."""
    white = image[0].astype(float) / 255
    white[image[0] == 127] = 0
    box = []
    for axis in (0, 1):
        profile = white.max(axis=axis)
        inside = np.flatnonzero(profile > 0.02)
        first, last = inside[0], inside[-1]
        middle = profile[first : last + 1].sum()
        centre = (profile * (np.arange(len(profile)) + 0.5)).sum() / middle
        box.append((centre - middle / 2, centre + middle / 2))
    return [box[0][0], box[1][0], box[0][1], box[1][1]]


def test_flip_takes_the_pixels_along():
    images, annotations = drawn()
    flipped = np.arange(len(images)) % 2 == 0
    mirrored, boxes = flip(images, annotations, flipped)
    for i in range(len(images)):
        np.testing.assert_allclose(boxes.of(i)[0][0], found(mirrored[i]), atol=1e-6)
        same = (mirrored[i] == images[i]).all()
        assert same != flipped[i]
    again = flip(mirrored, boxes, flipped)
    assert (again[0] == images).all()
    assert (again[1].boxes == annotations.boxes).all()


@pytest.mark.parametrize("bounds", [(0.5, 0.9), (1.1, 1.5), (0.6, 1.6)])
def test_a_drawn_box_is_found_where_jitter_says(bounds):
    images, annotations = drawn(60)
    before = images.copy()
    scaled, moved = jitter(images, annotations, np.random.default_rng(1), *bounds)
    assert (images == before).all()
    compared = 0
    for i in range(len(images)):
        boxes, _, _ = moved.of(i)
        inside = len(boxes) and boxes.min() > 2 and boxes.max() < SIZE - 2
        if inside and not moved.of(i)[2][0]:
            np.testing.assert_allclose(boxes[0], found(scaled[i]), atol=0.35)
            compared += 1
    assert compared > 25


def test_jitter_draws_its_factors_evenly_over_the_logarithm():
    images, annotations = drawn(400)
    images[:], annotations = 0, Annotations.of_images([[[30, 30, 34, 34]]] * 400, [[0]] * 400)
    _, moved = jitter(images, annotations, np.random.default_rng(0), 0.5, 2.0)
    whole = ((moved.boxes > 0) & (moved.boxes < SIZE)).all(axis=1)
    factors = (moved.boxes[whole, 2] - moved.boxes[whole, 0]) / 4
    assert factors.min() >= 0.5 - 1e-5
    assert factors.max() <= 2.0 + 1e-5
    assert np.log2(factors).mean() == pytest.approx(0, abs=0.15)


def test_what_happens_to_boxes_that_leave():
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [0, 40, 40, 50], [60, 60, 63, 63]]
    annotations = Annotations.of_images([boxes], [[0, 1, 2, 3]])
    # x' = 2 x - 30: the first box ends at -10, the second is whole; of the third, -30 to 50, five
    # eighths stay in x and all of 0 to 20 in y; the last one, at 90, is outside.
    moved = move(annotations, np.array([2.0]), np.array([[-30.0, -80.0]]), (64, 64))
    assert moved.labels.tolist() == [2]
    assert moved.boxes.tolist() == [[0, 0, 50, 20]]
    assert moved.crowd.tolist() == [False]
    assert moved.areas.tolist() == pytest.approx([400 * 50 / 80])
    # One fifth stays: no object any more, no background either.
    moved = move(annotations, np.array([1.0]), np.array([[-32.0, 0.0]]), (64, 64))
    assert moved.labels.tolist() == [2, 3]
    assert moved.crowd.tolist() == [True, False]


def test_augment_is_decided_by_its_generator():
    images, annotations = drawn()
    runs = [
        augment(images, annotations, np.random.default_rng(seed), 0.5, (0.5, 2.0))
        for seed in (0, 0, 1)
    ]
    assert (runs[0][0] == runs[1][0]).all()
    assert runs[0][1].boxes.tolist() == runs[1][1].boxes.tolist()
    assert not (runs[0][0] == runs[2][0]).all()
    plain = augment(images, annotations, np.random.default_rng(0), 0.0)
    assert (plain[0] == images).all()
