"""The key numbers of a study's answer, as text by name, for sentences and for a paper's macros."""

import math

import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.wording import decimals, number, p_words

# the key numbers that `Answer.values` may have
MACRO_NAMES = (
    "Answer", "Caution", "Verdict", "Metric", "Baseline", "Best", "BestMean", "BestHalfWidth",
    "BestRuns", "Compared", "Difference", "DifferenceLow", "DifferenceHigh", "DifferencePairs", "P",
    "Arms", "Seeds", "Trials",
)  # fmt: skip


def best_arm(judged: pd.DataFrame) -> str | None:
    """The arm with the best mean; the first of them on ties."""
    means = judged["mean"].dropna()
    if means.empty:
        return None
    minimize = (judged["direction"] == "minimize").any()
    return str(means.idxmin() if minimize else means.idxmax())


def key_values(
    frames: StudyFrames, judged: pd.DataFrame, best: str | None, verdict: str
) -> dict[str, str]:
    """The key numbers of an answer by name, as text; the names are of `MACRO_NAMES`."""
    values = {
        "Verdict": verdict,
        "Metric": metric_words(frames.study["primary"]),
        "Baseline": str(frames.study["baseline"]),
        "Arms": str(len(frames.arms)),
        "Seeds": str(frames.study.get("seeds") or 0),
        "Trials": str(frames.study.get("budget") or 0),
    }
    if best is None:
        return values
    line = judged.loc[best]
    digits = decimals(line["half_width"])
    values |= {"Best": best, "BestMean": number(line["mean"], digits), "BestRuns": str(line["n"])}
    if not math.isnan(line["half_width"]):
        values["BestHalfWidth"] = number(line["half_width"], digits)
    compared: str | None = best
    if best == frames.study["baseline"]:  # then the difference is that of the nearest arm
        compared = best_arm(judged.drop(index=best))
    line = judged.loc[compared] if compared is not None else line
    if not math.isnan(line["difference_low"]):
        digits = decimals(line["difference_high"] - line["difference"])
        values |= {
            "Compared": str(compared),
            "Difference": number(line["difference"], digits, sign=True),
            "DifferenceLow": number(line["difference_low"], digits, sign=True),
            "DifferenceHigh": number(line["difference_high"], digits, sign=True),
            "DifferencePairs": str(line["pairs"]),
            "P": p_words(line["p_holm"]),
        }
    return values
