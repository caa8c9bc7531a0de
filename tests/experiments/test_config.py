"""From a study file to a study: spaces, reading, arms, and what may change later."""

import itertools
import math

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from losslab.errors import BadInput
from losslab.experiments.changes import changed_keys
from losslab.experiments.config import load_study
from losslab.experiments.folder import slug
from losslab.experiments.preflight import preflight
from losslab.experiments.reading import apply_overrides, normalise, read_yaml, shipped_studies
from losslab.experiments.spaces import (
    Choices,
    Range,
    leaves,
    looks_like_space,
    merged,
    parse_space,
    set_path,
)

# A busy machine is no mistake of the code.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NUMBERS = st.floats(-1e12, 1e12)
POSITIVE = st.floats(1e-12, 1e12)
KEYS = st.text(st.characters(exclude_characters="."), min_size=1, max_size=4).filter(
    lambda key: key not in ("low", "high", "choices")
)
VALUES = st.one_of(st.integers(), st.booleans(), st.text(max_size=3), st.none(), st.just([1, 2]))
SECTIONS = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=3),
    lambda inner: st.dictionaries(KEYS, inner | VALUES, max_size=3),
    max_leaves=8,
)


@st.composite
def ranges(draw):
    scale = draw(st.sampled_from(["linear", "log"]))
    numbers = NUMBERS if scale == "linear" else POSITIVE
    low, high = sorted(draw(st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1])))
    return Range(low=low, high=high, scale=scale)


# Spaces


@PATIENT
@given(ranges())
def test_a_ranges_default_lies_inside_and_its_ends_are_edges(space):
    assert space.low <= space.default <= space.high
    assert space.at_edge(space.low)
    assert space.at_edge(space.high)
    assert space.samples() == [space.low, space.high]


@PATIENT
@given(ranges(), st.integers(2, 9))
def test_a_grid_is_even_on_its_scale_and_holds_both_ends(space, points):
    grid = space.grid(points)
    assert len(grid) == points
    assert (grid[0], grid[-1]) == (space.low, space.high)
    assert grid == sorted(grid)
    place = math.log if space.scale == "log" else float
    steps = [place(b) - place(a) for a, b in itertools.pairwise(grid)]
    largest = max(abs(place(space.low)), abs(place(space.high)))
    assert max(steps) - min(steps) <= 1e-9 * max(largest, 1)


@pytest.mark.parametrize(
    ("space", "middle"),
    [
        ({"low": 0, "high": 5}, 2.5),
        ({"low": 1e-5, "high": 1e-1, "scale": "log"}, 1e-3),
        ({"low": 1, "high": 6, "integer": True}, 4),
        ({"low": 2, "high": 128, "integer": True, "scale": "log"}, 16),
        ({"low": 0, "high": 5, "default": 2}, 2.0),
    ],
)
def test_where_trial_0_starts(space, middle):
    start = Range(**space).start()
    assert start == middle
    assert type(start) is (int if space.get("integer") else float)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"low": 2, "high": 1}, "low must be below high, got low 2 and high 1"),
        ({"low": 1, "high": 1}, "low must be below high"),
        ({"low": 0, "high": 1, "scale": "log"}, "a log scale needs low above 0, got 0"),
        ({"low": -1, "high": 1, "scale": "log"}, "a log scale needs low above 0, got -1"),
        ({"low": 0, "high": math.inf}, "must be finite"),
        ({"low": math.nan, "high": 1}, "must be finite"),
        ({"low": 0, "high": 1, "default": 2}, "default 2 lies outside 0 to 1"),
        ({"low": 0, "high": 1, "default": math.nan}, "outside"),
        ({"low": 0.5, "high": 4, "integer": True}, "whole numbers"),
        ({"low": 1, "high": 4, "default": 2.5, "integer": True}, "whole numbers"),
        ({"low": 1}, "high"),
        ({"low": 0, "high": 1, "steps": 3}, "steps"),
        ({"low": True, "high": 3}, "low"),
        ({"low": "0", "high": 3}, "low"),
        ({"low": 0, "high": 1, "scale": "ln"}, "'linear' or 'log'"),
        ({"choices": [1]}, "at least 2"),
        ({"choices": [1, 2], "default": 3}, "default 3 is not among the choices"),
        ({"choices": [1, 2], "low": 0}, "low"),
    ],
)
def test_impossible_spaces_are_refused(space, message):
    with pytest.raises(ValidationError, match=message):
        parse_space(space)


