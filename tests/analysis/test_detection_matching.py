"""Hits, false alarms and misses against pycocotools."""

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from losslab.analysis.detections import match
from losslab.datasets.detection.annotations import Annotations
from losslab.experiments.detection.found import join


def _around(boxes, labels, random):
    """Detections near the boxes of an image, some of them of another class; best first."""
    drawn = np.repeat(boxes, 3, axis=0) + random.normal(0, 3, (3 * len(boxes), 4))
    named = np.repeat(labels, 3)
    named = np.where(random.random(len(named)) < 0.2, 2, named)
    return drawn, np.sort(random.random(len(named)))[::-1], named


def reference_matches(truth, found):
    """pycocotools' matches at IoU 0.5: by image, states of detections and hits of true boxes."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(len(truth))],
        "categories": [{"id": c} for c in range(4)],
        "annotations": [],
    }
    results = []
    for i in range(len(truth)):
        for box, label, crowd in zip(*truth.of(i), strict=True):
            own = {"id": len(coco.dataset["annotations"]) + 1, "iscrowd": int(crowd)}
            coco.dataset["annotations"].append(_entry(i, box, label) | own)
        for box, score, label in zip(*found.of(i), strict=True):
            results.append(_entry(i, box, label) | {"score": float(score)})
    coco.createIndex()
    evaluator = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluator.evaluate()
    hits, ignored, taken = set(), set(), set()
    for image in filter(None, evaluator.evalImgs):
        if image["aRng"] != [0, 1e10]:
            continue
        matched, left_out = image["dtMatches"][0] > 0, image["dtIgnore"][0].astype(bool)
        for place, own in enumerate(image["dtIds"]):
            hits |= {own} if matched[place] and not left_out[place] else set()
            ignored |= {own} if left_out[place] else set()
        boxes = zip(image["gtIds"], image["gtMatches"][0], image["gtIgnore"], strict=True)
        taken |= {box for box, by, left in boxes if by and not left}
    return hits, ignored, taken


def _entry(image, box, label):
    x1, y1, x2, y2 = (float(v) for v in box)
    return {"image_id": image, "bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": int(label),
            "area": (x2 - x1) * (y2 - y1)}  # fmt: skip


def test_hits_and_misses_are_those_of_pycocotools():
    random = np.random.default_rng(3)
    corners = [random.uniform(0, 60, (n, 2)) for n in (0, 3, 6, 9, 5)]
    boxes = [np.concatenate([c, c + random.uniform(8, 40, c.shape)], axis=1) for c in corners]
    labels = [random.integers(0, 3, len(b)) for b in boxes]
    crowd = [random.random(len(b)) < 0.3 for b in boxes]
    truth = Annotations.of_images(boxes, labels, crowd)
    found = join([_around(b, classes, random) for b, classes in zip(boxes, labels, strict=True)])
    expected = reference_matches(truth, found)
    states, taken = zip(*(match(found.of(i), truth.of(i)) for i in range(len(truth))), strict=True)
    state = np.concatenate(states)
    assert {i + 1 for i in np.flatnonzero(state == 1)} == expected[0]
    assert {i + 1 for i in np.flatnonzero(state == -1)} == expected[1]
    assert {i + 1 for i in np.flatnonzero(np.concatenate(taken))} == expected[2]
    assert all(expected)
