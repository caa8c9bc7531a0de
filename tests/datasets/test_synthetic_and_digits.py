import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from losslab.datasets import DATASETS
from losslab.datasets.base import IGNORE
from losslab.errors import BadInput

SMALL = {
    "clusters": {"examples": 300, "validation_examples": 100, "test_examples": 100,
                 "imbalance_ratio": 10.0, "label_noise": 0.1, "classes": 3},
    "anchors": {"train_images": 8, "validation_images": 4, "test_images": 4, "anchors": 1024,
                "background_per_foreground": 50.0, "dimensions": 4},
    "digits": {},
}  # fmt: skip


def digests(name, study_seed=0, run_seed=0):
    data = DATASETS.create(name, study_seed=study_seed, **SMALL[name])
    train, validation = data.split(run_seed)
    return [data.content_hash, *(s.digest() for s in (train, validation, data.test(run_seed)))]


@pytest.mark.parametrize("name", SMALL)
def test_seeds_change_what_they_should_and_nothing_else(name):
    first = digests(name)
    assert digests(name) == first
    other_run = digests(name, run_seed=1)
    assert other_run[0] == first[0]  # content
    assert other_run[3] == first[3]  # test
    assert other_run[1] != first[1]
    assert other_run[2] != first[2]
    assert all(a != b for a, b in zip(digests(name, study_seed=1), first, strict=True))


def test_digests_are_the_same_in_another_process():
    code = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('t', sys.argv[1]);"
        "t = u.module_from_spec(s); s.loader.exec_module(t);"
        "print([t.digests(name) for name in t.SMALL])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, __file__], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str([digests(name) for name in SMALL])