def test_grids_of_whole_numbers_hold_no_fractions_or_repeats():
    assert Range(low=1, high=3, integer=True).grid(9) == [1, 2, 3]
    assert Range(low=16, high=256, scale="log", integer=True).grid(5) == [16, 32, 64, 128, 256]
    assert Range(low=1e-4, high=1e-1, scale="log").grid(4) == [1e-4, 1e-3, 1e-2, 1e-1]


def test_the_outer_twentieth_is_the_edge():
    linear, log = Range(low=0, high=100), Range(low=1e-4, high=1, scale="log")
    assert [linear.at_edge(value) for value in (4.9, 5.1, 50, 94.9, 95.1)] == [
        True, False, False, False, True,
    ]  # fmt: skip
    # a twentieth of four decades is a factor of 10^0.2 = 1.585
    assert [log.at_edge(value) for value in (1.58e-4, 1.6e-4, 0.62, 0.64)] == [
        True, False, False, True,
    ]  # fmt: skip
    assert linear.at_edge(20, share=0.25)


def test_choices_tell_equal_values_of_different_types_apart():
    space = Choices(choices=[1, True, 1.0, "1", None, False])
    assert [space.internal(value) for value in space.samples()] == [0, 1, 2, 3, 4, 5]
    assert space.start() == 1
    assert Choices(choices=["a", None], default=None).start() is None


def test_the_usual_default_is_kept_where_it_fits():
    assert parse_space({"low": 0, "high": 5}, 2.0).start() == 2.0
    assert parse_space({"low": 3, "high": 5}, 2.0).start() == 4.0
    assert parse_space({"low": 0, "high": 5, "default": 1}, 2.0).start() == 1.0


@PATIENT
@given(SECTIONS)
def test_leaves_and_set_path_go_both_ways(section):
    rebuilt = {}
    for path, value in leaves(section):
        set_path(rebuilt, path, value)
    assert rebuilt == section
    assert len(dict(leaves(section))) == len(list(leaves(section)))


def test_spaces_and_lists_are_leaves():
    section = {"a": {"low": 0, "high": 1}, "b": {"c": [1, 2], "d": {"choices": [1, 2]}}}
    assert dict(leaves(section)) == {
        "a": {"low": 0, "high": 1},
        "b.c": [1, 2],
        "b.d": {"choices": [1, 2]},
    }
    assert looks_like_space({"low": 0})
    assert not looks_like_space({"lower": 0})


@PATIENT
@given(SECTIONS, SECTIONS)
def test_merging_keeps_what_is_not_overridden(base, over):
    result = merged(base, over)
    assert set(result) == {*base, *over}
    assert merged(base, {}) == base
    assert merged({}, over) == over
    assert merged(result, over) == result
    for key in set(base) - set(over):
        assert result[key] == base[key]


def test_another_name_replaces_its_section_and_a_space_replaces_a_space():
    base = {"loss": {"name": "focal", "gamma": 2}, "t": {"lr": {"low": 0, "high": 1}, "e": 3}}
    assert merged(base, {"loss": {"name": "ce"}})["loss"] == {"name": "ce"}
    assert merged(base, {"loss": {"name": "focal", "alpha": 1}})["loss"] == {
        "name": "focal", "gamma": 2, "alpha": 1,
    }  # fmt: skip
    over = {"t": {"lr": {"choices": [1, 2]}}}
    assert merged(base, over)["t"] == {"lr": {"choices": [1, 2]}, "e": 3}
    assert base["loss"] == {"name": "focal", "gamma": 2}


# Reading


