"""Whatever a user calls something comes out as that text, in every output."""

import csv
import io
import shutil
import subprocess
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from losslab.analysis.latex import breakable, escape
from losslab.analysis.layouts import Cell, Layout
from losslab.analysis.tables.catalogue import study_tables
from losslab.analysis.typeset import markdown_escape, to_csv, to_html, to_latex, to_markdown

HOSTILE = [
    r"a_b % & # $x$ ^ ~ \ { } γ <script>alert(1)</script> | *b* `c`",
    "=cmd|' /C calc'!A0",
    "-1+2",
    "+ plus",
    "- dash",
    "[ref]: http://x.example",
    "![img](x)",
    "1. first",
    "---",
    "# head",
    '"quoted" \'and\' """more"""',
    r"back\slash\\ends\\",
    r"pipe\|pipe||",
    "two\nlines\r\nand\rthree\ttabs",
    "😀 emoji 👩‍🔬",
    "中文名称",
    "é ñ Ö ß ½ ∞ → ≤",
    "&amp; &lt;b&gt; &#x41;",
    "a" * 300,
    "long_name_with_underscores_" * 8,
    "</td></table><h1>",
    "<!-- comment",
    "\\input{/etc/passwd}",
    "\\\\[3pt]",
    "$$",
    "[",
    "*star",
    "~~struck~~",
    ":smile: @name",
    "نص عربي",
    "\u202eoverride",
]
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))
ENGINE = shutil.which("pdflatex")


def shown(text: str) -> str:
    """What every output shows of a text: control characters and white space as single blanks."""
    kept = (c if c.isspace() or not (ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0) else " " for c in text)
    return " ".join("".join(kept).split())


