import re
import shutil
import subprocess
import unicodedata

import pytest

from losslab.analysis.latex import escape
from losslab.analysis.layouts import Cell, Layout, ledger_layout
from losslab.analysis.sweeps import sweep_table
from losslab.analysis.tables import results_table
from losslab.analysis.typeset import to_latex

ENGINE = shutil.which("pdflatex") or shutil.which("lualatex") or shutil.which("tectonic")


def compile_latex(folder, *tables: str) -> str:
    """The log of a document that inputs the tables; fails where the engine fails."""
    body = "\n".join(tables)
    (folder / "paper.tex").write_text(
        "\\documentclass{article}\n\\usepackage[letterpaper,margin=1in]{geometry}\n"
        f"\\usepackage{{booktabs}}\n\\begin{{document}}\n{body}\n\\end{{document}}\n",
        encoding="utf-8",
    )
    options = [] if "tectonic" in ENGINE else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run(
        [ENGINE, *options, "paper.tex"], cwd=folder, capture_output=True, timeout=120, check=False
    )
    log = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, log[-3000:]
    return log


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b", r"a\_b"),
        ("50 % & #1 $x$", r"50 \% \& \#1 \$x\$"),
        ("\\{}", r"\textbackslash{}\{\}"),
        ("^~", r"\textasciicircum{}\textasciitilde{}"),
        ("γ < Γ > ω", r"$\gamma$ $<$ $\Gamma$ $>$ $\omega$"),
        ("ΣΥΩ", r"$\Sigma$$\Upsilon$$\Omega$"),
        ("é Å", r"\'{e} \r{A}"),
        ("line\nbreak\t\u200b", "line break  "),
        ("中", "U+4E2D"),
    ],
)
def test_escape(text, expected):
    assert escape(text) == expected


def test_a_booktabs_table(study):
    writer = study()
    writer.build()
    text = to_latex(results_table(writer.frames()), label="tab:mine")
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:mine}", r"\begin{table*}"):
        assert part in text
    caption = text[text.index(r"\caption") : text.index(r"\label")]
    assert "5 planned" in caption
    assert "Student t interval" in caption
    assert "selected by average precision on validation" in caption
    assert re.search(r"focal & \\textbf\{0\.8\d\d \$\\pm\$ 0\.0\d\d\}", text)


@pytest.mark.skipif(ENGINE is None, reason="no LaTeX engine on this machine")
def test_everything_compiles(messy, study, tmp_path):
    sweep = study({f"gamma-{g}": 0.0 for g in (0, 1, 2)})
    sweep.build()
    frames = messy.frames()
    (tmp_path / "tex").mkdir()
    strange = "".join(
        chr(c) for c in range(0x20, 0x2FFF) if unicodedata.category(chr(c))[0] not in "C"
    )
    letters = [strange[i : i + 60] for i in range(0, len(strange), 60)]
    rows = [
        [Cell("[bracket"), Cell("*star")],
        *([Cell(part), Cell("x", True)] for part in letters[:9]),
    ]
    log = compile_latex(
        tmp_path / "tex",
        to_latex(results_table(frames)),
        to_latex(ledger_layout(frames)),
        to_latex(sweep_table(sweep.frames(), "gamma")),
        to_latex(Layout("strange", ["_a", "%b"], rows, "caption: [a] {b} # & γ ± ")),
        r"\par ".join(f"{{{escape(part)}}}\n" for part in letters),
    )
    assert "Missing character" not in log


@pytest.mark.skipif(ENGINE is None, reason="no LaTeX engine on this machine")
def test_a_usual_table_fits_a_page(study, tmp_path):
    writer = study()
    writer.build()
    log = compile_latex(tmp_path, to_latex(results_table(writer.frames())))
    assert "Overfull \\hbox" not in log
