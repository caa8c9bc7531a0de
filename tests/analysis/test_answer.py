"""The answer of a study: its cases, its words, and its numbers against scipy."""

import doctest
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from losslab.analysis import wording
from losslab.analysis.answer import answer, answer_of_levels
from losslab.analysis.answer_values import MACRO_NAMES
from losslab.analysis.layouts.views import calibration_layout
from losslab.analysis.remarks import FALSE_WINS
from losslab.analysis.tables.views import calibration_table


def _values(frames, arm, variant="selected"):
    runs = frames.confirmation.query("arm == @arm and variant == @variant")
    return runs.set_index("seed_index")["test/average_precision"].sort_index()


def _numbers(text):
    """All numbers of a text, with their sign."""
    found = re.findall(r"(?<![\w.])[+−]?\d+\.\d+", text)
    return [float(number.replace("−", "-")) for number in found]


def _expected(frames, arm, baseline="ce"):
    """Difference, interval, p: by scipy alone."""
    first, second = _values(frames, arm), _values(frames, baseline)
    test = stats.ttest_rel(first, second)
    interval = test.confidence_interval(0.95)
    return (first - second).mean(), interval.low, interval.high, test.pvalue


def test_a_clear_win(study):
    writer = study({"ce": 0.0, "focal": 0.02}, seeds=8)
    writer.build()
    found = answer(frames := writer.frames())
    assert found.verdict == "better"
    difference, low, high, p = _expected(frames, "focal")
    assert p < 0.001
    means = [_values(frames, arm).mean() for arm in ("focal", "ce")]
    assert _numbers(found.sentence)[:5] == pytest.approx(
        [*means, difference, low, high], abs=5.1e-5
    )
    assert "over 8 paired run seeds (p < 0.001)" in found.sentence
    assert found.sentence.startswith("On this test split focal, as selected, has a higher average")
    assert not found.details  # nothing beside the one other arm
    told = " ".join(found.remarks)
    assert "one fixed test split" in told
    assert "selected configurations, not the losses" in found.caution


def test_undecided_says_what_could_have_been_found(study):
    writer = study({"ce": 0.0, "balanced_ce": -0.003, "focal": 0.0025}, seeds=6)
    writer.build()
    found = answer(frames := writer.frames())
    assert found.verdict == "undecided"
    assert found.sentence.startswith("Undecided: focal has the best mean")
    first, other = _expected(frames, "focal"), _expected(frames, "balanced_ce")
    by_hand = min(1.0, 2 * first[3]) if first[3] < other[3] else max(first[3], 2 * other[3])
    assert by_hand > 0.05
    assert f"p = {by_hand:.3f} after Holm's correction over 2 arms" in found.sentence
    (power,) = [remark for remark in found.remarks if "probability 80 %" in remark]
    told = _numbers(power)[0]
    sd = (_values(frames, "focal") - _values(frames, "ce")).std(ddof=1)
    noncentrality = np.sqrt(6) * told / sd
    critical = stats.t.isf(0.05 / 2 / 2, 5)
    found_power = stats.nct.sf(critical, 5, noncentrality) + stats.nct.cdf(
        -critical, 5, noncentrality
    )
    assert found_power == pytest.approx(0.8, abs=0.01)
    assert "6 paired run seeds" in power


def test_an_interval_that_excludes_zero_is_no_win_after_holm(study):
    effects = {"ce": 0.0, **{f"arm {k}": 0.0 for k in range(6)}, "best": 0.0}
    writer = study(effects, seeds=5)
    writer.build()
    shifts = [0.004, 0.010, 0.006, 0.016, 0.003]  # t = 3.3, p = .03: not below .05 / 7
    ce = _values(writer.frames(), "ce")
    for seed, shift in enumerate(shifts):
        writer.confirmation("best", "selected", seed, ce[seed] + shift)
    frames = writer.frames()
    _, low, _, p = _expected(frames, "best")
    assert low > 0
    assert p < 0.05 < 7 * p
    found = answer(frames)
    assert found.verdict == "undecided"
    assert found.sentence.startswith("Undecided: best has the best mean")
    assert "after Holm's correction over 7 arms" in found.sentence
    assert any("rest on the differences being normal" in remark for remark in found.remarks)


def test_many_arms_are_sorted_by_verdict(study):
    effects = {"ce": 0.0, "better": 0.05, "worse": -0.05, "same": 0.0005}
    writer = study(effects, seeds=8)
    writer.build()
    (detail,) = answer(writer.frames()).details
    assert "better: better; worse: worse; undecided: same." in detail


def test_many_undecided_arms_are_cut_short(study):
    writer = study({"ce": 0.0, **{f"arm{k:02d}": 0.0 for k in range(12)}}, seeds=3)
    writer.build(search=False)
    assert "and 4 more" in answer(writer.frames()).details[0]


