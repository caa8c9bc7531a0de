import io
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from losslab.analysis.layouts import ledger_layout, results_layout
from losslab.analysis.sweeps import published, sweep_table, swept_parameters
from losslab.analysis.tables import direction, results_table
from losslab.analysis.typeset import to_csv, to_markdown
from losslab.errors import BadInput


def _values(writer, slug, variant, metric="test/average_precision"):
    files = sorted((writer.folder / "confirm" / slug).glob(f"{variant}-*.json"))
    return np.array([json.loads(file.read_text())["metrics"][metric] for file in files])


def _line(table, row, metric="average_precision", split="test"):
    keep = (table["row"] == row) & (table["metric"] == metric) & (table["split"] == split)
    return table[keep].iloc[0]


def test_rows_and_numbers(study):
    writer = study()
    writer.build()
    table = results_table(writer.frames())
    assert list(table["row"].unique()) == [
        "ce",
        "balanced_ce",
        "focal",
        "ce (defaults)",
        "balanced_ce (defaults)",
        "focal (defaults)",
        "ce (tuned threshold)",
        "ce (prior correction)",
    ]
    ce, focal = _values(writer, "arm-0", "selected"), _values(writer, "arm-2", "selected")
    line = _line(table, "focal")
    half = stats.t.ppf(0.975, 4) * focal.std(ddof=1) / np.sqrt(5)
    assert (line["mean"], line["half_width"]) == pytest.approx((focal.mean(), half))
    expected = stats.ttest_rel(focal, ce)
    assert line["difference"] == pytest.approx((focal - ce).mean())
    assert line["p"] == pytest.approx(expected.pvalue)
    assert line["difference_low"] == pytest.approx(expected.confidence_interval(0.95).low)
    others = [
        stats.ttest_rel(_values(writer, s, "selected"), ce).pvalue for s in ("arm-1", "arm-2")
    ]
    assert line["p_holm"] == pytest.approx(multipletests(others, method="holm")[1][1])
    tuned = _line(table, "ce (tuned threshold)", "balanced_accuracy")
    assert tuned["mean"] == pytest.approx(ce.mean() - 0.05)
    corrected = _line(table, "ce (prior correction)", "balanced_accuracy")
    assert corrected["mean"] == pytest.approx(ce.mean() - 0.04)
    assert _line(table, "ce (tuned threshold)")["missing"] == "does not depend on the threshold"
    every_arm = _line(table, "focal", "balanced_accuracy", "test_tuned")
    assert every_arm["mean"] == pytest.approx(focal.mean() - 0.05)


def test_directions(study):
    frames_of = study()
    frames_of.build()
    frames = frames_of.frames()
    assert direction(frames, "test/log_loss") == "minimize"
    assert direction(frames, "calibration_error") == "minimize"
    assert direction(frames, "test/recall/3") == "maximize"
    frames.study["direction"] = "minimize"
    assert direction(frames, "test/average_precision") == "minimize"
    table = results_table(frames, ["average_precision", "log_loss"])
    best = table[table["metric"] == "average_precision"].groupby("row")["mean"].mean().idxmin()
    assert _line(table, best)["tied_best"]
    header = results_layout(table).header
    assert header[1:3] == ["average precision ↓", "log loss ↓"]


def test_bold_is_the_best_and_what_the_test_does_not_tell_from_it(study):
    writer = study({"ce": 0.0, "twin": 0.0201, "focal": 0.02}, seeds=8)
    writer.build()
    table = results_table(writer.frames(), ["average_precision"]).set_index("row")
    assert set(table.index[table["tied_best"]]) == {"twin", "focal"}


def test_messy_study_says_what_is_missing(messy):
    table = results_table(messy.frames())
    name = messy.frames().arms[1]
    line = _line(table, name)
    assert (line["n"], line["diverged"], line["pairs"], line["pairs_dropped"]) == (4, 1, 4, 1)
    # the diverged run counts at chance level, 0.1
    assert 0.1 in _values(messy, "arm-1", "selected")
    assert line["mean"] == pytest.approx(_values(messy, "arm-1", "selected").mean())
    assert _line(table, "never run")["missing"] == "no confirmation run yet"
    assert _line(table, name, "roc_auc")["dropped"] == 1
    assert "1 of them diverged, counted at chance level" in to_markdown(table)
    assert "no confirmation run yet" in to_markdown(table)


