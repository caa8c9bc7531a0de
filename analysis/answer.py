"""A study's answer in one honest sentence, with what it does not say.

The rule: an arm is called better or worse than the baseline where its paired difference on test has
a Holm-corrected p of at most 5 %; everything else is undecided, and an unfinished study has no
verdict. Every number comes with its interval and its n.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from losslab.analysis.answer_values import best_arm, key_values
from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.remarks import caution_of, common_caution, remarks_of
from losslab.analysis.tables import results_table
from losslab.analysis.wording import (
    counted,
    decimals,
    difference_words,
    listed,
    number,
    replicate_noun,
)

LEVEL = 0.05
_DECIDED = ("better", "baseline", "undecided")  # verdicts that have an interval
_SHORT = {
    "better": "{best} is better than {baseline}",
    "baseline": "the baseline {baseline} is best",
    "undecided": "undecided",
    "unfinished": "unfinished",
    "alone": "one arm only",
    "diverged": "all runs diverged",
    "levels": "see its levels",
}
_SHOWN_ARMS = 8  # names in a sentence; the table has them all


@dataclass(frozen=True)
class Answer:
    """What a study says.

    `verdict`: better (the best arm beats the baseline), baseline (no arm reaches its mean and all
    are worse), undecided, unfinished, alone (one arm), diverged, or levels. `sentence` is the
    answer, `caution` what must be read with it, `details` says the same of the other arms or
    levels, `remarks` are what the sentence does not say, one each; of levels, those that hold at
    every level. `values` are the key numbers by name, as text, for a paper.
    """

    verdict: str
    sentence: str
    details: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    values: dict[str, str] = field(default_factory=dict)
    caution: str = ""


def answer(frames: StudyFrames) -> Answer:
    """The answer of a study, finished or not.

    The best arm is that whose selected configuration has the best mean of the primary metric on
    test. Its difference to the baseline, t interval and p are those of `tables.results_table`:
    paired, and Holm-corrected over the arms. A study over levels is answered level by level.
    """
    if frames.study.get("levels"):
        from losslab.analysis.levels import by_level

        return answer_of_levels(by_level(frames), frames.study["levels"]["label"])
    table = results_table(frames, [frames.study["primary"]])
    table = table[table["is_primary"] & (table["rule"] == "")].set_index("arm")
    selected = table[table["variant"] == "selected"]
    lacking = missing_runs(frames)
    judged = selected[selected["n"] > 0]
    best = best_arm(judged)
    if best is None or (judged["diverged"] == judged["n"]).all():
        verdict, sentence = _nothing(frames, lacking)
    elif len(selected) == 1:
        verdict, sentence = _alone(frames, judged.loc[best])
    else:
        verdict, sentence = _compared(frames, judged, best)
    if lacking and verdict != "unfinished":
        verdict, sentence = "unfinished", f"{_unfinished(lacking)} So far: {sentence}"
    return Answer(
        verdict,
        sentence,
        _others(frames, judged, best, lacking),
        tuple(remarks_of(frames, table, best, verdict)) if best is not None else (),
        key_values(frames, judged, best, verdict),
        caution_of(frames) if best is not None else "",
    )


def answer_of_levels(levels: Mapping[str, StudyFrames], label: str) -> Answer:
    """The answer level by level: `levels` maps a level to its frames, `label` says of what."""
    answers = {level: answer(frames) for level, frames in levels.items()}
    sentence = f"By {label}: {_grouped(levels, answers)}."
    remarks = [
        f"Only these values of {label} were tested: {listed(list(levels))}. Nothing is said of "
        f"values between or beyond them.",
        f"Holm's correction is over the arms within each level, not over the {len(levels)} levels.",
    ]
    first, *others = answers.values()
    remarks += [r for r in first.remarks if all(r in other.remarks for other in others)]
    details = tuple(f"At {label} {level}: {found.sentence}" for level, found in answers.items())
    caution = common_caution(f for level, f in levels.items() if answers[level].caution)
    return Answer("levels", sentence, details, tuple(remarks), {"Answer": sentence}, caution)


def _grouped(levels: Mapping[str, StudyFrames], answers: Mapping[str, Answer]) -> str:
    """The levels by what was found there, each with its interval."""
    groups: dict[tuple[int, str], list[str]] = {}
    pairs = set()
    for level, found in answers.items():
        values, told = found.values, level
        if found.verdict in _DECIDED and "Difference" in values:
            who = "" if found.verdict == "better" else f"{values['Compared']} "
            interval = f"[{values['DifferenceLow']}, {values['DifferenceHigh']}]"
            told += f" ({who}{values['Difference']} {interval})"
            pairs.add(int(values["DifferencePairs"]))
        order = list(_SHORT).index(found.verdict)
        groups.setdefault((order, _short(levels[level], found)), []).append(told)
    ordered = sorted(groups.items(), key=lambda group: group[0][0])
    text = "; ".join(f"{words} at {listed(told)}" for (_, words), told in ordered)
    if not pairs:
        return text
    n = f"{min(pairs)}" if len(pairs) == 1 else f"{min(pairs)} to {max(pairs)}"
    baseline = next(iter(levels.values())).study["baseline"]
    return f"{text} (paired differences to {baseline} with 95 % t intervals, n = {n} pairs each)"


def missing_runs(frames: StudyFrames) -> dict[str, int]:
    """How many test runs of its selected configuration each arm still lacks; none: left out."""
    planned = planned_runs(frames)
    runs = frames.confirmation
    runs = runs[(runs["variant"] == "selected") & runs["state"].isin(["complete", "diverged"])]
    present = runs.groupby("arm").size()
    lacking = {arm: planned - int(present.get(arm, 0)) for arm in frames.arms}
    return {arm: count for arm, count in lacking.items() if count > 0}


def planned_runs(frames: StudyFrames) -> int:
    """The test runs that the study plans for one arm's selected configurations."""
    return int(frames.study.get("seeds") or 0) * int(frames.study.get("repeats") or 1)


