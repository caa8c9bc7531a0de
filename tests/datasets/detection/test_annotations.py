import numpy as np
import pytest

from losslab.datasets.detection.annotations import Annotations
from losslab.datasets.detection.base import DetectionSplit, object_sizes


def some(counts=(3, 0, 1, 5), seed=0):
    random = np.random.default_rng(seed)
    corners = [random.uniform(0, 50, (n, 2)) for n in counts]
    boxes = [np.hstack([c, c + random.uniform(1, 40, c.shape)]) for c in corners]
    labels = [random.integers(4, size=n) for n in counts]
    crowd = [random.random(n) < 0.3 for n in counts]
    return Annotations.of_images(boxes, labels, crowd), boxes, labels, crowd


def test_images_get_back_what_they_were_given():
    annotations, boxes, labels, crowd = some()
    assert len(annotations) == 4
    assert annotations.boxes.dtype == annotations.areas.dtype == np.float32
    assert annotations.offsets.dtype == annotations.labels.dtype == np.int64
    for i in range(4):
        found = annotations.of(i)
        np.testing.assert_allclose(found[0], boxes[i].astype(np.float32))
        assert found[1].tolist() == labels[i].tolist()
        assert found[2].tolist() == crowd[i].tolist()


@pytest.mark.parametrize("images", [[2, 0], [1], [], [3, 3, 1, 0, 2]])
def test_take_is_a_list_of_images(images):
    annotations, *_ = some()
    taken = annotations.take(images)
    assert len(taken) == len(images)
    for k, i in enumerate(images):
        for found, wanted in zip(taken.of(k), annotations.of(i), strict=True):
            assert found.tolist() == wanted.tolist()


def test_keep_drops_boxes_and_no_image():
    annotations, *_ = some()
    kept = annotations.keep(~annotations.crowd)
    assert len(kept) == 4
    for i in range(4):
        boxes, labels, crowd = annotations.of(i)
        assert kept.of(i)[0].tolist() == boxes[~crowd].tolist()
        assert kept.of(i)[1].tolist() == labels[~crowd].tolist()


def test_parts_of_different_length_are_refused():
    annotations, *_ = some()
    with pytest.raises(ValueError, match="lengths"):
        Annotations(annotations.offsets, annotations.boxes[1:], *annotations.arrays()[2:])


def test_object_sizes_count_objects_and_not_crowd():
    boxes = [[0, 0, 9, 9], [0, 0, 16, 25], [0, 0, 30, 40], [0, 0, 60, 60]]
    annotations = Annotations.of_images(
        [boxes], [[0, 0, 0, 0]], [[False, False, False, True]], [[100.0, 1024.0, 9216.0, 1.0]]
    )
    ones = np.ones(1, dtype=np.int64)
    split = DetectionSplit(np.zeros((1, 3, 64, 64), np.uint8), annotations, ones, ones, ones)
    sizes = object_sizes(split)
    assert sizes["octaves"] == {"8 to 16": 1, "16 to 32": 1, "32 to 64": 1}
    assert sizes["coco"] == {"small": 1, "medium": 1, "large": 1}
    assert sizes["quantiles"]["50%"] == 20.0
