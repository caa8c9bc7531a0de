"""Claims that a study file puts down beforehand, and the word that each gets."""

import json

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from losslab.analysis.tables.catalogue import study_tables
from losslab.analysis.tables.comparisons import contrasts_table
from losslab.errors import BadInput
from losslab.experiments.config import load_study

CLAIMS = [
    {"better": "focal", "than": "ce", "claim": "Table 1b: gamma 2 beats 0"},
    {"better": "ce", "than": "focal", "claim": ""},
    {"better": "balanced_ce", "than": "ce", "claim": "a little"},
]


@pytest.fixture
def claimed(study):
    writer = study({"ce": 0.0, "balanced_ce": 0.0001, "focal": 0.05}, seeds=6)
    writer.build()
    writer.study["contrasts"] = CLAIMS
    writer.write("study.json", writer.study)
    return writer


def confirmed(writer, arm):
    files = sorted((writer.folder / f"confirm/{writer.slugs[arm]}").glob("selected-*.json"))
    return np.array(
        [json.loads(file.read_text())["metrics"]["test/average_precision"] for file in files]
    )


def test_every_claim_gets_a_word(claimed):
    table = contrasts_table(claimed.frames())
    assert table["answer"].to_list() == ["held", "reversed", "undecided"]
    assert table["claim"].to_list()[1] == "ce is better than focal"
    p = [
        stats.ttest_rel(confirmed(claimed, c["better"]), confirmed(claimed, c["than"])).pvalue
        for c in CLAIMS
    ]
    assert table["p_holm"].to_list() == pytest.approx(multipletests(p, method="holm")[1])


def test_the_direction_turns_the_words(claimed):
    claimed.study["direction"] = "minimize"
    claimed.write("study.json", claimed.study)
    table = contrasts_table(claimed.frames())
    assert table["answer"].to_list() == ["reversed", "held", "undecided"]


def test_the_table_says_what_is_behind_it(claimed):
    table = study_tables(claimed.frames())[0]
    assert table.name == "contrasts"
    assert [row[-2].text for row in table.layout.rows] == ["held", "reversed", "undecided"]
    keys = {key.split("/")[1] for key in table.sources["key"]}
    assert keys == {claimed.slugs[arm] for arm in ("ce", "balanced_ce", "focal")}
    assert "put down in the study file before it ran" in table.layout.caption


def test_a_study_without_claims_has_no_table(study):
    writer = study()
    writer.build()
    assert contrasts_table(writer.frames()).empty
    assert "contrasts" not in [table.name for table in study_tables(writer.frames())]


@pytest.mark.parametrize(
    ("contrast", "told"),
    [
        ({"better": "focl", "than": "ce"}, "contrasts.0.better: no arm is called 'focl'; did you"),
        ({"better": "ce", "than": "ce"}, "contrasts.0: compares 'ce' with itself"),
        ({"better": "ce"}, "contrasts.0.than: is required"),
    ],
)
def test_mistakes(contrast, told):
    with pytest.raises(BadInput, match=told):
        load_study({"dataset": "clusters", "arms": ["ce", "focal"], "contrasts": [contrast]})


def test_claims_cannot_change_after_the_study_began():
    from losslab.experiments.changes import changed_keys

    plain = {"dataset": "clusters", "arms": ["ce", "focal"]}
    before, after = (
        load_study({**plain, **more}).resolved for more in ({}, {"contrasts": CLAIMS[:1]})
    )
    assert "contrasts" not in before
    assert changed_keys(before, before) == []
    assert any(line.startswith("contrasts") for line in changed_keys(before, after))
