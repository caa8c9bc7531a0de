"""What each arm of a detection study reaches and costs, beside what was published."""

import pandas as pd

from losslab.analysis.detections import is_detection
from losslab.analysis.frames import StudyFrames
from losslab.analysis.tables.published_detection import published_rows
from losslab.analysis.tables.results import estimates
from losslab.analysis.tables.runs import Confirmed

PRECISIONS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
COSTS = ("milliseconds", "flops", "parameters")


def detection_table(frames: StudyFrames) -> pd.DataFrame:
    """COCO's AP and the costs of each arm's selected configuration on test, tidy.

    The columns of `estimates`, one line per arm and metric of `PRECISIONS` and `COSTS` that was
    recorded, and those of `published_detection.published_rows` where an arm has a published row.
    Empty for a study that detects no objects.
    """
    recorded = set(frames.confirmation.columns)
    columns = [c for c in (f"test/{name}" for name in (*PRECISIONS, *COSTS)) if c in recorded]
    if not is_detection(frames) or not columns:
        return pd.DataFrame()
    keys = [(arm, "selected", "") for arm in frames.arms]
    table = estimates(frames, Confirmed.of(frames), keys, columns)
    sized = table["metric"].isin(["ap_small", "ap_medium", "ap_large"])
    table.loc[sized & (table["missing"] == "not recorded"), "missing"] = "no objects of that size"
    quoted = published_rows(frames)
    return (
        table if quoted.empty else table.merge(quoted, left_on="arm", right_index=True, how="left")
    )
