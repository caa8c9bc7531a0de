"""Anchors against loops, the paper's sizes, and the network's own outputs."""

import math

import numpy as np
import pytest

from losslab.errors import BadInput
from losslab.experiments.detection.anchors import (
    AnchorSettings,
    describe,
    flip_permutation,
    make_anchors,
)


def looped(settings, height, width):
    found = []
    for stride in settings.strides:
        for i in range(math.ceil(height / stride)):
            for j in range(math.ceil(width / stride)):
                for k in range(settings.scales):
                    for aspect in settings.aspects:
                        side = settings.size * stride * 2 ** (k / settings.scales)
                        w, h = side / math.sqrt(aspect), side * math.sqrt(aspect)
                        x, y = (j + 0.5) * stride, (i + 0.5) * stride
                        found.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return np.array(found)


@pytest.mark.parametrize("shape", [(32, 64), (50, 37)])
def test_against_a_loop(shape):
    settings = AnchorSettings(strides=(4, 8, 16), scales=2, aspects=(0.5, 3.0))
    anchors = make_anchors(settings, *shape)
    np.testing.assert_allclose(anchors.boxes, looped(settings, *shape), atol=1e-4)
    assert sum(anchors.per_level) == len(anchors)


def test_the_paper_s_anchors():
    """Areas 32² to 512² on P3 to P7, at 2^0, 2^(1/3), 2^(2/3) and aspects 1:2, 1:1, 2:1."""
    settings = AnchorSettings()
    for stride, base in zip(settings.strides, (32, 64, 128, 256, 512), strict=True):
        shapes = settings.shapes(stride)
        areas = (base * np.array([1, 2 ** (1 / 3), 2 ** (2 / 3)])) ** 2
        np.testing.assert_allclose(shapes.prod(axis=1), np.repeat(areas, 3))
        np.testing.assert_allclose(shapes[:, 1] / shapes[:, 0], [0.5, 1, 2] * 3)
    # "about 100k" at 600 pixels and up to 1000
    assert sum(level["anchors"] for level in describe(settings, 600, 1000)) == pytest.approx(
        1.13e5, rel=0.01
    )


def test_mirrored_anchors_are_a_permutation():
    anchors = make_anchors(AnchorSettings(strides=(4, 8, 16)), 48, 64)
    permutation = flip_permutation(anchors)
    mirrored = anchors.boxes.copy()
    mirrored[:, 0], mirrored[:, 2] = 64 - anchors.boxes[:, 2], 64 - anchors.boxes[:, 0]
    np.testing.assert_allclose(mirrored[permutation], anchors.boxes, atol=1e-4)
    assert np.array_equal(permutation[permutation], np.arange(len(anchors)))
    assert not np.array_equal(permutation, np.arange(len(anchors)))


def test_a_width_between_cells_has_no_mirrored_anchors():
    with pytest.raises(BadInput, match=r"60 is no multiple of 8"):
        flip_permutation(make_anchors(AnchorSettings(strides=(4, 8)), 64, 60))


def test_all_mistakes_at_once():
    with pytest.raises(BadInput) as told:
        AnchorSettings(strides=(8, 4), scales=0, aspects=(-1.0,), size=0)
    assert [p.split(":")[0] for p in told.value.problems] == [
        "strides",
        "scales",
        "aspects",
        "size",
    ]
