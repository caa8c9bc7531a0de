"""The export command: one of a study's frames as a file for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING

from losslab.errors import BadInput
from losslab.inspecting import frames_of, writing

if TYPE_CHECKING:
    import pandas as pd


def export(study: str, home: str | None, frame: str, file: str, tracking_uri: str | None) -> int:
    """Write one of a study's frames to a Parquet or CSV file; how many rows it has."""
    path = Path(file)
    if path.suffix not in (".parquet", ".csv"):
        raise BadInput(f"{file}: the name must end in .parquet or .csv")
    table = _table(study, home, frame, tracking_uri)
    with writing("FILE", file):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            table.to_parquet(path, index=False)
        elif frame == "long":
            from losslab.analysis.long_form import latex_csv

            path.write_text(latex_csv(table), encoding="utf-8")
        else:
            table.to_csv(path, index=False)
    return len(table)


def _table(study: str, home: str | None, frame: str, tracking_uri: str | None) -> "pd.DataFrame":
    frames = frames_of(study, home, tracking_uri)
    if frame == "long":
        from losslab.analysis.long_form import long_form

        return long_form(frames)
    found: pd.DataFrame = getattr(frames, "arm_table" if frame == "arms" else frame)
    return found
