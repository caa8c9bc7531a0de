"""Arms over several datasets or levels, ranks, and the two kinds of interval, as one reads them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from losslab.analysis.layouts.base import (
    ARROWS,
    BOLD_RULE,
    Cell,
    Layout,
    difference_text,
    digits_of,
    estimate_cell,
    interval_text,
    legend,
    metric_words,
    n_words,
    note,
    p_text,
    plus_minus,
)

if TYPE_CHECKING:
    from losslab.analysis.tables.datasets import Ranking


def datasets_layout(table: pd.DataFrame, found: "Ranking", names: Mapping[str, str]) -> Layout:
    """Arms × datasets with average ranks; `names` says what the head of a dataset's column is."""
    notes: dict[str, str] = {}
    digits = _digits(table)
    rows = []
    for arm, lines in table.groupby("arm", sort=False):
        by_dataset = lines.set_index("dataset")
        cells = [Cell(str(arm))]
        cells += [estimate_cell(by_dataset.loc[d], digits[d], notes) for d in names]
        rank = found.ranks.get(arm)
        if rank is None:
            lack = found.reason or "not an arm of every study"
            cells.append(Cell(f"— ({note(notes, lack)})"))
        else:
            cells.append(Cell(f"{rank:.2f}", rank == found.ranks.min()))
        rows.append(cells)
    caption = (
        f"Arms over {len(names)} datasets or levels, selected configurations, {_metrics(table)} on "
        f"each test split. {_each(table)} {BOLD_RULE} Decided within each column; the best average "
        f"rank is bold too. {ranking_words(found)}"
    )
    header = ["arm", *_headers(table, names), "average rank"]
    return Layout("datasets", header, rows, caption + legend(notes))


def differences_layout(table: pd.DataFrame, names: Mapping[str, str]) -> Layout:
    """Every arm's difference to the baseline, dataset by dataset; bold where p (Holm) ≤ .05."""
    notes: dict[str, str] = {}
    digits = _digits(table)
    baselines = table[table["is_baseline"]].set_index("dataset")["arm"]
    rows = []
    for arm, lines in table.groupby("arm", sort=False):
        by_dataset = lines.set_index("dataset")
        cells = [Cell(str(arm))]
        for dataset in names:
            line = by_dataset.loc[dataset]
            if line["is_baseline"]:
                cells.append(Cell(f"({note(notes, 'the baseline')})"))
                continue
            missing = line["missing"] if not line["n"] else line["difference_missing"]
            text = difference_text(line, digits[dataset], notes, missing)
            cells.append(Cell(text, line["verdict"] in ("better", "worse")))
        rows.append(cells)
    against = sorted(set(baselines))
    to = against[0] if len(against) == 1 else "each study's baseline"
    caption = (
        f"Mean paired difference to {to} on each test split, {_metrics(table)}, with its 95 % t "
        f"interval. Bold: p of the paired t-test at most 0.05, Holm-corrected over the arms of "
        f"that dataset or level."
    )
    name = "dataset-differences"
    return Layout(name, ["arm", *_headers(table, names)], rows, caption + legend(notes))


def ranks_layout(table: pd.DataFrame, found: "Ranking") -> Layout:
    """Average ranks with tests against the control; see `tables.datasets.ranks_table`."""
    notes: dict[str, str] = {}
    rows = []
    for line in table.to_dict("records"):
        against = [f"{line['z']:+.2f}".replace("-", "−"), p_text(line["p_holm"])]
        if pd.isna(line["z"]):
            letter = note(notes, "the control" if line["is_control"] else "no common baseline")
            against = [f"— ({letter})"] * 2
        wilcoxon = p_text(line["wilcoxon_p"]) if not pd.isna(line["wilcoxon_p"]) else against[1]
        texts = [line["arm"], f"{line['average_rank']:.2f}", line["groups"] or "—", *against]
        rows.append([Cell(str(text)) for text in (*texts, wilcoxon)])
    header = ["arm", "average rank", "groups", "z to control", "p (Holm)", "p (Wilcoxon, Holm)"]
    caption = (
        f"Average ranks over {len(found.scores)} datasets or levels (1 the best; Demšar 2006). "
        f"Groups: arms that share a letter are not told apart by Nemenyi's test at the 5 % level. "
        f"z and p compare with {found.control or 'no control'}, Holm-corrected over the arms; the "
        f"last column is Wilcoxon's signed-rank test against it, Holm-corrected over all pairs, "
        f"which does not depend on the other arms. {ranking_words(found)}"
    )
    return Layout("ranks", header, rows, caption + legend(notes), (0, 2))


