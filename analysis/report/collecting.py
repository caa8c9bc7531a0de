"""What a report shows: tables and figures out of their catalogues, written into folders."""

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import ledger_layout, results_layout
from losslab.analysis.tables import results_table
from losslab.analysis.tables.catalogue import StudyTable
from losslab.analysis.typeset import to_csv, to_latex, to_markdown


@dataclass(frozen=True)
class Drawn:
    """A figure that was written: its files, its size in inches; or why it was not drawn."""

    name: str
    title: str
    caption: str
    width: float = 0.0
    height: float = 0.0
    pdf: Path | None = None
    png: Path | None = None
    trouble: str = ""


def key_tables(frames: StudyFrames) -> list[StudyTable]:
    """The results and what each arm spent: all that one study among several shows."""
    results, none = results_table(frames), pd.DataFrame()
    return [
        StudyTable("results", results, results_layout(results), none),
        StudyTable("ledger", frames.ledger, ledger_layout(frames), none),
    ]


def write_tables(tables: Iterable[StudyTable], folder: Path) -> list[Path]:
    """Write tables as CSV, Markdown and LaTeX, and their sources as CSV; gives the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for table in tables:
        texts = {
            "csv": to_csv(table.data),
            "md": to_markdown(table.layout),
            "tex": to_latex(table.layout),
        }
        if len(table.sources):  # which runs are behind each cell
            texts["sources.csv"] = to_csv(table.sources)
        for extension, text in texts.items():
            path = folder / f"{table.name}.{extension}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def draw(
    catalogue: Iterable[Any], subject: StudyFrames | Mapping[str, StudyFrames], folder: Path
) -> Iterator[Drawn]:
    """Draw a catalogue's figures of `subject` into `folder`; what has no data is left out.

    A figure that fails is given with its trouble: one figure must not cost the whole report.
    """
    from losslab.analysis.style import save

    for entry in catalogue:
        try:
            figure = entry.draw(subject)
            if figure is None:
                continue
            caption = _told(entry.caption, subject)
            pdf, png = save(figure, folder, entry.name)
            width, height = figure.get_size_inches()
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            trouble = f"{type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})"
            yield Drawn(entry.name, entry.title, "", trouble=trouble)
        else:
            yield Drawn(entry.name, entry.title, caption, width, height, pdf, png)


def _told(caption: str | Callable[[Any], str], subject: Any) -> str:
    return caption(subject) if callable(caption) else caption
