"""Arms over several datasets and over levels, against scipy and numbers by hand."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from losslab.analysis.layouts.datasets import ranking_words
from losslab.analysis.levels import by_level
from losslab.analysis.tables.catalogue import several_tables, study_tables
from losslab.analysis.tables.datasets import datasets_table, ranking, ranks_table
from losslab.analysis.typeset import to_html, to_latex, to_markdown
from losslab.errors import BadInput

ARMS = ("ce", "focal", "ldam", "dice")


@pytest.fixture
def several(study):
    """Six studies of the same four arms; which is best changes from one to the next."""
    rng = np.random.default_rng(4)
    made = {}
    for i in range(6):
        effects = dict(
            zip(ARMS, np.array([0.0, 0.02, 0.03, -0.05]) + rng.normal(0, 0.015, 4), strict=True)
        )
        writer = study(effects, seeds=4, trials=2, seed=i, name=f"data {i}")
        writer.study["dataset"]["name"] = f"data_{i}"
        writer.build(search=False)
        made[f"data {i}"] = writer
    return made


def frames_of(several):
    return {name: writer.frames() for name, writer in several.items()}


def means_of(several):
    rows = {}
    for name, writer in several.items():
        files = {a: (writer.folder / f"confirm/arm-{j}") for j, a in enumerate(ARMS)}
        rows[name] = {
            arm: np.mean(
                [
                    json.loads(file.read_text())["metrics"]["test/average_precision"]
                    for file in sorted(folder.glob("selected-*.json"))
                ]
            )
            for arm, folder in files.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def test_ranks_and_tests_by_hand(several):
    means = means_of(several)
    found = ranking(frames_of(several))
    ranks = means.rank(axis=1, ascending=False).mean()
    assert found.ranks.to_dict() == pytest.approx(ranks.to_dict())
    expected = stats.friedmanchisquare(*means.to_numpy().T)
    assert (found.friedman.chi2, found.friedman.p) == pytest.approx(tuple(expected))
    # Demšar's table: q(.05) for four arms is 2.569
    critical = 2.569 * np.sqrt(4 * 5 / (6 * 6))
    assert found.nemenyi.critical_difference == pytest.approx(critical, rel=1e-3)
    z = (ranks["ce"] - ranks.drop("ce")) / np.sqrt(4 * 5 / (6 * 6))
    holm = multipletests(2 * stats.norm.sf(z.abs()), method="holm")[1]
    table = ranks_table(frames_of(several)).set_index("arm")
    assert table.loc[z.index, "p_holm"].to_list() == pytest.approx(holm)
    wilcoxon = stats.wilcoxon(means["ce"], means["dice"]).pvalue
    assert table.loc["dice", "wilcoxon_p"] >= wilcoxon
    words = ranking_words(found)
    assert f"χ² = {expected.statistic:.2f} with 3 degrees of freedom" in words
    assert f"{critical:.2f} or more" in words


def test_cells_and_bold_of_each_dataset(several):
    table = datasets_table(frames_of(several)).set_index(["dataset", "arm"])
    means = means_of(several)
    for name in several:
        assert table.loc[name, "mean"].to_dict() == pytest.approx(means.loc[name].to_dict())
        assert table.loc[(name, means.loc[name].idxmax()), "tied_best"]
        difference = means.loc[name, "focal"] - means.loc[name, "ce"]
        assert table.loc[(name, "focal"), "difference"] == pytest.approx(difference)
    assert table.loc[("data 0", "ce"), "is_baseline"]


def test_an_arm_that_is_not_everywhere(several, study):
    frames = frames_of(several)
    writer = study({"ce": 0.0, "ldam": 0.1, "focal": 0.0}, seeds=4, trials=2, name="short")
    writer.build(search=False)
    frames["short"] = writer.frames()
    found = ranking(frames)
    assert found.left_out == ["dice"]
    assert set(found.ranks.index) == {"ce", "focal", "ldam"}
    tables = {table.name: table for table in several_tables(frames)}
    layout = tables["datasets"].layout
    row = layout.frame().set_index("arm").loc["dice"]
    assert row["short"] == "— (a)"
    assert "(a) not an arm of this study" in layout.caption
    assert "Not ranked, since not in every study: dice." in layout.caption


def test_unfinished_datasets_are_left_out_and_said(several):
    frames = frames_of(several)
    one = frames["data 2"]
    none = one.confirmation[one.confirmation["arm"] != "ldam"]
    frames["data 2"] = replace(one, confirmation=none)
    found = ranking(frames)
    assert found.dropped == ["data 2"]
    assert found.friedman.datasets == 5
    assert "data 2" in ranking_words(found)
    assert "no confirmation run yet" in several_tables(frames)[0].layout.caption


def test_metrics_that_are_better_low(several):
    for writer in several.values():
        writer.study["direction"] = "minimize"
        writer.write("study.json", writer.study)
    found = ranking(frames_of(several))
    ranks = means_of(several).rank(axis=1, ascending=True).mean()
    assert found.ranks.to_dict() == pytest.approx(ranks.to_dict())


def test_sources_of_each_cell(several):
    frames = frames_of(several)
    tables = {table.name: table for table in several_tables(frames)}
    sources = tables["datasets"].sources
    cell = sources[(sources["row"] == "focal") & (sources["column"] == "data 3")]
    assert set(cell["key"]) == {f"confirm/arm-1/selected-{s:04d}" for s in range(4)}
    ranked = sources[(sources["row"] == "focal") & (sources["column"] == "average rank")]
    assert len(ranked) == 6 * 4
    differences = tables["dataset_differences"].sources
    cell = differences[(differences["row"] == "focal") & (differences["column"] == "data 3")]
    assert len(cell) == 8
    for table in tables.values():
        for write in (to_markdown, to_html, to_latex):
            assert write(table.layout)


def test_two_datasets_or_arms_at_least(several, study):
    frames = frames_of(several)
    with pytest.raises(BadInput, match="two studies or levels"):
        several_tables({"data 0": frames["data 0"]})
    pairs = {}
    for i in range(2):
        writer = study({"ce": 0.0, "focal": 0.01}, seeds=3, trials=2, seed=i)
        writer.build(search=False)
        pairs[f"d{i}"] = writer.frames()
    found = ranking(pairs)
    assert found.friedman is None
    assert found.wilcoxon is not None
    assert {table.name for table in several_tables(pairs)} >= {"datasets", "dataset_differences"}


@pytest.fixture
def levelled(study):
    names = {f"{arm} @ {level}": (arm, level) for level in ("1", "10") for arm in ("ce", "focal")}
    effects = dict(zip(names, [0.0, 0.0, -0.1, -0.05], strict=True))
    settings = {
        name: {"of": arm, "level": level, "budget": 8} for name, (arm, level) in names.items()
    }
    writer = study(effects, seeds=4, trials=2, settings=settings, baseline="ce @ 1")
    writer.study["levels"] = {
        "path": "dataset.imbalance",
        "label": "imbalance",
        "values": {"1": 1, "10": 10},
        "baseline": "ce",
        "standing": "ce",
        "datasets": dict.fromkeys(("1", "10"), writer.study["dataset"]),
    }
    writer.build()
    return writer


def test_levels_are_columns(levelled):
    frames = levelled.frames()
    tables = {table.name: table for table in study_tables(frames)}
    layout = tables["datasets"].layout
    assert layout.header == ["arm", "imbalance 1", "imbalance 10", "average rank"]
    assert [row[0].text for row in layout.rows] == ["ce", "focal"]
    assert "no independent replicates" in layout.caption
    table = datasets_table(by_level(frames)).set_index(["dataset", "arm"])
    assert table.loc[("10", "focal"), "verdict"] == "better"
    assert "results" not in tables
    assert {"search", "ledger"} <= set(tables)
