"""Assignment of anchors against a loop over anchors and boxes."""

import numpy as np
import pytest

from losslab.datasets.detection.annotations import Annotations
from losslab.errors import BadInput
from losslab.experiments.detection.anchors import AnchorSettings, flip_permutation, make_anchors
from losslab.experiments.detection.assignment import (
    AssignmentSettings,
    Targets,
    assign,
    assign_all,
    matched_boxes,
)


def common(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(w, 0) * max(h, 0)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def looped(anchors, boxes, labels, crowd, settings):
    objects = [j for j in range(len(boxes)) if not crowd[j]]
    ious = [
        {j: common(a, boxes[j]) / (area(a) + area(boxes[j]) - common(a, boxes[j])) for j in objects}
        for a in anchors
    ]
    tops = {j: max(each[j] for each in ious) for j in objects}
    found = []
    for i, a in enumerate(anchors):
        closest = max(objects, key=lambda j: ious[i][j], default=None)  # the first of equals
        best = ious[i][closest] if objects else 0
        positive = best >= settings.positive
        if settings.best_from is not None:
            for j in objects:
                positive |= ious[i][j] > tops[j] - 1e-6 and tops[j] >= max(settings.best_from, 1e-9)
        if positive:
            found.append((labels[closest], closest))
            continue
        ignored = settings.negative <= best < settings.positive
        for j in range(len(boxes)):
            ignored |= crowd[j] and common(a, boxes[j]) / area(a) >= settings.crowd
        found.append((-2 if ignored else -1, -1))
    return [list(column) for column in zip(*found, strict=True)]


def scene(seed, boxes=15, side=48):
    random = np.random.default_rng(seed)
    corner = (side - 10) * random.random((boxes, 2))
    # Small, middling and, last, too thin for any anchor; two on the same place.
    sizes = random.choice([6, 12, 25], size=(boxes, 2)) * (0.7 + 0.6 * random.random((boxes, 2)))
    sizes[-1] = [2, 30]
    corner[1], sizes[1] = corner[0], sizes[0]
    found = np.concatenate([corner, corner + sizes], axis=1).astype(np.float32)
    return found, random.integers(5, size=boxes), random.random(boxes) < 0.3


SETTINGS = [
    AssignmentSettings(),
    AssignmentSettings(best_from=0.0),
    AssignmentSettings(best_from=0.4),
    AssignmentSettings(positive=0.3, negative=0.3, crowd=0.9),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["paper", "best", "best from .4", "no band"])
@pytest.mark.parametrize("seed", range(4))
def test_against_a_loop(settings, seed):
    anchors = make_anchors(AnchorSettings(strides=(8, 16), scales=2, size=2), 48, 48).boxes
    boxes, labels, crowd = scene(seed)
    expected = looped(anchors.tolist(), boxes.tolist(), labels, crowd, settings)
    found = assign(anchors, boxes, labels, crowd, settings)
    assert [each.tolist() for each in found] == expected
    assert {-1} < set(expected[1])


def test_a_hard_object_has_its_best_anchors_only_if_asked():
    anchors = make_anchors(AnchorSettings(strides=(8,), scales=1), 48, 48).boxes
    thin = np.array([[22.0, 2, 24, 46]])
    arguments = (anchors, thin, np.array([3]), np.array([False]))
    assert (assign(*arguments)[0] == -1).all()
    assert (assign(*arguments, AssignmentSettings(best_from=0.4))[0] == -1).all()
    assert 3 in assign(*arguments, AssignmentSettings(best_from=0.0))[0]


def test_images_without_objects():
    anchors = make_anchors(AnchorSettings(strides=(8,), size=1), 16, 16)
    crowded = [[0.0, 0, 16, 16]]
    annotations = Annotations.of_images([[], crowded], [[], [0]], [[], [True]])
    targets = assign_all(anchors, annotations)
    assert set(targets.labels[0]) == {-1}
    assert set(targets.labels[1]) <= {-1, -2}
    assert (targets.labels[1] == -2).any()
    assert (targets.matched == -1).all()


@pytest.fixture
def split():
    anchors = make_anchors(AnchorSettings(strides=(8, 16), size=2), 48, 48)
    parts = [scene(seed, boxes=3 + seed) for seed in range(5)]
    return anchors, Annotations.of_images(*zip(*parts, strict=True))


def test_a_whole_split(split):
    anchors, annotations = split
    targets = assign_all(anchors, annotations)
    assert (targets.labels.dtype, targets.matched.dtype) == (np.int16, np.int32)
    expected = []
    for i in range(len(annotations)):
        labels, matched = assign(anchors.boxes, *annotations.of(i))
        assert targets.labels[i].tolist() == labels.tolist()
        expected += annotations.of(i)[0][matched[labels >= 0]].tolist()
    assert matched_boxes(targets.matched, annotations).tolist() == expected
    assert sum(targets.counts().values()) == targets.labels.size
    assert targets.counts()["positive"] == len(expected)


@pytest.mark.parametrize("settings", SETTINGS[:3])
def test_mirrored_targets_are_those_of_mirrored_boxes(split, settings):
    anchors, annotations = split
    boxes = annotations.boxes.copy()
    boxes[:, [0, 2]] = 48 - annotations.boxes[:, [2, 0]]
    mirrored = Annotations(annotations.offsets, boxes, *annotations.arrays()[2:])
    expected = assign_all(anchors, mirrored, settings)
    found = assign_all(anchors, annotations, settings).flipped(flip_permutation(anchors))
    assert isinstance(found, Targets)
    assert np.array_equal(found.labels, expected.labels)
    assert np.array_equal(found.matched, expected.matched)
    assert np.array_equal(found.matched >= 0, found.labels >= 0)


def test_all_mistakes_at_once():
    with pytest.raises(BadInput) as told:
        AssignmentSettings(positive=0.3, negative=0.4, best_from=2, crowd=0)
    assert len(told.value.problems) == 3