class Reader(HTMLParser):
    """The texts of a table's cells, its caption, and every tag."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.found, self.cell = [], {"th": [], "td": [], "caption": []}, None

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in self.found:
            self.cell = tag
            self.found[tag].append("")

    def handle_endtag(self, tag):
        if tag in self.found:
            self.cell = None

    def handle_data(self, data):
        if self.cell:
            self.found[self.cell][-1] += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


def one(header: str, cell: str, caption: str, bold: bool = False) -> Layout:
    return Layout("t", ["arm", header], [[Cell(cell), Cell(cell, bold)]], caption)


@settings(max_examples=200, deadline=None)
@given(texts, texts, texts, st.booleans())
def test_html_reads_back(header, cell, caption, bold):
    reader = read(to_html(one(header, cell, caption, bold), label=caption))
    assert reader.found["th"] == ["arm", shown(header), shown(cell)]
    assert reader.found["td"] == [shown(cell)]
    assert reader.found["caption"] == [shown(caption)]
    allowed = {"table", "caption", "thead", "tbody", "tr", "th", "td", "strong"}
    assert {tag for tag, _ in reader.tags} <= allowed
    assert {name for _, given in reader.tags for name in given} <= {"id", "scope", "style"}


@settings(max_examples=300, deadline=None)
@given(texts, texts, texts)
def test_markdown_reads_back(header, cell, caption):
    rendered = (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .render(to_markdown(one(header, cell, caption)))
    )
    reader = read(rendered)
    assert reader.found["th"] == ["arm", shown(header)]
    assert reader.found["td"] == [shown(cell)] * 2
    paragraph = rendered[rendered.index("</table>") + len("</table>") :]
    assert {tag for tag, _ in read(paragraph).tags} <= {"p"}
    plain = Reader()
    plain.found["p"] = []
    plain.feed(paragraph)
    plain.close()
    assert "".join(plain.found["p"]) == shown(caption)


def test_bold_in_markdown_and_html():
    layout = one("x", "a_b", "", bold=True)
    assert r"**a\_b**" in to_markdown(layout)
    assert read(to_html(layout)).tags[-1][0] == "strong"


def test_html_is_a_table_for_people_who_hear_it():
    layout = Layout("t", ["arm", "words", "n"], [[Cell("a"), Cell("b"), Cell("1")]], "c", (0, 1))
    tags = read(to_html(layout)).tags
    scopes = [given["scope"] for tag, given in tags if tag == "th"]
    assert scopes == ["col", "col", "col", "row"]
    aligned = [given["style"] for tag, given in tags if tag == "td"]
    assert aligned == ["text-align: left", "text-align: right; white-space: nowrap"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(texts, st.floats(allow_nan=False)), min_size=1, max_size=4))
def test_csv_reads_back(lines):
    table = pd.DataFrame(lines, columns=["arm", "mean"])
    rows = list(csv.reader(io.StringIO(to_csv(table), newline="")))
    assert rows[0] == ["arm", "mean"]
    assert [(arm, float(mean)) for arm, mean in rows[1:]] == lines


def test_csv_through_pandas():
    table = pd.DataFrame({"arm": HOSTILE, "n": range(len(HOSTILE)), "bold": True})
    again = pd.read_csv(io.StringIO(to_csv(table), newline=""), keep_default_na=False)
    pd.testing.assert_frame_equal(again, table)


@given(st.text(max_size=60))
def test_no_special_character_is_left_bare_in_latex(text):
    bare = escape(text)
    for written in ("\\textbackslash{}", "\\{", "\\}", "\\_", "\\%", "\\&", "\\#", "\\$"):
        bare = bare.replace(written, "")
    assert not set("%&#_") & set(bare.replace("\\^", "").replace("^\\circ", ""))
    assert "\n" not in bare


def test_long_words_may_break():
    assert breakable("short words stay whole") == "short words stay whole"
    assert breakable("x" * 300).count("\\allowbreak{}") == 27
    assert markdown_escape("x" * 300) == "x" * 300


def compiled(folder, body: str, preamble: str = "") -> str:
    (folder / "paper.tex").write_text(
        f"\\documentclass[twocolumn]{{article}}\n\\usepackage{{booktabs}}\n{preamble}"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [ENGINE, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=folder,
        capture_output=True,
        timeout=300,
        check=False,
    )
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-3000:]
    return log


@pytest.mark.slow
@pytest.mark.skipif(ENGINE is None, reason="pdflatex is not installed")
def test_hostile_names_compile(tmp_path):
    letters = "".join(map(chr, [*range(0x20, 0x250), *range(0x370, 0x400), *range(0x2000, 0x2300)]))
    names = [*HOSTILE, *(letters[i : i + 50] for i in range(0, len(letters), 50))]
    rows = [[Cell(name), Cell(name, True), Cell("1.0")] for name in names]
    caption = f"{' '.join(HOSTILE)}. {'Many reasons. ' * 500}"
    layout = Layout("hostile", [HOSTILE[0], "a", "n"], rows, caption, (0, 1))
    short = Layout("short", ["[x]", "*y"], [[Cell(name[:12]), Cell("1")] for name in names], "c")
    log = compiled(tmp_path, to_latex(layout) + "\\clearpage\n" + to_latex(short))
    assert "Missing character" not in log


@pytest.mark.slow
@pytest.mark.skipif(ENGINE is None, reason="pdflatex is not installed")
def test_every_table_of_a_messy_study_fits_a_paper(messy, tmp_path):
    tables = study_tables(messy.frames(), ledger=True)
    assert len(tables) >= 8
    body = "\\clearpage\n".join(to_latex(table.layout) for table in tables)
    log = compiled(tmp_path, body, "\\usepackage{graphicx}\n")
    assert "Overfull \\hbox" not in log
    assert "Float too large" not in log


def test_long_tables_are_several_floats():
    rows = [[Cell(str(i)), Cell("1")] for i in range(95)]
    text = to_latex(Layout("long", ["arm", "n"], rows, "study: many rows."))
    assert text.count("\\begin{table*}") == 3
    assert text.count("study, continued.") == 2
    assert all(f"\n{i} & 1 " in text for i in range(95))


def test_very_long_words_break_everywhere():
    assert breakable("中文名").count("\\allowbreak{}") == 2
    layout = Layout("t", ["arm", "x" * 100], [[Cell("y" * 100), Cell("1")]], "c")
    assert "x" * 24 + " \\\\ " + "x" * 24 in to_latex(layout)
    styles = [given["style"] for tag, given in read(to_html(layout)).tags if tag == "th"]
    assert ["anywhere" in style for style in styles] == [False, True, True]