@pytest.mark.parametrize("options", [{"confirm": False}, {"search": False, "confirm": False}, {}])
@pytest.mark.parametrize("arms", [{"ce": 0.0}, {"ce": 0.0, "focal": 0.1}])
def test_unfinished_single_arm_and_single_seed(study, options, arms):
    writer = study(arms, seeds=1)
    writer.build(**options)
    frames = writer.frames()
    table = results_table(frames)
    assert table["half_width"].isna().all()
    assert (table["missing"] != "").all()
    assert not results_layout(table).frame().empty
    assert not ledger_layout(frames).frame().empty


def test_digits_follow_the_interval(study):
    writer = study(seeds=5)
    writer.build()
    layout = results_layout(results_table(writer.frames(), ["average_precision"]))
    texts = layout.frame()["average precision ↑"]
    decimals = {len(part.split(".")[1]) for text in texts[:6] for part in text.split(" ± ")}
    assert decimals == {3}


def test_csv_keeps_every_bit(study):
    writer = study()
    writer.build()
    table = results_table(writer.frames())
    again = pd.read_csv(io.StringIO(to_csv(table)))
    np.testing.assert_array_equal(again["mean"], table["mean"])


def test_markdown_shows_hostile_names(messy):
    text = to_markdown(results_table(messy.frames()))
    assert "<script>" not in text
    assert r"a\_b % &amp; \#" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    # escaped pipes do not open new columns
    assert len({line.replace(r"\|", "").count("|") for line in rows}) == 1


def test_gamma_sweep_beside_the_published_table(study):
    gammas = (5, 0, 0.5, 2)
    writer = study({f"gamma-{g}": 0.01 * g for g in gammas} | {"ce": 0.0}, baseline="ce")
    writer.build()
    frames = writer.frames()
    assert swept_parameters(frames) == ["gamma"]
    table = sweep_table(frames, "loss.gamma")
    assert table["parameter_value"].to_list() == [0, 0.5, 2, 5]
    assert table["published"].to_list() == [31.1, 32.9, 34.0, 32.2]  # Lin et al., Table 1b
    assert table["is_best"].to_list() == [False, False, False, True]
    slug = writer.slugs["gamma-2"]
    assert table["mean"][2] == pytest.approx(_values(writer, slug, "selected").mean())
    assert "tuned.loss.a" in table
    text = to_markdown(table)
    assert "another dataset" in text
    assert "alpha 0.25, R50-FPN, 600 px" in text
    with pytest.raises(BadInput, match="no published table"):
        sweep_table(frames, "gamma", "focal_table9")
    with pytest.raises(BadInput, match="no column 'beta'"):
        sweep_table(frames, "beta", "focal_table1a_alpha_ce")


def test_sweep_values_come_from_the_config_first(study):
    settings = {
        f"arm {i}": {"config": {"loss": {"alpha": a}}} for i, a in enumerate((0.1, 0.5, 0.9))
    }
    writer = study(dict.fromkeys(settings, 0.0) | {"alpha-tuned": 0.0}, settings=settings)
    writer.study["arms"]["alpha-tuned"]["space"]["loss.alpha"] = {"low": 0, "high": 1}
    writer.build(confirm=False)
    table = sweep_table(writer.frames(), "alpha")
    assert table["parameter_value"].to_list() == [0.1, 0.5, 0.9]
    assert table["published"].to_list() == [0.0, 30.2, 30.8]
    assert (table["missing"] == "no confirmation run yet").all()
    to_markdown(table)


def test_published_tables_are_the_papers():
    table = published("focal_table1a_alpha_ce").set_index("alpha")["AP"]
    assert table[0.75] == 31.1
    assert published("focal_table3_flstar")["AP"].to_list() == [31.1, 34.0, 33.8, 33.9]


def test_repeats_are_the_replicates(study):
    writer = study({"ce": 0.0, "focal": 0.0}, seeds=2)
    writer.build()
    for arm, shift in (("ce", 0.0), ("focal", 0.1)):
        for repeat in (1, 2):
            for seed in range(2):
                name = f"confirm/{writer.slugs[arm]}/selected-{seed:04d}"
                record = writer.read(f"{name}.json") | {"repeat": repeat, "key": f"{name}-{repeat}"}
                record["metrics"] = {"test/average_precision": 0.5 + shift + 0.1 * repeat}
                writer.write(f"{name}-{repeat}.json", record)
    table = results_table(writer.frames(), ["average_precision"])
    assert _line(table, "focal")["n"] == 3
