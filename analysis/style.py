"""One look for every figure: print widths, colour-blind safe, legible in grey."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

COLUMN, PAGE = 3.35, 6.9  # inches: one column, and both columns, of a two-column paper
# told apart without colour
_DASHES = ((), (4, 1.5), (1, 1), (5, 1.2, 1, 1.2), (6, 1, 1, 1, 1, 1), (8, 2.5), (2, 2))


@contextmanager
def print_style() -> Iterator[None]:
    """The settings of matplotlib and seaborn that figures are made and saved under."""
    settings = {
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper"),
        "font.size": 8,
        "axes.labelsize": 8,
        "axes.titlesize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "legend.title_fontsize": 7,
        "legend.frameon": False,
        "legend.handlelength": 2.6,
        "lines.linewidth": 1.3,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "savefig.dpi": 200,
        # fonts as TrueType, so that a journal's check and a text search find letters
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "none",
    }
    with mpl.rc_context(settings):
        yield


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any):
    """A figure and its axes (always a flat list), kept out of pyplot's global list."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def line_looks(count: int) -> list[dict[str, Any]]:
    """`count` line looks (colour and dashes), all different up to 70."""
    colours = cycle(sns.color_palette("colorblind"))
    dashes = cycle(_DASHES)
    pairs = islice(zip(colours, dashes, strict=False), count)
    return [{"color": c, "linestyle": (0, d) if d else "-"} for c, d in pairs]


def plain(text: str, width: int = 26) -> str:
    r"""A user's text as a label: no mathematics out of a dollar sign, wrapped at `width`.

    A letter that the figures' font lacks is its code point, as in LaTeX, not an empty box.

    >>> print(plain("a_$b 中"))
    a_\$b U+4E2D
    """
    known = "".join(c if _in_font(c) else f"U+{ord(c):04X}" for c in str(text))
    return fill(known, width).replace("$", r"\$")


@cache
def _in_font(letter: str) -> bool:
    font = get_font(findfont("DejaVu Sans"))  # comes with matplotlib; the others are like it
    return letter.isspace() or bool(font.get_char_index(ord(letter)))


def save(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write `name.pdf` (vector) and `name.png` into `folder`, which is made; gives both paths.

    The PDF carries no date, so that the same numbers give the same file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.pdf", folder / f"{name}.png"]
    with print_style():
        figure.savefig(paths[0], metadata={"CreationDate": None})
        # the layout is done, and doing it again would take as long as drawing
        engine = figure.get_layout_engine()
        figure.set_layout_engine("none")
        figure.savefig(paths[1])
        figure.set_layout_engine(engine)
    return paths


def logarithmic(axis: Axes, which: Literal["x", "y"] = "y") -> None:
    """A logarithmic axis, once its lines are drawn, with two tick labels or more.

    Minor ticks would take most of the time of drawing; over less than two decades they are needed.
    """
    axis.set(**{f"{which}scale": "log"})
    ticks, (low, high) = (
        (axis.xaxis, axis.get_xlim()) if which == "x" else (axis.yaxis, axis.get_ylim())
    )
    ticks.set_minor_locator(NullLocator())
    if high < 100 * low:
        ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ticks.set_major_formatter(FormatStrFormatter("%g"))


def label_panels(axes: list[Axes], titles: list[str]) -> None:
    """Titles (a), (b), ... above the panels."""
    for letter, axis, title in zip("abcdefghijkl", axes, titles, strict=False):
        axis.set_title(f"({letter}) {title}", loc="left")
