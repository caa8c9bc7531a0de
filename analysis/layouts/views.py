"""Recall by class, decision rules, calibration and published numbers as one reads them."""

import pandas as pd

from losslab.analysis.layouts.base import (
    ARROWS,
    BOLD_RULE,
    Cell,
    Layout,
    digits_of,
    estimate_cell,
    legend,
    metric_words,
    n_words,
    note,
    plus_minus,
)

FEW_CLASSES = 4  # so many fit a page beside each other, whatever the number of arms
_RULE_WORDS = {"": "0.5 or argmax", "tuned threshold": "tuned", "prior correction": "prior off"}
_SCALING_WORDS = {"test": "as trained", "test_calibrated": "after scaling"}


def recall_layout(table: pd.DataFrame) -> Layout:
    """Recall, AP or IoU of every class; see `tables.views.recall_table`.

    One row per class, or one per arm where there are few classes.
    """
    first = table.iloc[0]
    notes: dict[str, str] = {}
    few = table["class_name"].nunique() <= FEW_CLASSES
    lay = _recall_by_arm if few else _recall_by_class
    kind = first["metric"].partition("/")[0]
    what, counted = {
        "ap": ("AP ↑", "Objects"),
        "iou": ("IoU ↑ at argmax or 0.5", "Pixels"),
    }.get(kind, ("recall ↑ at argmax or 0.5", "Examples"))
    name = "recall" if kind == "recall" else f"class-{kind}"
    header, rows = lay(table, notes)
    caption = (
        f"{first['study']}: {what} of every class on the test split, selected "
        f"configurations. Cells are {plus_minus(first)}{n_words(table)}. {BOLD_RULE} Decided "
        f"within each class. {counted} of the class: in training, in test."
    )
    return Layout(f"{name}-{first['study']}", header, rows, caption + legend(notes))


def _recall_by_class(
    table: pd.DataFrame, notes: dict[str, str]
) -> tuple[list[str], list[list[Cell]]]:
    digits = digits_of(table["half_width"])
    arms = list(dict.fromkeys(table["arm"]))
    rows = []
    for name, lines in table.groupby("class_name", sort=False):
        by_arm = lines.set_index("arm")
        counts = [_count(lines[f"{s}_examples"].iloc[0], notes) for s in ("train", "test")]
        cells = [Cell(str(name)), *(Cell(text) for text in counts)]
        rows.append([*cells, *(estimate_cell(by_arm.loc[arm], digits, notes) for arm in arms)])
    return ["class", "training", "test", *arms], rows


def _recall_by_arm(
    table: pd.DataFrame, notes: dict[str, str]
) -> tuple[list[str], list[list[Cell]]]:
    digits = digits_of(table["half_width"])
    header = ["arm"]
    for name, lines in table.groupby("class_name", sort=False):
        train, test = (lines[f"{s}_examples"].iloc[0] for s in ("train", "test"))
        known = not (pd.isna(train) or pd.isna(test))
        header.append(f"{name} ({train:,.0f}; {test:,.0f})" if known else str(name))
    rows = []
    for arm, lines in table.groupby("arm", sort=False):
        cells = [estimate_cell(line, digits, notes) for line in lines.to_dict("records")]
        rows.append([Cell(str(arm)), *cells])
    return header, rows


def thresholds_layout(table: pd.DataFrame) -> Layout:
    """Decision metrics under every rule; see `tables.views.thresholds_table`."""
    first = table.iloc[0]
    metrics = list(dict.fromkeys(table["metric"]))[:2]  # the CSV has all of them
    shown = table[table["metric"].isin(metrics)]
    layout = _by_column(shown, "rule", _RULE_WORDS, f"thresholds-{first['study']}")
    caption = (
        f"{first['study']}: decisions on the test split under three rules, selected "
        f"configurations: at 0.5 or argmax; at the threshold tuned on validation; with the "
        f"log prior taken off the logits (recorded for plain cross-entropy). Cells are "
        f"{plus_minus(first)}{n_words(shown)}. {BOLD_RULE} Decided "
        f"for each metric over all arms and rules."
    )
    return _captioned(layout, caption)


