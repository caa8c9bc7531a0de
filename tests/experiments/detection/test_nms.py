"""Suppression against a plain greedy loop, and whole detection against its definition."""

import math

import numpy as np
import pytest
import torch

from losslab.experiments.detection.anchors import AnchorSettings, make_anchors
from losslab.experiments.detection.coding import decode
from losslab.experiments.detection.detections import DetectionSettings, detect
from losslab.experiments.detection.nms import suppress


def overlap(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0) * max(h, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def greedy(boxes, scores, threshold, groups):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(groups[i] != groups[j] or overlap(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def crowd_of_boxes(n, seed, spread=40):
    random = np.random.default_rng(seed)
    corner = spread * random.random((n, 2))
    boxes = np.concatenate([corner, corner + 5 + 20 * random.random((n, 2))], axis=1)
    # Rounded scores, so that there are ties.
    return boxes, np.round(random.random(n), 2), random.integers(3, size=n)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("grouped", [False, True])
def test_against_the_greedy_loop(threshold, grouped):
    boxes, scores, groups = crowd_of_boxes(150, 1)
    groups = groups if grouped else np.zeros(150, dtype=int)
    expected = greedy(boxes.tolist(), scores, threshold, groups)
    found = suppress(boxes, scores, threshold, groups if grouped else None)
    assert found.tolist() == expected
    assert suppress(boxes, scores, threshold, groups, limit=7).tolist() == expected[:7]


def test_beyond_the_first_block():
    """Most of the first block is one object, so that the kept boxes come from several blocks."""
    boxes, scores, groups = crowd_of_boxes(2500, 2, spread=400)
    boxes[:1500], scores[:1500] = [0, 0, 10, 10], 2.0
    full = suppress(boxes, scores, 0.4, groups)
    for limit in (1, 5, 100, 400):
        assert suppress(boxes, scores, 0.4, groups, limit).tolist() == full[:limit].tolist()


def test_nothing_to_suppress():
    empty = np.zeros((0, 4), dtype=np.float32)
    assert suppress(empty, np.zeros(0), 0.5).tolist() == []
    assert suppress(empty, np.zeros(0), 0.5, np.zeros(0), limit=5).tolist() == []


def by_definition(logits, offsets, anchors, size, settings):
    """The best of each level, decoded, clipped, merged, suppressed by class, the best kept."""
    candidates, begin = [], 0
    for count in anchors.per_level:
        level = []
        for a in range(begin, begin + count):
            for c in range(logits.shape[1]):
                score = 1 / (1 + math.exp(-logits[a, c].item()))
                if score >= settings.score_threshold:
                    level.append((score, a, c))
        level.sort(key=lambda each: -each[0])
        candidates += level[: settings.top_k]
        begin += count
    found = []
    for score, a, c in candidates:
        box = decode(torch.from_numpy(anchors.boxes[a]), offsets[a]).tolist()
        box = [min(max(v, 0), limit) for v, limit in zip(box, [*size[::-1]] * 2, strict=True)]
        if box[2] > box[0] and box[3] > box[1]:
            found.append((box, score, c))
    kept = greedy(*map(list, zip(*[(b, s) for b, s, _ in found], strict=True)),
                  settings.nms_threshold, [c for *_, c in found])  # fmt: skip
    return [found[i] for i in kept[: settings.most]]


@pytest.mark.parametrize(
    "settings", [DetectionSettings(top_k=30, most=12), DetectionSettings(score_threshold=0.4)]
)
def test_detect_by_its_definition(settings):
    anchors = make_anchors(AnchorSettings(strides=(8, 16), scales=1), 32, 48)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, len(anchors), 3, generator=generator)
    offsets = 0.5 * torch.randn(2, len(anchors), 4, generator=generator)
    sizes = np.array([[32, 48], [20, 40]])
    found = detect(logits, offsets, anchors, sizes, settings)
    assert len(found) == 2
    for i in range(2):
        expected = by_definition(logits[i], offsets[i], anchors, sizes[i].tolist(), settings)
        boxes, scores, labels = found.of(i)
        assert labels.tolist() == [c for *_, c in expected]
        np.testing.assert_allclose(scores, [s for _, s, _ in expected], rtol=1e-6)
        np.testing.assert_allclose(boxes, [b for b, *_ in expected], rtol=1e-5, atol=1e-4)


def test_no_detections_and_no_numbers():
    anchors = make_anchors(AnchorSettings(strides=(8,)), 16, 16)
    logits = torch.full((2, len(anchors), 2), -20.0)
    logits[1] = math.nan
    found = detect(logits, torch.zeros(2, len(anchors), 4), anchors, np.full((2, 2), 16))
    assert found.offsets.tolist() == [0, 0, 0]
    assert found.boxes.shape == (0, 4)
