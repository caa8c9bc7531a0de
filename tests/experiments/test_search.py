"""Asking, pruning and the journal: a resumed search asks what an uninterrupted one asks."""

import json
import math

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from losslab.experiments.folder import cut_torn_line
from losslab.experiments.schema import Search, Select
from losslab.experiments.search import ArmSearch, Asked, Told
from losslab.experiments.search_journal import Journal
from losslab.experiments.spaces import Choices, Range

SAMPLERS = ["tpe", "random", "qmc", "grid", "cma-es", "gp"]
SPACES = {
    "loss.gamma": Range(low=0, high=5, default=2),
    "model.width": Range(low=1, high=9, integer=True),
    "training.learning_rate": Range(low=1e-5, high=1e-1, scale="log", default=1e-3),
}
MIXED = {**SPACES, "loss.kind": Choices(choices=[1, True, None, "a", 1.0])}


def _search(sampler="random", spaces=SPACES, arm="focal", seed=0, trials=26, **settings):
    settings = {
        "trials": trials,
        "generation": 4,
        "grid_points": 3,
        "select": {"best": 1, "seeds": 0},
        **settings,
    }
    defaults = {path: space.start() for path, space in spaces.items()}
    return ArmSearch(
        arm, spaces, defaults, Search(sampler=sampler, **settings), seed, maximize=True
    )


def _outcome(params, attributes):
    """What a trial of these parameters tells; some are pruned, some diverge."""
    rate = math.log10(params["training.learning_rate"])
    value = 1 - abs(rate + 3) / 4 - params["loss.gamma"] / 50
    if rate > -1.5:
        return Told(params, "diverged", None, {}, attributes)
    if rate < -4.2:
        return Told(params, "pruned", value, {1: value}, attributes)
    return Told(params, "complete", value, {1: value - 0.1, 2: value}, attributes)


def _through_json(content):
    return json.loads(json.dumps(content, allow_nan=False))


def _run(make, stored=(), until=99):
    """Ask and tell to the end, going on from stored generations; everything asked."""
    search, told, asked, previous = make(), [], [], None
    stored = [Asked.from_json(_through_json(content)) for content in stored]
    for number in range(until):
        generation = stored[number] if number < len(stored) else search.ask(number, told, previous)
        if not generation.params:
            break
        asked.append(generation.as_json())
        outcomes = zip(generation.params, generation.trial_attributes, strict=True)
        for params, attributes in outcomes:
            one = _outcome(params, attributes)
            reports = {int(k): v for k, v in _through_json(dict(one.reports)).items()}
            told.append(Told(**{**_through_json({**one.__dict__, "reports": {}}),
                                "reports": reports}))  # fmt: skip
        previous = generation
    return asked, told


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_resuming_at_any_generation_asks_the_same(sampler):
    trials = 14 if sampler == "gp" else 26
    spaces = MIXED if sampler != "cma-es" else SPACES
    whole, _ = _run(lambda: _search(sampler, spaces, trials=trials))
    assert [len(g["params"]) for g in whole[:-1]] == [4] * (len(whole) - 1)
    assert sum(len(g["params"]) for g in whole) == trials
    for cut in range(1, len(whole)) if sampler != "gp" else (2,):
        again, _ = _run(lambda: _search(sampler, spaces, trials=trials), whole[:cut])
        assert _typed(again) == _typed(whole), cut


