"""The report command: which studies, from where, into which folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from losslab.errors import BadInput
from losslab.experiments.folder import home_folder
from losslab.inspecting import frames_of, study_folder, writing

if TYPE_CHECKING:
    from losslab.analysis.frames import StudyFrames
    from losslab.analysis.layouts import Layout

REPORTS = "reports"  # in the home folder: what belongs to no study folder there


def report(
    studies: Sequence[str], home: str | None, out: str | None, tracking_uri: str | None
) -> list[str]:
    """Write the report of one study, or the comparison of several; lines that say what and where.

    It goes to `out`, else to the study's own `report` folder, else (several studies, or one from an
    MLflow server) to `reports/<names>` in the home folder.
    """
    from losslab.analysis.answer import answer
    from losslab.analysis.remarks import common_caution
    from losslab.analysis.report import write_comparison, write_report_files
    from losslab.analysis.report.comparison import sentences

    frames: dict[str, StudyFrames] = {}
    for study in studies:
        found = frames_of(study, home, tracking_uri)
        name = str(found.study["study"])
        if name in frames:
            raise BadInput(f"study {name!r} is given twice; a comparison needs different studies")
        frames[name] = found
    place = Path(out) if out else _place(studies, list(frames), home, tracking_uri)
    with writing("--out", place):
        if len(frames) == 1:
            (only,) = frames.values()
            page = write_report_files(only, place, workers=None)[0]
            told = answer(only)
            return [told.sentence, *filter(None, [told.caution]), *where(page)]
        page = write_comparison(frames, place)[0]
        caution = common_caution(frames.values())
        return [*sentences(frames), *filter(None, [caution]), *where(page)]


def key_table(frames: "StudyFrames") -> "Layout":
    """The one table that a terminal shows: the results; of a study over levels, arms × levels."""
    from losslab.analysis.layouts import results_layout
    from losslab.analysis.levels import by_level
    from losslab.analysis.tables import results_table
    from losslab.analysis.tables.catalogue import several_tables

    levels = by_level(frames)
    return (
        several_tables(levels)[0].layout
        if len(levels) > 1
        else results_layout(results_table(frames))
    )


def where(page: Path) -> list[str]:
    """Where a report lies, as a path and as an address that a terminal can open."""
    page = page.absolute()
    return [
        f"report: {page}",
        f"open: {page.as_uri()}",
        f"tables, figures, LaTeX: {page.parent}",
    ]


def _place(
    studies: Sequence[str], names: Sequence[str], home: str | None, tracking_uri: str | None
) -> Path:
    if len(names) == 1 and tracking_uri is None:
        return study_folder(studies[0], home).report
    return home_folder(home) / REPORTS / "+".join(names)
