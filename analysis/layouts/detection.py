"""The table of detectors as one reads it: AP, costs, and what was published."""

import pandas as pd

from losslab.analysis.layouts.base import (
    ARROWS,
    BOLD_RULE,
    Cell,
    Layout,
    arm_rows,
    digits_of,
    estimate_cell,
    legend,
    n_words,
    note,
    plus_minus,
)

_HEADS = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "AP small", "ap_medium": "AP medium",
    "ap_large": "AP large", "milliseconds": "ms an image", "flops": "MFLOPs",
    "parameters": "parameters",
}  # fmt: skip
_COUNTED = {"flops": (1e6, "{:,.1f}"), "parameters": (1, "{:,.0f}")}  # of a model, not of a run


def detection_layout(table: pd.DataFrame) -> Layout:
    """AP and costs of each arm; see `tables.detection.detection_table`."""
    first = table.iloc[0]
    notes: dict[str, str] = {}
    known = table.groupby("metric")["mean"].apply(lambda means: means.notna().any())
    metrics = [name for name in _HEADS if known.get(name, False)]
    better = table.drop_duplicates("metric").set_index("metric")["direction"]
    digits = {m: digits_of(table.loc[table["metric"] == m, "half_width"]) for m in metrics}
    quoted = "published_ap" in table
    rows = arm_rows(
        table,
        metrics,
        lambda line, metric: _cell(line, metric, digits[metric], notes),
        (lambda line: _published(line, notes)) if quoted else None,
    )
    header = ["arm", *(f"{_HEADS[m]} {ARROWS[better[m]]}" for m in metrics), "n"]
    header += ["published AP / AP50 / AP75, %"] if quoted else []
    caption = (
        f"{first['study']}: what the detectors reach and cost on the test split, selected "
        f"configurations. AP by COCO's evaluator, from 0 to 1: the mean over IoU 0.50 to 0.95 and "
        f"over classes; small, medium and large by COCO's areas, in original pixels. Cells are "
        f"{plus_minus(first)}{n_words(table[table['metric'] == metrics[0]])}. {BOLD_RULE} "
        f"Costs are of the model alone, a multiplication and an addition being two operations; "
        f"milliseconds were measured beside whatever else ran."
    )
    if quoted:
        source = table["published_source"].dropna().iloc[0]
        caption += (
            f" Published: {source}, COCO AP in percent, another dataset and model: compare the "
            f"shapes of the columns, not their values."
        )
    return Layout(f"detection-{first['study']}", header, rows, caption + legend(notes))


def _cell(line: pd.Series, metric: str, digits: int, notes: dict[str, str]) -> Cell:
    if metric in _COUNTED and line["mean"] == line["mean"]:
        unit, form = _COUNTED[metric]
        return Cell(form.format(line["mean"] / unit))
    cost = metric == "milliseconds" or metric in _COUNTED
    return estimate_cell({**line, "tied_best": line["tied_best"] and not cost}, digits, notes)


def _published(line: pd.Series, notes: dict[str, str]) -> str:
    if pd.isna(line["published_ap"]):
        return f"— ({note(notes, 'the published table has no such row')})"
    return " / ".join(f"{line[f'published_{m}']:.1f}" for m in ("ap", "ap50", "ap75"))
