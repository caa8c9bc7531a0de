"""The page: one HTML file with everything in it, which opens from disk without a network."""

import base64
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from losslab.analysis.answer import Answer
from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import Layout
from losslab.analysis.report.collecting import Drawn
from losslab.analysis.report.links import Links, links
from losslab.analysis.report.repeating import Repeating, repeating
from losslab.analysis.tables.catalogue import StudyTable
from losslab.analysis.troubles import troubles
from losslab.analysis.typeset import to_html

_SCALE = 1.2  # figures are made for print, at 8 points; a screen shows them a little larger
_FIRST = ("results", "datasets", "dataset_differences", "ranks")  # before the figures
_HIDDEN = ("ledger",)  # tables that have a section of their own


@dataclass(frozen=True)
class Part:
    """One study, or one level of one, as the page shows it; `key` begins the ids of its parts."""

    key: str
    title: str
    frames: StudyFrames
    answer: Answer
    tables: Sequence[StudyTable]
    figures: Sequence[Drawn]

    @property
    def results(self) -> list[StudyTable]:
        """The tables before the figures."""
        return [table for table in self.tables if table.name in _FIRST]

    @property
    def ledger(self) -> list[StudyTable]:
        """What each arm spent."""
        return [table for table in self.tables if table.name in _HIDDEN]

    @property
    def further(self) -> list[StudyTable]:
        """All other tables."""
        return [t for t in self.tables if t.name not in (*_FIRST, *_HIDDEN)]

    @property
    def troubles(self) -> pd.DataFrame:
        """What diverged, was pruned or is missing."""
        return troubles(self.frames)

    @property
    def repeating(self) -> Repeating:
        """How to repeat the study."""
        return repeating(self.frames)

    @property
    def links(self) -> Links | None:
        """Where its runs are in MLflow."""
        return links(self.frames)


@dataclass(frozen=True)
class Overview:
    """What several studies, or the levels of one, say together."""

    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[StudyTable] = ()
    figures: Sequence[Drawn] = ()
    reasons: Sequence[str] = ()
    caution: str = ""


def study_page(part: Part, overview: Overview | None = None, levels: Sequence[Part] = ()) -> str:
    """The page of one study; a study over levels has an overview and a lean part for each."""
    return _render(
        "study.html.jinja", title=part.frames.study["study"], part=part, overview=overview,
        levels=levels,
    )  # fmt: skip


def comparison_page(title: str, overview: Overview, parts: Sequence[Part]) -> str:
    """The page of several studies: what they say together, then each of them."""
    return _render("comparison.html.jinja", title=title, overview=overview, parts_=parts)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("losslab.analysis.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"table": _table, "image": _image, "size": _size}
    assert environment.loader is not None
    style, _, _ = environment.loader.get_source(environment, "style.css")
    environment.globals["style"] = Markup(style)
    return environment


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def _image(figure: Drawn) -> str:
    assert figure.png is not None
    return "data:image/png;base64," + base64.b64encode(figure.png.read_bytes()).decode()


def _size(figure: Drawn) -> dict[str, Any]:
    """The size on a screen, in CSS pixels, and whether it takes both columns of the page."""
    return {
        "wide": figure.width > 4.6,
        "inches": round(figure.width, 2),
        "width": math.ceil(figure.width * 96 * _SCALE),
        "height": math.ceil(figure.height * 96 * _SCALE),
    }


def _table(layout: Layout) -> Markup:
    return Markup(to_html(layout))