@pytest.fixture
def read(tmp_path):
    def read(text):
        file = tmp_path / "study.yaml"
        file.write_text(text)
        return read_yaml(file)

    return read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E3", 1000.0), ("-2.5e+2", -250.0), ("1.e-2", 0.01), (".5e3", 500.0),
        ("+1e1", 10.0), ("12", 12), ("0.5", 0.5), ("'1e-3'", "1e-3"), ("1e", "1e"), ("e3", "e3"),
        ("1e-3x", "1e-3x"), ("2024-01-31", "2024-01-31"), ("yes", True), ("~", None),
        ("{low: 1e-4, high: 1e-1}", {"low": 1e-4, "high": 1e-1}),
    ],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(read, text, value):
    found = read(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_texts_as_they_are_written(read):
    content = read("arms: {on: ce, 0.10: ce, 1e-3: ce, ~: ce, 007: ce, 2024-01-31: ce}")
    assert list(content["arms"]) == ["on", "0.10", "1e-3", "~", "007", "2024-01-31"]


def test_anchors_and_merge_keys_work(read):
    content = read("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a")
    assert content == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' stands twice"),
        ("a:\n  b: 1\n  'b': 2", 3, "the key 'b' stands twice"),
        ("arms: {1: ce, '1': focal}", 1, "the key '1' stands twice"),
        ("a: [1\nb: 2", 2, "not valid YAML"),
        ("a:\n\tb: 1", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: 1\nb: !!python/name:os.system", 2, "not valid YAML"),
        ("? [a]\n: 1", 1, "a key must be a text"),
        ("a: &a {b: *a}", 1, r"\*a stands inside"),
    ],
)
def test_mistakes_of_syntax_name_their_line(read, text, line, message):
    with pytest.raises(BadInput, match=rf"study\.yaml, line {line}: .*{message}"):
        read(text)


def test_short_forms():
    assert normalise({"arms": ["ce", "focal"], "model": "mlp", "loss": "ce"}) == {
        "arms": {"ce": {"loss": {"name": "ce"}}, "focal": {"loss": {"name": "focal"}}},
        "model": {"name": "mlp"},
        "loss": {"name": "ce"},
    }
    arms = {
        "a": "focal",
        "ce": None,
        "b": {"loss.gamma": 1, "loss.name": "focal", "training.batch_size": {"choices": [8, 9]}},
        "c": {"model": "cnn", "training": None},
    }
    assert normalise({"arms": arms})["arms"] == {
        "a": {"loss": {"name": "focal"}},
        "ce": {"loss": {"name": "ce"}},
        "b": {
            "loss": {"gamma": 1, "name": "focal"},
            "training": {"batch_size": {"choices": [8, 9]}},
        },
        "c": {"model": {"name": "cnn"}},
    }
    # a section with nothing in it is no section; a misspelt one is still a mistake
    assert normalise({"training": None, "search": None, "trainin": None}) == {"trainin": None}


def test_a_short_form_takes_dotted_options():
    study = normalise({"arms": {"x": {"loss": "focal", "loss.gamma": 1}}})
    assert study["arms"]["x"] == {"loss": {"name": "focal", "gamma": 1}}


def test_overrides_are_read_as_yaml():
    content = normalise({"arms": ["ce"], "training": {"epochs": 3}})
    apply_overrides(
        content,
        ["training.epochs=5", "training.learning_rate={low: 1e-4, high: 1}", "arms.ce.loss=focal",
         "question=a=b", "search.select.best=1"],
    )  # fmt: skip
    assert content["training"] == {"epochs": 5, "learning_rate": {"low": 1e-4, "high": 1}}
    assert content["question"] == "a=b"
    assert content["search"] == {"select": {"best": 1}}
    assert normalise(content)["arms"]["ce"]["loss"] == {"name": "focal"}


# Studies


