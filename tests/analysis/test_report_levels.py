"""The report of a study over levels: each level is told once, and what all share stands above."""

import re

import pytest

from losslab.analysis.report import write_report_files
from losslab.reporting import key_table

LEVELS, ARMS = ("1", "10"), ("ce", "focal")


@pytest.fixture(scope="module")
def frames(kept_study):
    names = {f"{arm} @ {level}": (arm, level) for level in LEVELS for arm in ARMS}
    effects = dict(zip(names, [0.0, 0.0, -0.1, -0.05], strict=True))
    settings = {
        name: {"of": arm, "level": level, "budget": 8} for name, (arm, level) in names.items()
    }
    writer = kept_study(effects, seeds=4, trials=2, settings=settings, baseline="ce @ 1")
    writer.study["resolved"] = {"confirm": {"defaults": False}}
    writer.study["levels"] = {
        "path": "dataset.imbalance",
        "label": "imbalance",
        "values": {"1": 1, "10": 10},
        "baseline": "ce",
        "standing": "ce",
        "datasets": dict.fromkeys(LEVELS, writer.study["dataset"]),
    }
    writer.build()
    for file in writer.folder.glob("confirm/*/defaults-*.json"):
        file.unlink()
    return writer.frames()


@pytest.fixture(scope="module")
def paths(frames, tmp_path_factory):
    return write_report_files(frames, tmp_path_factory.mktemp("report"))


def test_the_page_says_what_all_levels_share_once(paths):
    page = paths[0].read_text(encoding="utf-8")
    assert "could not be drawn" not in page
    assert page.count("One search per arm (8 trainings each)") == 1
    assert page.count("one fixed test split: they do not say") == 1
    assert page.count('class="question"') == 1
    assert "nothing left to defaults" not in page  # the file of levels is kept as written
    assert page.count("What each arm spent</h2>") == page.count("-table-ledger") == 1
    assert page.count("What diverged, was pruned or is missing</h2>") == 1
    for level in LEVELS:
        (section,) = re.findall(
            rf'<h3 id="[^"]*-{level}">imbalance {level}</h3>(.*?)(?:<h[23] |</section>)',
            page, re.DOTALL,
        )  # fmt: skip
        assert section.count('<div class="answer') == 1
    assert page.count("-table-results") == page.count("-figure-differences") == len(LEVELS)


def test_files_of_a_level_are_its_results_and_key_figures(paths):
    folder = paths[0].parent
    names = {path.relative_to(folder).as_posix() for path in paths}
    own = {name for name in names if re.match(r"(tables|figures)/[^/]+/", name)}
    assert {name.split("/")[2].split(".")[0] for name in own} == {"results", "seeds", "differences"}
    main = (folder / "paper/main.tex").read_text()
    assert main.count("\\losslabCaution") == 1
    inner = [path for path in paths if path.name == "main.tex" and path.parent.name != "paper"]
    assert len(inner) == len(LEVELS)
    assert not any("losslabCaution" in path.read_text() for path in inner)


def test_a_terminal_gets_arms_by_levels_and_no_row_that_nobody_asked_for(frames):
    shown = key_table(frames).frame()
    assert list(shown.columns) == ["arm", "imbalance 1", "imbalance 10", "average rank"]
    assert list(shown["arm"]) == list(ARMS)