@pytest.mark.parametrize("name", SMALL)
@given(run_seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_splits_share_no_example_and_keep_the_contract(name, run_seed):
    data = DATASETS.create(name, study_seed=3, **SMALL[name])
    splits = [*data.split(run_seed), data.test(run_seed)]
    ids = np.concatenate([split.ids for split in splits])
    assert len(np.unique(ids)) == len(ids)
    for split in splits:
        assert split.features.dtype == np.float32
        assert split.targets.dtype == split.ids.dtype == np.int64
        assert len(split.features) == len(split.targets) == len(split.ids)
        assert (data.class_counts(split) > 0).all()
    rows = [part.features.reshape(len(part), -1) for part in splits]
    distinct = [{row.tobytes() for row in part} for part in rows]
    assert not distinct[0] & distinct[1]
    assert not (distinct[0] | distinct[1]) & distinct[2]


def test_clusters_have_the_stated_sizes():
    build = DATASETS.get("clusters")
    data = build(0, classes=3, examples=1110, imbalance_ratio=100)
    train, validation = data.split(0)
    assert data.class_counts(train).tolist() == [1000, 100, 10]
    assert data.class_counts(validation).tolist() == [666, 666, 666]
    data = build(0, classes=2, examples=1100, validation_examples=110, imbalance_ratio=10,
                 imbalance_applies_to="all", test_examples=220)  # fmt: skip
    assert data.class_counts(data.split(0)[1]).tolist() == [100, 10]
    assert data.class_counts(data.test(0)).tolist() == [200, 20]


@pytest.mark.parametrize("overlap", [0.05, 0.3, 0.8])
def test_overlap_is_twice_the_error_of_the_best_classifier(overlap):
    # Two clusters of equal size: the best rule splits the line between the centres in the middle.
    data = DATASETS.create("clusters", study_seed=1, clusters_per_class=1, overlap=overlap,
                           imbalance_ratio=1, test_examples=40_000, dimensions=5)  # fmt: skip
    test = data.test(0)
    centres = np.stack([test.features[test.targets == c].mean(axis=0) for c in (0, 1)])
    distance = np.linalg.norm(centres[0] - centres[1])
    assert distance == pytest.approx(-2 * norm.ppf(overlap / 2), abs=0.05)
    nearest = ((test.features[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(nearest != test.targets) == pytest.approx(overlap / 2, abs=0.01)
    assert test.features[test.targets == 0].std(axis=0) == pytest.approx(np.ones(5), abs=0.03)


def test_no_clusters_of_different_classes_are_closer_than_stated():
    from losslab.datasets.clusters import _centres

    centres = _centres(0, {"classes": 4, "clusters_per_class": 3, "dimensions": 2, "overlap": 0.1})
    gaps = [np.linalg.norm(a - b) for i in range(4) for j in range(i)
            for a in centres[i] for b in centres[j]]  # fmt: skip
    assert min(gaps) == pytest.approx(-2 * norm.ppf(0.05))


def test_label_noise_touches_training_alone():
    options = {"classes": 3, "examples": 6000, "imbalance_ratio": 1, "validation_examples": 3000}
    clean = DATASETS.create("clusters", study_seed=0, **options)
    noisy = DATASETS.create("clusters", study_seed=0, label_noise=0.3, **options)
    (train, validation), (noisy_train, noisy_validation) = clean.split(5), noisy.split(5)
    assert (train.features == noisy_train.features).all()
    assert (validation.targets == noisy_validation.targets).all()
    assert (clean.test(0).targets == noisy.test(0).targets).all()
    flipped = train.targets != noisy_train.targets
    assert flipped.mean() == pytest.approx(0.3, abs=0.02)
    moves = np.bincount((noisy_train.targets - train.targets)[flipped] % 3, minlength=3)
    assert moves[1] / moves.sum() == pytest.approx(0.5, abs=0.04)


def test_anchors_are_as_rare_and_as_hard_as_documented():
    data = DATASETS.create("anchors", study_seed=0)
    train, validation = data.split(0)
    test = data.test(0)
    counts = [data.class_counts(split) for split in (train, validation, test)]
    pool = counts[0] + counts[1]
    for total in (pool, counts[2]):
        assert total[0] / total[1] == pytest.approx(1000, rel=0.005)
    assert counts[0][1] >= 200
    assert min(counts[1][1], counts[2][1]) >= 100
    assert counts[0].sum() > 250_000
    per_image = (train.targets == 1).sum(axis=1)
    assert (per_image == 0).any()
    assert per_image.max() >= 10
    ignored = np.concatenate([s.targets.ravel() for s in (train, validation)]) == IGNORE
    assert ignored.mean() == pytest.approx(0.002, rel=0.01)
    assert data.prior(train).sum() == pytest.approx(1)


def test_hard_background_is_near_objects_and_ignored_anchors_lie_between():
    data = DATASETS.create("anchors", study_seed=2, hard_fraction=0.5, hard_distance=6.0,
                           easy_distance=20.0, image_shift=0.0, background_per_foreground=3.0,
                           ignore_fraction=0.3, dimensions=8)  # fmt: skip
    from losslab.datasets.anchors import _centres

    centres = _centres(2, data.options)
    train, _ = data.split(0)
    features, targets = train.features.reshape(-1, 8), train.targets.ravel()

    def gap(rows, kind):
        return np.linalg.norm(rows[:, None] - centres[kind], axis=2).min(axis=1)

    noise = np.sqrt(8)  # how far an example lies from its own centre
    assert gap(features[targets == 1], "objects").mean() == pytest.approx(noise, abs=0.3)
    background = features[targets == 0]
    own = np.stack([gap(background, kind) for kind in ("objects", "hard", "easy")])
    assert (own.argmin(axis=0) == 1).mean() == pytest.approx(0.5, abs=0.05)
    assert (own.argmin(axis=0) == 2).mean() == pytest.approx(0.5, abs=0.05)
    # Along the line from its hard centre to its object, an ignored anchor is 0.4 to 0.5 of the way.
    band = features[targets == IGNORE]
    line = centres["objects"] - centres["hard"]
    component = np.linalg.norm(
        band[:, None] - 0.45 * centres["objects"] - 0.55 * centres["hard"], axis=2
    ).argmin(axis=1)
    share = ((band - centres["hard"][component]) * line[component]).sum(axis=1) / 36
    assert share.mean() == pytest.approx(0.45, abs=0.03)


def test_digits_long_tail_is_exact_and_test_is_natural():
    data = DATASETS.create("digits", study_seed=0, imbalance_factor=10)
    train, validation = data.split(4)
    largest = data.class_counts(train)[0]
    expected = [int(largest * 10 ** (-i / 9) + 1e-9) for i in range(10)]
    assert data.class_counts(train).tolist() == expected
    assert len(data.test(4)) == pytest.approx(0.25 * 1797, abs=5)
    assert len(validation) == pytest.approx(0.2 * 1797, abs=5)
    for split in (validation, data.test(4)):
        counts = data.class_counts(split)
        assert counts.max() - counts.min() <= 3


def test_digits_rare_class_images_and_all():
    data = DATASETS.create("digits", study_seed=0, imbalance="rare_class", rare_class=3,
                           imbalance_factor=20, as_images=True)  # fmt: skip
    train, _ = data.split(0)
    counts = data.class_counts(train)
    assert counts[3] == counts[0] // 20
    assert len(set(np.delete(counts, 3))) == 1
    assert train.features.shape[1:] == (1, 8, 8)
    assert train.features.min() == 0
    assert train.features.max() == 1
    flat = DATASETS.create("digits", study_seed=0, imbalance="rare_class", rare_class=3,
                           imbalance_factor=20).split(0)[0]  # fmt: skip
    assert (flat.features == train.features.reshape(-1, 64)).all()
    everywhere = DATASETS.create("digits", study_seed=0, imbalance_applies_to="all",
                                 imbalance_factor=10)  # fmt: skip
    counts = everywhere.class_counts(everywhere.test(0))
    assert counts[0] > 7 * counts[9] > 0
    assert len(DATASETS.create("digits", study_seed=0, imbalance="none").split(0)[0]) > 900


def test_digits_rows_are_those_of_their_ids():
    from sklearn.datasets import load_digits

    source = load_digits()
    test = DATASETS.create("digits", study_seed=5).test(0)
    assert (test.targets == source.target[test.ids]).all()
    assert (test.features == (source.data[test.ids] / 16).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("clusters", {"imbalance_ratio": 0, "overlap": 2, "classes": 1},
         ["classes: must be between 2", "imbalance_ratio: must be at least 1, got 0",
          "overlap: must be between"]),
        ("clusters", {"examples": 100, "imbalance_ratio": 1000},
         ["imbalance_ratio: class 1 would have 0 rows; the largest reachable here is 99"]),
        ("clusters", {"classes": 10, "examples": 10}, ["examples: must be at least 2 per class"]),
        ("anchors", {"background_per_foreground": 1e6, "hard_fraction": 2},
         ["hard_fraction: must be between", "background_per_foreground: 1e+06 leaves train_images",
          "background_per_foreground", "background_per_foreground"]),
        ("anchors", {"validation_images": 65}, ["validation_images: must be at most train_images"]),
        ("digits", {"imbalance_factor": 0, "imbalance": "longtail", "as_images": "yes"},
         ["imbalance: must be one of", "imbalance_factor: must be at least 1, got 0",
          "as_images: must be true or false"]),
        ("digits", {"imbalance_factor": 500},
         ["imbalance_factor: classes 7, 8, 9 would have 0 rows"]),
        ("digits", {"imbalance_factor": 100, "imbalance_applies_to": "all"},
         ["imbalance_factor: classes 8, 9 would have fewer than 3 rows"]),
        ("digits", {"test_fraction": 0.6, "validation_fraction": 0.4},
         ["validation_fraction: with test_fraction"]),
    ],
)  # fmt: skip
def test_every_mistake_is_told_under_its_option(name, options, expected):
    with pytest.raises(BadInput) as caught:
        DATASETS.create(name, study_seed=0, **options)
    problems = caught.value.problems
    assert len(problems) == len(expected), problems
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(start), problem


def test_the_largest_reachable_factor_is_reachable():
    build = DATASETS.get("digits")
    with pytest.raises(BadInput) as caught:
        build(0, imbalance_factor=5000)
    assert build(0, imbalance_factor=float(str(caught.value).rsplit(" ", 1)[1]))


@pytest.mark.parametrize("name", SMALL)
def test_the_record_states_every_split(name):
    data = DATASETS.create(name, study_seed=0, **SMALL[name])
    record = data.describe()
    assert set(record["splits"]) == {"train", "validation", "test"}
    assert record["splits"]["train"]["class_counts"] == (
        data.class_counts(data.split(0)[0]).tolist()
    )
    assert set(SMALL[name]) <= set(record["options"])
