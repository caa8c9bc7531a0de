"""Selected configurations, shrinkage and divergences as one reads them."""

import math
from typing import Any

import pandas as pd

from losslab.analysis.layouts.base import (
    Cell,
    Layout,
    digits_of,
    interval_text,
    legend,
    metric_words,
    note,
    number_text,
)

SHOWN_RUNS = 20  # diverged runs in print; the CSV has all of them


def search_layout(table: pd.DataFrame, metric: str) -> Layout:
    """What every arm selected; see `tables.searches.search_table`."""
    study = str(table["study"].iloc[0])
    notes: dict[str, str] = {}
    paths = list(dict.fromkeys(table["parameter"]))
    repeated = len(set(table["repeat"].dropna())) > 1
    digits = 3
    rows = []
    for arm, own in table.groupby("arm", sort=False):
        first = own[own["parameter"] == own["parameter"].iloc[0]]
        cells = [Cell(str(arm))]
        for path in paths:
            cells.append(Cell(_parameter(own[own["parameter"] == path], notes)))
        other = own["flags"].dropna().astype(str).str.split("; ").explode()
        other = other[(other != "") & ~other.str.contains("is in the outer", regex=False)]
        flags = "".join(f" ({note(notes, flag)})" for flag in dict.fromkeys(other))
        cells.append(Cell(_spread(first["trial"].dropna(), "d") + flags))
        cells.append(Cell(_spread(first["value"].dropna(), f".{digits}f")))
        rows.append(cells)
    header = ["arm", *(_short(path, paths) for path in paths)]
    header += ["trial", f"{metric_words(metric)}, validation"]
    caption = (
        f"{study}: what the search selected in each arm, and the mean {metric_words(metric)} on "
        f"validation over the search seeds that selected it (optimistic: it is the best of many). "
        f"Trial 0 is the arm's defaults. A star marks a value in the outer 5 % of its range, which "
        f"may have been too narrow; parentheses mark a value that the study file fixes."
    )
    if repeated:
        caption += " Where the search was repeated: the median over repeats [smallest, largest]."
    return Layout(f"search-{study}", header, rows, caption + legend(notes))


def shrinkage_layout(table: pd.DataFrame) -> Layout:
    """What was left of the search's promise; see `tables.searches.shrinkage_table`."""
    first = table.iloc[0]
    notes: dict[str, str] = {}
    splits = [split for split in ("val", "test") if split in set(table["split"])]
    digits = digits_of((table["high"] - table["low"]) / 2)
    rows = []
    for arm, own in table.groupby("arm", sort=False):
        by_split = own.set_index("split")
        line = by_split.iloc[0]
        cells = [Cell(str(arm)), Cell(f"{line['search']:.{digits}f}")]
        for split in splits:
            if split not in by_split.index:
                letter = note(notes, "not recorded")
                cells += [Cell(f"— ({letter})"), Cell(f"— ({letter})")]
                continue
            here = by_split.loc[split]
            cells += _shrunk(here, digits, notes)
        ranks = [line["search_rank"], *(by_split["confirmed_rank"])]
        cells.append(Cell(" → ".join("—" if math.isnan(r) else f"{r:g}" for r in ranks)))
        cells.append(Cell(str(line["n"])))
        rows.append(cells)
    words = {"val": "validation", "test": "test"}
    header = ["arm", "search"]
    for split in splits:
        header += [f"fresh seeds, {words[split]}", f"shrinkage, {words[split]} [95 % CI]"]
    over = (
        "over repeats of search plus confirmation, so the search's own chance is in it"
        if first["unit"] == "repeat"
        else "over run seeds, with the search's value taken as it is"
    )
    caption = (
        f"{first['study']}: what search promised of each arm's selected configuration and what "
        f"fresh seeds kept, {metric_words(first['metric'])}. Shrinkage is search − fresh seeds "
        f"(mirrored where low is good): positive where the search promised too much. Intervals: "
        f"95 % t, {over}. On validation the two sides are of the same kind; on test the shift "
        f"between the splits is counted too. Rank: by search → on fresh seeds."
    )
    return Layout(
        f"shrinkage-{first['study']}", [*header, "rank", "n"], rows, caption + legend(notes)
    )


