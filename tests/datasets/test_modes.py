"""The mixture of modes against its formula."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import chi2, kstest

from losslab.datasets.modes import build
from losslab.errors import BadInput


def test_frequencies_are_the_long_tail_in_every_split():
    data = build(0, modes=3, imbalance_ratio=25, examples=3100, validation_examples=310,
                 test_examples=620)  # fmt: skip
    train, validation = data.split(0)
    # weights 1, 1/5, 1/25 add up to 31/25
    counts = [data.class_counts(split).tolist() for split in (train, validation, data.test(0))]
    assert counts == [[2500, 500, 100], [250, 50, 10], [500, 100, 20]]


@pytest.mark.parametrize(("modes", "layout"), [(8, "ring"), (2, "ring"), (25, "grid")])
def test_neighbours_lie_one_apart_around_zero(modes, layout):
    centres = build(1, modes=modes, layout=layout).centres
    assert pdist(centres).min() == pytest.approx(1)
    assert centres.mean(axis=0) == pytest.approx([0, 0])
    assert len(np.unique(centres.round(9), axis=0)) == modes


def test_samples_are_gaussian_around_their_centres():
    data = build(0, modes=4, spread=0.1, imbalance_ratio=1, examples=4000)
    train, _ = data.split(0)
    away = (train.features - data.centres[train.targets]) / 0.1
    assert kstest(away.ravel(), "norm").pvalue > 0.01
    # within three spreads in the plane: 1 - exp(-9/2)
    assert chi2.cdf(9, 2) == pytest.approx(1 - np.exp(-4.5))
    near = (np.linalg.norm(away, axis=1) <= 3).mean()
    assert near == pytest.approx(1 - np.exp(-4.5), abs=0.005)


def test_splits_are_disjoint_seeded_and_the_test_split_is_fixed():
    data, again = build(3, examples=400), build(3, examples=400)
    train, validation = data.split(5)
    assert not set(train.ids) & set(validation.ids)
    assert not {*train.ids, *validation.ids} & set(data.test(5).ids)
    assert train.digest() == again.split(5)[0].digest() != data.split(6)[0].digest()
    assert data.test(5).digest() == data.test(6).digest()
    assert data.content_hash == again.content_hash != build(4, examples=400).content_hash


def test_rare_modes_are_no_neighbours_by_rule():
    places = {tuple(np.argmax(build(seed, examples=400).centres, axis=0)) for seed in range(6)}
    assert len(places) > 1


def test_every_mistake_is_told_at_once():
    with pytest.raises(BadInput) as error:
        build(0, modes=8, layout="grid", spread=0.3, imbalance_ratio=0.5, examples=0)
    told = str(error.value)
    for part in ("modes: must be a square number on a grid, such as 9, got 8",
                 "spread: must be above 0 and at most 1/6, got 0.3",
                 "imbalance_ratio: must be at least 1", "examples: must be between 1"):  # fmt: skip
        assert part in told
    with pytest.raises(BadInput, match="imbalance_ratio: class 7 would have 0 rows"):
        build(0, imbalance_ratio=10_000)
    with pytest.raises(BadInput, match=r"examples: must be at least 2 per mode \(16\), got 9"):
        build(0, examples=9)
