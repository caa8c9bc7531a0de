"""From a study's records, on disk or in MLflow, to tidy pandas frames.

Both sources give the same frames: a study folder is the truth, MLflow its mirror. docs/frames.md
explains every frame and column.
"""

from losslab.analysis.frames.building import build_frames
from losslab.analysis.frames.folder import frames_from_folder, read_records
from losslab.analysis.frames.runs import Run
from losslab.analysis.frames.source import frames_from_mlflow
from losslab.analysis.frames.study_frames import StudyFrames, Tracking

__all__ = [
    "Run",
    "StudyFrames",
    "Tracking",
    "build_frames",
    "frames_from_folder",
    "frames_from_mlflow",
    "read_records",
]
