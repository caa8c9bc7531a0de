"""Stratified splits that keep duplicates together, and long-tailed class sizes."""

import numpy as np

from losslab.errors import BadInput


def long_tail_counts(largest: int, factor: float, classes: int) -> np.ndarray:
    """Class sizes of a long tail: n_i = trunc(largest · factor^(-i/(classes-1))), int64.

    Cui et al. 2019, section 5.1. `factor` >= 1 is the ratio of largest to smallest class,
    `classes` >= 2. A size can come out as 0; see `check_reachable`.

    >>> long_tail_counts(5000, 100, 10).tolist()
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    exponent = -np.arange(classes) / (classes - 1)
    # 1e-9: 100 · 10^-1 is 9.999..., which would be truncated to one fewer than the formula says.
    return np.floor(largest * float(factor) ** exponent + 1e-9).astype(np.int64)


def long_tail_counts_of_total(total: int, factor: float, classes: int) -> np.ndarray:
    """Long-tailed class sizes that sum to about `total` (at most; truncation loses < `classes`).

    >>> long_tail_counts_of_total(1100, 10, 2).tolist()
    [1000, 100]
    """
    weights = float(factor) ** (-np.arange(classes) / (classes - 1))
    return np.floor(total * weights / weights.sum() + 1e-9).astype(np.int64)


def check_reachable(
    option: str, counts: np.ndarray, largest_factor: float, needed: int = 1
) -> str | None:
    """The mistake to report where a class would have fewer rows than `needed`, or None.

    >>> check_reachable("imbalance_factor", np.array([90, 0]), 90)
    'imbalance_factor: class 1 would have 0 rows; the largest reachable here is 90'
    """
    if counts.min() >= needed:
        return None
    short = np.flatnonzero(counts < needed).tolist()
    named = f"class {short[0]}" if len(short) == 1 else f"classes {', '.join(map(str, short))}"
    # Rounded down, since the number that is told must itself be reachable.
    shown = f"{np.floor(largest_factor * 100) / 100:g}"
    rows = "0 rows" if needed == 1 else f"fewer than {needed} rows, one for each split"
    return f"{option}: {named} would have {rows}; the largest reachable here is {shown}"


def largest_factor_of_total(total: int, classes: int) -> float:
    """The largest factor for which `long_tail_counts_of_total` leaves no class empty.

    Found by bisection, since the smallest class falls monotonically with the factor.
    """
    low, high = 1.0, float(max(total, 2))
    if long_tail_counts_of_total(total, low, classes).min() < 1:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        reachable = long_tail_counts_of_total(total, middle, classes).min() >= 1
        low, high = (middle, high) if reachable else (low, middle)
    return low


def duplicate_groups(rows: np.ndarray) -> np.ndarray:
    """Group index (int64) of every row; identical rows, and only they, share one.

    `rows` is (n, d) numbers, or (n,) row hashes.

    >>> duplicate_groups(np.array([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]])).tolist()
    [1, 0, 1]
    """
    _, inverse = np.unique(rows, axis=0, return_inverse=True)
    return inverse.reshape(-1).astype(np.int64)


def stratified_split(
    targets: np.ndarray,
    groups: np.ndarray,
    fraction: float,
    generator: np.random.Generator,
    minimum: tuple[int, int] = (1, 1),
    names: list[str] | None = None,
) -> np.ndarray:
    """Which rows are held out (bool mask): `fraction` of every class, groups kept whole.

    Groups of several rows are placed first, the largest first, in random order among equals: a
    group goes to a random side with probability proportional to the room left for its rows, among
    the sides where it fits; one that fits nowhere goes where most of it fits. Single rows then
    fill the exact counts, n_c · fraction rounded to the nearest. So a class's share is exact
    unless groups prevent it, and a group larger than the held-out side always stays in the other.

    `targets` (n,) class indices, `groups` (n,) group indices from 0 without gaps, `fraction` in
    (0, 1). Every class has at least `minimum` distinct groups on the (remaining, held-out) side,
    where a group with conflicting labels counts for its most frequent class; `BadInput` names the
    classes (`names`) where that is impossible.
    """
    classes = int(targets.max()) + 1
    owners = _majority(targets, groups)
    _check_enough_groups(targets, owners, sum(minimum), names or [str(c) for c in range(classes)])
    counts = np.bincount(targets, minlength=classes)
    held = np.floor(counts * fraction + 0.5)
    present = counts > 0
    held = np.where(present, np.clip(held, minimum[1], np.maximum(counts - minimum[0], 1)), 0)
    room = np.stack([counts - held, held])  # rows still to be placed, per side and class

    sizes = np.bincount(groups)
    mask = np.zeros(len(targets), dtype=bool)
    for rows in _large_groups(groups, sizes, generator):
        members = np.bincount(targets[rows], minlength=classes)
        side = _choose_side(room, members, generator.random())
        room[side] -= members
        mask[rows] = side == 1

    single = sizes[groups] == 1
    for c in np.flatnonzero(present):
        rows = np.flatnonzero(single & (targets == c))
        take = int(np.clip(room[1, c], 0, len(rows)))
        mask[generator.permutation(rows)[:take]] = True
    _repair(mask, groups, owners, minimum, generator)
    return mask


def _large_groups(groups, sizes, generator):
    """Row indices of each group with several rows: the largest first, shuffled among equals."""
    order = np.argsort(groups, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    large = np.flatnonzero(sizes > 1)
    large = generator.permutation(large)
    large = large[np.argsort(-sizes[large], kind="stable")]
    return [order[starts[g] : starts[g] + sizes[g]] for g in large]


def _choose_side(room: np.ndarray, members: np.ndarray, draw: float) -> int:
    own = members > 0
    left = np.maximum(room[:, own], 0)
    fits = (left >= members[own]).all(axis=1)
    if not fits.any():
        overflow = np.maximum(members[own] - left, 0).sum(axis=1)
        return int(np.argmin(overflow))
    weight = np.where(fits, left.sum(axis=1), 0.0)
    return int(draw * weight.sum() >= weight[0])


def _majority(targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The most frequent class of each group (the lower one on ties)."""
    order = np.lexsort([targets, groups])
    pairs, counts = np.unique(np.stack([groups[order], targets[order]]), axis=1, return_counts=True)
    best = np.lexsort([pairs[1], -counts, pairs[0]])
    _, first = np.unique(pairs[0][best], return_index=True)
    return pairs[1][best][first]


