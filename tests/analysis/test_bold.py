"""The bold rule, against the same rule written with scipy and statsmodels."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from losslab.analysis.tables import results_table
from losslab.analysis.tables.bold import best_and_tied
from losslab.analysis.tables.runs import Confirmed

METRIC = ["average_precision"]


def confirmed_of(values: pd.DataFrame, unit: str = "seed_index") -> Confirmed:
    return Confirmed(pd.DataFrame(), values.index, {}, unit, {})


def by_seed(columns) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    frame.index = pd.MultiIndex.from_product(
        [[0], range(len(frame))], names=["repeat", "seed_index"]
    )
    frame.columns = range(frame.shape[1])
    return frame


def bold(values: pd.DataFrame, minimize: bool = False, **options) -> list[bool]:
    return best_and_tied(confirmed_of(values, **options), values, minimize)["tied_best"].to_list()


@pytest.mark.parametrize("minimize", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_complete_runs_by_hand(seed, minimize):
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (6, 1)) + rng.normal(0, 0.6, (6, 7)) + np.linspace(0, 1.5, 7)
    best = values.mean(0).argmin() if minimize else values.mean(0).argmax()
    others = [j for j in range(7) if j != best]
    p = [stats.ttest_rel(values[:, j], values[:, best]).pvalue for j in others]
    kept = ~multipletests(p, method="holm")[0]
    expected = {best} | {j for j, keep in zip(others, kept, strict=True) if keep}
    assert {j for j, is_bold in enumerate(bold(by_seed(values), minimize)) if is_bold} == expected


def test_a_row_with_its_easy_seeds_alone_is_not_the_best():
    difficulty = np.array([0.0, 0.0, 0.0, 0.3, 0.3, 0.3])
    noise = np.array([0.001, -0.001, 0.002, 0.0, 0.001, -0.002])
    good, lucky = 0.6 + difficulty, 0.55 + difficulty + noise
    lucky[:3] = np.nan  # plain mean .85 against .75, yet worse on every common seed
    assert bold(by_seed({"good": good, "lucky": lucky})) == [True, False]


def test_a_row_that_wins_its_pairs_is_not_worse():
    good = 0.5 + np.array([0.0, 0.1, 0.2, 0.1, 0.05])
    short = good + 0.01 + np.array([0.0, 0.001, -0.001, 0.002, 0.0])
    short[3:] = np.nan
    assert bold(by_seed({"good": good, "short": short}))[1]


def test_one_common_run_is_no_test():
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.01, (5, 3))
    values[1:, 2] = np.nan
    found = best_and_tied(confirmed_of(by_seed(values)), by_seed(values), False)
    assert not found["tied_best"][2]
    assert found["untested"][2] == "1 run in common with the best row: not tested against it"


def test_one_seed_each_makes_nothing_bold():
    found = best_and_tied(
        confirmed_of(by_seed([[0.5, 0.9]])), by_seed([[0.5, 0.9]]), minimize=False
    )
    assert not found["tied_best"].any()
    assert set(found["untested"]) == {"too few runs to test against the best"}


def test_differences_without_variance_decide_by_their_sign():
    base = np.array([0.25, 0.5, 0.75])
    assert bold(by_seed({"a": base, "b": base - 0.125, "same": base})) == [True, False, True]


def test_missing_and_diverged_runs_of_the_best_arm(study):
    writer = study({"ce": 0.0, "best": 0.03, "close": 0.029, "far": -0.1}, seeds=8)
    writer.build()
    for seed in (1, 2):
        (writer.folder / f"confirm/arm-1/selected-{seed:04d}.json").unlink()
    table = results_table(writer.frames(), METRIC).set_index("row")
    assert set(table.index[table["tied_best"]]) == {"best", "close"}
    writer.diverge("best", "selected", 3)
    table = results_table(writer.frames(), METRIC).set_index("row")
    # at chance level in one of six runs the arm's mean falls behind; its spread hides how far
    assert table["mean"].idxmax() == "close"
    assert table.loc["close", "tied_best"]
    values = {}
    for slug in ("arm-1", "arm-2"):
        files = sorted((writer.folder / f"confirm/{slug}").glob("selected-*.json"))
        values[slug] = pd.Series(
            {f.stem: json.loads(f.read_text())["metrics"]["test/average_precision"] for f in files}
        )
    differences = (values["arm-1"] - values["arm-2"]).dropna()
    assert len(differences) == 6
    p = stats.ttest_1samp(differences, 0).pvalue
    assert table.loc["best", "tied_best"] == (table.loc["best", "p_best"] > 0.05)
    assert table.loc["best", "p_best"] == pytest.approx(p)  # the largest of its family


def test_repeats_are_compared_by_repeat_over_common_seeds():
    index = pd.MultiIndex.from_product([range(4), range(2)], names=["repeat", "seed_index"])
    rng = np.random.default_rng(2)
    values = pd.DataFrame(rng.normal(0.5, 0.05, (8, 2)), index=index)
    values.iloc[1, 1] = np.nan  # seed 1 of repeat 0 is missing on one side
    confirmed = confirmed_of(values, "repeat")
    found = confirmed.differences(values, values[0]).loc[1]
    whole = values.dropna().groupby("repeat").mean()
    expected = stats.ttest_rel(whole[1], whole[0])
    assert (found["n"], found["dropped"]) == (4, 0)
    assert found["p"] == pytest.approx(expected.pvalue)
    values.iloc[0, 1] = np.nan  # now repeat 0 has no pair
    found = confirmed.differences(values, values[0]).loc[1]
    assert (found["n"], found["dropped"]) == (3, 1)