def ranking_words(found: "Ranking") -> str:
    """Friedman, Nemenyi and Holm in sentences, from the numbers that the table and diagram show."""
    parts = []
    if found.ranks.empty:
        return f"No ranks: {found.reason}."
    parts.append(f"Ranks are over {len(found.scores)} datasets and {len(found.ranks)} arms.")
    if found.left_out:
        parts.append(f"Not ranked, since not in every study: {', '.join(found.left_out)}.")
    if found.dropped:
        parts.append(f"Left out, since an arm has no mean there: {', '.join(found.dropped)}.")
    test = found.friedman
    if test is not None:
        parts.append(
            f"Friedman: χ² = {test.chi2:.2f} with {test.arms - 1} degrees of freedom, "
            f"p {_p(test.p)}; Iman and Davenport's F = {test.f:.2f}, p {_p(test.p_f)}"
            f"{f' ({test.reason})' if test.reason else ''}."
        )
    if found.nemenyi is not None:
        parts.append(
            f"Nemenyi: average ranks that differ by {found.nemenyi.critical_difference:.2f} or "
            f"more differ at the 5 % level ({_pairs(found.nemenyi.different)})."
        )
    if found.against_control is not None:
        beaten = found.against_control
        some = beaten[beaten["p_holm"] <= 0.05].index
        parts.append(
            f"Against {found.control}, Holm-corrected: "
            f"{', '.join(map(str, some)) + ' differ' if len(some) else 'no arm differs'}."
        )
    if found.dependent:
        parts.append(
            "The levels share one dataset and are no independent replicates: read the tests as a "
            "description of these levels."
        )
    return " ".join(parts)


def examples_layout(table: pd.DataFrame) -> Layout:
    """Intervals over seeds, and over seeds and test examples; see `tables.examples`."""
    first = table.iloc[0]
    notes: dict[str, str] = {}
    digits = digits_of((table["high"] - table["low"]) / 2)
    rows = []
    for line in table.to_dict("records"):
        signed = line["quantity"] == "difference"
        head = [line["arm"], "Δ to baseline" if signed else "mean"]
        if pd.isna(line["estimate"]):
            letter = note(notes, line["missing"])
            body = [f"— ({letter})"] * 4 + [str(line["seeds"])]
        else:
            seeds, both = (
                interval_text(line["estimate"], line[low], line[high], digits, signed)
                for low, high in (("seeds_low", "seeds_high"), ("low", "high"))
            )
            if line["missing"]:
                seeds += f" ({note(notes, line['missing'])})"
            errors = [
                f"— ({note(notes, line['missing'])})"
                if pd.isna(line[name])
                else f"{line[name]:.{digits + 1}f}"
                for name in ("seed_error", "example_error")
            ]
            body = [seeds, both, *errors, str(line["seeds"])]
        rows.append([Cell(str(text)) for text in (*head, *body)])
    header = ["arm", "quantity", "over seeds [95 % CI]", "over seeds and examples [95 % CI]"]
    header += ["error, seeds", "error, examples", "n"]
    used = table.loc[table["resamples"] > 0, ["examples", "resamples"]]
    how = f" ({used.iloc[0, 0]:,} examples, {used.iloc[0, 1]} resamples)" if len(used) else ""
    caption = (
        f"{first['study']}: {metric_words(first['metric'])} on the test split with two intervals: "
        f"over new run seeds and this test set, and over new run seeds and a new test set of the "
        f"same size{how}. Errors: the standard errors that seeds and examples each bring in; n run "
        f"seeds."
    )
    return Layout(f"examples-{first['study']}", header, rows, caption + legend(notes), (0, 1))


def _digits(table: pd.DataFrame) -> dict[Any, int]:
    return {name: digits_of(lines["half_width"]) for name, lines in table.groupby("dataset")}


def _headers(table: pd.DataFrame, names: Mapping[str, str]) -> list[str]:
    """The datasets' names, with the metric and its arrow where they differ."""
    first = table.drop_duplicates("dataset").set_index("dataset")
    if len(set(zip(first["metric"], first["direction"], strict=True))) == 1:
        return list(names.values())
    return [
        f"{name} ({metric_words(first.loc[d, 'metric'])} {ARROWS[first.loc[d, 'direction']]})"
        for d, name in names.items()
    ]


def _metrics(table: pd.DataFrame) -> str:
    pairs = table[["metric", "direction"]].drop_duplicates().to_numpy()
    return ", ".join(f"{metric_words(metric)} {ARROWS[better]}" for metric, better in pairs)


def _each(table: pd.DataFrame) -> str:
    """What ± is, once for all datasets where they agree, with n."""
    ways = list(dict.fromkeys(plus_minus(line) for line in table.to_dict("records")))
    return f"Cells are {'; or '.join(ways)}{n_words(table)}."


def _p(p: float) -> str:
    if pd.isna(p):
        return "undefined"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _pairs(different: pd.DataFrame) -> str:
    arms = list(different.index)
    found = [
        f"{a} and {b}" for i, a in enumerate(arms) for b in arms[i + 1 :] if different.loc[a, b]
    ]
    if len(found) > 6:
        return f"{len(found)} of {len(arms) * (len(arms) - 1) // 2} pairs do"
    return f"{', '.join(found)} do" if found else "no pair does"
