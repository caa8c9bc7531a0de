"""Levels: every arm at several values of one setting."""

import pytest
import yaml

from losslab import run_study
from losslab.analysis.levels import by_level, level_values
from losslab.errors import BadInput
from losslab.experiments.config import load_study

RATIOS = {"path": "dataset.imbalance_ratio", "values": [1, 10]}


@pytest.fixture
def ratios(tiny):
    return {**tiny, "levels": RATIOS}


def test_every_arm_stands_once_at_each_level(ratios):
    study = load_study(ratios)
    assert list(study.arms) == ["ce @ 1", "focal @ 1", "ce @ 10", "focal @ 10"]
    found = {name: arm.config["dataset"]["imbalance_ratio"] for name, arm in study.arms.items()}
    assert found == {"ce @ 1": 1, "focal @ 1": 1, "ce @ 10": 10, "focal @ 10": 10}
    assert [(arm.of, arm.level) for arm in study.arms.values()][1:3] == [
        ("focal", "1"),
        ("ce", "10"),
    ]
    assert study.plain_arms == ["ce @ 1", "ce @ 10"]


def test_plain_cross_entropy_is_added_at_each_level(ratios):
    study = load_study({**ratios, "arms": ["focal"]})
    assert [name for name, arm in study.arms.items() if arm.implicit] == ["ce @ 1", "ce @ 10"]


def test_levels_may_be_whole_datasets_with_names(tiny):
    small = tiny.pop("dataset")
    values = {"easy": {**small, "overlap": 0.1}, "real": "digits"}
    study = load_study({**tiny, "levels": {"path": "dataset", "values": values}})
    names = {name: arm.config["dataset"]["name"] for name, arm in study.arms.items()}
    assert names["focal @ easy"] == "clusters"
    assert names["focal @ real"] == "digits"
    assert study.arms["focal @ real"].config["loss"]["link"] == "softmax"


def test_levels_may_be_budgets(tiny):
    tiny["levels"] = {"path": "search.trials", "values": [4, 9]}
    study = load_study(tiny)
    assert [arm.search.search_trials for arm in study.arms.values()] == [3, 3, 8, 8]
    assert study.arms["focal @ 9"].tuning == 9


@pytest.mark.parametrize(
    ("levels", "arms", "message"),
    [
        ({"path": "confirm.seeds", "values": [1, 2]}, None, "levels.path: levels can differ in"),
        ({"path": "dataset.imbalanse", "values": [1]}, None, "dataset.imbalanse"),
        ({"path": "dataset.overlap", "values": [0.1, 7]}, None, "dataset.overlap"),
        ({"path": "dataset.overlap", "values": []}, None, "levels.values"),
        ({"path": "dataset.overlap", "values": [0.1, 0.1]}, None, "the same name"),
        ({"path": "training.epochs"}, None, "levels.values"),
        (
            {"path": "loss.gamma", "values": [{"low": 0, "high": 2}]},
            ["focal"],
            "not a range that is searched",
        ),
        (
            {"path": "dataset.overlap", "values": [0.1]},
            {"ce": "ce", "b": {"loss": "ce", "dataset.overlap": 0.3}},
            "arms.b.dataset.overlap: is what the levels set",
        ),
        ({"path": "search.trials", "values": [1]}, None, "cannot pay"),
    ],
)
def test_a_mistake_in_the_levels_is_told_with_its_place(tiny, levels, arms, message):
    tiny |= {"levels": levels, **({"arms": arms} if arms else {})}
    with pytest.raises(BadInput, match=message):
        load_study(tiny)


def test_a_study_with_levels_runs_and_reads_as_one_study_a_level(ratios, home, no_report):
    frames = run_study(ratios, home=home)
    assert len(frames.confirmation) == 2 * 2 * 2 * 2
    assert level_values(frames) == {"1": 1.0, "10": 10.0}
    levels = by_level(frames)
    assert list(levels) == ["1", "10"]
    for level, part in levels.items():
        assert part.arms == ["ce", "focal"]
        assert part.study["baseline"] == "ce"
        train = part.study["dataset"]["splits"]["train"]["class_counts"]
        assert max(train) / min(train) == pytest.approx(float(level), rel=0.05)
        wanted = frames.confirmation[frames.confirmation["arm"].str.endswith(f"@ {level}")]
        assert sorted(part.confirmation["key"]) == sorted(wanted["key"])
        assert set(part.confirmation["arm"]) == {"ce", "focal"}
        corrected = part.confirmation["test_prior_corrected/balanced_accuracy"]
        assert corrected.notna().sum() == 4  # plain cross-entropy's, at every level
    # every level is judged on the same seeds, so that levels can be compared in pairs
    seeds = [sorted(set(part.confirmation["run_seed"])) for part in levels.values()]
    assert seeds[0] == seeds[1]


def test_the_written_study_file_makes_the_same_study(ratios, home, no_report):
    frames = run_study(ratios, home=home)
    again = load_study(yaml.safe_load(frames.study["yaml"]))
    assert again.resolved == load_study(ratios).resolved


def test_levels_are_added_to_a_finished_study_but_not_changed(ratios, home, no_report):
    run_study(ratios, home=home)
    more = {**ratios, "levels": {**RATIOS, "values": [1, 10, 30]}}
    frames = run_study(more, home=home)
    assert list(by_level(frames)) == ["1", "10", "30"]
    assert "arms added: ce @ 30, focal @ 30" in frames.study["notes"][-1]["text"]
    named = {**ratios, "levels": {**RATIOS, "values": {"1": 2, "10": 10, "30": 30}}}
    with pytest.raises(BadInput, match=r"arms.ce @ 1.dataset.imbalance_ratio: 1.0 -> 2.0"):
        run_study(named, home=home)


def test_mlflow_can_group_by_level_arm_and_repeat(ratios, home, no_report):
    from mlflow.tracking import MlflowClient

    from losslab.experiments.local_store import local_store

    ratios["search"]["repeats"] = 2
    ratios["confirm"]["seeds"] = 1
    run_study(ratios, home=home)
    client = MlflowClient(local_store(home))
    experiment = client.get_experiment_by_name("tiny")
    found = client.search_runs(
        [experiment.experiment_id], "params.level = '10' and params.arm = 'focal'"
    )
    assert {run.data.params["repeat"] for run in found} == {"0", "1"}
    assert {run.data.params["imbalance_ratio"] for run in found} == {"10.0"}
    assert "focal @ 10 · repeat 1 · test, seed 0" in {run.info.run_name for run in found}
    arm = client.search_runs([experiment.experiment_id], "run_name = 'focal @ 10'")[0]
    names = {file.path for file in client.list_artifacts(arm.info.run_id)}
    assert names == {"selected.json", "selected-001.json"}
