"""Repeats of the search: independent searches, each with selection and confirmation of its own."""

import json

import pytest

from losslab import run_study
from losslab.analysis.frames import frames_from_folder
from losslab.experiments.folder import read_json

pytestmark = pytest.mark.usefixtures("no_report")


def records(folder):
    found = [json.loads(f.read_text()) for f in folder.rglob("*.json") if "-" in f.name]
    return {record["key"]: record for record in found if "phase" in record}


def test_every_repeat_spends_the_whole_budget_and_confirms_on_its_own_seeds(repeated):
    found = records(repeated)
    assert len(found) == 3 * 2 * (7 + 2 * 2)
    by_repeat = {r: [x for x in found.values() if x["repeat"] == r] for r in range(3)}
    seeds = [{x["run_seed"] for x in by_repeat[r]} for r in range(3)]
    assert [len(s) for s in seeds] == [4, 4, 4]  # two of the search, two of the confirmation
    assert len(set.union(*seeds)) == 12


def test_arms_share_the_seeds_of_a_repeat(repeated):
    runs = [x for x in records(repeated).values() if x["phase"] == "confirm"]
    for repeat in range(3):
        for seed in range(2):
            alike = [x for x in runs if (x["repeat"], x["seed_index"]) == (repeat, seed)]
            assert len(alike) == 4
            assert len({x["run_seed"] for x in alike}) == 1
            assert len({x["pairing"]["initial_weights"] for x in alike}) == 1


def test_searches_are_independent_and_start_at_the_defaults(repeated):
    found = records(repeated)
    first = [found[f"focal{r}/trial-00000"]["params"] for r in ("", "/repeat-001", "/repeat-002")]
    assert first[0] == first[1] == first[2]
    later = [found[f"focal{r}/trial-00001"]["params"] for r in ("", "/repeat-001", "/repeat-002")]
    assert len({json.dumps(params) for params in later}) == 3


def test_each_repeat_confirms_what_it_selected(repeated):
    for slug in ("ce", "focal"):
        for repeat in range(3):
            inside = f"repeat-{repeat:03d}" if repeat else "."
            chosen = read_json(repeated / "arms" / slug / inside / "selected.json")
            assert chosen["repeat"] == repeat
            for seed in range(2):
                run = read_json(repeated / "confirm" / slug / inside / f"selected-{seed:04d}.json")
                assert (run["params"], run["trial"]) == (chosen["params"], chosen["trial"])


def test_the_first_repeat_is_the_study_without_repeats(repeated, finished):
    """So that repeats may be added to a study that is finished."""
    alone, among = records(finished / "tiny"), records(repeated)
    assert {key for key in among if "/repeat-" not in key} == set(alone)
    for key, record in alone.items():
        assert among[key]["run_seed"] == record["run_seed"]
        assert among[key]["params"] == record["params"]
        assert among[key]["value"] == pytest.approx(record["value"], abs=1e-6)


def test_repeats_are_added_to_a_finished_study(copied, tiny):
    before = records(copied / "tiny")
    tiny["search"]["repeats"] = 2
    frames = run_study(tiny, home=copied)
    after = records(copied / "tiny")
    assert {key: after[key] for key in before} == before
    assert len(after) == 2 * len(before)
    assert "repeats: 1 -> 2" in frames.study["notes"][-1]["text"]


def test_a_study_from_before_repeats_goes_on(copied, tiny):
    file = copied / "tiny" / "study.json"
    study = json.loads(file.read_text())
    del study["resolved"]["search"]["repeats"]
    del study["repeats"]
    file.write_text(json.dumps(study))
    before = records(copied / "tiny")
    run_study(tiny, home=copied)
    assert records(copied / "tiny") == before


def test_the_replicate_is_the_repeat(repeated):
    frames = frames_from_folder(repeated)
    from losslab.analysis.tables import per_seed

    runs = frames.confirmation
    runs = runs[(runs["arm"] == "focal") & (runs["variant"] == "selected")]
    by_hand = {r: runs.loc[runs["repeat"] == r, "test/average_precision"].mean() for r in range(3)}
    assert per_seed(frames, "focal", "selected", "test/average_precision").to_dict() == by_hand


def test_best_gives_the_repeat_that_validation_liked_most(repeated):
    from losslab.selected import best

    found = [
        read_json(file) for file in sorted((repeated / "arms" / "focal").rglob("selected.json"))
    ]
    wanted = max(found, key=lambda content: content["value"])
    text = best("tiny", str(repeated.parent), "focal")
    assert f"# focal: average_precision {wanted['value']:.4f} repeat {wanted['repeat']}" in text
    assert f"learning_rate: {wanted['params']['training.learning_rate']}" in text


def test_status_counts_all_repeats(repeated):
    from losslab.inspecting import status

    assert "21 of 21 trainings" in status("tiny", str(repeated.parent))
    assert "12 of 12 test runs" in status("tiny", str(repeated.parent))