def test_arms_override_any_section(tiny):
    study = load_study(
        {
            **tiny,
            "arms": {
                "ce": "ce",
                "data": {"dataset": {"imbalance_ratio": 2}},
                "model": {"model.prior_init": True, "model": {"hidden": [3]}},
                "training": {"training": {"batch_size": 16, "learning_rate": 0.1}},
                "loss": {"loss": {"name": "focal", "gamma": {"low": 1, "high": 2}}},
            },
        }
    )
    base, arms = study.arms["ce"], study.arms
    assert arms["data"].config["dataset"] == {**base.config["dataset"], "imbalance_ratio": 2}
    assert arms["model"].config["model"] == {
        **base.config["model"], "hidden": [3], "prior_init": True,
    }  # fmt: skip
    assert arms["training"].config["training"]["batch_size"] == 16
    assert base.config["training"]["batch_size"] == 64
    assert set(arms["training"].spaces) == {"training.weight_decay"}
    assert set(base.spaces) == {"training.learning_rate", "training.weight_decay"}
    assert set(arms["loss"].spaces) == {*base.spaces, "loss.gamma", "loss.alpha"}
    # the loss's own default of 2 lies inside the narrower range and stays the untuned value
    assert arms["loss"].defaults["loss.gamma"] == 2.0
    assert arms["loss"].spaces["loss.gamma"].high == 2
    configured = arms["loss"].configure({"loss.gamma": 1.25, "training.learning_rate": 0.5})
    assert configured["loss"]["gamma"] == 1.25
    assert configured["training"]["learning_rate"] == 0.5
    assert arms["loss"].config["loss"]["gamma"] == 2.0


def test_the_searched_training_range_follows_the_optimiser(tiny):
    arms = {"ce": "ce", "sgd": {"loss": "ce", "training.optimizer": "sgd"}}
    study = load_study({**tiny, "arms": arms})
    assert study.arms["ce"].spaces["training.learning_rate"].high == 0.1
    assert study.arms["sgd"].spaces["training.learning_rate"].high == 1.0


@pytest.mark.parametrize(
    ("arms", "baseline", "implicit"),
    [
        (["focal", "ce"], "ce", False),
        ({"plain": "ce", "focal": None}, "plain", False),
        ({"x": {}, "focal": None}, "x", False),
        (["focal"], "ce", True),
        ({"ce": "focal"}, "ce (baseline)", True),
        ({"ce": "focal", "ce (baseline)": "focal"}, "ce (baseline2)", True),
        ({"CE": "focal"}, "ce (baseline)", True),
        ({"other": {"loss": "ce", "training.batch_size": 8}, "focal": None}, "ce", True),
    ],
)
def test_plain_cross_entropy_is_the_baseline_and_added_if_missing(tiny, arms, baseline, implicit):
    study = load_study({**tiny, "arms": arms})
    assert study.baseline == baseline
    assert study.arms[baseline].config["loss"]["name"] == "ce"
    assert study.arms[baseline].implicit == implicit
    given = arms if isinstance(arms, dict) else dict.fromkeys(arms)
    assert [name for name, arm in study.arms.items() if not arm.implicit] == list(given)


def test_a_named_baseline_is_taken(tiny):
    assert load_study({**tiny, "baseline": "focal"}).baseline == "focal"
    assert set(load_study({**tiny, "baseline": "focal"}).arms) == {"ce", "focal"}
    numbered = {"1": "focal", "2": "ce"}
    assert load_study({**tiny, "arms": numbered, "baseline": 1}).baseline == "1"


@pytest.mark.parametrize(
    ("classes", "given", "link", "searched"),
    [
        (2, {}, "sigmoid", {"loss.alpha", "loss.gamma"}),
        (3, {}, "softmax", {"loss.a", "loss.gamma"}),
        (2, {"link": "softmax"}, "softmax", {"loss.a", "loss.gamma"}),
        (3, {"link": "sigmoid"}, "sigmoid", {"loss.alpha", "loss.gamma"}),
    ],
)
def test_the_task_chooses_the_link_unless_the_arm_does(tiny, classes, given, link, searched):
    tiny["dataset"]["classes"] = classes
    arm = load_study({**tiny, "arms": {"x": {"loss": {"name": "focal", **given}}}}).arms["x"]
    assert arm.config["loss"]["link"] == link
    assert {path for path in arm.spaces if path.startswith("loss.")} == searched


