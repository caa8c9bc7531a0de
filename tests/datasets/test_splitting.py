import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losslab.datasets.options import OptionChecks
from losslab.datasets.splitting import (
    check_reachable,
    duplicate_groups,
    largest_factor_of_total,
    long_tail_counts,
    long_tail_counts_of_total,
    stratified_split,
)
from losslab.errors import BadInput


def test_long_tail_counts_are_those_of_cifar_10_lt():
    # Cui et al. 2019: CIFAR-10 with 5,000 rows a class and factor 100 ends at 50 rows.
    expected = [int(5000 * 100 ** (-i / 9)) for i in range(9)] + [50]
    assert long_tail_counts(5000, 100, 10).tolist() == expected
    assert long_tail_counts(7, 1, 4).tolist() == [7, 7, 7, 7]
    assert long_tail_counts(1000, 10, 4).tolist() == [1000, 464, 215, 100]


@given(st.integers(2, 30), st.integers(1, 400), st.floats(1, 500))
@settings(max_examples=60, deadline=None)
def test_sizes_of_a_total_keep_total_and_ratio(classes, per_class, factor):
    total = classes * per_class
    sizes = long_tail_counts_of_total(total, factor, classes)
    assert total - classes < sizes.sum() <= total
    assert (np.diff(sizes) <= 0).all()
    assert sizes[0] / (sizes[-1] + 1) <= factor + 1e-6  # truncation moves a size by less than 1


@given(st.integers(2, 20), st.integers(2, 200))
@settings(max_examples=40, deadline=None)
def test_the_largest_factor_that_is_told_can_be_reached_and_no_larger_one(classes, per_class):
    total = classes * per_class
    largest = largest_factor_of_total(total, classes)
    assert long_tail_counts_of_total(total, largest, classes).min() >= 1
    if largest < total - 1:
        assert long_tail_counts_of_total(total, largest * 1.001, classes).min() == 0
    problem = check_reachable("x", np.array([3, 0]), largest)
    told = float(problem.rsplit(" ", 1)[1])
    assert told <= largest
    assert check_reachable("x", np.array([3, 1]), largest) is None


def test_duplicate_groups_join_equal_rows_only():
    rows = np.array([[0, 1], [0, 2], [0, 1], [1, 0], [0, 2]])
    groups = duplicate_groups(rows)
    same = (rows[:, None] == rows[None]).all(axis=2)
    assert ((groups[:, None] == groups[None]) == same).all()


@st.composite
def labelled_groups(draw):
    classes = draw(st.integers(2, 4))
    sizes = draw(st.lists(st.integers(1, 12), min_size=classes * 8, max_size=60))
    owner = [draw(st.integers(0, classes - 1)) for _ in sizes]
    owner[: classes * 4] = list(range(classes)) * 4
    targets = np.repeat(owner, sizes)
    if draw(st.booleans()):  # a row whose label contradicts its duplicates
        targets[0] = (targets[0] + 1) % classes
    groups = np.repeat(np.arange(len(sizes)), sizes)
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(targets))
    return targets[order], groups[order]


@given(labelled_groups(), st.floats(0.1, 0.6), st.integers(0, 1000))
@settings(max_examples=120, deadline=None)
def test_split_keeps_groups_whole_and_every_class_on_both_sides(table, fraction, seed):
    targets, groups = table
    mask = stratified_split(targets, groups, fraction, np.random.default_rng(seed))
    for group in np.unique(groups):
        assert len(set(mask[groups == group])) == 1
    for c in np.unique(targets):
        assert 0 < mask[targets == c].sum() < (targets == c).sum()
        # Off by at most the largest group: greedy filling never overshoots by more.
        asked = fraction * (targets == c).sum()
        assert abs(mask[targets == c].sum() - asked) <= 12 + 1
    again = stratified_split(targets, groups, fraction, np.random.default_rng(seed))
    assert (mask == again).all()


@given(st.lists(st.integers(0, 3), min_size=40, max_size=200), st.floats(0.1, 0.6))
@settings(max_examples=60, deadline=None)
def test_without_duplicates_every_class_gives_its_exact_share(labels, fraction):
    targets = np.array([0, 1, 2, 3] * 4 + labels)
    mask = stratified_split(targets, np.arange(len(targets)), fraction, np.random.default_rng(0))
    for c in range(4):
        rows = (targets == c).sum()
        assert mask[targets == c].sum() == np.clip(np.floor(rows * fraction + 0.5), 1, rows - 1)


def test_a_group_of_a_third_of_the_rows_leaves_the_shares_as_asked():
    targets = np.array([0] * 1000 + [1] * 30)
    groups = np.concatenate([np.zeros(330, int), np.arange(1, 701)])
    for seed in range(10):
        mask = stratified_split(targets, groups, 0.2, np.random.default_rng(seed))
        assert not mask[:330].any()
        assert mask[targets == 0].sum() == 200
        assert mask[targets == 1].sum() == 6


def test_groups_that_fit_are_held_out_as_often_as_the_fraction_says():
    targets = np.array([0] * 400 + [1] * 40)
    groups = np.concatenate([np.zeros(20, int), np.arange(1, 421)])
    held = [
        stratified_split(targets, groups, 0.25, np.random.default_rng(seed))[0]
        for seed in range(400)
    ]
    assert 0.25 - 0.065 < np.mean(held) < 0.25 + 0.065  # three standard errors


def test_too_few_distinct_rows_are_named():
    targets = np.array([0] * 10 + [1] * 5)
    groups = np.array([*range(10), 10, 10, 10, 10, 10])
    with pytest.raises(BadInput, match=r"class 'rare' has 5 rows, 1 of them distinct.*at least 3"):
        stratified_split(targets, groups, 0.3, np.random.default_rng(0), (2, 1), ["common", "rare"])


def test_rows_with_conflicting_labels_count_for_their_most_frequent_class():
    targets = np.array([0, 0, 2, 0, 1, 1, 1, 2])
    groups = np.array([0, 0, 0, 1, 2, 3, 3, 3])
    with pytest.raises(BadInput, match="class '2' has 2 rows, 0 of them distinct"):
        stratified_split(targets, groups, 0.5, np.random.default_rng(0))
    targets[targets == 2] = 1
    mask = stratified_split(targets, groups, 0.5, np.random.default_rng(0))
    assert mask[0] != mask[3]
    assert mask[4] != mask[5]


def test_option_checks_tell_all_mistakes_and_the_nearest_choice():
    checks = OptionChecks()
    assert checks.number("good", 1.5, 0, 2)
    checks.number("nan", float("nan"))
    checks.integer("bool", True, 0)
    checks.fraction("share", 1.0)
    checks.choice("mode", "long_tial", ["long_tail", "none"])
    checks.flag("flag", 1)
    with pytest.raises(BadInput) as caught:
        checks.done()
    names = [problem.split(":")[0] for problem in caught.value.problems]
    assert names == ["nan", "bool", "share", "mode", "flag"]
    assert "did you mean 'long_tail'?" in str(caught.value)
