"""COCO's metrics against pycocotools reading JSON files, and against cases known by hand."""

import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from losslab.datasets.detection.annotations import Annotations
from losslab.errors import BadInput
from losslab.experiments.detection.coco_metrics import (
    NAMES,
    coco_metrics,
    coco_metrics_of_files,
    evaluate,
)
from losslab.experiments.detection.found import Detections, join

NONE = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=int))


def reference(annotations_file, results_file):
    """pycocotools' twelve numbers and AP by class name, nan where it says -1; and its precision."""
    truth = COCO(str(annotations_file))
    evaluator = COCOeval(truth, truth.loadRes(str(results_file)), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    values = dict(zip(NAMES, evaluator.stats, strict=True))
    for k, category in enumerate(evaluator.params.catIds):
        own = evaluator.eval["precision"][:, :, k, 0, -1]
        values[f"ap/{truth.cats[category]['name']}"] = (
            own[own > -1].mean() if own.max() > -1 else -1
        )
    numbers = {name: float("nan") if value < 0 else value for name, value in values.items()}
    return numbers, evaluator.eval["precision"][:, :, :, 0, -1]


def scenes(seed, images=30, classes=4, side=200):
    """Boxes of all sizes, some crowd, some images empty, and detections around and beside them."""
    random = np.random.default_rng(seed)
    boxes, labels, crowd, found = [], [], [], []
    for i in range(images):
        n = 0 if i % 5 == 0 else int(random.integers(1, 8))
        corner = side * random.random((n, 2))
        size = np.exp(random.uniform(2, 5, size=(n, 2)))
        own = np.round(np.concatenate([corner, corner + size], axis=1), 1)
        boxes.append(own.astype(np.float32))
        labels.append(random.integers(classes - 1, size=n))  # the last class has no objects
        crowd.append(random.random(n) < 0.15)
        copies = np.repeat(np.arange(n), 4)
        wild = side * random.random((6, 2))
        drawn = np.concatenate(
            [own[copies]
             + 0.15 * random.normal(size=(len(copies), 4)) * size[copies].mean(axis=1)[:, None],
             np.concatenate([wild, wild + 20 + 40 * random.random((6, 2))], axis=1)]
        )  # fmt: skip
        named = np.concatenate([labels[-1][copies], random.integers(classes, size=6)])
        named = np.where(random.random(len(named)) < 0.2, random.integers(classes), named)
        score = np.round(random.random(len(named)), 2)  # with ties
        order = np.argsort(-score, kind="stable")
        found.append((drawn[order], score[order], named[order]) if i % 7 else NONE)
    return Annotations.of_images(boxes, labels, crowd), join(found)


def write_files(folder, annotations, detections, scales):
    """The same as COCO has it, with gaps in the ids; written by hand, one box at a time."""
    truth = {"images": [], "annotations": [], "categories": []}
    truth["categories"] = [{"id": 10 * c + 3, "name": f"c{c}"} for c in range(4)]
    results = []
    for i in range(len(annotations)):
        truth["images"].append({"id": 100 + 7 * i, "width": 999, "height": 999})
        areas = annotations.areas[annotations.offsets[i] : annotations.offsets[i + 1]]
        for box, label, crowd, area in zip(*annotations.of(i), areas, strict=True):
            x1, y1, x2, y2 = (float(v) / float(scales[i]) for v in box)
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": 100 + 7 * i, "area": float(area),
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": 10 * int(label) + 3,
                 "iscrowd": int(crowd)}
            )  # fmt: skip
        for box, score, label in zip(*detections.of(i), strict=True):
            x1, y1, x2, y2 = (float(v) / float(scales[i]) for v in box)
            results.append(
                {"image_id": 100 + 7 * i, "bbox": [x1, y1, x2 - x1, y2 - y1],
                 "category_id": 10 * int(label) + 3, "score": float(score)}
            )  # fmt: skip
    for name, content in (("truth", truth), ("results", results)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / "truth.json", folder / "results.json"


def test_against_pycocotools_on_files(tmp_path, capsys):
    for seed in range(3):
        annotations, detections = scenes(seed)
        scales = np.random.default_rng(seed).uniform(0.3, 1.5, len(annotations)).astype(np.float32)
        original = annotations.boxes / scales[annotations.images][:, None]
        areas = (original[:, 2] - original[:, 0]) * (original[:, 3] - original[:, 1])
        annotations = Annotations(*annotations.arrays()[:4], 0.7 * areas)  # masks fill less
        files = write_files(tmp_path, annotations, detections, scales)
        expected, precision = reference(*files)
        capsys.readouterr()
        names = [f"c{c}" for c in range(4)]
        assert coco_metrics(annotations, detections, scales, names) == pytest.approx(
            expected, rel=1e-12, nan_ok=True
        )
        curves = evaluate(annotations, detections, scales, names)
        for place, iou in ((0, 0.5), (5, 0.75)):
            known = precision[place, 0] > -1
            np.testing.assert_allclose(curves.curve(iou), precision[place][:, known].mean(axis=1))
        assert curves.curve(0.75).mean() == pytest.approx(expected["ap75"])
        assert coco_metrics_of_files(*files) == pytest.approx(expected, rel=1e-12, nan_ok=True)
        assert capsys.readouterr().out == ""
        assert np.isnan(expected["ap/c3"])
        assert 0.05 < expected["ap"] < 0.95
        assert all(0 < expected[name] < 1 for name in NAMES)


def test_perfect_and_empty():
    annotations, _ = scenes(0)
    perfect = join(
        [
            (boxes[~crowd], np.ones((~crowd).sum()), labels[~crowd])
            for boxes, labels, crowd in map(annotations.of, range(len(annotations)))
        ]
    )
    values = coco_metrics(annotations, perfect)
    assert values["ap"] == values["ap_small"] == values["ap/0"] == values["ar_100"] == 1
    nothing = coco_metrics(annotations, join([NONE] * len(annotations)))
    assert nothing["ap"] == nothing["ar_100"] == 0
    nowhere = Annotations.of_images([[]], [[]])
    found = evaluate(nowhere, join([perfect.of(1)]))
    assert np.isnan(found.metrics["ap"])
    assert np.isnan(found.curve(0.5)).all()
    with pytest.raises(BadInput, match="one of"):
        found.curve(0.52)


def test_detections_in_a_crowd_do_not_count():
    crowd = [[50.0, 0, 100, 50]]
    annotations = Annotations.of_images([[[0.0, 0, 20, 20], *crowd]], [[0, 0]], [[False, True]])
    boxes = np.array([[60.0, 10, 70, 20], [61.0, 10, 71, 20], [0, 0, 20, 20]])
    found = join([(boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3))])
    assert coco_metrics(annotations, found)["ap"] == pytest.approx(1)
    alone = Annotations.of_images([[[0.0, 0, 20, 20]]], [[0]])
    assert coco_metrics(alone, found)["ap"] == pytest.approx(1 / 3)