def _nothing(frames: StudyFrames, lacking: Mapping[str, int]) -> tuple[str, str]:
    planned = planned_runs(frames) * len(frames.arms)
    runs = planned - sum(lacking.values())
    if not runs:
        return "unfinished", (
            f"No answer yet: none of the {planned} planned test runs of the selected "
            f"configurations has been made."
        )
    if lacking:
        return "unfinished", f"{_unfinished(lacking)} No answer yet: all {runs} so far diverged."
    return "diverged", (f"No answer: all {runs} test runs of the selected configurations diverged.")


def _alone(frames: StudyFrames, line: pd.Series) -> tuple[str, str]:
    digits = decimals(line["half_width"])
    return "alone", (
        f"Nothing is compared, since {line.name} is the only arm: as selected it reached "
        f"{_metric(frames)} {_reached(line, digits, frames)} on test."
    )


def _compared(frames: StudyFrames, judged: pd.DataFrame, best: str) -> tuple[str, str]:
    baseline = frames.study["baseline"]
    if baseline not in judged.index:
        return "undecided", (
            f"Undecided: {best} has the best mean {_metric(frames)} on test so far, but the "
            f"baseline {baseline} has no test run to compare it with."
        )
    if best == baseline:
        return _baseline_leads(frames, judged)
    line = judged.loc[best]
    digits = decimals(line["difference_high"] - line["difference"])
    told = difference_words(frames, line, digits, int(judged["p"].notna().sum()))
    if _verdict(line, frames) == "better":
        better = "lower" if line["direction"] == "minimize" else "higher"
        return "better", (
            f"On this test split {best}, as selected, has a {better} {_metric(frames)} than the "
            f"baseline {baseline}, {number(line['mean'], digits)} against "
            f"{number(judged.loc[baseline, 'mean'], digits)}: {told}."
        )
    return "undecided", (
        f"Undecided: {best} has the best mean {_metric(frames)} on test, "
        f"{number(line['mean'], digits)}, but the baseline {baseline}, with "
        f"{number(judged.loc[baseline, 'mean'], digits)}, cannot be told from it: {told}."
    )