def calibration_layout(table: pd.DataFrame) -> Layout:
    """Calibration before and after temperature scaling; see `tables.views.calibration_table`."""
    first = table.iloc[0]
    scaled = "test_calibrated" in set(table["split"])
    words = _SCALING_WORDS if scaled else {"test": ""}
    layout = _by_column(table, "split", words, f"calibration-{first['study']}")
    caption = (
        f"{first['study']}: calibration on the test split, selected configurations"
        f"{', before and after one temperature was fitted on validation' if scaled else ''}. Log "
        f"loss in nats; ECE over 15 bins. Cells are {plus_minus(first)}{n_words(table)}. "
        f"{BOLD_RULE} Decided within each column."
    )
    return _captioned(layout, caption)


def published_layout(table: pd.DataFrame) -> Layout:
    """Ours beside published numbers; see `tables.published.published_table`."""
    first = table.iloc[0]
    notes: dict[str, str] = {}
    digits = digits_of(table["half_width"])
    rows = []
    for line in table.to_dict("records"):
        cells = [Cell(line["row"]), estimate_cell({**line, "tied_best": False}, digits, notes)]
        cells.append(Cell(str(line["n"])))
        cells.append(Cell(f"{line['published']:.1f}"))
        texts = (line["published_metric"], line["published_setting"], line["published_source"])
        rows.append([*cells, *(Cell(str(text)) for text in texts)])
    metric = f"{metric_words(first['metric'])} {ARROWS[first['direction']]}"
    header = ["arm", f"{metric} (ours)", "n", "published", "metric", "setting", "source"]
    caption = (
        f"{first['study']}: ours beside what was published for the same loss. Ours: "
        f"{metric_words(first['metric'])} on the test split, {plus_minus(first)}; n done. "
        f"Published: the table's best entry for that loss, at the imbalance nearest ours. Dataset, "
        f"model, budget and metric differ: compare orders and gaps within a source, never values."
    )
    name = f"published-{first['study']}"
    return Layout(name, header, rows, caption + legend(notes), (0, 4, 5, 6))


def _by_column(table: pd.DataFrame, part: str, words: dict[str, str], name: str) -> Layout:
    """One row per arm, one column per metric and entry of `part`; the legend as a caption."""
    notes: dict[str, str] = {}
    pairs = table[["metric", part, "direction"]].drop_duplicates().to_numpy()
    columns = [(metric, entry, better) for metric, entry, better in pairs if entry in words]
    digits = {c: digits_of(table.loc[table["metric"] == c[0], "half_width"]) for c in columns}
    rows = []
    for arm, lines in table.groupby("arm", sort=False):
        by_column = lines.set_index(["metric", part])
        cells = [estimate_cell(by_column.loc[c[:2]], digits[c], notes) for c in columns]
        rows.append([Cell(str(arm)), *cells, _runs(lines, notes)])
    header = [
        f"{metric_words(metric)}{f', {words[entry]}' if words[entry] else ''} {ARROWS[better]}"
        for metric, entry, better in columns
    ]
    return Layout(name, ["arm", *header, "n"], rows, legend(notes))


def _runs(lines: pd.DataFrame, notes: dict[str, str]) -> Cell:
    """How many replicates an arm has, and how many of its runs diverged."""
    diverged = int(lines["diverged"].max())
    if not diverged:
        return Cell(str(lines["n"].max()))
    lost = f"{diverged} of its runs diverged, counted at chance level"
    if "ece" in set(lines["metric"]):
        lost += ", in ECE left out: at chance level it may be 0"
    return Cell(f"{lines['n'].max()} ({note(notes, lost)})")


def _captioned(layout: Layout, caption: str) -> Layout:
    return Layout(layout.name, layout.header, layout.rows, caption + layout.caption, layout.left)


def _count(value: float, notes: dict[str, str]) -> str:
    if pd.isna(value):
        return f"— ({note(notes, 'the study does not say')})"
    return f"{value:,.0f}"
