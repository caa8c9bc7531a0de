"""The told batches that losses are drawn on: grids of margins, and batches as in training.

A loss whose elements do not see each other is drawn on a grid. One that looks at whole batches
(mining, gradient harmonising, Dice, losses with state) has no curve of its own; it has one in a
batch, so a fixed one is told here, without a random number in its margins.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logit, ndtr, stdtrit
from torch import Tensor

POSITIVE, NEGATIVE = "positive", "negative"
RARE, FREQUENT = "rare", "frequent"
ERROR, SHIFTED, STRETCHED = "error", "shifted box", "stretched box"

LIMIT = 6.0  # of the margins
ERRORS = 3.0
P_TOLD = (0.05, 0.25, 0.5, 0.75, 0.95)
BINARY_COUNTS = (19_000, 1_000)
CLASS_COUNTS = (12_000, 5_000, 2_000, 1_000)
LABEL_COUNTS = (750, 300, 125, 50, 25)


@dataclass(frozen=True)
class Batch:
    """Elements at known margins, made into predictions and targets of one link.

    `margins` (n,): x_t = (2y - 1) x under sigmoid, z_t - log sum_{j != t} exp(z_j) under softmax
    (the other logits being equal), prediction - target under identity, or what is done to a box.
    `predictions` maps them, differentiably, to what a loss takes beside `targets`; `groups` are
    the elements of each curve. `scale`: the factor from logits to the log-odds of p_t, for heads
    of cosines. `steady`: whether elements of one group and margin have the same loss, so that
    no mean has to be drawn. `places`: the flat index of each element in `targets`, where there are
    others beside them.
    """

    link: str
    margins: Tensor
    predictions: Callable[[Tensor], Tensor]
    targets: Tensor
    groups: dict[str, Tensor]
    told: str
    class_counts: tuple[int, ...] | None = None
    scale: float = 1.0
    steady: bool = True
    places: Tensor | None = None

    @property
    def limit(self) -> float:
        """The largest margin that is drawn."""
        if self.link == "identity":
            return ERRORS
        return LIMIT if self.scale == 1 else 1.0


def quantiles(
    number: int, mean: float, deviation: float, even: float, limit: float = 7.0
) -> np.ndarray:
    """(i + 1/2) / n quantiles of (1 - even) normal(mean, deviation) + even uniform(-limit, limit).

    >>> quantiles(3, 0.0, 1.0, 0.0).round(3)
    array([-0.967,  0.   ,  0.967])
    >>> quantiles(2, 0.0, 1.0, 1.0)
    array([-3.5,  3.5])
    """
    at = np.linspace(-20, 20, 40_001)
    flat = np.clip((at + limit) / (2 * limit), 0, 1)
    below = (1 - even) * ndtr((at - mean) / deviation) + even * flat
    return np.interp((np.arange(number) + 0.5) / number, below, at)


def _easy(number: int) -> np.ndarray:
    """Margins of what a trained network is mostly right on: negatives, frequent classes."""
    return quantiles(number, 4.0, 1.5, 0.05)


def _hard(number: int) -> np.ndarray:
    """Margins of those that it is less sure of: positives, rare classes."""
    return quantiles(number, 1.5, 2.0, 0.2)


EASY_TOLD = "19/20 normal(4, 1.5) + 1/20 uniform(-7, 7)"
HARD_TOLD = "4/5 normal(1.5, 2) + 1/5 uniform(-7, 7)"
_MARGINS_TOLD = f"margins at the quantiles of {EASY_TOLD} for {{}}, {HARD_TOLD} for {{}}"


def binary_grid() -> Batch:
    """Positives and negatives at margins from -6 to 6, each element on its own."""
    margins = _grid(1.0)
    both = np.concatenate([margins, margins])
    targets = np.repeat([1.0, 0.0], len(margins))
    return _binary(both, targets, "Each element on its own, at hard targets.")


def binary_batch(counts: tuple[int, int] = BINARY_COUNTS) -> Batch:
    """A batch of so many negatives and positives, as a trained network might leave it."""
    negatives, positives = counts
    margins = np.concatenate([_hard(positives), _easy(negatives)])
    targets = np.repeat([1.0, 0.0], [positives, negatives])
    number, share = positives + negatives, positives / (positives + negatives)
    told = f"In a batch of {number:,} elements, {share:.0%} positives, "
    return _binary(margins, targets, told + _MARGINS_TOLD.format("the negatives", "the positives"))


def class_grid(scale: float = 1.0) -> Batch:
    """Elements of the most frequent and of the rarest of four classes, each on its own."""
    margins = _grid(scale)
    both = np.concatenate([margins, margins])
    targets = np.repeat([len(CLASS_COUNTS) - 1, 0], len(margins))
    told = "Each element on its own; the three logits of the other classes are equal."
    return _classes(both, targets, told, scale)


def class_batch() -> Batch:
    """A batch of four classes, 60, 25, 10 and 5 % of 20,000 elements."""
    numbers = CLASS_COUNTS
    margins = np.concatenate([_easy(numbers[0]), *(_hard(number) for number in numbers[1:])])
    targets = np.repeat(np.arange(len(numbers)), numbers)
    listed = ", ".join(f"{number:,}" for number in numbers)
    told = f"In a batch of {sum(numbers):,} elements, {listed} of the four classes, "
    told += _MARGINS_TOLD.format("the first class", "the others") + "; other logits are equal"
    return _classes(margins, targets, told)


def label_grid() -> Batch:
    """One label of a row of five at a time, in rows with one true label, rare or frequent.

    For losses that treat an element by the labels of its row.
    """
    margins, columns = _grid(1.0), len(LABEL_COUNTS)
    # column that is varied, and the one that is true
    kinds = {
        f"{RARE}, {POSITIVE}": (columns - 1, columns - 1),
        f"{FREQUENT}, {POSITIVE}": (0, 0),
        f"{RARE}, {NEGATIVE}": (columns - 1, 0),
        f"{FREQUENT}, {NEGATIVE}": (0, columns - 1),
    }
    number = len(margins) * len(kinds)
    rows = torch.arange(number)
    varied, true = (
        torch.tensor(each).repeat_interleave(len(margins))
        for each in zip(*kinds.values(), strict=True)
    )
    targets = torch.zeros(number, columns, dtype=torch.float64)
    targets[rows, true] = 1
    here = varied.unsqueeze(1) == torch.arange(columns)
    signs = torch.where(varied == true, 1.0, -1.0).to(torch.float64)
    return Batch(
        "sigmoid",
        torch.from_numpy(np.tile(margins, len(kinds))),
        lambda m: torch.where(here, (signs * m).unsqueeze(1), 0.0),
        targets,
        dict(zip(kinds, rows.split(len(margins)), strict=True)),
        "Each element on its own, in rows of five labels of which one is true: the rare or the "
        "frequent label where it is positive, the frequent or the rare one where it is negative.",
        LABEL_COUNTS,
        places=rows * columns + varied,
    )


def label_batch(rows: int = 5000) -> Batch:
    """A batch (rows, 5) of labels, 5 % of them true.

    Which rows have a label is drawn once and for all; elements of one margin differ by the rest of
    their row, so that their mean is to be drawn.
    """
    columns = len(LABEL_COUNTS)
    margins, targets = np.empty((rows, columns)), np.zeros((rows, columns))
    draw = np.random.default_rng(0)
    for column, count in enumerate(LABEL_COUNTS):
        order = draw.permutation(rows)
        margins[order[:count], column] = _hard(count)
        margins[order[count:], column] = _easy(rows - count)
        targets[order[:count], column] = 1
    signs = torch.from_numpy(2 * targets - 1)
    listed = ", ".join(map(str, LABEL_COUNTS))
    told = f"In a batch of {rows:,} examples with {columns} labels, true for {listed} of them, "
    return Batch(
        "sigmoid",
        torch.from_numpy(margins.ravel()),
        lambda m: m.reshape(signs.shape) * signs,
        torch.from_numpy(targets),
        _members(targets.ravel(), {POSITIVE: 1, NEGATIVE: 0}),
        told + _MARGINS_TOLD.format("false labels", "true ones") + "; means over elements",
        LABEL_COUNTS,
        steady=False,
    )


def error_grid() -> Batch:
    """Errors from -3 to 3, each on its own; 0 itself is left out, where slopes may jump."""
    half = np.unique(np.concatenate([np.geomspace(1e-3, ERRORS, 121), np.linspace(0.05, 3, 60)]))
    return _errors(np.concatenate([-half[::-1], half]), "Each element on its own.")


def error_batch(number: int = 20_000) -> Batch:
    """A batch of errors, most of them small, as a trained network might leave them."""
    errors = 0.05 * stdtrit(2, (np.arange(number) + 0.5) / number)
    told = "0.05 times Student's t with 2 degrees of freedom"
    return _errors(errors, f"In a batch of {number:,} errors, at the quantiles of {told}.")


def boxes() -> Batch:
    """A unit box shifted sideways by up to 2, and stretched to widths from 1/4 to 4.

    The margins are the shift, and the binary logarithm of the width.
    """
    at = np.linspace(-2, 2, 161)
    moved = np.sort(np.concatenate([at[np.abs(at) > 1e-9], [-1e-6, 1e-6]]))  # the slope jumps at 0
    margins = torch.from_numpy(np.concatenate([moved, at]))
    shifts = torch.arange(len(margins)) < len(moved)

    def predictions(m: Tensor) -> Tensor:
        middle, half = torch.where(shifts, m, 0) + 0.5, torch.where(shifts, 1, 2**m) / 2
        low, high = torch.zeros_like(m), torch.ones_like(m)
        return torch.stack([middle - half, low, middle + half, high], 1)

    return Batch(
        "identity",
        margins,
        predictions,
        torch.tensor([[0.0, 0, 1, 1]], dtype=torch.float64).repeat(len(margins), 1),
        {SHIFTED: torch.nonzero(shifts)[:, 0], STRETCHED: torch.nonzero(~shifts)[:, 0]},
        "A predicted unit box moved sideways off the true one, or made wider about its centre.",
    )


def _grid(scale: float) -> np.ndarray:
    limit = LIMIT if scale == 1 else 1.0
    told = logit(np.array(P_TOLD)) / scale
    even, odds = np.linspace(-limit, limit, 121), np.linspace(-LIMIT, LIMIT, 121) / scale
    return np.unique(np.concatenate([even, odds, told]).round(12))


def _binary(margins: np.ndarray, targets: np.ndarray, told: str) -> Batch:
    signs = torch.from_numpy(2 * targets - 1)
    return Batch(
        "sigmoid",
        torch.from_numpy(margins),
        lambda m: m * signs,
        torch.from_numpy(targets),
        _members(targets, {POSITIVE: 1, NEGATIVE: 0}),
        told,
        BINARY_COUNTS,
    )


def _classes(margins: np.ndarray, targets: np.ndarray, told: str, scale: float = 1.0) -> Batch:
    others = len(CLASS_COUNTS) - 1
    own = torch.from_numpy(targets).unsqueeze(1) == torch.arange(others + 1)
    rest = -float(np.log(others)) / scale  # their logsumexp is 0
    return Batch(
        "softmax",
        torch.from_numpy(margins),
        lambda m: torch.where(own, m.unsqueeze(1), rest),
        torch.from_numpy(targets),
        _members(targets, {f"{RARE} class": others, f"{FREQUENT} class": 0}),
        told,
        CLASS_COUNTS,
        scale,
    )


def _errors(errors: np.ndarray, told: str) -> Batch:
    margins = torch.from_numpy(errors)
    everything = {ERROR: torch.arange(len(margins))}
    return Batch("identity", margins, lambda m: m, torch.zeros_like(margins), everything, told)


def _members(targets: np.ndarray, groups: dict[str, int]) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(np.flatnonzero(targets == value)) for name, value in groups.items()
    }
