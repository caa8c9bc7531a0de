"""How sure a result is over seeds *and* over test examples, from per-example outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import stats

from losslab.analysis.statistics.samples import NAN, check_confidence
from losslab.errors import BadInput
from losslab.randomness import generator

Metric = Callable[[np.ndarray, np.ndarray], float]  # metric(targets, outputs)
_FEW = 10  # resamples that gave a value; no variance comes from fewer


@dataclass(frozen=True)
class SeedsAndExamples:
    """A mean over run seeds with two intervals.

    `seeds_low, seeds_high`: conditional on the test set (Student's t over seeds). `low, high`: for
    new seeds and a new test set of the same size. `seed_error` and `example_error` are the standard
    errors that each brings in, `degrees` the degrees of freedom behind `low, high`. `undefined`
    resamples had no value (a class without examples, say) and were left out.
    """

    mean: float
    seeds_low: float
    seeds_high: float
    low: float
    high: float
    seed_error: float
    example_error: float
    degrees: float
    seeds: int
    examples: int
    undefined: int
    reason: str


def seeds_and_examples_interval(
    targets: np.ndarray,
    outputs: np.ndarray,
    metric: Metric,
    baseline: np.ndarray | None = None,
    *,
    strata: np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = 400,
    seed: int = 0,
) -> SeedsAndExamples:
    """Mean metric over seeds, or mean paired difference, with the test set's chance counted too.

    `targets` has shape (N, ...), `outputs` (S, N, ...): the outputs of S seeds on the same N test
    examples; with `baseline`, of the same shape and seeds, the difference to it is estimated.
    `metric(targets, outputs)` takes one seed's arrays and gives NaN where it is undefined
    (scikit-learn's average precision gives 0 without positives: wrap it, or give strata). Seeds
    and examples are crossed random effects, so for the values M_s and their mean over S seeds
    (Brennan 2001, ch. 3)

        V = s²/S + V_examples − s²_interaction/S,

    s² the variance over seeds, V_examples the bootstrap variance of the mean over resampled
    examples (the same for all seeds and both arms), and s²_interaction that of M_s − mean, which
    the first two both contain. V is at least each of the first two. The interval is
    mean ± t √V with Satterthwaite's (1946) degrees of freedom, and never narrower than over seeds.
    With one seed there is no interval over seeds; `low, high` then hold for this one training.

    `strata` (N,), such as the labels, resamples within each stratum: right where the test split was
    stratified. `seed` makes it repeatable. `BadInput` where shapes disagree, or where the metric
    has no value on the whole test set.

    >>> targets = np.array([0, 1, 1, 0, 1, 0, 1, 1])
    >>> outputs = np.stack([targets, np.ones(8), 1 - targets])
    >>> result = seeds_and_examples_interval(targets, outputs, lambda t, o: np.mean(t == o))
    >>> result.mean, result.seeds, result.examples, result.low <= result.seeds_low
    (0.5416666666666666, 3, 8, True)
    """
    check_confidence(confidence)
    sides = [np.asarray(outputs)] + ([] if baseline is None else [np.asarray(baseline)])
    targets = np.asarray(targets)
    _check_shapes(targets, sides, strata)
    values = _metric_values(targets, sides, metric)
    _check_values(values)  # before the resamples, which take long
    drawn = _draw(targets, sides, metric, strata, resamples, seed)
    return _checked_and_combined(values, drawn, len(targets), confidence)


def seeds_and_examples_of_arms(
    targets: np.ndarray,
    outputs: Mapping[str, Mapping[int, np.ndarray]],
    metric: Metric,
    baseline: str,
    *,
    strata: np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = 400,
    seed: int = 0,
) -> tuple[dict[str, SeedsAndExamples], dict[str, SeedsAndExamples | None]]:
    """`seeds_and_examples_interval` of every arm, and of every arm's difference to `baseline`.

    `outputs` gives for each arm the outputs of each run seed. The same numbers as one call for each
    would give, from a third of the work: all of them look at the same resamples. Differences are
    over the seeds that both arms have, None where there are none (or no baseline). Errors as there.
    """
    values, drawn = {}, {}
    for arm, runs in outputs.items():
        sides = [np.stack(list(runs.values()))]
        _check_shapes(np.asarray(targets), sides, strata)
        values[arm] = _metric_values(np.asarray(targets), sides, metric)
        drawn[arm] = _draw(np.asarray(targets), sides, metric, strata, resamples, seed)

    def combined(found: np.ndarray, draws: np.ndarray) -> SeedsAndExamples:
        return _checked_and_combined(found, draws, len(targets), confidence)

    means = {arm: combined(values[arm], drawn[arm]) for arm in outputs}
    differences: dict[str, SeedsAndExamples | None] = {}
    for arm in outputs:
        shared = [s for s in outputs[arm] if s in outputs.get(baseline, {})]
        if arm == baseline or not shared:
            differences |= {} if arm == baseline else {arm: None}
            continue
        own = [list(outputs[arm]).index(s) for s in shared]
        other = [list(outputs[baseline]).index(s) for s in shared]
        differences[arm] = combined(
            values[arm][own] - values[baseline][other],
            drawn[arm][:, own] - drawn[baseline][:, other],
        )
    return means, differences


def _checked_and_combined(
    values: np.ndarray, drawn: np.ndarray, examples: int, confidence: float
) -> SeedsAndExamples:
    _check_values(values)
    whole = drawn[np.isfinite(drawn).all(axis=1)]
    if len(whole) < _FEW:
        raise BadInput("the metric has a value on hardly any resample; give strata=targets")
    return _combine(values, whole, examples, len(drawn) - len(whole), confidence)


def _check_values(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise BadInput("the metric has no value on the whole test set for some seed")


def _combine(
    values: np.ndarray, drawn: np.ndarray, examples: int, undefined: int, confidence: float
) -> SeedsAndExamples:
    seeds, mean = len(values), float(values.mean())
    by_examples = float(drawn.mean(axis=1).var(ddof=1))
    by_seeds = interaction = 0.0
    if seeds > 1:
        by_seeds = float(values.var(ddof=1)) / seeds
        deviations = drawn - drawn.mean(axis=1, keepdims=True)
        interaction = float(deviations.var(axis=0, ddof=1).sum()) / (seeds - 1) / seeds
    total = max(by_seeds + by_examples - interaction, by_seeds, by_examples)
    few, many = max(seeds - 1, 1), max(examples - 1, 1)
    parts = by_seeds**2 / few + by_examples**2 / many
    degrees = total**2 / parts if parts > 0 else float(many)
    tails = (1 + confidence) / 2
    over_seeds = float(stats.t.ppf(tails, few)) * sqrt(by_seeds) if seeds > 1 else NAN
    # more degrees of freedom must not make the wider question's interval the narrower one
    half = max(float(stats.t.ppf(tails, degrees)) * sqrt(total), np.nan_to_num(over_seeds))
    reason = "one seed: no interval over seeds" if seeds == 1 else ""
    if total == 0:
        reason = "every seed and every resample gives the same value: zero variance"
    errors = (sqrt(by_seeds) if seeds > 1 else NAN, sqrt(by_examples), degrees)
    intervals = (mean - over_seeds, mean + over_seeds, mean - half, mean + half)
    return SeedsAndExamples(mean, *intervals, *errors, seeds, examples, undefined, reason)


def _metric_values(targets: np.ndarray, sides: list[np.ndarray], metric: Metric) -> np.ndarray:
    """The metric of every seed, minus the baseline's where there is one."""
    values = np.array([[float(metric(targets, one)) for one in side] for side in sides])
    return values[0] - values[1] if len(sides) == 2 else values[0]


def _draw(
    targets: np.ndarray,
    sides: list[np.ndarray],
    metric: Metric,
    strata: np.ndarray | None,
    resamples: int,
    seed: int,
) -> np.ndarray:
    """The metric of every seed (columns) on every resample of the examples (rows)."""
    rng = generator(seed, "examples")
    labels = np.zeros(len(targets)) if strata is None else np.asarray(strata)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rows = []
    for _ in range(resamples):
        picked = np.concatenate([rng.choice(group, len(group)) for group in members])
        rows.append(_metric_values(targets[picked], [side[:, picked] for side in sides], metric))
    return np.array(rows)


def _check_shapes(targets: np.ndarray, sides: list[np.ndarray], strata: np.ndarray | None) -> None:
    outputs = sides[0]
    if outputs.ndim < 2 or outputs.shape[1] != len(targets) or not outputs.size:
        shapes = f"outputs {outputs.shape} and targets {targets.shape}"
        raise BadInput(f"outputs must have shape (seeds, examples, ...), got {shapes}")
    if len(sides) == 2 and sides[1].shape != outputs.shape:
        raise BadInput(f"the baseline has shape {sides[1].shape}, the outputs {outputs.shape}")
    if strata is not None and np.shape(strata) != (len(targets),):
        raise BadInput(f"strata must have shape ({len(targets)},), got {np.shape(strata)}")