@pytest.mark.parametrize("pruner", ["median", "halving"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_goes_on_asks_and_prunes_as_one_that_begins_anew(sampler, pruner):
    """After a kill, everything told so far is told at once."""
    trials = 14 if sampler == "gp" else 26
    spaces = MIXED if sampler != "cma-es" else SPACES
    new = lambda: _search(sampler, spaces, trials=trials, pruner=pruner)  # noqa: E731
    search, told, previous, decided = new(), [], None, []
    for number in range(9):
        before = list(told)
        asked = search.ask(number, told, previous)
        assert new().ask(number, told, previous) == asked
        assert search.ask(number, told, previous) == asked  # asking leaves nothing behind
        decisions = []
        for pruning in (search.pruning(told, asked), new().pruning(told, asked)):
            for index, params in enumerate(asked.params):
                pruning.report(index, 2, -params["loss.gamma"])
            indices = range(len(asked.params))
            decisions.append([(pruning.should_prune(i), pruning.attributes(i)) for i in indices])
        assert decisions[0] == decisions[1]
        assert told == before
        for params, own, (stopped, attributes) in zip(
            asked.params, asked.trial_attributes, decisions[0], strict=True
        ):
            one = _outcome(params, {**own, **attributes})
            reports = {**one.reports, 2: -params["loss.gamma"]}
            told.append(Told(params, "pruned" if stopped else one.state, one.value, reports,
                             one.attributes))  # fmt: skip
            decided.append(stopped)
        previous = asked
    assert len(told) == trials
    assert any(decided)
    assert not all(decided)


def test_other_trials_than_before_are_not_mixed_up_with_those():
    """What was told is what is told now, whatever was told before."""
    search, one, other = _search("tpe"), _run(_search)[1], _run(lambda: _search(seed=1))[1]
    for told in (one, other, one[:7], [*one[:7], *other[7:]], []):
        assert search.ask(3, told, None) == _search("tpe").ask(3, told, None)


def test_asking_does_not_cost_more_because_finished_trials_are_built_again():
    search, told = _search("random", trials=4000), _run(_search)[1] * 80
    search.ask(1, told, None)
    built = []
    search.frozen = lambda trial: built.append(trial) or ArmSearch.frozen(search, trial)
    asked = search.ask(2, [*told, told[0]], None)
    search.pruning([*told, told[0]], asked)
    assert len(built) == 1 + len(asked.params)


def _typed(asked):
    return [
        [{path: (type(value), value) for path, value in params.items()} for params in g["params"]]
        for g in asked
    ]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trial_0_is_the_defaults(sampler):
    first = _search(sampler, MIXED if sampler != "cma-es" else SPACES).ask(0, [], None)
    assert first.first_trial == 0
    expected = {"loss.gamma": 2.0, "model.width": 5, "training.learning_rate": 1e-3}
    assert {path: first.params[0][path] for path in expected} == expected
    assert type(first.params[0]["model.width"]) is int


def test_an_arm_without_spaces_has_one_trial():
    search = _search("tpe", {})
    first = search.ask(0, [], None)
    assert first.params == [{}]
    told = [Told({}, "complete", 0.5, {}, first.trial_attributes[0])]
    assert search.ask(1, told, first).params == []


def test_a_grid_visits_every_point_once_after_the_defaults():
    asked, _ = _run(lambda: _search("grid", trials=200))
    points = [tuple(params.values()) for g in asked for params in g["params"]]
    expected = {
        (gamma, width, rate)
        for gamma in (0.0, 2.5, 5.0)
        for width in (1, 5, 9)
        for rate in (1e-5, 1e-3, 1e-1)
    }
    assert points[0] == (2.0, 5, 1e-3)
    assert len(points) == 1 + 27
    assert set(points[1:]) == expected


def test_qmc_does_not_repeat_itself():
    asked, _ = _run(lambda: _search("qmc", trials=40))
    gammas = [params["loss.gamma"] for g in asked for params in g["params"]]
    assert len(set(gammas)) == 40
    # that is what it is for: each quarter of the range gets its quarter of the points
    quarters = [sum(int(g / 1.25) == q for g in gammas[1:33]) for q in range(4)]
    assert max(quarters) - min(quarters) <= 2


def test_choices_come_back_with_their_types():
    asked, _ = _run(lambda: _search("random", MIXED, trials=60))
    seen = {(type(p["loss.kind"]), p["loss.kind"]) for g in asked for p in g["params"]}
    assert seen == {(int, 1), (bool, True), (type(None), None), (str, "a"), (float, 1.0)}
    search = _search("random", MIXED)
    for index, choice in enumerate(MIXED["loss.kind"].choices):
        internal = search._internal(_through_json({**asked[0]["params"][0], "loss.kind": choice}))
        assert internal["loss.kind"] == index


def test_seeds_differ_between_arms_generations_and_studies():
    def rates(search, number):
        told = _run(lambda: search, until=number)[1] if number else []
        asked = search.ask(number, told, None)
        return [params["training.learning_rate"] for params in asked.params[1:]]

    drawn = [
        tuple(rates(_search("random"), 0)),
        tuple(rates(_search("random"), 1)),
        tuple(rates(_search("random", arm="ce"), 0)),
        tuple(rates(_search("random", seed=1), 0)),
    ]
    assert len({rate for rates in drawn for rate in rates}) == 12


# Pruning


def _told_at(rung_value):
    params = {"loss.gamma": 1.0, "model.width": 3, "training.learning_rate": 1e-3}
    return Told(params, "complete", rung_value, {2: rung_value}, {})


def test_the_median_rule_prunes_below_the_median_of_what_was_finished():
    search = _search("random", pruner="median")
    # the finished trials reached 0.2, 0.4, 0.6 and 0.8 at rung 2: the median is 0.5
    told = [_told_at(value) for value in (0.2, 0.4, 0.6, 0.8)]
    asked = search.ask(1, told, search.ask(0, [], None))
    values = [0.49, 0.51, 0.1, 0.9]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        pruning = search.pruning(told, asked)
        for index, value in enumerate(values):
            pruning.report(index, 2, value)
        decided = {index: pruning.should_prune(index) for index in order}
        assert decided == {0: True, 1: False, 2: True, 3: False}


def test_the_first_generation_is_not_pruned_by_the_median():
    search = _search("random", pruner="median")
    asked = search.ask(0, [], None)
    pruning = search.pruning([], asked)
    for index, value in enumerate((0.1, 0.9, 0.9, 0.9)):
        pruning.report(index, 2, value)
    assert not any(pruning.should_prune(index) for index in range(4))


def test_pruned_and_diverged_trials_do_not_move_the_median():
    search = _search("random", pruner="median")
    params = _told_at(0)
    told = [_told_at(value) for value in (0.2, 0.4, 0.6, 0.8)]
    told += [Told(params.params, "pruned", 0.9, {2: 0.95}, {})] * 4
    told += [Told(params.params, "diverged", None, {}, {})] * 4
    asked = search.ask(3, told, search.ask(0, [], None))
    pruning = search.pruning(told, asked)
    pruning.report(0, 2, 0.51)
    assert not pruning.should_prune(0)


# What is told


def test_a_diverged_trial_is_told_as_pruned():
    frozen = _search().frozen(_outcome({**_told_at(0).params, "training.learning_rate": 0.09}, {}))
    assert frozen.state == TrialState.PRUNED
    assert frozen.user_attrs == {"state": "diverged"}
    assert frozen.intermediate_values == {}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_values_that_are_not_finite_are_refused(value):
    search, params = _search(), _told_at(0).params
    with pytest.raises(ValueError, match="must be finite"):
        search.ask(1, [Told(params, "complete", value, {}, {})], None)
    with pytest.raises(ValueError, match="must be finite"):
        search.ask(1, [Told(params, "pruned", None, {1: value}, {})], None)
    asked = search.ask(0, [], None)
    with pytest.raises(ValueError, match="must be finite"):
        search.pruning([], asked).report(0, 1, value)


# The journal


def test_the_journal_holds_every_trial_once_and_optuna_reads_it(tmp_path):
    file = tmp_path / "journal.log"
    arms = {name: _run(lambda name=name: _search("random", MIXED, arm=name)) for name in "ab"}
    for name, (_, told) in arms.items():
        for end in (4, 8, 8, 26):
            Journal(file).append(_search("random", MIXED, arm=name), told[:end])  # opened anew
    storage = JournalStorage(JournalFileBackend(str(file)))
    for name, (_, told) in arms.items():
        study = optuna.load_study(study_name=name, storage=storage)
        assert study.direction == optuna.study.StudyDirection.MAXIMIZE
        assert [trial.number for trial in study.trials] == list(range(26))
        states = {"complete": "COMPLETE", "pruned": "PRUNED", "diverged": "PRUNED"}
        for trial, one in zip(study.trials, told, strict=True):
            assert trial.state.name == states[one.state]
            assert trial.user_attrs["state"] == one.state
            assert trial.value == (one.value if one.state == "complete" else None) or (
                one.state == "pruned" and trial.value == one.reports[1]
            )
            assert trial.intermediate_values == one.reports
            choice = MIXED["loss.kind"].choices[trial.params["loss.kind"]]
            assert (type(choice), choice) == (type(one.params["loss.kind"]),
                                              one.params["loss.kind"])  # fmt: skip
            for path in SPACES:
                assert trial.params[path] == one.params[path]
        best = max(one.value for one in told if one.state == "complete")
        assert study.best_value == best


@pytest.mark.parametrize("tail", [b'{"op_code": 4, "wor', b"\x00\x00\x00", b"{}}\n", b"\n\n"])
def test_a_torn_last_line_is_cut_before_the_next_append(tmp_path, tail):
    file = tmp_path / "journal.log"
    _, told = _run(_search)
    Journal(file).append(_search(), told[:4])
    whole = file.read_bytes()
    file.write_bytes(whole + tail)
    cut_torn_line(file)
    assert file.read_bytes() == whole
    file.write_bytes(whole + tail)
    Journal(file).append(_search(), told)
    storage = JournalStorage(JournalFileBackend(str(file)))
    assert len(optuna.load_study(study_name="focal", storage=storage).trials) == 26


def test_a_journal_that_cannot_be_read_is_written_anew(tmp_path):
    file = tmp_path / "journal.log"
    _, told = _run(_search)
    Journal(file).append(_search(), told)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:3], b"noise\n", *lines[4:]]))
    Journal(file).append(_search(), told)
    assert (tmp_path / "journal.log.damaged").exists()
    storage = JournalStorage(JournalFileBackend(str(file)))
    assert len(optuna.load_study(study_name="focal", storage=storage).trials) == 26


def test_halving_lets_a_third_pass_each_rung():
    settings = Search(trials=300, generation=30, pruner="halving", select=Select(best=1, seeds=0))
    spaces = {"x": Range(low=0, high=1)}
    search = ArmSearch("arm", spaces, {"x": 0.5}, settings, 0, True)
    told, passed, asked_in_all = [], [0, 0], 0
    random = np.random.default_rng(0)
    for number in range(10):
        params = [{"x": float(value)} for value in random.random(30)]
        asked = Asked(number, len(told), params, [{}] * 30, {})
        pruning = search.pruning(told, asked)
        alive = list(range(30))
        asked_in_all += len(alive)
        for rung, epoch in enumerate((7, 15)):
            for i in alive:
                pruning.report(i, epoch, params[i]["x"])
            alive = [i for i in alive if not pruning.should_prune(i)]
            passed[rung] += len(alive)
        for i in range(30):
            state = "complete" if i in alive else "pruned"
            value = params[i]["x"] if i in alive else None
            told.append(Told(params[i], state, value, {7: params[i]["x"]}, pruning.attributes(i)))
    assert 0.25 < passed[0] / asked_in_all < 0.42
    assert 0.2 < passed[1] / passed[0] < 0.5
