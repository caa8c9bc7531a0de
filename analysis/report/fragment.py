r"""The same as a folder that a LaTeX paper inputs: `\input{paper/main}`.

Needs booktabs and graphicx; every text is escaped. Key numbers are macros, such as `\losslabAnswer`
or `\losslabDifference`: they hold those of the fragment that was input last.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from losslab.analysis.answer import Answer
from losslab.analysis.answer_values import MACRO_NAMES
from losslab.analysis.latex import escape
from losslab.analysis.report.collecting import Drawn
from losslab.analysis.tables.catalogue import StudyTable
from losslab.analysis.typeset import to_latex

_GRAPHIC = r"""% A figure at its own width, or as wide as the text where that is narrower.
\ifdefined\losslabWidth\else\newdimen\losslabWidth\fi
\def\losslabGraphic#1#2{\losslabWidth=#1\relax
  \ifdim\losslabWidth>\linewidth\losslabWidth=\linewidth\fi
  \includegraphics[width=\losslabWidth]{\losslabFolder/#2}}
"""
_EXAMPLE = r"""% A document of its own, to see the fragment: pdflatex example.tex, in this folder.
\documentclass[twocolumn]{article}
\usepackage[margin=20mm]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
\newcommand{\losslabFolder}{.}
\input{\losslabFolder/main}
\end{document}
"""


def write_fragment(
    folder: Path,
    key: str,
    answer: Answer,
    tables: Sequence[StudyTable],
    figures: Sequence[Drawn],
    inner: Sequence[str] = (),
) -> list[Path]:
    r"""Write `main.tex` and what it inputs into `folder`; gives the paths.

    `key` goes into the labels (`tab:<key>-results`, `fig:<key>-seeds`); `inner` names subfolders
    that hold fragments of their own, which `main.tex` inputs too. A document in another place says
    where the folder is by `\newcommand{\losslabFolder}{path/to/paper}` before the `\input`.
    """
    drawn = [figure for figure in figures if figure.pdf is not None]
    texts = {"macros.tex": _macros(answer), "example.tex": _EXAMPLE}
    for table in tables:
        texts[f"tables/{table.name}.tex"] = to_latex(table.layout, f"tab:{key}-{table.name}")
    for figure in drawn:
        texts[f"figures/{figure.name}.tex"] = _figure(figure, key)
    texts["main.tex"] = _main(answer, tables, drawn, inner)
    written = []
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    for figure in drawn:
        assert figure.pdf is not None
        written.append(Path(shutil.copy(figure.pdf, folder / "figures" / figure.pdf.name)))
    return written


def _main(
    answer: Answer, tables: Sequence[StudyTable], figures: Sequence[Drawn], inner: Sequence[str]
) -> str:
    lines = [
        r"% \input this file, or single lines of it; needs \usepackage{booktabs,graphicx}.",
        r"% In another folder: \newcommand{\losslabFolder}{path/to/this/folder} before it.",
        r"\providecommand{\losslabFolder}{.}",
        r"\input{\losslabFolder/macros}",
        r"\losslabAnswer",
        *([r"\losslabCaution"] if answer.caution else []),
        *(rf"\input{{\losslabFolder/tables/{table.name}}}" for table in tables),
        *(rf"\input{{\losslabFolder/figures/{figure.name}}}" for figure in figures),
    ]
    for name in inner:
        lines += [
            r"\clearpage",
            r"\let\losslabParent\losslabFolder",
            rf"\edef\losslabFolder{{\losslabParent/{name}}}",
            r"\input{\losslabFolder/main}",
            r"\let\losslabFolder\losslabParent",
        ]
    return "\n".join(lines) + "\n"


def _macros(answer: Answer) -> str:
    values = {"Answer": answer.sentence, "Caution": answer.caution or "—", **answer.values}
    # all of them in every fragment, so that none keeps the value of another study
    known = (rf"\def\losslab{name}{{{escape(values.get(name, '—'))}}}" for name in MACRO_NAMES)
    return "\n".join([*known, _GRAPHIC])


def _figure(figure: Drawn, key: str) -> str:
    from losslab.analysis.style import COLUMN

    environment = "figure" if figure.width <= COLUMN * 1.1 else "figure*"
    return (
        f"\\begin{{{environment}}}[tp]\n\\centering\n"
        f"\\losslabGraphic{{{figure.width:.2f}in}}{{figures/{figure.name}.pdf}}\n"
        f"\\caption{{{escape(figure.caption)}}}\n\\label{{fig:{key}-{figure.name}}}\n"
        f"\\end{{{environment}}}\n"
    )
