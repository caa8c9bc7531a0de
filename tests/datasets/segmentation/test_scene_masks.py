import numpy as np
import pytest

from losslab.datasets import DATASETS
from losslab.datasets.base import content_hash
from losslab.datasets.detection.scenes import build as build_scenes
from losslab.datasets.detection.scenes_drawing import Thing, draw
from losslab.datasets.detection.scenes_glyphs import Photographs
from losslab.datasets.segmentation.scenes import build
from losslab.errors import BadInput

SMALL = {"train_images": 10, "validation_images": 4, "test_images": 4}


def test_pictures_and_classes_are_those_of_the_scenes():
    options = {**SMALL, "size": 64, "objects_per_image": 3.0, "occlusion": 0.5}
    data, scenes = build(3, **options), build_scenes(3, **{**build(3, **options).options})
    for own, other in zip([*data.split(1), data.test(1)], [*scenes.split(1), scenes.test(1)],
                          strict=True):  # fmt: skip
        np.testing.assert_array_equal(own.targets, other.masks)
        np.testing.assert_allclose(own.features, other.images / 127.5 - 1, atol=1e-6)
        np.testing.assert_array_equal(own.ids, other.ids)
        for i in range(len(own)):  # each class is where one of its boxes is, and nowhere else
            boxes, labels, _ = other.annotations.of(i)
            allowed = np.zeros((64, 64, 4), dtype=bool)
            allowed[..., 0] = True
            for (x1, y1, x2, y2), label in zip(boxes.astype(int), labels, strict=True):
                allowed[y1:y2, x1:x2, label + 1] = True
            assert np.take_along_axis(allowed, own.targets[i][..., None], 2).all()


def test_a_pixel_belongs_to_what_covers_it():
    solid = np.ones((8, 8), np.float32)
    hidden = 0
    for seed in range(8):
        things = [Thing(solid, 40, 0), Thing(solid, 14, 1), Thing(solid, 10)]
        random = np.random.default_rng(seed)
        mask = draw(64, things, 0, 0.4, Photographs("pool"), random).mask
        alone = [
            draw(64, things[:n], 0, 0.4, Photographs("pool"), np.random.default_rng(seed)).mask
            for n in (1, 2)
        ]
        # Drawn before the third, the second keeps all of its ink, over the first as beside it.
        assert (alone[1][alone[1] != alone[0]] == 2).all()
        # Whatever the third, a distractor, has changed it has changed to background.
        assert (mask[mask != alone[1]] == 0).all()
        hidden += int((mask != alone[1]).sum() > 0)
    assert hidden > 3


def test_seeds_change_what_they_should_and_nothing_else():
    def hashes(study_seed, run_seed):
        data = build(study_seed, **SMALL)
        parts = [*data.split(run_seed), data.test(run_seed)]
        return [data.content_hash, *(content_hash(p.features, p.targets) for p in parts)]

    first = hashes(0, 0)
    assert hashes(0, 0) == first
    other = hashes(0, 1)
    assert (other[0], other[3]) == (first[0], first[3])
    assert other[1] != first[1]
    assert other[2] != first[2]
    assert all(a != b for a, b in zip(hashes(1, 0), first, strict=True))


def test_a_long_tail_is_one_of_training_alone_unless_told():
    options = {"train_images": 120, "validation_images": 60, "test_images": 60}
    data = build(0, **options, imbalance_factor=20)
    train, validation = data.split(0)
    counts = data.class_counts(train)[1:]
    assert counts[0] > 2 * counts[1] > 4 * counts[2]
    even = data.class_counts(validation)[1:]
    assert even.max() < 1.6 * even.min()
    everywhere = build(0, **options, imbalance_factor=20, imbalance_applies_to="all")
    assert (np.diff(everywhere.class_counts(everywhere.test(0))[1:]) < 0).all()


def test_the_record_counts_pixels():
    data = DATASETS.create("scene_masks", study_seed=0, **SMALL)
    record = data.describe(0)
    train = record["splits"]["train"]
    assert record["task"] == "segmentation"
    assert record["feature_shape"] == [3, 64, 64]
    assert (train["examples"], sum(train["class_counts"])) == (10, 10 * 64 * 64)
    assert data.class_names == ["background", "0", "3", "4"]


def test_mistakes_are_told_together():
    with pytest.raises(BadInput) as told:
        build(0, size=8, train_images=0, object_digits=[1, 1])
    assert [line.split(":")[0] for line in told.value.problems] == [
        "train_images", "object_digits", "size",
    ]  # fmt: skip