def test_any_importable_module_is_an_arm(tiny):
    pytest.importorskip("kornia")
    kornia = "kornia.losses:BinaryFocalLossWithLogits"
    study = load_study(
        {
            **tiny,
            "arms": {
                "ce": "ce",
                "kornia": {"loss": {"name": kornia, "alpha": 0.25, "gamma": {"low": 0, "high": 5}}},
                "torch.nn:BCEWithLogitsLoss": None,
            },
        }
    )
    arm = study.arms["kornia"]
    assert arm.config["loss"] == {"name": kornia, "alpha": 0.25, "gamma": 2.5, "link": "sigmoid"}
    assert arm.spaces["loss.gamma"].high == 5
    torch_arm = study.arms["torch.nn:BCEWithLogitsLoss"]
    assert torch_arm.config["loss"]["name"] == "torch.nn:BCEWithLogitsLoss"
    preflight(study, "cpu")  # one batch goes forwards and backwards through each


def test_a_searched_prior_initialisation(tiny):
    tiny["model"]["prior_init"] = {"choices": [False, True, 0.01]}
    arm = load_study(tiny).arms["ce"]
    assert arm.configure({"model.prior_init": 0.01})["model"]["prior_init"] == 0.01
    tiny["model"]["prior_init"] = {"choices": [False, 1.5]}
    with pytest.raises(BadInput, match=r"^model\.prior_init: must be on, off, or a prob.*got 1.5"):
        load_study(tiny)


def test_the_resolved_study_leaves_nothing_to_defaults(tiny):
    study = load_study(tiny)
    again = load_study(study.resolved)
    assert again.resolved == study.resolved
    assert again.arms == study.arms
    assert yaml.safe_load(yaml.safe_dump(study.resolved)) == study.resolved


@pytest.mark.parametrize(
    ("search", "rungs"),
    [
        ({}, [1, 2]),
        ({"pruner": "none"}, []),
        ({"rungs": [1, 3]}, [1, 3]),
        ({"rungs": []}, []),
    ],
)
def test_rungs_lie_before_the_last_epoch(tiny, search, rungs):
    assert load_study({**tiny, "search": {**tiny["search"], **search}}).rungs == rungs


def test_relative_paths_are_looked_up_beside_the_study_file(tmp_path, monkeypatch):
    rows = "x,kind\n" + "\n".join(f"{i},{'ab'[i % 2]}" for i in range(40))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.csv").write_text(rows)
    content = "dataset: {name: table, path: mine.csv, target: kind}\narms: [ce]"
    (tmp_path / "here" / "my_table.yaml").write_text(content)
    monkeypatch.chdir(tmp_path)
    study = load_study(tmp_path / "here" / "my_table.yaml")
    assert study.name == "my_table"
    path = study.arms["ce"].config["dataset"]["path"]
    assert path == str(tmp_path / "here" / "mine.csv")


def test_slugs_are_harmless_and_differ():
    names = ["a b", "a-b", "a/b", "../a", "..", "é", "ö", "x" * 80, "x" * 81, "ok_1=0.5", "-a", "a"]
    slugs = [slug(name) for name in names]
    assert len({made.casefold() for made in slugs}) == len(names)
    for name, made in zip(names, slugs, strict=True):
        assert 0 < len(made) <= 70
        assert not set(made) & set("/ é")
        assert made[0] not in "-."
        assert name != "ok_1=0.5" or made == name


@pytest.mark.parametrize("name", shipped_studies())
def test_every_shipped_study_is_valid(name, cells, tmp_path, monkeypatch):
    monkeypatch.setenv("LOSSLAB_CACHE", str(tmp_path))
    study = load_study(name, [f"dataset.path={cells}"] if name == "bccd" else [])
    assert study.name == name
    assert study.question.endswith("?")


