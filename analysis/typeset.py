"""Tables as Markdown, LaTeX, HTML and CSV; whatever a user called something comes out as text."""

import csv
import re
from collections.abc import Sequence
from html import escape as html_escape
from textwrap import wrap

import pandas as pd

from losslab.analysis import latex
from losslab.analysis.layouts import Cell, Layout, results_layout, sweep_layout

_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$!])")
_LIST = re.compile(r"^(\d*)([-+.)])(?=[\s-]|$)")
_LONG_WORD = re.compile(r"\S{24}(?=\S)")  # what a column's head breaks a name after
LATEX_ROWS = 40  # rows of one float: more do not fit a page with their caption
_CAPTION = 2000  # letters of a caption; the rest of it goes below the table
_WIDE = 24  # letters from which a column of words is set in lines
_LETTER, _WIDEST, _NARROWER = 0.0095, 0.3, 0.22  # of the text's width: a letter, a column of words


def to_markdown(table: pd.DataFrame | Layout) -> str:
    """A pipe table with its caption below; `table` is a results table, a sweep, or a layout."""
    layout = as_layout(table)
    rows = [
        [f"**{markdown_escape(c.text)}**" if c.bold else markdown_escape(c.text) for c in row]
        for row in layout.rows
    ]
    frame = pd.DataFrame(rows, columns=[markdown_escape(text) for text in layout.header])
    align = ["left" if j in layout.left else "right" for j in range(len(layout.header))]
    text = frame.to_markdown(
        index=False, tablefmt="pipe", disable_numparse=True, colalign=align if rows else None
    )
    return f"{text}\n\n{markdown_escape(layout.caption)}\n"


def to_html(table: pd.DataFrame | Layout, label: str | None = None) -> str:
    """An HTML table: caption, head and row heads with scope, numbers flush right, bold as `strong`.

    A fragment without scripts or style sheets, all texts escaped; `label` becomes its id.
    """
    layout = as_layout(table)
    lines = [f'<table id="{_text(label)}">' if label else "<table>"]
    lines.append(f"<caption>{_text(layout.caption)}</caption>")
    heads = (
        f'<th scope="col"{_style(text, j, layout)}>{_text(text)}</th>'
        for j, text in enumerate(layout.header)
    )
    lines += ["<thead>", f"<tr>{''.join(heads)}</tr>", "</thead>", "<tbody>"]
    for row in layout.rows:
        cells = [f'<th scope="row"{_style(row[0].text, 0, layout)}>{_marked(row[0])}</th>']
        cells += [
            f"<td{_style(cell.text, j, layout, whole=True)}>{_marked(cell)}</td>"
            for j, cell in enumerate(row[1:], 1)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody>", "</table>"]) + "\n"


def to_latex(table: pd.DataFrame | Layout, label: str | None = None) -> str:
    r"""A booktabs table (`\usepackage{booktabs}`), all texts escaped; compiles with pdflatex.

    It is a `table*`: across both columns of a two-column paper, an ordinary table in others. A
    table that is wider than the text is shrunk to it where the paper loads graphicx. More than 40
    rows are set as several floats, since none breaks across pages.
    """
    layout = as_layout(table)
    name = label or "tab:" + re.sub(r"[^a-z0-9]+", "-", layout.name.lower()).strip("-")
    parts = [layout.rows[i : i + LATEX_ROWS] for i in range(0, len(layout.rows), LATEX_ROWS)]
    floats = [_float(layout, part, i, name) for i, part in enumerate(parts or [[]])]
    return "\n".join(floats)


def to_csv(table: pd.DataFrame) -> str:
    """All columns with every digit, for machines; `float` parses back to the same bits.

    Texts are quoted and otherwise as they are: a name that begins with `=` is written so, since a
    guard against spreadsheets that take it for a formula would change the name. Import such a file
    into a spreadsheet as text.
    """
    return table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def markdown_escape(text: str) -> str:
    r"""`text` as Markdown (and the HTML inside it) that shows it, on one line.

    >>> print(markdown_escape("a_b|<script>"))
    a\_b\|&lt;script&gt;
    """
    text = _plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # at the start of a line these would begin a list or a heading
    return _LIST.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\1", text))


def as_layout(table: pd.DataFrame | Layout) -> Layout:
    """The layout of a results table or a sweep; a layout is given back."""
    if isinstance(table, Layout):
        return table
    return sweep_layout(table) if "parameter_value" in table else results_layout(table)


def _plain(text: str) -> str:
    """White space as single blanks, control characters as blanks, lone surrogates replaced."""
    kept = (c if c.isprintable() or ord(c) > 0x9F or c.isspace() else " " for c in str(text))
    return " ".join("".join(kept).split()).encode(errors="replace").decode()


def _text(text: str | None) -> str:
    return html_escape(_plain(text or ""), quote=True)


def _marked(cell: Cell) -> str:
    return f"<strong>{_text(cell.text)}</strong>" if cell.bold else _text(cell.text)


def _style(text: str, column: int, layout: Layout, whole: bool = False) -> str:
    """The side that a cell is set to; numbers stay `whole`, on one line."""
    side = "left" if column in layout.left else "right"
    lines = "; white-space: nowrap" if whole and side == "right" else ""
    # a name of one very long word would push every number off the page
    broken = "; overflow-wrap: anywhere" if _LONG_WORD.search(text) else ""
    return f' style="text-align: {side}{lines}{broken}"'


def _float(layout: Layout, rows: Sequence[Sequence[Cell]], part: int, label: str) -> str:
    columns, body = _columns(layout), []
    sides = ["l" if j in layout.left else "r" for j in range(len(columns))]
    heads = [_stacked(text, side) for text, side in zip(layout.header, sides, strict=True)]
    for row in rows:
        cells = [_cell(cell, "p{" in column) for cell, column in zip(row, columns, strict=True)]
        # a row that begins with [ or * would be read as an argument of the line end before it
        guard = "{}" if cells and cells[0][:1] in ("[", "*") else ""
        body.append(f"{guard}{' & '.join(cells)} \\tabularnewline")
    caption, below = _caption(layout.caption)
    if part:
        caption, below = f"{latex.escape(layout.caption.split(':')[0])}, continued.", ""
    text = "\n".join(
        [
            f"\\begin{{tabular}}{{{''.join(columns)}}}",
            "\\toprule",
            f"{' & '.join(heads)} \\tabularnewline",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}%",
        ]
    )
    return "\n".join(
        [
            "\\begin{table*}[t]",
            "\\centering",
            f"\\caption{{{caption}}}",
            f"\\label{{{label}{f'-{part + 1}' if part else ''}}}",
            "\\smallskip\\footnotesize\\setlength{\\tabcolsep}{3pt}%",
            f"\\sbox0{{{text}",
            "}%",
            "\\ifdim\\wd0>\\linewidth",
            "\\ifdefined\\resizebox\\resizebox{\\linewidth}{!}{\\usebox0}\\else\\usebox0\\fi",
            "\\else\\usebox0\\fi",
            *([f"\\par\\raggedright {below}"] if below else []),
            "\\end{table*}",
            "",
        ]
    )