def test_sizes_are_of_original_pixels():
    """A box of 20 stored pixels is one of 40 original ones where the scale is one half."""
    annotations = Annotations.of_images([[[0.0, 0, 20, 20]]], [[0]], areas=[[1600.0]])
    found = join([(annotations.boxes, np.ones(1), np.zeros(1))])
    values = coco_metrics(annotations, found, np.array([0.5]))
    assert np.isnan(values["ap_small"])
    assert values["ap_medium"] == 1
    # A false alarm counts in its own size, so a small one does not lower AP of medium objects.
    boxes = np.array([[40.0, 40, 50, 50], [0, 0, 20, 20]])
    found = join([(boxes, np.array([0.9, 0.1]), np.zeros(2))])
    values = coco_metrics(annotations, found, np.array([0.5]))
    assert (values["ap"], values["ap_medium"]) == (0.5, 1)


def test_mistakes_name_the_file(tmp_path):
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text('{"images": [{"id": 1}], "annotations": [], "categories": []}')
    results.write_text("[{")
    with pytest.raises(BadInput, match=r"results\.json: cannot be read"):
        coco_metrics_of_files(truth, results)
    results.write_text('[{"image_id": 7, "bbox": [0, 0, 1, 1], "category_id": 1, "score": 1}]')
    with pytest.raises(BadInput, match=r"results\.json: result no\. 0: the image id 7 is not in"):
        coco_metrics_of_files(truth, results)
    with pytest.raises(BadInput, match="of 0 images"):
        coco_metrics(Annotations.of_images([[]], [[]]), Detections(np.zeros(1, int), *NONE))


def small_files(folder, **changes):
    """Annotations of one object, and a result that hits it; `changes` to either entry."""
    truth, results = folder / "truth.json", folder / "results.json"
    own = {"id": 0, "image_id": "a", "category_id": 3, "bbox": [1, 2, 30, 40]}
    found = {"image_id": "a", "category_id": 3, "bbox": [1, 2, 30, 40], "score": 0.5}
    content = {
        "images": [{"id": "a"}],
        "annotations": [{**own, **changes.get("truth", {})}],
        "categories": [{"id": 3, "name": "cell"}],
    }
    truth.write_text(json.dumps(content))
    results.write_text(json.dumps([{**found, **changes.get("found", {})}]))
    return truth, results


def test_an_object_counts_whatever_its_id_and_without_area(tmp_path):
    """An id of 0 means "not matched" to the evaluators, and exports leave out area and iscrowd."""
    values = coco_metrics_of_files(*small_files(tmp_path))
    assert (values["ap"], values["ap/cell"], values["ap_medium"]) == (1, 1, 1)
    small = coco_metrics_of_files(*small_files(tmp_path, truth={"area": 90}))
    assert small["ap_small"] == 1
    assert np.isnan(small["ap_medium"])
    other = coco_metrics_of_files(*small_files(tmp_path, found={"category_id": 9}))
    assert other["ap"] == 0  # as pycocotools has it


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"found": {"score": None}}, "results.json: result no. 0: score must be a number"),
        ({"found": {"score": math.nan}}, "results.json: result no. 0: score must be a number"),
        ({"found": {"bbox": [1, 2, 3]}}, "results.json: result no. 0: bbox must be four numbers"),
        ({"found": {"image_id": [1]}}, "results.json: result no. 0: image_id must be a whole"),
        ({"truth": {"bbox": "1"}}, "truth.json: annotation no. 0: bbox must be four numbers"),
        ({"truth": {"category_id": None}}, "truth.json: annotation no. 0: category_id must be"),
    ],
)
def test_malformed_entries_are_told_by_file_and_number(tmp_path, changes, told):
    with pytest.raises(BadInput) as error:
        coco_metrics_of_files(*small_files(tmp_path, **changes))
    assert told in str(error.value)


def test_swapped_files_are_told(tmp_path):
    truth, results = small_files(tmp_path)
    with pytest.raises(BadInput, match=r"results\.json: is not in COCO's format"):
        coco_metrics_of_files(results, truth)
    with pytest.raises(BadInput, match=r"truth\.json: is not a file of COCO results"):
        coco_metrics_of_files(truth, truth)
