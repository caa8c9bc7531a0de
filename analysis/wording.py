"""Numbers and counts as a sentence wants them."""

import math
from collections.abc import Sequence

import pandas as pd

from losslab.analysis.frames import StudyFrames


def number(value: float, digits: int, *, sign: bool = False) -> str:
    """A number with a true minus.

    >>> number(-0.01234, 3), number(0.5, 2, sign=True), number(float("nan"), 2)
    ('−0.012', '+0.50', 'undefined')
    """
    if math.isnan(value):
        return "undefined"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def decimals(half_width: float) -> int:
    """Decimals that give an interval's half-width two significant digits: 2 to 5; 3 without one.

    >>> decimals(0.0051), decimals(0.14), decimals(3.0), decimals(float("nan"))
    (4, 2, 2, 3)
    """
    if not half_width > 0 or math.isinf(half_width):
        return 3
    return min(max(1 - math.floor(math.log10(half_width)), 2), 5)


def p_words(p: float) -> str:
    """A p-value with its relation.

    >>> p_words(0.0004), p_words(0.25), p_words(float("nan"))
    ('< 0.001', '= 0.250', 'undefined')
    """
    if math.isnan(p):
        return "undefined"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def counted(count: int, noun: str) -> str:
    """How many of something.

    >>> counted(1, "seed"), counted(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(names: Sequence[str]) -> str:
    """Names with commas and a last "and".

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    names = list(names)
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"


def replicate_noun(frames: StudyFrames) -> str:
    """What one value of a sample is: a run seed, or a repeat of search and confirmation."""
    return "run seed" if int(frames.study.get("repeats") or 1) == 1 else "repeat"


def difference_words(frames: StudyFrames, line: pd.Series, digits: int, compared: int) -> str:
    """A paired difference to the baseline with interval, n and p.

    `line` is of a results table; `compared` says over how many arms Holm's correction was made.
    """
    difference = number(line["difference"], digits, sign=True)
    if line.get("pairs_dropped", 0):  # it need not be the difference of the two means
        difference += f" (over the {replicate_noun(frames)}s that both have)"
    if math.isnan(line["difference_low"]):
        reason = line["difference_missing"] or line["missing"] or "not defined"
        return f"difference {difference} without an interval ({reason})"
    pairs = counted(int(line["pairs"]), f"paired {replicate_noun(frames)}")
    low, high = (number(line[f"difference_{end}"], digits, sign=True) for end in ("low", "high"))
    p = f"p {p_words(line['p'])}"
    if compared > 1:
        p += f"; p {p_words(line['p_holm'])} after Holm's correction over {compared} arms"
    return f"difference {difference} with the 95 % interval [{low}, {high}] over {pairs} ({p})"