def _caption(text: str) -> tuple[str, str]:
    """The caption, and what goes below the table: LaTeX measures a caption on one line of 5.7 m."""
    if len(text) <= _CAPTION:
        return latex.escape(text), ""
    end = text.rfind(". ", 0, _CAPTION) + 1 or text.rfind(" ", 0, _CAPTION) + 1 or _CAPTION
    return latex.escape(text[:end]), latex.escape(text[end:].strip())


def _columns(layout: Layout) -> list[str]:
    """`r` for numbers; for words `l`, or lines of a given width where they are long."""
    shapes = []
    widest = _WIDEST if len(layout.header) < 6 else _NARROWER
    for j in range(len(layout.header)):
        longest = max((len(row[j].text) for row in layout.rows), default=0)
        if j not in layout.left:
            shapes.append("r")
        elif longest > _WIDE:
            shapes.append(f"p{{{min(_LETTER * longest, widest):.2f}\\textwidth}}")
        else:
            shapes.append("l")
    return shapes


def _cell(cell: Cell, in_lines: bool) -> str:
    text = latex.breakable(cell.text) if in_lines else latex.escape(cell.text)
    text = f"\\textbf{{{text}}}" if cell.bold else text
    return f"\\raggedright {text}" if in_lines else text


def _stacked(text: str, side: str) -> str:
    """A column's head in lines of some 14 letters, so that numbers set the column's width."""
    # an arrow stays with the word before it, and an interval's brackets stay whole
    text = re.sub(r" ([↑↓])", "\u00a0\\1", text).replace("95 % CI", "95\u00a0%\u00a0CI")
    text = _LONG_WORD.sub(r"\g<0> ", text)
    lines = wrap(text, 14, break_long_words=False, break_on_hyphens=False) or [""]
    # A line that begins with a bracket would be read as the length that \\\\ may be given.
    guarded = (("{}" if line[0:1] in "[*" else "") + latex.escape(line) for line in lines)
    stack = r" \\ ".join(guarded)
    return stack if len(lines) == 1 else rf"\shortstack[{side}]{{{stack}}}"
