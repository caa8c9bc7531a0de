"""The table of segmentation networks as one reads it: mean IoU, pixel accuracy, published."""

import pandas as pd

from losslab.analysis.layouts.base import (
    ARROWS,
    BOLD_RULE,
    Layout,
    arm_rows,
    digits_of,
    estimate_cell,
    legend,
    metric_words,
    n_words,
    note,
    plus_minus,
)


def segmentation_layout(table: pd.DataFrame) -> Layout:
    """Mean IoU and pixel accuracy by arm; see `tables.segmentation.segmentation_table`."""
    first = table.iloc[0]
    notes: dict[str, str] = {}
    metrics = list(dict.fromkeys(table["metric"]))
    better = table.drop_duplicates("metric").set_index("metric")["direction"]
    digits = {m: digits_of(table.loc[table["metric"] == m, "half_width"]) for m in metrics}
    quoted = "published_miou" in table
    rows = arm_rows(
        table,
        metrics,
        lambda line, metric: estimate_cell(line, digits[metric], notes),
        (lambda line: _published(line, notes)) if quoted else None,
    )
    header = ["arm", *(f"{metric_words(m)} {ARROWS[better[m]]}" for m in metrics), "n"]
    header += ["published mean IoU / pixel accuracy, %"] if quoted else []
    caption = (
        f"{first['study']}: what the networks reach on the test split, selected configurations, at "
        f"argmax or 0.5. Mean IoU: intersection over union of all pixels, the mean over the "
        f"classes, background included. Cells are {plus_minus(first)}"
        f"{n_words(table[table['metric'] == metrics[0]])}. {BOLD_RULE}"
    )
    if quoted:
        source = table["published_source"].dropna().iloc[0]
        caption += (
            f" Published: {source}; another dataset and a network of another size: compare the "
            f"shapes of the columns, not their values."
        )
    return Layout(f"segmentation-{first['study']}", header, rows, caption + legend(notes))


def _published(line: pd.Series, notes: dict[str, str]) -> str:
    if pd.isna(line["published_miou"]):
        return f"— ({note(notes, 'the published table has no such row')})"
    return f"{line['published_miou']:.2f} / {line['published_pixel_accuracy']:.2f}"
