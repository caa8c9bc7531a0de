"""Arms against each other on the primary metric: the baseline, every pair, and power."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from losslab.analysis.frames import StudyFrames
from losslab.analysis.levels import by_level
from losslab.analysis.statistics import (
    detectable_difference,
    holm,
    probability_of_outperforming,
    sd_interval,
    seeds_needed,
)
from losslab.analysis.tables.runs import Confirmed, direction, primary_column
from losslab.errors import BadInput

LEVEL, POWER = 0.05, 0.8


def compared_arms(frames: StudyFrames) -> pd.DataFrame:
    """Every arm's selected configuration against the baseline's, on the primary test metric.

    One row per other arm, indexed by `arm`: `difference` (arm − baseline), `low, high, half_width,
    p` of the paired t interval and test, `n` pairs, `dropped, reason`, `p_holm` over the arms; and
    what a sentence about it needs: `baseline`, `metric`, `direction`, `mean, mean_low, mean_high`
    and `baseline_mean`, `verdict` (better | worse | undecided | equal | untested: the sign counts
    only where p_holm ≤ .05), `probability, probability_low, probability_high` that the arm beats
    the baseline and Bouthillier's verdict on it, `outperforms`; `detectable` (the smallest true
    difference found with power .8 at level .05), `diverged` runs of the arm, `unit` (seed_index |
    repeat) and `seeds`, `repeats` planned.

    Raises `BadInput` where the baseline is not an arm of the study.
    """
    baseline, arms = frames.study["baseline"], frames.arms
    if baseline not in arms:
        raise BadInput(f"the baseline {baseline!r} is not an arm; there are: {', '.join(arms)}")
    others = [arm for arm in arms if arm != baseline]
    table = _pairs(frames, [(arm, baseline) for arm in others])
    confirmed = Confirmed.of(frames)
    keys = [(arm, "selected", "") for arm in [*others, baseline]]
    own = confirmed.intervals(confirmed.values(keys, primary_column(frames)))
    table.index = pd.Index(others, name="arm")
    table["baseline"] = baseline
    for name in ("mean", "low", "high"):
        label = name if name == "mean" else f"mean_{name}"
        table[label] = own[name].to_numpy()[:-1]
    table["baseline_mean"] = own["mean"].iloc[-1]
    table["detectable"] = [
        _detectable(sd, n, LEVEL) for sd, n in zip(table["sd"], table["n"], strict=True)
    ]
    table["diverged"] = confirmed.counts(keys)["diverged"].to_numpy()[:-1]
    return table.drop(columns=["sd", "a", "b"])


def pairwise_table(frames: StudyFrames) -> pd.DataFrame:
    """Every pair of arms, selected configurations, on the primary test metric.

    One row per pair `a`, `b`: the columns of `compared_arms` from `difference` (a − b) to `reason`,
    `p_holm` over *all* pairs, `verdict` on a, and P(a > b) as there, with `wins, losses, ties` and
    `outperforms_reason`. Empty with fewer than two arms.
    """
    return _pairs(frames, list(combinations(frames.arms, 2)))


def contrasts_table(frames: StudyFrames) -> pd.DataFrame:
    """The claims that the study file put down beforehand, each with its answer.

    One row per contrast and level: `claim, better, than, level` ("" without levels), the columns of
    `compared_arms` from `difference` (better − than) to `reason`, `p_holm` over all rows, and
    `answer`: held where the difference has the claimed sign and p_holm ≤ .05, reversed where it has
    the other one, else undecided; untested with less than two pairs. Empty without contrasts.
    """
    contrasts = frames.study.get("contrasts") or []
    parts = []
    for level, part in (by_level(frames) or {"": frames}).items():
        there = [c for c in contrasts if {c["better"], c["than"]} <= set(part.arms)]
        if there:
            table = _pairs(part, [(c["better"], c["than"]) for c in there])
            claims = [c["claim"] or f"{c['better']} is better than {c['than']}" for c in there]
            parts.append(table.assign(claim=claims, level=level))
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True).rename(columns={"a": "better", "b": "than"})
    table["p_holm"] = holm(table["p"].astype(float))
    verdicts = [
        _verdict(line.difference, line.p, line.p_holm, line.n, _gains(line))
        for line in table.itertuples()
    ]
    words = {"better": "held", "worse": "reversed", "untested": "untested"}
    table["answer"] = [words.get(verdict, "undecided") for verdict in verdicts]
    return table.drop(columns=["verdict"])


def _gains(line: Any) -> bool:
    return bool(line.difference < 0 if line.direction == "minimize" else line.difference > 0)


def power_table(frames: StudyFrames) -> pd.DataFrame:
    """What this study could have found, per arm against the baseline.

    `arm, baseline, metric, difference` (observed), `sd` of the paired differences with its 95 %
    interval `sd_low, sd_high`, `n` pairs; `detectable` and `detectable_holm`, the smallest true
    difference found with power .8 at level .05 and at Holm's first step .05/m over m arms;
    `needed`, the seeds that find a true difference as large as the observed one with power .8 at
    .05, and `needed_high` with `sd_high` in place of sd; `unit`, `reason`. The observed difference
    is an estimate: `needed` says what the next study takes if it were true, not how sure this is.
    """
    baseline = frames.study["baseline"]
    others = [arm for arm in frames.arms if arm != baseline]
    if baseline not in frames.arms:
        return pd.DataFrame()
    table = _pairs(frames, [(arm, baseline) for arm in others])
    rows = []
    for arm, line in zip(others, table.to_dict("records"), strict=True):
        n, sd = int(line["n"]), float(line["sd"])
        row = {"study": frames.study["study"], "arm": arm, "baseline": baseline}
        row |= {name: line[name] for name in ("metric", "unit", "difference", "n")}
        low, high = _sd_limits(sd, n)
        row |= {"sd": sd, "sd_low": low, "sd_high": high}
        row["detectable"] = _detectable(sd, n, LEVEL)
        row["detectable_holm"] = _detectable(sd, n, LEVEL / len(others))
        row["needed"] = _needed(line["difference"], sd)
        row["needed_high"] = _needed(line["difference"], high)
        row["reason"] = line["reason"]
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.astype({"needed": "Int64", "needed_high": "Int64"}) if rows else table


def _pairs(frames: StudyFrames, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """The comparison of each (a, b), in this order, Holm-corrected over them."""
    confirmed = Confirmed.of(frames)
    column = primary_column(frames)
    minimize = direction(frames, column) == "minimize"
    arms = list(dict.fromkeys(arm for pair in pairs for arm in pair))
    place = {arm: j for j, arm in enumerate(arms)}
    values = confirmed.values([(arm, "selected", "") for arm in arms], column)
    means = confirmed.means(values)
    rows = []
    by_second = {
        b: confirmed.differences(values, values[place[b]]) for b in {pair[1] for pair in pairs}
    }
    for a, b in pairs:
        row = {"a": a, "b": b, **by_second[b].loc[place[a]].to_dict()}
        one, two = means[place[a]].dropna(), means[place[b]].dropna()
        wins = asdict(probability_of_outperforming(one, two, higher_is_better=not minimize))
        row["sd"] = _sd(row["half_width"], row["n"])
        row |= {name: wins[name] for name in ("probability", "wins", "losses", "ties")}
        row |= {f"probability_{edge}": wins[edge] for edge in ("low", "high")}
        row |= {"outperforms": wins["verdict"], "outperforms_reason": wins["reason"]}
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    table["p_holm"] = holm(table["p"].astype(float))
    better = (table["difference"] < 0) if minimize else (table["difference"] > 0)
    table["verdict"] = [
        _verdict(line.difference, line.p, line.p_holm, line.n, up)
        for line, up in zip(table.itertuples(), better, strict=True)
    ]
    return table.assign(
        metric=frames.study["primary"],
        direction="minimize" if minimize else "maximize",
        unit=confirmed.unit,
        seeds=int(frames.study.get("seeds") or 0),
        repeats=int(frames.study.get("repeats") or 1),
    )


_COLUMNS = (
    *("a", "b", "difference", "low", "high", "half_width", "p", "n", "dropped", "reason", "sd"),
    *("probability", "probability_low", "probability_high", "wins", "losses", "ties"),
    *("outperforms", "outperforms_reason"),
)


def _verdict(difference: float, p: float, p_holm: float, n: int, better: bool) -> str:
    if n < 2:
        return "untested"
    if np.isnan(p):  # the same difference in every pair: no chance in it that a test could see
        return "better" if better else "worse"
    if p == 1.0 and difference == 0:
        return "equal"
    if p_holm > LEVEL:
        return "undecided"
    return "better" if better else "worse"


def _sd(half_width: float, n: int) -> float:
    """Sample standard deviation of the pairs' differences, back from the interval's half-width."""
    return float(half_width / stats.t.ppf(0.975, n - 1) * np.sqrt(n)) if n > 1 else np.nan


def _sd_limits(sd: float, n: int) -> tuple[float, float]:
    if not sd > 0:
        return np.nan, np.nan
    # the interval depends on n and sd alone, so any sample that has them will do
    sample = np.linspace(-1, 1, n)
    return sd_interval(sample / sample.std(ddof=1) * sd)[1:]


def _detectable(sd: float, n: int, level: float) -> float:
    return detectable_difference(sd, int(n), power=POWER, level=level) if sd > 0 else np.nan


def _needed(difference: float, sd: float) -> int | None:
    if not (sd > 0 and abs(difference) > 0):
        return None
    try:
        return seeds_needed(difference, sd, power=POWER, level=LEVEL)
    except BadInput:  # more than ten million
        return None