def test_the_baseline_is_best(study):
    writer = study({"ce": 0.0, "focal": -0.05, "other": -0.1}, seeds=6)
    writer.build()
    found = answer(frames := writer.frames())
    assert found.verdict == "baseline"
    assert "the baseline ce has the best mean" in found.sentence
    assert "all 2 other arms came out worse, the nearest being focal" in found.sentence
    assert _numbers(found.sentence)[1:4] == pytest.approx(_expected(frames, "focal")[:3], abs=6e-4)


def test_the_baseline_leads_undecided(study):
    writer = study({"ce": 0.004, "focal": 0.0}, seeds=4)
    writer.build()
    found = answer(writer.frames())
    assert found.verdict == "undecided"
    assert "the nearest, focal, cannot be told from it" in found.sentence
    assert "better" not in found.sentence.replace("No arm was found better", "")


def test_lower_is_better_where_the_study_says_so(study):
    writer = study({"ce": 0.0, "focal": -0.05}, seeds=6)
    writer.study["direction"] = "minimize"
    writer.build()
    found = answer(writer.frames())
    assert found.verdict == "better"
    assert "focal, as selected, has a lower average precision" in found.sentence


def test_one_arm_alone(study):
    writer = study({"ce": 0.0}, seeds=6)
    writer.build()
    found = answer(frames := writer.frames())
    assert found.verdict == "alone"
    mean, half = _numbers(found.sentence)
    values = _values(frames, "ce")
    assert mean == pytest.approx(values.mean(), abs=6e-4)
    assert half == pytest.approx(stats.t.ppf(0.975, 5) * stats.sem(values), abs=6e-4)
    assert "Nothing is compared, since ce is the only arm" in found.sentence


def test_nothing_judged_yet(study):
    writer = study(seeds=5)
    writer.build(search=True, confirm=False)
    found = answer(writer.frames())
    assert found.verdict == "unfinished"
    assert found.sentence == (
        "No answer yet: none of the 15 planned test runs of the selected configurations has been "
        "made."
    )


def test_an_unfinished_study_has_no_verdict(study):
    writer = study({"ce": 0.0, "focal": 0.05}, seeds=6)
    writer.build()
    (writer.folder / "confirm/arm-1/selected-0004.json").unlink()
    found = answer(writer.frames())
    assert found.verdict == "unfinished"
    assert found.sentence.startswith(
        "The study is unfinished: 1 test run of selected configurations missing (focal 1), so this "
        "is no verdict. So far: "
    )
    assert "over 5 paired run seeds" in found.sentence


def test_diverged_runs_are_told(study):
    writer = study({"ce": 0.0, "focal": 0.02}, seeds=5)
    writer.build()
    writer.diverge("focal", "selected", 3)
    (told,) = [remark for remark in answer(writer.frames()).remarks if "diverged" in remark]
    assert "focal 1 of 5" in told
    assert "chance level" in told


def test_everything_diverged(study):
    writer = study({"ce": 0.0, "focal": 0.0}, seeds=3)
    writer.build()
    for arm in ("ce", "focal"):
        for seed in range(3):
            writer.diverge(arm, "selected", seed)
    found = answer(writer.frames())
    assert found.verdict == "diverged"
    assert found.sentence.startswith("No answer: all 6 test runs")


def test_a_diverged_arm_does_not_win_by_its_calibration(study):
    writer = study({"ce": 0.0, "wild": 0.0}, seeds=4)
    writer.build()
    writer.write("study.json", {**writer.study, "primary": "ece", "direction": "minimize"})
    for arm in ("ce", "wild"):
        for seed in range(4):
            if arm == "wild":
                writer.diverge(arm, "selected", seed)
            path = f"confirm/{writer.slugs[arm]}/selected-{seed:04d}.json"
            record = writer.read(path)
            record["metrics"]["test/ece"] = 0.0 if arm == "wild" else 0.05 + 0.001 * seed
            writer.write(path, record)
    frames = writer.frames()
    assert frames.confirmation.query("arm == 'wild'")["test/ece"].isna().all()
    found = answer(frames)
    assert (found.verdict, found.values["Best"]) == ("undecided", "ce")
    told = next(remark for remark in found.remarks if "diverged" in remark)
    assert told.endswith("wild 4 of 4. They have no ECE and are left out.")
    layout = calibration_layout(calibration_table(frames))
    wild = next(row for row in layout.rows if row[0].text == "wild")
    assert not any(cell.bold for cell in wild)
    assert "every run diverged" in layout.caption


def test_a_difference_over_some_of_the_seeds_says_so(study):
    writer = study({"ce": 0.0, "focal": 0.02}, seeds=4)
    writer.build()
    (writer.folder / "confirm" / writer.slugs["ce"] / "selected-0001.json").unlink()
    assert "(over the run seeds that both have)" in answer(writer.frames()).sentence


