"""What a printed table shows: header, cells and caption, before any markup.

A layout is made once and typeset as Markdown or LaTeX (`typeset.py`), or shown in a terminal.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from losslab.analysis.frames import StudyFrames

SHOWN_METRICS = 3  # what fits a page beside the difference columns; the CSV has all of them
_ARROWS = {"maximize": "↑", "minimize": "↓"}
_WORDS = {"roc auc": "ROC AUC", "macro f1": "macro F1", "brier": "Brier score", "ece": "ECE"}


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and whether it is set bold."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Layout:
    """A table as it is read: `header` and `rows` in plain text, a caption, a short name."""

    name: str
    header: list[str]
    rows: list[list[Cell]]
    caption: str

    def frame(self) -> pd.DataFrame:
        """The texts alone."""
        texts = [[cell.text for cell in row] for row in self.rows]
        return pd.DataFrame(texts, columns=self.header, dtype="str")


def results_layout(table: pd.DataFrame, metrics: list[str] | None = None) -> Layout:
    """The results table as one reads it; `metrics` (such as `test/roc_auc`) chooses the columns.

    By default the first three of: the primary metric, then the study's others, each decision metric
    followed by its value at the tuned threshold. The CSV has all of them, and per-class recall.
    """
    table = table.assign(column=table["split"] + "/" + table["metric"])
    shown = _shown_columns(table) if metrics is None else metrics
    key = ["arm", "variant", "rule"]
    primary = table[table["is_primary"]].set_index(key)
    baseline = table.loc[table["is_baseline"], "row"]
    digits = {c: _digits(table.loc[table["column"] == c, "half_width"]) for c in shown}
    notes: dict[str, str] = {}
    rows = []
    for row, lines in table.groupby(key, sort=False):
        lines = lines.set_index("column")
        cells = [
            Cell(lines["row"].iloc[0]),
            *(_estimate(lines.loc[c], digits[c], notes) for c in shown),
        ]
        if not primary.empty and len(baseline):
            cells += _difference(primary.loc[row], digits[primary["column"].iloc[0]], notes)
        most = lines.loc[shown].sort_values("n").iloc[-1]
        diverged = f"{most['diverged']} of them diverged, counted at chance level"
        note = f" ({_note(notes, diverged)})" if most["diverged"] else ""
        rows.append([*cells, Cell(f"{most['n']}{note}")])
    header = ["arm", *(_metric_header(table, c) for c in shown)]
    tuned = any(c.startswith("test_tuned/") for c in shown)
    if not primary.empty and len(baseline):
        header += [f"Δ to {baseline.iloc[0]} [95 % CI]", "p (Holm)"]
    study = str(table["study"].iloc[0])
    caption = _results_caption(table, primary, len(baseline) > 0, tuned, notes)
    return Layout(f"results-{study}", [*header, "n"], rows, caption)


def sweep_layout(table: pd.DataFrame) -> Layout:
    """A sweep as one reads it; see `sweeps.sweep_table`."""
    first = table.iloc[0]
    tuned = [c for c in table.columns if c.startswith("tuned.")]
    digits = _digits(table["half_width"])
    notes: dict[str, str] = {}
    with_published = "published" in table
    header = [first["parameter"], *(f"{c.rsplit('.', 1)[-1]} (tuned)" for c in tuned)]
    header += [f"{metric_words(first['metric'])} (ours)", "n"]
    header += ["COCO AP, % (published)", "published setting"] if with_published else []
    rows = []
    for _, line in table.sort_values("parameter_value", kind="stable").iterrows():
        cells = [Cell(f"{line['parameter_value']:g}")]
        cells += [Cell("—" if pd.isna(line[c]) else f"{line[c]:.3g}") for c in tuned]
        marked = {**line, "tied_best": line["is_best"]}
        cells += [_estimate(marked, digits, notes), Cell(str(line["n"]))]
        if with_published:
            known = not math.isnan(line["published"])
            cells.append(Cell(f"{line['published']:.1f}" if known else "—"))
            cells.append(Cell(line["published_setting"] or "—"))
        rows.append(cells)
    caption = (
        f"{first['study']}: sweep over {first['parameter']}. Ours: mean ± half-width of the 95 % "
        f"Student t interval of {metric_words(first['metric'])} on the test split over run seeds "
        f"({first['seeds']} planned, n done); other hyper-parameters tuned on validation for each "
        f"value. Bold: best mean."
    )
    if with_published:
        caption += (
            f" Published: {first['published_source']}, COCO AP in percent: another dataset, model "
            f"and metric, so compare the shapes of the two columns, not their values."
        )
    return Layout(
        f"sweep-{first['parameter']}-{first['study']}", header, rows, caption + _legend(notes)
    )


def ledger_layout(frames: StudyFrames) -> Layout:
    """The ledger as one reads it; see `ledger.ledger_of`."""
    name = str(frames.study["study"])
    notes: dict[str, str] = {}
    rows = []
    for line in frames.ledger.itertuples():
        flags = [_note(notes, flag) for flag in line.flags.split("; ") if flag]
        texts = [
            line.arm,
            f"{line.trials} ({line.complete}/{line.pruned}/{line.diverged})",
            line.retrainings,
            f"{line.confirmations} ({line.diverged_confirmations}/{line.missing_confirmations})",
            line.epochs,
            f"{line.seconds:.1f}",
            line.tuned,
            ", ".join(f"({letter})" for letter in flags),
        ]
        rows.append([Cell(str(text)) for text in texts])
    header = ["arm", "search trials", "retrainings", "confirmations", "epochs", "seconds"]
    caption = (
        f"{name}: what each arm spent. Search trials (complete/pruned/diverged); retrainings of "
        f"the best candidates on search seeds; confirmations on fresh seeds, selected and defaults "
        f"(diverged/missing); epochs and wall time over all of them; tuned: dimensions searched."
    )
    return Layout(f"ledger-{name}", [*header, "tuned", "flags"], rows, caption + _legend(notes))


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


def _shown_columns(table: pd.DataFrame) -> list[str]:
    columns = (table["split"] + "/" + table["metric"]).drop_duplicates()
    simple = columns[columns.str.startswith("test/") & (columns.str.count("/") == 1)]
    shown = []
    for column in simple:
        # at 0.5 alone a loss that shifts its logits looks bad for its threshold only
        tuned = column.replace("test/", "test_tuned/")
        shown += [column, tuned] if tuned in set(columns) else [column]
    return shown[:SHOWN_METRICS]


def _digits(half_widths: pd.Series) -> int:
    """Decimals that give the typical half-width two significant digits, the same down a column."""
    known = half_widths[half_widths > 0]
    if known.empty:
        return 3
    return int(np.clip(1 - math.floor(math.log10(known.median())), 2, 4))


def _estimate(line: pd.Series | dict, digits: int, notes: dict[str, str]) -> Cell:
    if math.isnan(line["mean"]):
        return Cell(f"— ({_note(notes, line['missing'])})")
    text = f"{line['mean']:.{digits}f}"
    if math.isnan(line["half_width"]):
        text += f" ({_note(notes, line['missing'])})"
    else:
        text += f" ± {line['half_width']:.{digits}f}"
        if line.get("dropped", 0):
            note = _note(notes, f"over {line['n']} runs: the others have no value")
            text += f" ({note})"
    return Cell(text.replace("-", "−"), bool(line["tied_best"]))


def _difference(line: pd.Series, digits: int, notes: dict[str, str]) -> list[Cell]:
    if line["is_baseline"]:
        return [Cell(""), Cell("")]
    if math.isnan(line["difference"]):
        reason = line["missing"] or line["difference_missing"]
        return [Cell(f"— ({_note(notes, reason)})"), Cell("—")]
    text = f"{line['difference']:+.{digits}f}"
    if math.isnan(line["difference_low"]):
        text += f" ({_note(notes, line['difference_missing'])})"
    else:
        text += f" [{line['difference_low']:+.{digits}f}, {line['difference_high']:+.{digits}f}]"
    if line["pairs_dropped"]:
        text += f" ({_note(notes, 'pairs with a missing or undefined value left out')})"
    return [Cell(text.replace("-", "−")), Cell(_p(line["p_holm"]))]


def _p(p: float) -> str:
    if math.isnan(p):
        return "—"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _note(notes: dict[str, str], reason: str) -> str:
    """The letter under which the caption gives a reason."""
    reason = reason or "not defined"
    return notes.setdefault(reason, _letters(len(notes)))


def _letters(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    last = chr(ord("a") + number % 26)
    return last if number < 26 else _letters(number // 26 - 1) + last


def _legend(notes: dict[str, str]) -> str:
    return "".join(f" ({letter}) {reason}." for reason, letter in notes.items())


def _metric_header(table: pd.DataFrame, column: str) -> str:
    line = table[table["column"] == column].iloc[0]
    split = {"test": "", "test_tuned": " (tuned)", "val": " (validation)"}
    suffix = split.get(line["split"], f" ({line['split'].replace('_', ' ')})")
    return f"{metric_words(line['metric'])}{suffix} {_ARROWS[line['direction']]}"


def _results_caption(
    table: pd.DataFrame, primary: pd.DataFrame, compared: bool, tuned: bool, notes: dict[str, str]
) -> str:
    first = table.iloc[0]
    text = (
        f"{first['study']}: results on the test split. Cells are the mean ± half-width of the 95 % "
        f"Student t interval over run seeds ({first['seeds']} planned, n done), given this one "
        f"test split. "
    )
    if not primary.empty:
        picked = metric_words(primary["metric"].iloc[0])
        text += f"Configurations were selected by {picked} on validation. "
    if compared:
        text += (
            "Δ is the mean paired difference with its 95 % t interval and paired t-test; Holm's "
            "correction is over the arms, separately for selected configurations, defaults and "
            "decision rules. "
        )
    text += (
        "Bold: the best mean, and every row that a paired t-test against it, Holm-corrected over "
        "the rows, does not tell apart at the 5 % level."
    )
    if tuned:
        text += " Tuned: at the decision threshold chosen on validation, else at 0.5 or argmax."
    return text + _legend(notes)
