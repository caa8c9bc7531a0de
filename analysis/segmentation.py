"""What segmentation networks made of the test images: confirmation runs read for being drawn."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from losslab.analysis.frames import StudyFrames
from losslab.analysis.remembering import once
from losslab.errors import BadInput


@dataclass(frozen=True)
class MaskedRun:
    """One confirmation run: the masks (m, H, W) that it predicts for the images `ids` (m,)."""

    arm: str
    seed_index: int
    ids: np.ndarray
    masks: np.ndarray


def is_segmentation(frames: StudyFrames) -> bool:
    """Whether the study is one of segmentation."""
    return frames.study.get("dataset", {}).get("task") == "segmentation"


@once
def masked_runs(frames: StudyFrames) -> list[MaskedRun]:
    """The complete run of the lowest seed of each arm's selected configuration that has masks."""
    if not is_segmentation(frames):
        return []
    runs = frames.confirmation
    runs = runs[(runs["variant"] == "selected") & (runs["state"] == "complete")]
    runs = runs[runs["outputs"].notna() & (runs["outputs"] != "")]
    found = []
    for arm in frames.arms:
        for run in runs[runs["arm"] == arm].sort_values(["repeat", "seed_index"]).itertuples():
            if (outputs := _outputs(frames, str(run.key))) is not None:
                ids, masks = outputs["test_mask_ids"], outputs["test_masks"]
                found.append(MaskedRun(arm, int(run.seed_index), ids, masks))
                break
    return found


def _outputs(frames: StudyFrames, key: str) -> Mapping[str, np.ndarray] | None:
    try:
        outputs = frames.outputs(key)
    except BadInput:  # a damaged file: the next seed is taken
        return None
    return outputs if outputs is not None and "test_masks" in outputs else None
