"""What each arm of a segmentation study reaches, beside what was published."""

import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.segmentation import is_segmentation
from losslab.analysis.tables.published_segmentation import published_rows
from losslab.analysis.tables.results import estimates
from losslab.analysis.tables.runs import Confirmed

OVERLAPS = ("miou", "pixel_accuracy")


def segmentation_table(frames: StudyFrames) -> pd.DataFrame:
    """Mean IoU and pixel accuracy of each arm's selected configuration on test, tidy.

    The columns of `estimates`, one line per arm and metric of `OVERLAPS` that was recorded, and
    those of `published_segmentation.published_rows` where an arm has a published row. Empty for a
    study that is not one of segmentation.
    """
    recorded = set(frames.confirmation.columns)
    columns = [column for name in OVERLAPS if (column := f"test/{name}") in recorded]
    if not is_segmentation(frames) or not columns:
        return pd.DataFrame()
    keys = [(arm, "selected", "") for arm in frames.arms]
    table = estimates(frames, Confirmed.of(frames), keys, columns)
    quoted = published_rows(frames)
    return (
        table if quoted.empty else table.merge(quoted, left_on="arm", right_index=True, how="left")
    )
