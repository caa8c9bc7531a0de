import numpy as np
import pytest

from losslab.datasets.detection.scenes import build
from losslab.datasets.detection.scenes_drawing import MIN_VISIBLE, Thing, draw, visible_boxes
from losslab.datasets.detection.scenes_glyphs import CUT, Photographs
from losslab.errors import BadInput

SMALL = {"train_images": 12, "validation_images": 6, "test_images": 6, "size": 96}
FULL = {**SMALL, "objects_per_image": 4.0, "distractors_per_image": 6.0, "occlusion": 0.5}


def digests(study_seed=0, run_seed=0):
    data = build(study_seed, **FULL)
    train, validation = data.split(run_seed)
    return [data.content_hash, *(s.digest() for s in (train, validation, data.test(run_seed)))]


def test_seeds_change_what_they_should_and_nothing_else():
    first = digests()
    assert digests() == first
    other = digests(run_seed=1)
    assert [other[0], other[3]] == [first[0], first[3]]
    assert other[1] != first[1]
    assert other[2] != first[2]
    assert all(a != b for a, b in zip(digests(study_seed=1), first, strict=True))


def test_splits_keep_the_contract():
    data = build(3, **FULL)
    splits = [*data.split(0), data.test(0)]
    ids = np.concatenate([split.ids for split in splits])
    assert len(np.unique(ids)) == len(ids) == 24
    for split in splits:
        assert split.images.dtype == split.masks.dtype == np.uint8
        assert split.images.shape == (len(split), 3, 96, 96)
        boxes = split.annotations.boxes
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert boxes.min() >= 0
        assert boxes.max() <= 96
        np.testing.assert_allclose(
            split.annotations.areas, np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * 16
        )


def test_boxes_are_tight_around_what_the_mask_shows():
    # Where a class stands once in an image, its pixels of the mask are those of that object.
    checked = 0
    for split in build(1, **FULL).split(0):
        for i in range(len(split)):
            boxes, labels, _ = split.annotations.of(i)
            assert set(np.unique(split.masks[i])) == {0, *(labels + 1)}
            for label in np.flatnonzero(np.bincount(labels, minlength=5) == 1):
                pixels = [
                    (x, y)
                    for y in range(96)
                    for x in range(96)
                    if split.masks[i][y, x] == label + 1
                ]
                xs, ys = zip(*pixels, strict=True)
                wanted = [min(xs), min(ys), max(xs) + 1, max(ys) + 1]
                assert boxes[labels == label][0].tolist() == wanted
                checked += 1
    assert checked > 10


def test_covered_objects_show_most_of_their_ink():
    # The same draw without anything over it tells how much ink there was.
    random = np.random.default_rng(0)
    ring = np.zeros((8, 8), np.float32)
    ring[1:7, 1:7] = 1
    ring[3:5, 3:5] = 0
    photographs = Photographs("pool")
    shares = []
    for seed in range(60):
        side = float(random.uniform(10, 60))
        ink = [
            (draw(96, [Thing(ring, side, 0, is_covered=covered)], 0, 0.3, photographs,
                  np.random.default_rng(seed)).mask == 1).sum()
            for covered in (False, True)
        ]  # fmt: skip
        shares.append(ink[1] / ink[0])
    assert min(shares) >= MIN_VISIBLE > CUT[1]
    assert np.mean(np.array(shares) < 0.95) > 0.9  # and the cover does cover something


def test_visible_boxes_of_a_drawing():
    seen = np.zeros((9, 9), dtype=np.int16)
    seen[2:4, 5:9] = 1
    seen[3:8, 6] = 2
    assert visible_boxes(seen, 2).tolist() == [[5, 2, 9, 4], [6, 3, 7, 8]]


def test_no_glyph_is_in_two_splits():
    data = build(5, **SMALL)
    for run_seed in (0, 1):
        parts = [data._glyphs_of(part, run_seed) for part in ("train", "validation", "test")]
        together = np.concatenate(parts)
        assert len(np.unique(together)) == len(together) == 1797
    distinct = np.unique(data._glyphs.reshape(1797, -1), axis=0)
    assert len(distinct) == 1797  # so that other glyphs are other images


def test_backgrounds_of_test_scenes_are_of_other_photographs():
    from sklearn.datasets import load_sample_images

    left, right = Photographs("pool")._images, Photographs("test")._images
    for image, a, b in zip(load_sample_images().images, left, right, strict=True):
        assert (np.concatenate([np.asarray(a), np.asarray(b)], axis=1) == image).all()


def test_the_long_tail_is_in_training_alone_unless_it_is_asked_for():
    options = {**SMALL, "train_images": 100, "validation_images": 60, "objects_per_image": 6.0,
               "smallest": 8.0, "largest": 16.0, "imbalance_factor": 16.0}  # fmt: skip
    data = build(0, **options)
    train, validation = data.split(0)
    counts = data.class_counts(train)
    shares = 16.0 ** (-np.arange(3) / 2)
    np.testing.assert_allclose(counts, shares / shares.sum() * counts.sum(), atol=1.5)
    assert np.ptp(data.class_counts(validation)) <= 1
    data = build(0, imbalance_applies_to="all", **options)
    assert data.class_counts(data.split(0)[1])[0] > 10 * data.class_counts(data.split(0)[1])[2]


def test_numbers_of_objects_and_their_sizes_follow_the_options():
    data = build(0, train_images=300, validation_images=1, test_images=1, objects_per_image=1.0,
                 smallest=10, largest=40, occlusion=0, distractors_per_image=0)  # fmt: skip
    train, _ = data.split(0)
    assert train.annotations.counts.mean() == pytest.approx(1.0, abs=4 * np.sqrt(1 / 300))
    assert (train.annotations.counts == 0).mean() == pytest.approx(np.exp(-1), abs=0.12)
    boxes = train.annotations.boxes
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    # A side is stretched by up to 1.18 and turned by up to 12 degrees; ink at the edge is faint.
    assert sides.min() > 10 * 0.5
    assert sides.max() < 40 * 1.18 * 1.3
    assert np.median(sides) == pytest.approx(20, rel=0.2)


def test_record():
    data = build(0, **FULL)
    record = data.describe()
    train = record["splits"]["train"]
    assert sum(train["class_counts"]) == train["objects"] > 0
    assert record["image_shape"] == [3, 96, 96]
    assert record["class_names"] == ["0", "3", "4"]
    assert sum(train["object_sizes"]["octaves"].values()) == train["objects"]


def test_mistakes_are_told_at_once():
    with pytest.raises(BadInput) as error:
        build(0, train_images=0, object_digits=[1, 1], smallest=30, largest=20, occlusion=2,
              imbalance_factor=0.5, imbalance_applies_to="test")  # fmt: skip
    assert [problem.split(":")[0] for problem in error.value.problems] == [
        "train_images", "object_digits", "largest", "occlusion", "imbalance_factor",
        "imbalance_applies_to",
    ]  # fmt: skip
