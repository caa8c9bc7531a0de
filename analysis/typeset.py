"""Tables as Markdown, LaTeX and CSV."""

import re
from textwrap import wrap

import pandas as pd

from losslab.analysis import latex
from losslab.analysis.layouts import Layout, results_layout, sweep_layout

_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$])")


def to_markdown(table: pd.DataFrame | Layout) -> str:
    """A pipe table with its caption below; `table` is a results table, a sweep, or a layout."""
    layout = _layout(table)
    rows = [
        [f"**{markdown_escape(c.text)}**" if c.bold else markdown_escape(c.text) for c in row]
        for row in layout.rows
    ]
    frame = pd.DataFrame(rows, columns=[markdown_escape(text) for text in layout.header])
    align = ["left", *["right"] * (len(layout.header) - 1)]
    text = frame.to_markdown(
        index=False, tablefmt="pipe", disable_numparse=True, colalign=align if rows else None
    )
    return f"{text}\n\n{markdown_escape(layout.caption)}\n"


def to_latex(table: pd.DataFrame | Layout, label: str | None = None) -> str:
    r"""A booktabs table (`\usepackage{booktabs}`), all texts escaped; compiles with pdflatex.

    It is a `table*`: across both columns of a two-column paper, an ordinary table in others.
    """
    layout = _layout(table)
    rows = [
        [rf"\textbf{{{latex.escape(c.text)}}}" if c.bold else latex.escape(c.text) for c in row]
        for row in layout.rows
    ]
    # a row that begins with [ would be read as the optional argument of the \\ before it
    rows = [[f"{{}}{row[0]}" if row[0][:1] in ("[", "*") else row[0], *row[1:]] for row in rows]
    header = [_stacked(text) for text in layout.header]
    frame = pd.DataFrame(rows, columns=range(len(header)))
    styler = frame.style.hide(axis="index").format_index(lambda i: header[i], axis=1)
    wide = any(len(row[0].text) > 30 for row in layout.rows)
    name = label or "tab:" + re.sub(r"[^a-z0-9]+", "-", layout.name.lower()).strip("-")
    text = styler.to_latex(
        hrules=True,
        environment="table*",
        position="t",
        position_float="centering",
        column_format=("p{0.2\\textwidth}" if wide else "l") + "r" * (len(header) - 1),
        caption=latex.escape(layout.caption),
        label=name,
    )
    return text.replace(
        "\\centering\n", "\\centering\n\\footnotesize\\setlength{\\tabcolsep}{3pt}\n"
    )


def _stacked(text: str) -> str:
    """A column's head in lines of some 14 letters, so that numbers set the column's width."""
    # an arrow stays with the word before it
    lines = wrap(re.sub(r" ([↑↓])", "\u00a0\\1", text), 14, break_long_words=False) or [""]
    # A line that begins with a bracket would be read as the length that \\\\ may be given.
    guarded = (("{}" if line[0:1] in "[*" else "") + latex.escape(line) for line in lines)
    stack = r" \\ ".join(guarded)
    return stack if len(lines) == 1 else rf"\shortstack[r]{{{stack}}}"


def to_csv(table: pd.DataFrame) -> str:
    """All columns with every digit, for machines; `float` parses back to the same bits."""
    return table.to_csv(index=False, lineterminator="\n")


def markdown_escape(text: str) -> str:
    r"""`text` as Markdown (and the HTML inside it) that shows it.

    >>> print(markdown_escape("a_b|<script>"))
    a\_b\|&lt;script&gt;
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _layout(table: pd.DataFrame | Layout) -> Layout:
    if isinstance(table, Layout):
        return table
    return sweep_layout(table) if "parameter_value" in table else results_layout(table)
