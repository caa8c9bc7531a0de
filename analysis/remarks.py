"""What a study's answer does not say, one remark each."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pandas as pd
from scipy import stats

from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.statistics import detectable_difference, paired_difference, seeds_needed
from losslab.analysis.tables import per_seed
from losslab.analysis.wording import counted, decimals, listed, number, replicate_noun
from losslab.errors import BadInput

LEVEL, POWER = 0.05, 0.8
FALSE_WINS = (8, 70)  # percent, least and most of the designs that were simulated
MOST_SEEDS = 1000  # above it, a number of seeds says no more than that nobody can run them
_FEW = 6  # pairs below which even six wins out of six would prove nothing without normality


def remarks_of(frames: StudyFrames, table: pd.DataFrame, best: str, verdict: str) -> Iterator[str]:
    """The remarks on an answer; `table` has the primary metric's rows, by arm."""
    selected = table[table["variant"] == "selected"]
    if len(selected) > 1:
        yield from _repeats(frames)
        yield _one_test_split(frames)
        if verdict == "undecided":
            yield from _power(frames, selected, best)
        yield from _few_pairs(frames, selected, best)
    yield from _diverged(frames, selected)
    yield from _tuning(frames, table, best)
    yield from _edges(frames, best)


def caution_of(frames: StudyFrames) -> str:
    """What must stand beside a comparison with one search per arm; nothing with repeats.

    Its percentages are those of docs/statistics.md, Error rates of the whole protocol.
    """
    if _searches(frames) > 1 or len(frames.arms) < 2:
        return ""
    if not frames.ledger["tuned"].any():
        return "Nothing was tuned: this compares configurations as given, not losses at their best."
    budget = frames.study.get("budget") or 0
    each = f" ({counted(budget, 'training')} each)" if budget else ""
    low, high = FALSE_WINS
    return (
        f"One search per arm{each}: this compares the selected configurations, not the losses. "
        f"In simulated studies of 4 or 16 trials a loss entered twice came out unlike itself in "
        f"{low} to {high} % of them, not in 5 %; a claim about the losses needs search.repeats."
    )


def common_caution(studies: Iterable[StudyFrames]) -> str:
    """The caution for several studies or levels; no budget is named where they differ in it."""
    cautious = [frames for frames in studies if caution_of(frames)]
    found = {caution_of(frames) for frames in cautious}
    if len(found) > 1:
        found = {caution_of(replace(f, study={**f.study, "budget": None})) for f in cautious}
    return min(found, default="")


def _searches(frames: StudyFrames) -> int:
    return int(frames.study.get("repeats") or 1)


def _repeats(frames: StudyFrames) -> Iterator[str]:
    if (repeats := _searches(frames)) > 1:
        budget = frames.study.get("budget") or 0
        yield (
            f"Search and confirmation were repeated {repeats} times for every arm, so the "
            f"difference is between the losses as {counted(budget, 'training')} tune them, not "
            f"between single configurations."
        )


def _one_test_split(frames: StudyFrames) -> str:
    return (
        f"Intervals are over {replicate_noun(frames)}s on one fixed test split: they do not say "
        f"how another test split, or another dataset, would have judged."
    )