def _check_enough_groups(
    targets: np.ndarray, owners: np.ndarray, needed: int, names: list[str]
) -> None:
    rows = np.bincount(targets, minlength=len(names))
    distinct = np.bincount(owners, minlength=len(names))
    problems = [
        f"target: class {names[c]!r} has {rows[c]} {'row' if rows[c] == 1 else 'rows'}, "
        f"{distinct[c]} of them distinct, but the splits need at least {needed} distinct ones"
        for c in np.flatnonzero((distinct < needed) & (rows > 0))
    ]
    if problems:
        raise BadInput(problems)


def _repair(
    mask: np.ndarray,
    groups: np.ndarray,
    owners: np.ndarray,
    minimum: tuple[int, int],
    generator: np.random.Generator,
) -> None:
    """Move whole groups, smallest first, until each class has its minimum on both sides.

    It always can: every group counts for one class alone, and every class has enough of them.
    """
    sizes = np.bincount(groups)
    held = np.zeros(len(sizes), dtype=bool)
    held[groups] = mask
    for c in np.unique(owners):
        for side in (0, 1):
            own = owners == c
            lacking = minimum[side] - int((own & (held == bool(side))).sum())
            if lacking > 0:
                others = generator.permutation(np.flatnonzero(own & (held != bool(side))))
                others = others[np.argsort(sizes[others], kind="stable")]
                held[others[:lacking]] = bool(side)
    mask[:] = held[groups]