def divergences_layout(table: pd.DataFrame, short: int = SHOWN_RUNS) -> Layout:
    """What diverged, when and why; see `tables.searches.divergences_table`."""
    study = str(table["study"].iloc[0])
    paths = [c for c in table.columns if c.startswith("params.")]
    rows = []
    for line in table.head(short).to_dict("records"):
        settings = [
            f"{_short(path, paths)} {number_text(line[path])}"
            for path in paths
            if not pd.isna(line[path])
        ]
        texts = [line["arm"], _run(line), _count(line["epochs"]), line["reason"] or "not recorded"]
        rows.append([Cell(str(text)) for text in (*texts, ", ".join(settings) or "defaults")])
    header = ["arm", "run", "epochs", "why", "hyper-parameters"]
    caption = (
        f"{study}: the {len(table)} runs that diverged, after how many epochs, and why. A diverged "
        f"trial counts in the arm's budget; a diverged confirmation run counts at chance level."
    )
    if len(table) > short:
        caption += f" The first {short} are shown; the CSV has all of them."
    return Layout(f"divergences-{study}", header, rows, caption, (0, 1, 3, 4))


def _parameter(lines: pd.DataFrame, notes: dict[str, str]) -> str:
    known = lines[lines["selected"].notna()]
    if known.empty:
        return f"— ({note(notes, lines['missing'].iloc[0])})"
    star = "*" if known["at_edge"].any() else ""
    if known["fixed"].all():
        return f"({number_text(known['selected'].iloc[0])})"
    if len(known) == 1:
        return number_text(known["selected"].iloc[0]) + star
    values = pd.to_numeric(known["selected"], errors="coerce")
    if values.isna().any():
        return ", ".join(dict.fromkeys(number_text(v) for v in known["selected"])) + star
    return _spread(values, ".3g") + star


def _spread(values: pd.Series, form: str) -> str:
    if values.empty:
        return "—"
    if len(values) == 1:
        return f"{values.iloc[0]:{form}}".replace("-", "−")
    shape = form if form != "d" else "g"
    middle, low, high = (f"{v:{shape}}" for v in (values.median(), values.min(), values.max()))
    return f"{middle} [{low}, {high}]".replace("-", "−")


def _shrunk(line: pd.Series, digits: int, notes: dict[str, str]) -> list[Cell]:
    if math.isnan(line["confirmed"]):
        letter = note(notes, line["reason"] or "not recorded")
        return [Cell(f"— ({letter})"), Cell(f"— ({letter})")]
    text = interval_text(line["shrinkage"], line["low"], line["high"], digits, signed=True)
    if math.isnan(line["low"]):
        text += f" ({note(notes, line['reason'])})"
    return [Cell(f"{line['confirmed']:.{digits}f}".replace("-", "−")), Cell(text)]


def _run(line: dict[str, Any]) -> str:
    where = f", repeat {line['repeat']}" if not pd.isna(line["repeat"]) and line["repeat"] else ""
    if line["phase"] == "confirm":
        return f"confirmation, {line['variant']}, seed {line['seed_index']}{where}"
    kind = "retraining of trial" if line["phase"] == "select" else "trial"
    return f"{kind} {line['trial']}{where}"


def _count(value: Any) -> str:
    return "—" if pd.isna(value) else str(int(value))


def _short(path: str, paths: list[str]) -> str:
    """The last part of a config path, or all of it where another path ends alike."""
    path, others = path.removeprefix("params."), [p.removeprefix("params.") for p in paths]
    last = path.rsplit(".", 1)[-1]
    alike = [other for other in others if other.rsplit(".", 1)[-1] == last]
    return (last if len(alike) == 1 else path).replace("_", " ")