def test_tuning_that_did_not_pay_is_told(study):
    writer = study({"ce": 0.0, "focal": 0.02}, seeds=5)
    writer.build()
    for seed in range(5):
        ap = _values(writer.frames(), "focal")[seed]
        writer.confirmation("focal", "defaults", seed, ap + 0.01)
    told = " ".join(answer(writer.frames()).remarks)
    assert "Tuning did not show a gain for focal:" in told
    assert "The best mean average precision of all is that of focal at its defaults" in told


def test_one_seed_gives_no_interval_and_no_verdict(study):
    writer = study({"ce": 0.0, "focal": 0.3}, seeds=1)
    writer.build()
    found = answer(writer.frames())
    assert found.verdict == "undecided"
    assert "without an interval" in found.sentence


def test_repeats_make_the_difference_one_of_losses(study):
    writer = study({"ce": 0.0, "focal": 0.02}, seeds=2)
    writer.build()
    frames = writer.frames()
    copies = []
    rng = np.random.default_rng(0)
    for repeat in range(4):
        noise = rng.normal(0, 0.002, len(frames.confirmation))
        own = frames.confirmation.assign(repeat=repeat)
        copies.append(
            own.assign(**{"test/average_precision": own["test/average_precision"] + noise})
        )
    confirmation = pd.concat(copies, ignore_index=True)
    confirmation["repeat"] = confirmation["repeat"].astype("Int64")
    frames = replace(frames, study={**frames.study, "repeats": 4}, confirmation=confirmation)
    found = answer(frames)
    assert "over 4 paired repeats" in found.sentence
    told = " ".join(found.remarks)
    assert "repeated 4 times" in told
    assert found.caution == ""


def test_levels_are_answered_one_by_one(study):
    parts = {}
    for level, effect in (("10", 0.0005), ("100", 0.04)):
        writer = study({"ce": 0.0, "focal": effect}, seeds=6)
        writer.build()
        parts[level] = writer.frames()
    found = answer_of_levels(parts, "imbalance")
    assert found.verdict == "levels"
    assert found.sentence.startswith("By imbalance: focal is better than ce at 100 (+0.0")
    assert "; undecided at 10 (focal +0.0" in found.sentence
    assert found.sentence.endswith("with 95 % t intervals, n = 6 pairs each).")
    intervals = [number for f in parts.values() for number in _expected(f, "focal")[:3]]
    assert sorted(_numbers(found.sentence)) == pytest.approx(sorted(intervals), abs=5.1e-5)
    told = " ".join(found.remarks)
    assert "Only these values of imbalance were tested: 10 and 100." in told
    assert told.count("one fixed test split") == 1  # what holds at every level is said once
    assert "would be found with probability 80 %" not in told  # what holds at one is said there
    assert len(found.details) == 2
    assert found.caution == answer(parts["10"]).caution


def test_levels_of_the_budget_name_no_budget(study):
    parts = {}
    for level in ("5", "20"):
        writer = study({"ce": 0.0, "focal": 0.01}, seeds=3, trials=2)
        writer.study["budget"] = int(level)
        writer.build()
        parts[level] = writer.frames()
    assert "One search per arm (20 trainings each)" in answer(parts["20"]).caution
    assert "One search per arm: this" in answer_of_levels(parts, "trials").caution


def test_untuned_arms_had_no_search_to_warn_of(study):
    writer = study({"ce": 0.0, "focal": 0.01}, seeds=3, trials=1)
    for about in writer.study["arms"].values():
        about["space"] = {}
    writer.build()
    assert answer(writer.frames()).caution.startswith("Nothing was tuned")


def test_false_wins_are_those_of_the_documented_simulation():
    text = (Path(__file__).parents[2] / "docs/statistics.md").read_text(encoding="utf-8")
    shares = re.findall(r"\*\*(\d+) / (\d+) / (\d+) %\*\*", text)
    numbers = [int(share) for row in shares for share in row]
    assert len(numbers) == 12
    assert (min(numbers), max(numbers)) == FALSE_WINS


@pytest.mark.parametrize("seeds", [0, 1, 5])
def test_significant_is_never_said(study, seeds):
    writer = study({"ce": 0.0, "focal": 0.02, "other": -0.2}, seeds=seeds)
    writer.build()
    found = answer(writer.frames())
    text = " ".join([found.sentence, *found.details, *found.remarks])
    assert "significant" not in text
    assert "nan" not in text
    assert set(found.values) <= set(MACRO_NAMES)


def test_the_messy_study(messy):
    found = answer(messy.frames())
    assert found.verdict == "unfinished"
    assert "6 test runs of selected configurations missing" in found.sentence


def test_examples_in_docstrings():
    assert doctest.testmod(wording).failed == 0