def test_a_study_without_its_data_says_what_to_do():
    with pytest.raises(BadInput) as error:
        load_study("bccd")
    (problem,) = error.value.problems
    assert problem.startswith("dataset.path: is required and missing; write it in the study file ")
    assert "--set dataset.path=VALUE" in problem
    assert "bccd.yaml says where to get the data" in problem
    with pytest.raises(BadInput) as error:
        load_study({"dataset": {"name": "voc"}, "arms": ["ce"]})
    assert error.value.problems == [f"{problem.partition(' (')[0]}"]


def test_every_path_of_a_dataset_is_looked_up_beside_the_study(tmp_path, monkeypatch):
    from losslab.experiments.resolving import Resolver

    (tmp_path / "beside").mkdir()
    (tmp_path / "here" / "photos").mkdir(parents=True)
    (tmp_path / "beside" / "all.json").touch()
    monkeypatch.chdir(tmp_path / "here")
    given = {"name": "coco", "images": "photos", "annotations": "all.json", "cache": "/c/../d"}
    found, _ = Resolver(0, tmp_path / "beside", []).section("dataset", given, "dataset")
    assert found["images"] == str(tmp_path / "here" / "photos")
    assert found["annotations"] == str(tmp_path / "beside" / "all.json")
    assert found["cache"] == "/d"
    assert found["test_images"] is None


# What may change


OLD = {
    "study": "s",
    "question": "?",
    "seed": 0,
    "search": {"trials": 8, "generation": 4},
    "confirm": {"seeds": 5},
    "arms": {
        "a": {"loss": {"name": "focal", "gamma": {"low": 0, "high": 5}}},
        "a.b": {"loss": {"name": "ce"}, "dataset": {"path": "/x.csv"}},
    },
}


@pytest.mark.parametrize(
    ("path", "value", "lines"),
    [
        ("question", "Why?", []),
        ("search.trials", 12, []),
        ("search.trials", 7, ["search.trials: 8 -> 7"]),
        ("confirm.seeds", 6, []),
        ("confirm.seeds", 4, ["confirm.seeds: 5 -> 4"]),
        ("search.generation", 5, ["search.generation: 4 -> 5"]),
        ("seed", 1, ["seed: 0 -> 1"]),
        ("device", "cpu", ["device: (absent) -> cpu"]),
    ],
)
def test_what_continues_a_study_and_what_does_not(path, value, lines):
    new = {**OLD, "search": dict(OLD["search"]), "confirm": dict(OLD["confirm"])}
    set_path(new, path, value)
    assert changed_keys(OLD, new) == lines


def test_arms_may_be_added_but_neither_changed_nor_removed():
    a, b = OLD["arms"].values()
    assert changed_keys(OLD, {**OLD, "arms": {**OLD["arms"], "c": a}}) == []
    other = {"loss": {**a["loss"], "gamma": {"low": 0, "high": 4}}}
    assert changed_keys(OLD, {**OLD, "arms": {"a": other, "a.b": b}}) == [
        "arms.a.loss.gamma: {'low': 0, 'high': 5} -> {'low': 0, 'high': 4}"
    ]
    assert changed_keys(OLD, {**OLD, "arms": {"a": a}}) == ["arms.a.b: was removed"]
    # the table may lie elsewhere; an arm whose name begins another's is not that other arm
    moved = {"loss": {"name": "focal"}, "dataset": {"path": "/y.csv"}}
    before = {**OLD, "arms": {"a.b": b}}
    assert changed_keys(before, {**OLD, "arms": {"a": a, "a.b": moved}}) == [
        "arms.a.b.loss.name: ce -> focal"
    ]


def test_photographs_may_lie_elsewhere_but_not_be_stored_otherwise():
    before = {"arms": {"a": {"dataset": {"images": "/a", "annotations": "/a.json", "size": 64}}}}
    after = {"arms": {"a": {"dataset": {"images": "/b", "annotations": "/b.json", "size": 96}}}}
    assert changed_keys(before, after) == ["arms.a.dataset.size: 64 -> 96"]
