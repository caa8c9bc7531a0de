"""Writes the report of a study, or of several, into a folder."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from losslab.analysis.answer import Answer, answer
from losslab.analysis.frames import StudyFrames
from losslab.analysis.remarks import common_caution
from losslab.analysis.report.collecting import (
    Drawn,
    draw,
    key_tables,
    write_tables,
)
from losslab.analysis.report.comparison import obstacle, reasons, sentences
from losslab.analysis.report.drawing import Drawing
from losslab.analysis.report.fragment import write_fragment
from losslab.analysis.report.page import Overview, Part, comparison_page, study_page
from losslab.analysis.report.paper_figures import draw_figure_4, write_paper_figures
from losslab.analysis.report.repeating import STUDY_FILE
from losslab.analysis.tables.catalogue import StudyTable, several_tables, study_tables
from losslab.experiments.folder import slug

PAGE = "report.html"
FOCAL = {"focal", "focal_star"}
KEY_TABLES = ("results", "ledger")
# Of a level, or of one study among several; the last five where it recorded something.
_KEY_FIGURES = (
    *("seeds", "differences"),
    *("gradient_flow", "dead_units", "weights", "batch_norm_drift", "variance_shift"),
)


def begin_report(losses: Iterable[str], folder: str | Path) -> list[Path]:
    """Do what of a report needs no results, while a study trains; the paths of what was written.

    `losses` are the names of its arms' losses. The drawing libraries are loaded, and the focal
    paper's curves drawn where an arm uses that loss.
    """
    from losslab.analysis.figures import catalogue  # noqa: F401

    return write_paper_figures(Path(folder) / "figures") if FOCAL & set(losses) else []


def write_report_files(
    frames: StudyFrames,
    folder: str | Path,
    begun: Sequence[Path] | None = None,
    workers: int | None = 1,
) -> list[Path]:
    """Write a study's report into `folder` (made if missing) and give the paths, the page first.

    `report.html`, one page with everything in it; `tables/` as CSV, Markdown and LaTeX; `figures/`
    as PDF and PNG; `paper/`, a LaTeX fragment; `study.yaml`, the resolved study file. `begun` is
    what `begin_report` gave; without it, that is done too. With more than one of `workers` (None:
    all cores) a second process draws figures. What an unfinished study has no data for is left out.
    """
    folder = Path(folder)
    tables, figures = folder / "tables", folder / "figures"
    levels = _by_level(frames)
    two = ((os.cpu_count() or 1) if workers is None else workers) > 1
    # a figure of a study over levels would mix them, and outputs in MLflow are opened here alone
    drawing = None if levels else Drawing(
        frames, figures, two_processes=two and frames.folder is not None
    )  # fmt: skip
    told, of_study = answer(frames), study_tables(frames)
    written = write_tables(of_study, tables)
    drawn = drawing.finish() if drawing else []
    more, figure_4 = draw_figure_4(frames, figures, tables)
    drawn += figure_4
    title = str(frames.study["study"])
    part = Part("study", title, frames, told, of_study, drawn)
    overview, parts = None, []
    if levels:
        label = frames.study["levels"]["label"]
        overview = _overview(f"By {label}", levels, [], folder)
        for level, inside in levels.items():
            # what all arms spent at all levels stands in one table for the study
            one, files = _lean(
                inside, f"{label} {level}", folder, f"{slug(title)}-{label}-{level}", ("results",)
            )
            parts.append(one)
            written += files
    shown = [*drawn, *(overview.figures if overview else ())]
    inner = [one.key for one in parts]
    written += [*more, *_paths(shown)]
    written += write_fragment(folder / "paper", slug(title), told, of_study, shown, inner)
    written += _write_study_file(frames, folder / STUDY_FILE)
    page = folder / PAGE
    page.write_text(study_page(part, overview, parts), encoding="utf-8")
    if begun is None:
        begun = begin_report(_losses(frames), folder)
    return [page, *written, *begun]


def write_comparison(studies: Mapping[str, StudyFrames], folder: str | Path) -> list[Path]:
    """Write the report of several studies, by their names; gives the paths, the page first.

    As `write_report_files`: what they say together stands in `tables/` and `figures/`, each study
    in a subfolder of these, its study file in `studies/`. `BadInput` with fewer than two.
    """
    folder = Path(folder)
    title = "Comparison of " + ", ".join(studies)
    tables = several_tables(studies)
    written = write_tables(tables, folder / "tables")
    overview = _overview("The studies together", studies, tables, folder)
    written += _paths(overview.figures)
    told = Answer("several", " ".join(overview.sentences), caution=overview.caution)
    parts = []
    for name, frames in studies.items():
        part, files = _lean(frames, name, folder, name)
        parts.append(part)
        written += files
        written += _write_study_file(frames, folder / "studies" / f"{part.key}.yaml")
    keys = [part.key for part in parts]
    written += write_fragment(
        folder / "paper", "comparison", told, tables, overview.figures, inner=keys
    )
    page = folder / PAGE
    page.write_text(comparison_page(title, overview, parts), encoding="utf-8")
    return [page, *written]


def _overview(
    title: str, several: Mapping[str, StudyFrames], tables: Sequence[StudyTable], folder: Path
) -> Overview:
    """What several studies say together; without `tables`, the levels of one: its figures alone."""
    from losslab.analysis.figures.catalogue import SEVERAL_FIGURES

    usable = [f for f in SEVERAL_FIGURES if not (obstacle(several) and "critical" in f.name)]
    figures = list(draw(usable, several, folder / "figures"))
    if not tables:
        return Overview(title, figures=figures)
    caution = common_caution(several.values())
    return Overview(title, sentences(several), tables, figures, list(reasons(several)), caution)


def _lean(
    frames: StudyFrames, title: str, folder: Path, name: str, kept: Sequence[str] = KEY_TABLES
) -> tuple[Part, list[Path]]:
    """A level, or one study among several: answer, key tables, key figures; and its files."""
    from losslab.analysis.figures.catalogue import STUDY_FIGURES

    key = slug(name)
    tables = [table for table in key_tables(frames) if table.name in kept]
    files = write_tables(tables, folder / "tables" / key)
    chosen = [figure for figure in STUDY_FIGURES if figure.name in _KEY_FIGURES]
    figures = list(draw(chosen, frames, folder / "figures" / key))
    found = answer(frames)
    if frames.study.get("level"):
        found = replace(found, caution="")  # it stands beside the answer over all levels
    part = Part(key, title, frames, found, tables, figures)
    files += write_fragment(folder / "paper" / key, key, part.answer, tables, figures)
    return part, [*files, *_paths(figures)]


def _write_study_file(frames: StudyFrames, file: Path) -> list[Path]:
    text = frames.study.get("yaml")
    if not text:
        return []
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return [file]


def _by_level(frames: StudyFrames) -> dict[str, StudyFrames]:
    if not frames.study.get("levels"):
        return {}
    from losslab.analysis.levels import by_level

    return by_level(frames)


def _losses(frames: StudyFrames) -> list[str]:
    return [str(about.get("summary")) for about in frames.study["arms"].values()]


def _paths(figures: Sequence[Drawn]) -> list[Path]:
    return [path for figure in figures for path in (figure.pdf, figure.png) if path is not None]
