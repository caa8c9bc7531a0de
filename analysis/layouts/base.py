"""Cells, layouts, and how numbers, intervals and reasons are written in them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

ARROWS = {"maximize": "↑", "minimize": "↓"}
BOLD_RULE = (
    "Bold: the best, and every row that a paired t-test against it, Holm-corrected over the rows, "
    "does not show to be worse at the 5 % level."
)
_WORDS = {
    "roc auc": "ROC AUC",
    "macro f1": "macro F1",
    "brier": "Brier score",
    "ece": "ECE",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "anchor ap": "anchor AP",
    "miou": "mean IoU",
    "iou": "IoU",
}


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and whether it is set bold."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Layout:
    """A table as it is read: `header` and `rows` in plain text, a caption, a short name.

    `left` are the columns of words, set flush left; all others hold numbers, flush right.
    """

    name: str
    header: list[str]
    rows: list[list[Cell]]
    caption: str
    left: tuple[int, ...] = (0,)

    def frame(self) -> pd.DataFrame:
        """The texts alone."""
        texts = [[cell.text for cell in row] for row in self.rows]
        return pd.DataFrame(texts, columns=self.header, dtype="str")


def metric_words(name: str) -> str:
    """A metric's name as one reads it: `recall/3` is `recall, class 3`.

    >>> metric_words("balanced_accuracy"), metric_words("roc_auc"), metric_words("recall/3")
    ('balanced accuracy', 'ROC AUC', 'recall, class 3')
    """
    head, _, part = name.partition("/")
    words = head.replace("_", " ")
    words = _WORDS.get(words, words)
    if not part:
        return words
    return f"{words}, class {part}" if part.isdigit() else f"{words}, {part}"


def plus_minus(line: Mapping[str, Any] | pd.Series) -> str:
    """What ± is and over what, for a caption; `line` has `unit`, `seeds` and `repeats`.

    >>> plus_minus({"unit": "seed_index", "seeds": 5, "repeats": 1})[53:86]
    'over run seeds (5 planned), given'
    """
    what = "the mean ± half-width of the 95 % Student t interval"
    if line["unit"] == "repeat":
        return (
            f"{what} over repeats of search plus confirmation ({line['repeats']} planned, each the "
            f"mean of {line['seeds']} run seeds), given this one test split"
        )
    return (
        f"{what} over run seeds ({line['seeds']} planned), given this one test split and one "
        f"search per arm"
    )


def n_words(table: pd.DataFrame) -> str:
    """How many replicates are behind the cells.

    >>> n_words(pd.DataFrame({"n": [5, 4, 0]}))
    '; n = 4 to 5'
    """
    done = table.loc[table["n"] > 0, "n"]
    if done.empty:
        return "; n = 0"
    low, high = int(done.min()), int(done.max())
    return f"; n = {low}" if low == high else f"; n = {low} to {high}"


def replicates(line: Mapping[str, Any] | pd.Series) -> str:
    """The noun of what is paired and counted."""
    return "repeats" if line["unit"] == "repeat" else "run seeds"


def digits_of(half_widths: pd.Series) -> int:
    """Decimals that give the typical half-width two significant digits, the same down a column."""
    widths = pd.to_numeric(half_widths, errors="coerce").abs()
    known = widths[(widths > 0) & np.isfinite(widths)]
    if known.empty:
        return 3
    return int(np.clip(1 - math.floor(math.log10(known.median())), 2, 6))


def arm_rows(
    table: pd.DataFrame,
    metrics: Sequence[str],
    cell: Callable[[pd.Series, str], Cell],
    published: Callable[[pd.Series], str] | None = None,
) -> list[list[Cell]]:
    """A row an arm of a tidy table (a line an arm and metric): name, metrics, n, published.

    `cell` makes one of a line and its metric, `published` the last one of an arm's first line.
    """
    rows = []
    for arm, lines in table.groupby("arm", sort=False):
        by_metric = lines.set_index("metric")
        row = [Cell(str(arm)), *(cell(by_metric.loc[m], m) for m in metrics)]
        row.append(Cell(str(lines["n"].max())))
        rows.append([*row, Cell(published(lines.iloc[0]))] if published else row)
    return rows


def estimate_cell(line: Mapping[str, Any] | pd.Series, digits: int, notes: dict[str, str]) -> Cell:
    """Mean ± half-width, bold where tied with the best, or a dash with the letter of the reason."""
    if math.isnan(line["mean"]):
        return Cell(f"— ({note(notes, line['missing'])})")
    text = f"{line['mean']:.{digits}f}"
    if math.isnan(line["half_width"]):
        text += f" ({note(notes, line['missing'])})"
    else:
        text += f" ± {line['half_width']:.{digits}f}"
        if line.get("dropped", 0):
            reason = f"over {line['n']} runs: the others have no value"
            text += f" ({note(notes, reason)})"
    if line.get("untested") and not math.isnan(line["half_width"]):
        text += f" ({note(notes, line['untested'])})"
    return Cell(minus(text), bool(line["tied_best"]))


def difference_text(
    line: Mapping[str, Any] | pd.Series, digits: int, notes: dict[str, str], missing: str = ""
) -> str:
    """A difference with its interval in brackets, or a dash with the letter of the reason."""
    reason = missing or line["difference_missing"]
    if math.isnan(line["difference"]):
        return f"— ({note(notes, reason)})"
    text = f"{line['difference']:+.{digits}f}"
    if math.isnan(line["difference_low"]):
        return minus(f"{text} ({note(notes, reason)})")
    return minus(
        f"{text} [{line['difference_low']:+.{digits}f}, {line['difference_high']:+.{digits}f}]"
    )


def interval_text(value: float, low: float, high: float, digits: int, signed: bool = False) -> str:
    """A value with its interval in brackets; without an interval, the value alone."""
    sign = "+" if signed else ""
    text = f"{value:{sign}.{digits}f}"
    if not math.isnan(low):
        text += f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return minus(text)


def p_text(p: float) -> str:
    """A p-value to three decimals, or a dash.

    >>> p_text(0.00002), p_text(0.0416), p_text(float("nan"))
    ('<0.001', '0.042', '—')
    """
    if math.isnan(p):
        return "—"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def number_text(value: Any) -> str:
    """A setting as one reads it: three significant digits, words as they are, a dash for none.

    >>> number_text(0.0508695), number_text("adamw"), number_text(True), number_text(None)
    ('0.0509', 'adamw', 'on', '—')
    """
    if isinstance(value, bool | np.bool_):
        return "on" if value else "off"
    if isinstance(value, int | float | np.number):
        return "—" if math.isnan(value) else minus(f"{value:.3g}")
    return "—" if value is None else str(value)


def minus(text: str) -> str:
    """Hyphens before numbers as minus signs."""
    return text.replace("-", "−")


def note(notes: dict[str, str], reason: str) -> str:
    """The letter under which the caption gives a reason."""
    reason = reason or "not defined"
    return notes.setdefault(reason, _letters(len(notes)))


def legend(notes: Mapping[str, str]) -> str:
    """The reasons by their letters, for the end of a caption."""
    return "".join(f" ({letter}) {reason}." for reason, letter in notes.items())


def _letters(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    last = chr(ord("a") + number % 26)
    return last if number < 26 else _letters(number // 26 - 1) + last