def _baseline_leads(frames: StudyFrames, judged: pd.DataFrame) -> tuple[str, str]:
    baseline = frames.study["baseline"]
    others = judged.drop(index=baseline)
    nearest = best_arm(others)
    mean = judged.loc[baseline, "mean"]
    if nearest is None:
        return "undecided", f"Undecided: only the baseline {baseline} has been judged on test."
    line = others.loc[nearest]
    digits = decimals(line["difference_high"] - line["difference"])
    told = difference_words(frames, line, digits, int(judged["p"].notna().sum()))
    opening = (
        f"the baseline {baseline} has the best mean {_metric(frames)} on test, "
        f"{number(mean, digits)}"
    )
    verdicts = {_verdict(other, frames) for _, other in others.iterrows()}
    if verdicts == {"worse"}:
        which = "the only other arm" if len(others) == 1 else f"all {len(others)} other arms"
        return "baseline", (
            f"No arm is better than the baseline: {opening}, and {which} came out worse, the "
            f"nearest being {nearest}: {told}."
        )
    cannot = "is worse" if _verdict(line, frames) == "worse" else "cannot be told from it"
    return "undecided", (
        f"No arm was found better than the baseline: {opening}; the nearest, {nearest}, {cannot}: "
        f"{told}."
    )


def _verdict(line: pd.Series, frames: StudyFrames) -> str:
    """better, worse or undecided, against the baseline."""
    if math.isnan(line["p_holm"]) or line["p_holm"] > LEVEL:
        return "undecided"
    gain = line["difference"] if line["direction"] == "maximize" else -line["difference"]
    return "better" if gain > 0 else "worse"


def _others(
    frames: StudyFrames, judged: pd.DataFrame, best: str | None, lacking: Mapping[str, int]
) -> tuple[str, ...]:
    """Where several arms stand beside the baseline: who is better, worse, undecided."""
    baseline = frames.study["baseline"]
    others = judged.drop(index=baseline, errors="ignore")
    if len(others) < 2 or baseline not in judged.index or best is None:
        return ()
    groups: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
    for arm, line in others.iterrows():
        groups[_verdict(line, frames)].append(str(arm))
    parts = [
        f"{verdict}: {listed(arms[:_SHOWN_ARMS])}"
        + (f" and {len(arms) - _SHOWN_ARMS} more" if len(arms) > _SHOWN_ARMS else "")
        for verdict, arms in groups.items()
        if arms
    ]
    so_far = " so far" if lacking else ""
    return (
        f"Each arm against {baseline}{so_far} (Holm-corrected p of at most 0.05 over "
        f"{counted(len(others), 'comparison')}): {'; '.join(parts)}.",
    )


def in_short(frames: StudyFrames, found: Answer) -> str:
    """An answer in a few words, with interval and n where there are any."""
    values, words = found.values, _short(frames, found)
    if found.verdict in _DECIDED and "Difference" in values:
        who = "" if found.verdict == "better" else f"{values['Compared']} against baseline "
        words += (
            f" ({who}{values['Difference']} [{values['DifferenceLow']}, "
            f"{values['DifferenceHigh']}], n = {values['DifferencePairs']})"
        )
    return words


def _short(frames: StudyFrames, found: Answer) -> str:
    best, baseline = found.values.get("Best"), frames.study["baseline"]
    return _SHORT[found.verdict].format(best=best, baseline=baseline)


def _unfinished(lacking: Mapping[str, int]) -> str:
    told = listed([f"{arm} {count}" for arm, count in lacking.items()][:_SHOWN_ARMS])
    return (
        f"The study is unfinished: {counted(sum(lacking.values()), 'test run')} of selected "
        f"configurations missing ({told}), so this is no verdict."
    )


def _reached(line: pd.Series, digits: int, frames: StudyFrames) -> str:
    if math.isnan(line["half_width"]):
        return f"{number(line['mean'], digits)} (n = {line['n']}: no interval)"
    return (
        f"{number(line['mean'], digits)} ± {number(line['half_width'], digits)} (95 % t interval "
        f"over {counted(line['n'], replicate_noun(frames))})"
    )


def _metric(frames: StudyFrames) -> Any:
    return metric_words(frames.study["primary"])