def _power(frames: StudyFrames, selected: pd.DataFrame, best: str) -> Iterator[str]:
    """How small a difference the study could have seen, for the arm that the answer names."""
    arm = best
    if best == frames.study["baseline"]:
        others = selected.drop(index=best)["mean"].dropna()
        if others.empty:
            return
        minimize = selected["direction"].iloc[0] == "minimize"
        arm = others.idxmin() if minimize else others.idxmax()
    line = selected.loc[arm]
    if math.isnan(line["difference_low"]):
        return
    pairs, half = int(line["pairs"]), line["difference_high"] - line["difference"]
    sd = half / stats.t.ppf(0.975, pairs - 1) * math.sqrt(pairs)
    compared = int(selected["p"].notna().sum())
    try:
        seen = detectable_difference(sd, pairs, power=POWER, level=LEVEL / compared)
    except BadInput:
        return  # no spread at all: nothing to compute a power from
    digits = decimals(half)
    noun = replicate_noun(frames)
    text = (
        f"With {counted(pairs, f'paired {noun}')} and this spread, a true difference of "
        f"{number(seen, digits)} between {arm} and {frames.study['baseline']} would be found with "
        f"probability 80 %, Holm's first step included; smaller ones may well be there."
    )
    try:
        needed = seeds_needed(line["difference"], sd, power=POWER, level=LEVEL / compared)
    except BadInput:
        yield text
        return
    told = (
        f"about {counted(needed, noun)}"
        if needed <= MOST_SEEDS
        else f"more than {MOST_SEEDS:,} {noun}s"
    )
    yield f"{text} One of the observed size, if true, would take {told}."


def _few_pairs(frames: StudyFrames, selected: pd.DataFrame, best: str) -> Iterator[str]:
    pairs = selected.drop(index=frames.study["baseline"], errors="ignore")["pairs"].dropna()
    if pairs.empty or not 2 <= int(pairs.min()) < _FEW:
        return
    yield (
        f"With fewer than {_FEW} pairs ({int(pairs.min())} here) interval and p rest on the "
        f"differences being normal: no test without that assumption can reach p = 0.05."
    )


def _diverged(frames: StudyFrames, selected: pd.DataFrame) -> Iterator[str]:
    lost = selected[selected["diverged"] > 0]
    if lost.empty:
        return
    runs = frames.confirmation[frames.confirmation["variant"] == "selected"]
    planned = runs.groupby("arm").size()
    told = [f"{arm} {line['diverged']} of {planned[arm]}" for arm, line in lost.iterrows()]
    counts = "Each counts at chance level, none is left out."
    values = runs.loc[runs["state"] == "diverged"].get(f"test/{frames.study['primary']}")
    if values is None or values.isna().all():
        counts = f"They have no {metric_words(frames.study['primary'])} and are left out."
    yield f"Test runs of selected configurations that diverged: {listed(told)}. {counts}"


def _tuning(frames: StudyFrames, table: pd.DataFrame, best: str) -> Iterator[str]:
    """Whether the selected configurations beat the untuned defaults."""
    defaults = table[(table["variant"] == "defaults") & (table["n"] > 0)]
    if defaults.empty or best is None:
        return
    minimize = table["direction"].iloc[0] == "minimize"
    sign = -1 if minimize else 1
    column = f"test/{frames.study['primary']}"
    idle, searched = [], {row["arm"] for _, row in frames.ledger.iterrows() if row["tuned"]}
    for arm in defaults.index:
        if arm not in searched:
            continue
        gain = paired_difference(
            per_seed(frames, arm, "selected", column), per_seed(frames, arm, "defaults", column)
        )
        shown = sign * gain.difference > 0 and gain.p <= LEVEL
        if gain.n > 1 and not shown:
            idle.append(str(arm))
    if idle:
        yield (
            f"Tuning did not show a gain for {listed(idle)}: the selected configuration is not "
            f"better than the untuned defaults by a paired t-test at the 5 % level."
        )
    first = (sign * defaults["mean"]).idxmax()
    leader = table.loc[[best]].query("variant == 'selected'")["mean"].iloc[0]
    if sign * defaults.loc[first, "mean"] > sign * leader:
        digits = decimals(defaults.loc[first, "half_width"])
        yield (
            f"The best mean {metric_words(frames.study['primary'])} of all is that of {first} at "
            f"its defaults, {number(defaults.loc[first, 'mean'], digits)}."
        )


def _edges(frames: StudyFrames, best: str) -> Iterator[str]:
    chosen = frames.selected[frames.selected["arm"] == best]
    flags = [flag for flags in chosen["flags"] for flag in str(flags).split("; ") if flag]
    for flag in dict.fromkeys(flags):
        yield f"Of {best}: {flag}."
