"""The results table, the ledger and sweeps as one reads them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts.base import (
    ARROWS,
    BOLD_RULE,
    Cell,
    Layout,
    difference_text,
    digits_of,
    estimate_cell,
    legend,
    metric_words,
    note,
    number_text,
    p_text,
    plus_minus,
)

SHOWN_METRICS = 3  # what fits a page beside the difference columns; the CSV has all of them
LEDGER_COLUMNS = {"trials": "trials", "epochs": "epochs", "seconds": "seconds", "tuned": "tuned"}


def results_layout(
    table: pd.DataFrame, metrics: list[str] | None = None, ledger: pd.DataFrame | None = None
) -> Layout:
    """The results table as one reads it; `metrics` (such as `test/roc_auc`) chooses the columns.

    By default the first three of: the primary metric, then the study's others, each decision metric
    followed by its value at the tuned threshold. The CSV has all of them, and per-class recall.
    With `ledger` (`frames.ledger`), what each arm spent is given beside its selected configuration.
    """
    table = table.assign(column=table["split"] + "/" + table["metric"])
    shown = _shown_columns(table) if metrics is None else metrics
    key = ["arm", "variant", "rule"]
    primary = table[table["is_primary"]].set_index(key)
    baseline = table.loc[table["is_baseline"], "row"]
    digits = {c: digits_of(table.loc[table["column"] == c, "half_width"]) for c in shown}
    notes: dict[str, str] = {}
    compared = not primary.empty and len(baseline) > 0
    rows = []
    for row, lines in table.groupby(key, sort=False):
        lines = lines.set_index("column")
        cells = [Cell(lines["row"].iloc[0])]
        cells += [estimate_cell(lines.loc[c], digits[c], notes) for c in shown]
        if compared:
            cells += _difference(primary.loc[row], digits_of(primary["half_width"]), notes)
        rows.append([*cells, *_spent(ledger, row, notes), _count(lines.loc[shown], notes)])
    header = ["arm", *(_metric_header(table, c) for c in shown)]
    tuned = any(c.startswith("test_tuned/") for c in shown)
    if compared:
        header += [f"Δ to {baseline.iloc[0]} [95 % CI]", "p (Holm)"]
    header += [] if ledger is None else list(LEDGER_COLUMNS.values())
    study = str(table["study"].iloc[0])
    caption = _results_caption(table, primary, compared, tuned, notes)
    return Layout(f"results-{study}", [*header, "n"], rows, caption)


def sweep_layout(table: pd.DataFrame) -> Layout:
    """A sweep as one reads it; see `sweeps.sweep_table`."""
    first = table.iloc[0]
    tuned = [c for c in table.columns if c.startswith("tuned.")]
    digits = digits_of(table["half_width"])
    notes: dict[str, str] = {}
    with_published = "published" in table
    compared = table["baseline"].notna().any()
    metric = f"{metric_words(first['metric'])} {ARROWS[first['direction']]}"
    header = [first["parameter"], *(f"{c.rsplit('.', 1)[-1]} (tuned)" for c in tuned)]
    header += [f"{metric} (ours)", "n"]
    header += ["Δ to baseline [95 % CI]", "p (Holm)"] if compared else []
    header += ["COCO AP, % (published)", "published setting"] if with_published else []
    rows = []
    for _, line in table.sort_values("parameter_value", kind="stable").iterrows():
        cells = [Cell(number_text(line["parameter_value"]))]
        cells += [Cell(_tuned(line[c], notes)) for c in tuned]
        cells += [estimate_cell(line, digits, notes), Cell(str(line["n"]))]
        cells += _difference(line, digits, notes) if compared else []
        cells += _published(line, notes) if with_published else []
        rows.append(cells)
    caption = (
        f"{first['study']}: sweep over {first['parameter']}. Ours: {metric_words(first['metric'])} "
        f"on the test split, {plus_minus(first)}; n done. Other hyper-parameters were tuned on "
        f"validation for each value. {BOLD_RULE}"
    )
    if compared:
        caption += f" Δ: paired difference to {table['baseline'].dropna().iloc[0]}."
    if with_published:
        caption += (
            f" Published: {first['published_source']}, COCO AP in percent: another dataset, model "
            f"and metric, so compare the shapes of the two columns, not their values."
        )
    left = (len(header) - 1,) if with_published else ()
    name = f"sweep-{first['parameter']}-{first['study']}"
    return Layout(name, header, rows, caption + legend(notes), left)


def ledger_layout(frames: StudyFrames) -> Layout:
    """The ledger as one reads it; see `ledger.ledger_of`."""
    name = str(frames.study["study"])
    notes: dict[str, str] = {}
    rows = []
    for line in frames.ledger.itertuples():
        flags = [note(notes, flag) for flag in line.flags.split("; ") if flag]
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
    return Layout(f"ledger-{name}", [*header, "tuned", "flags"], rows, caption + legend(notes))


def _shown_columns(table: pd.DataFrame) -> list[str]:
    columns = (table["split"] + "/" + table["metric"]).drop_duplicates()
    simple = columns[columns.str.startswith("test/") & (columns.str.count("/") == 1)]
    shown = []
    for column in simple:
        # at 0.5 alone a loss that shifts its logits looks bad for its threshold only
        tuned = column.replace("test/", "test_tuned/")
        shown += [column, tuned] if tuned in set(columns) else [column]
    return shown[:SHOWN_METRICS]


def _difference(line: pd.Series, digits: int, notes: dict[str, str]) -> list[Cell]:
    if line["is_baseline"]:
        return [Cell(""), Cell("")]
    text = difference_text(line, digits, notes, line["missing"] if not line["n"] else "")
    if not pd.isna(line["difference"]) and line.get("pairs_dropped", 0):
        text += f" ({note(notes, 'pairs with a missing or undefined value left out')})"
    return [Cell(text), Cell(p_text(line["p_holm"]))]


def _spent(ledger: pd.DataFrame | None, row: Sequence[str], notes: dict[str, str]) -> list[Cell]:
    if ledger is None:
        return []
    arm, variant, rule = row
    own = ledger[ledger["arm"] == arm]
    if own.empty or variant != "selected" or rule:
        letter = note(notes, "counted with the arm's selected configuration")
        return [Cell(f"— ({letter})") for _ in LEDGER_COLUMNS]
    return [Cell(f"{own[column].iloc[0]:,.0f}") for column in LEDGER_COLUMNS]


def _count(lines: pd.DataFrame, notes: dict[str, str]) -> Cell:
    most = lines.sort_values("n").iloc[-1]
    if not most["diverged"]:
        return Cell(str(most["n"]))
    of = f" of {most['runs']} runs" if most["unit"] == "repeat" else " of them"
    diverged = f"{most['diverged']}{of} diverged, counted at chance level"
    return Cell(f"{most['n']} ({note(notes, diverged)})")


def _tuned(value: Any, notes: dict[str, str]) -> str:
    return f"— ({note(notes, 'not tuned in this arm')})" if pd.isna(value) else number_text(value)


def _published(line: Mapping[str, Any] | pd.Series, notes: dict[str, str]) -> list[Cell]:
    if pd.isna(line["published"]):
        letter = note(notes, "not in the published table")
        return [Cell(f"— ({letter})"), Cell(f"— ({letter})")]
    return [Cell(f"{line['published']:.1f}"), Cell(line["published_setting"])]


def _metric_header(table: pd.DataFrame, column: str) -> str:
    line = table[table["column"] == column].iloc[0]
    split = {"test": "", "test_tuned": " (tuned)", "val": " (validation)"}
    suffix = split.get(line["split"], f" ({line['split'].replace('_', ' ')})")
    return f"{metric_words(line['metric'])}{suffix} {ARROWS[line['direction']]}"


def _results_caption(
    table: pd.DataFrame, primary: pd.DataFrame, compared: bool, tuned: bool, notes: dict[str, str]
) -> str:
    first = table.iloc[0]
    text = f"{first['study']}: results on the test split. Cells are {plus_minus(first)}; n done. "
    if not primary.empty:
        picked = metric_words(primary["metric"].iloc[0])
        text += f"Configurations were selected by {picked} on validation. "
    if compared:
        text += (
            "Δ is the mean paired difference with its 95 % t interval and paired t-test; Holm's "
            "correction is over the arms, separately for selected configurations, defaults and "
            "decision rules. "
        )
    text += BOLD_RULE
    if tuned:
        text += " Tuned: at the decision threshold chosen on validation, else at 0.5 or argmax."
    return text + legend(notes)
