"""The page: what stands in it, that names stay text, that nothing is fetched; and the fragment."""

import base64
import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
from scipy import stats

from losslab.analysis.answer import answer
from losslab.analysis.frames import Tracking
from losslab.analysis.report import write_comparison, write_report_files
from losslab.analysis.report.comparison import obstacle, reasons, sentences
from losslab.analysis.report.links import links
from losslab.analysis.report.page import Part, study_page
from losslab.analysis.report.repeating import repeating

HOSTILE = r"a_b % & # $x$ ^ ~ \ { } γ <script>alert(1)</script> | *b* `c`"
VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """A page taken apart: elements, attributes, the text of headings and cells."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.headings: list[tuple[int, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes what it did not open"

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def _assert_sound(page: Page) -> None:
    """Well-formed, reachable, described, and nothing of it comes from elsewhere."""
    assert page.open == []
    assert ("html", "lang", "en") in page.attributes
    assert "script" not in page.tags
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for target in page.values("href"):
        known = target.startswith(("http://127.0.0.1:5000/#/", "https://mlflow.example/#/"))
        assert known or target == "data:," or target.removeprefix("#") in ids, target
    assert all(source.startswith("data:image/png;base64,") for source in page.values("src"))
    for source in page.values("src"):
        assert base64.b64decode(source.split(",", 1)[1]).startswith(b"\x89PNG")
    assert page.tags.count("img") == len([alt for alt in page.values("alt") if len(alt) > 20])
    assert page.tags.count("table") == page.tags.count("caption")
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


@pytest.fixture(scope="module")
def recorded(kept_messy):
    """The messy study with all that a real study.json records."""
    messy = kept_messy
    messy.study |= {
        "question": f"Which of {HOSTILE}?",
        "yaml": "study: synthetic # <b>not bold</b>\n",
        "versions": {"python": "3.11.7", "losslab": "0.1.0", "torch": "2.13.0"},
        "git": "0123abcd+",
        "code": "4567ef",
        "device": "cpu",
        "created": 1763680000.0,
        "id": "deadbeef",
        "budget": 12,
        "content_hashes": {"ce": "593d2a22"},
        "notes": [{"time": 1763690000.0, "text": "trials: 8 -> 12"}],
        "resolved": {"seed": 7, "confirm": {"defaults": True}},
    }
    messy.write("study.json", messy.study)
    return messy


@pytest.fixture(scope="module")
def messy_report(recorded, tmp_path_factory):
    """The paths of its report."""
    return write_report_files(recorded.frames(), tmp_path_factory.mktemp("report"))


def test_the_page_of_a_messy_study(recorded, messy_report):
    text = messy_report[0].read_text(encoding="utf-8")
    assert "<script>alert" not in text
    page = Page(text)
    _assert_sound(page)
    assert f"Which of {HOSTILE}?" in page.text
    assert page.text.count("<script>alert(1)</script>") > 5  # as text, in every table
    assert [text for level, text in page.headings if level == 2] == [
        "Answer", "Results", "Figures", "Further tables", "What each arm spent",
        "What diverged, was pruned or is missing", "How to repeat it", "Runs in MLflow",
    ]  # fmt: skip
    for fact in (
        "The study is unfinished",
        "git checkout 4567ef losslab run study.yaml",
        "git commit 0123abcd, with changes that are not in it",
        "torch 2.13.0",
        "1000, 1001, 1002, 1003, 1004",
        "content hash 593d2a22",
        "trials: 8 -> 12",
        "study: synthetic # <b>not bold</b>",
        "not everything selected yet: 0 of 12 trainings done",
        "diverged on purpose",
        "Runs are not linked",
    ):
        assert fact in page.text, fact
    assert "'none'" in next(v for v in page.values("content") if "default-src" in v)
    assert (messy_report[0].parent / "study.yaml").read_text() == recorded.study["yaml"]
    # beside the answer, not below it
    (box,) = re.findall('<div class="answer.*?</div>', text, re.DOTALL)
    assert "One search per arm (12 trainings each)" in box


def test_an_old_study_says_what_it_did_not_record(study):
    writer = study(seeds=2, trials=2)
    writer.study.pop("git")
    writer.build()
    how = repeating(writer.frames())
    assert how.commands == ("losslab run study.yaml", "losslab report synthetic")
    facts = dict(how.facts)
    assert facts["losslab's code"] == "no git commit known"
    assert facts["versions"] == facts["first started"] == "not recorded"
    assert facts["study seed"] == "not recorded"
    assert "about the data" not in facts


def test_what_was_left_out_of_the_data_is_among_the_facts(study):
    writer = study(seeds=2, trials=2)
    writer.study["dataset"] = {"name": "voc", "left_out": {"counts": {"truncated image": 3}}}
    writer.build()
    facts = dict(repeating(writer.frames()).facts)
    assert facts["about the data"].startswith("left out of the data as broken: 3 (truncated image")


@pytest.mark.parametrize(
    ("uri", "base", "local"),
    [
        ("sqlite:////x/mlflow.db", "http://127.0.0.1:5000", True),
        ("https://mlflow.example/", "https://mlflow.example", False),
    ],
)
def test_links_to_mlflow(study, uri, base, local):
    writer = study({"ce": 0.0, "focal": 0.0}, seeds=3, trials=2)
    writer.build()
    frames = writer.frames()
    ids = [f"run{position}" for position in range(len(frames.confirmation))]
    ids[1] = ""
    confirmation = frames.confirmation.assign(run_id=ids)
    frames = replace(frames, confirmation=confirmation, tracking=Tracking(uri, "7"))
    found = links(frames)
    assert (found.experiment, found.local) == (f"{base}/#/experiments/7", local)
    shown = [address for _, _, runs in found.rows for _, address in runs]
    assert sorted(shown) == sorted(f"{base}/#/experiments/7/runs/{i}" for i in ids if i)
    assert found.unknown == 1
    text = study_page(Part("study", "synthetic", frames, answer(frames), [], []))
    _assert_sound(Page(text))
    assert all(address in text for address in shown)
    assert ("losslab ui" in text) == local


@pytest.fixture(scope="module")
def several(kept_study):
    """Three studies on data of their own, with the arms ce, focal and other in common."""

    def make(name, **effects):
        writer = kept_study(effects, seeds=4, trials=3, name=name)
        writer.study["dataset"]["content_hash"] = name
        writer.build()
        return writer

    made = [
        make("one", ce=0.0, focal=0.05, other=0.01),
        make("two", ce=0.0, focal=0.06, other=-0.02),
        make(HOSTILE, ce=0.0, focal=0.03, other=0.1, extra=0.0),
    ]
    return {writer.study["study"]: writer.frames() for writer in made}


def test_ranks_over_studies(several):
    first, *rest = sentences(several)
    means = [
        frames.confirmation.query("variant == 'selected'")
        .groupby("arm")["test/average_precision"].mean()[["ce", "focal", "other"]]
        for frames in several.values()
    ]  # fmt: skip
    table = pd.DataFrame(means)
    ranks = table.rank(axis=1, ascending=False).mean()
    for arm, rank in ranks.items():
        assert f"{arm} {rank:.2f}" in first
    chi2 = stats.friedmanchisquare(*table.to_numpy().T).statistic
    f = 2 * chi2 / (3 * 2 - chi2)
    assert f"Friedman's test p = {stats.f.sf(f, 2, 4):.3f}, which does not tell them apart" in first
    assert rest[0].startswith("one: focal is better than ce (+0.0")
    assert any("The dataset is the replicate here, and there are 3" in r for r in reasons(several))


def test_why_there_are_no_ranks(several, study):
    same = {name: replace(f, study={**f.study, "dataset": {"content_hash": "x"}})
            for name, f in several.items()}  # fmt: skip
    assert "use the same data" in obstacle(same)
    assert not any("Friedman" in sentence for sentence in sentences(same))
    writer = study({"lonely": 0.0}, seeds=2, name="lonely")
    writer.build(search=False)
    assert "no arm in common" in obstacle({**several, "lonely": writer.frames()})
    writer = study({"ce": 0.0, "focal": 0.0}, seeds=2, name="empty")
    writer.build(search=False, confirm=False)
    one = dict(list(several.items())[:1])
    assert "1 of 2 studies" in obstacle({**one, "empty": writer.frames()})
    assert obstacle(several) == ""


@pytest.fixture(scope="module")
def several_report(several, tmp_path_factory):
    """The paths of their comparison."""
    return write_comparison(several, tmp_path_factory.mktemp("report"))


def test_the_page_of_a_comparison(several_report):
    paths = several_report
    text = paths[0].read_text(encoding="utf-8")
    page = Page(text)
    _assert_sound(page)
    assert "could not be drawn" not in text
    assert [t for level, t in page.headings if level == 2] == [
        "The studies together", "one", "two", HOSTILE,
    ]  # fmt: skip
    names = {path.relative_to(paths[0].parent).as_posix() for path in paths}
    assert {"tables/datasets.csv", "tables/one/results.tex", "paper/main.tex"} <= names
    assert all(path.is_file() for path in paths)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("which", ["messy_report", "several_report"])
def test_the_fragment_compiles(which, request, tmp_path):
    folder = request.getfixturevalue(which)[0].parent
    paper = shutil.copytree(folder / "paper", tmp_path / "elsewhere")
    _latex(paper, "example.tex")
    # in another document, one column, from another folder
    (tmp_path / "mine.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
        "\\newcommand{\\losslabFolder}{elsewhere}\\input{elsewhere/main}\n"
        "It is \\losslabVerdict: \\losslabDifference{} [\\losslabDifferenceLow{}, "
        "\\losslabDifferenceHigh{}].\n\\end{document}\n"
    )
    _latex(tmp_path, "mine.tex")


def _latex(folder, file):
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", file]
    for _ in range(2):  # the second run knows the labels
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
        told = done.stdout.decode(errors="replace")
        assert done.returncode == 0, told[-2000:]
    for mark in ("undefined", "multiply defined", "Missing character"):
        assert mark not in told


def test_the_resolved_study_file_repeats_the_study(tmp_path):
    """`losslab run study.yaml` is the command that the page gives."""
    yaml = pytest.importorskip("yaml")
    from losslab.experiments.config import load_study

    given = {"study": "demo", "dataset": "clusters", "arms": {"ce": "ce", "f": "focal"}}
    first = load_study(given, ["search.trials=7", "training.epochs=3"])
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(first.resolved), encoding="utf-8")
    second = load_study(tmp_path / "study.yaml")
    assert json.loads(json.dumps(second.resolved)) == json.loads(json.dumps(first.resolved))
