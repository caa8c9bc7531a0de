"""How trainings are cut into pieces, and that stacks give the study that the plain loop gives."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from losslab import run_study
from losslab.cli import main
from losslab.errors import BadInput
from losslab.experiments.config import load_study
from losslab.experiments.opening import resolve_device
from losslab.experiments.plans import Plan
from losslab.experiments.preflight import first_job, plan_study
from losslab.experiments.stacking import pieces_of, plan_of
from losslab.experiments.states import Job

HERE = __name__  # pytest has put this file among the modules under this name


# Plans


def job(number=0, batch_size=16, seed=0):
    training = {"batch_size": batch_size, "epochs": 3, "optimizer": "adamw", "judge": "last"}
    config = {
        "dataset": {"name": "clusters"},
        "model": {"name": "mlp", "prior_init": number},
        "training": {**training, "learning_rate": float(number)},
        "loss": {"name": "focal", "link": "sigmoid", "gamma": float(number)},
    }
    return Job(config, study_seed=0, run_seed=seed)


plans = st.builds(
    Plan,
    engine=st.just("stacked"),
    stack=st.integers(2, 9),
    reason=st.just(""),
    megabytes=st.sampled_from([1.0, 7.0]),
    data=st.sampled_from([0.0, 10.0]),
    memory=st.sampled_from([15.0, 60.0, 1e6]),
)


@given(
    plan=plans,
    rows=st.lists(
        st.tuples(st.sampled_from([16, 32]), st.integers(0, 3), st.sampled_from([1, 3])),
        min_size=1,
        max_size=40,
    ),
)
def test_pieces_hold_every_training_once_and_keep_to_the_plan(plan, rows):
    jobs = [job(i, size, seed) for i, (size, seed, _) in enumerate(rows)]
    until = [epoch for _, _, epoch in rows]
    cuts = pieces_of(jobs, [plan] * len(jobs), until)
    assert sorted(i for _, piece in cuts for i in piece) == list(range(len(jobs)))
    assert [piece[0] for _, piece in cuts] == sorted(piece[0] for _, piece in cuts)
    for engine, piece in cuts:
        assert engine == "stacked"
        assert piece == sorted(piece)
        assert len({(rows[i][0], until[i]) for i in piece}) == 1
        assert len(piece) <= plan.stack
        needed = len(piece) * plan.megabytes + len({rows[i][1] for i in piece}) * plan.data
        assert needed <= plan.memory or len(piece) == 1
    for kind in {(size, epoch) for size, _, epoch in rows}:
        alike = [piece for _, piece in cuts if (rows[piece[0]][0], until[piece[0]]) == kind]
        assert max(map(len, alike)) - min(map(len, alike)) <= 1
        if sum(map(len, alike)) >= 8:
            assert len(alike) >= 2  # so that two workers have something to do


def test_plain_trainings_are_pieces_of_their_own():
    alone = Plan("plain", 1, "because", 1.0, 0.0, 100.0)
    together = Plan("stacked", 8, "", 1.0, 0.0, 100.0)
    jobs = [job(i) for i in range(4)]
    assert pieces_of(jobs, [alone, together, alone, together], [3] * 4) == [
        ("plain", [0]),
        ("stacked", [1, 3]),
        ("plain", [2]),
    ]


def dropping(input_shape, outputs):
    return nn.Sequential(nn.Linear(input_shape[-1], 4), nn.Dropout(0.5), nn.Linear(4, outputs))


def counting(input_shape, outputs):
    return nn.Sequential(
        nn.Linear(input_shape[-1], 4), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, outputs)
    )


def planned(study, **changes):
    study = load_study({**study, **changes})
    return plan_study(study, resolve_device("cpu"))["ce"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"name": f"{HERE}:dropping"}, "Dropout draws random numbers"),
        ({"name": f"{HERE}:counting"}, "BatchNorm1d with momentum null"),
    ],
)
def test_models_that_cannot_stack_are_trained_plain_with_the_reason(tiny, model, reason):
    for engine in ("auto", "stacked"):
        plan = planned(tiny, model=model, engine=engine)
        assert (plan.engine, plan.stack) == ("plain", 1)
        assert plan.reason.startswith(reason)


def test_auto_goes_by_shapes_and_the_other_engines_by_what_is_asked(tiny):
    images = {
        "dataset": {"name": "digits", "as_images": True},
        "model": {"name": "cnn", "channels": [16, 32]},
        "training": {"batch_size": 256},
    }
    assert planned(tiny).engine == "stacked"
    assert planned(tiny, engine="plain").reason == "engine: plain"
    assert "convolutions" in planned(tiny, **images).reason
    assert planned(tiny, **images, engine="stacked").engine == "stacked"
    wide = {"model": {"name": "mlp", "hidden": [2048, 2048]}}
    assert "busy by itself" in planned(tiny, **wide, training={"batch_size": 2048}).reason
    tiny["dataset"]["examples"] = 9000
    many, few = (planned(tiny, training={"batch_size": size}).stack for size in (16, 8192))
    assert many > few


def test_memory_decides_the_size_of_a_stack(tiny):
    roomy = planned(tiny, memory="1 GB")
    each = roomy.megabytes
    tight = planned(tiny, memory=f"{roomy.data + 5.5 * each} MB")
    assert (tight.engine, tight.stack) == ("stacked", 5)
    nothing = planned(tiny, memory=f"{each} MB")
    assert nothing.engine == "plain"
    assert "more than memory allows" in nothing.reason
    with pytest.raises(BadInput, match=r"memory: .* is too little for a stack: two trainings"):
        planned(tiny, memory=f"{each} MB", engine="stacked")


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "batch"), [([64, 64], 256), ([512], 512), ([16], 4096)])
def test_a_stack_takes_no_more_memory_than_the_plan_says(tiny, hidden, batch):
    """Torch's own count of what is allocated at once, over an epoch with its validation."""
    from losslab.experiments.stacked import advance_stack
    from losslab.experiments.training import start

    study = load_study(
        {
            **tiny,
            "dataset": {"name": "clusters", "examples": 6000, "dimensions": 20},
            "model": {"name": "mlp", "hidden": hidden},
            "training": {"epochs": 1, "batch_size": batch},
        }
    )
    first = first_job(study, study.arms["focal"], "cpu")
    plan = plan_of(first, "stacked", 1e6)
    states = [start(first) for _ in range(16)]
    with torch.profiler.profile(profile_memory=True) as profile:
        advance_stack(states, 1)
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    planned_bytes = (16 * plan.megabytes + plan.data) * 1e6
    assert peak <= planned_bytes
    assert planned_bytes <= 6 * peak


# Whole studies


def values_of(outcome, home):
    found = {}
    for name, record in outcome(home / "tiny").items():
        if "history" in record:
            found[name] = record["state"], record["params"], record["value"], record["metrics"]
    return found


def test_a_stacked_study_finds_what_the_plain_one_does(tiny, new_home, outcome, no_report):
    tiny["training"]["precision"] = "float64"
    found = {}
    for engine in ("plain", "stacked"):
        home = new_home(engine)
        run_study({**tiny, "engine": engine}, home=home)
        found[engine] = values_of(outcome, home)
        engines = {record.get("engine") for record in outcome(home / "tiny").values()} - {None}
        assert all(name.startswith(("stack of", "plain")) for name in engines)
        assert any(name.startswith("stack of") for name in engines) == (engine == "stacked")
    assert found["stacked"].keys() == found["plain"].keys()
    for name, (state, params, value, metrics) in found["stacked"].items():
        expected = found["plain"][name]
        assert (state, params) == expected[:2], name
        assert value == pytest.approx(expected[2], rel=1e-9)
        assert metrics == pytest.approx(expected[3], rel=1e-9)


@pytest.mark.parametrize("engine", ["plain", "stacked"])
def test_the_number_of_workers_changes_no_bit(tiny, engine, new_home, outcome, no_report):
    tiny["engine"] = engine
    tiny["search"]["generation"] = 4
    homes = {}
    for workers in (1, 2, 4):
        homes[workers] = new_home(f"{workers}")
        run_study(tiny, home=homes[workers], workers=workers)
    for workers in (2, 4):
        assert outcome(homes[workers] / "tiny") == outcome(homes[1] / "tiny")
        for file in sorted(homes[1].glob("tiny/confirm/*/*.npz")):
            other = homes[workers] / file.relative_to(homes[1])
            assert other.read_bytes() == file.read_bytes()


def test_one_that_hangs_is_stopped_and_recorded_and_the_others_finish(
    tiny, tmp_path, new_home, outcome, no_report
):
    """In a stack: the others are trained again without it."""
    module = tmp_path / "hanging_loss.py"
    module.write_text(
        "import torch\n"
        "from torch import nn\n\n\n"
        "class Hanging(nn.Module):\n"
        "    def __init__(self, gamma=1.0):\n"
        "        super().__init__()\n"
        "        self.gamma = gamma\n\n"
        "    def forward(self, logits, targets):\n"
        "        while self.gamma > 2:\n"
        "            pass\n"
        "        return nn.functional.binary_cross_entropy_with_logits(logits, targets)\n"
    )
    gammas = {"choices": [1.0, 3.0, 4.0]}
    study = {
        **tiny,
        "arms": {
            "hangs": {"loss": {"name": "hanging_loss:Hanging", "gamma": gammas}},
            "ce": "ce",
        },
        "training": {"epochs": 2, "batch_size": 64, "time_limit": 1.0},
        "search": {
            "trials": 5,
            "generation": 4,
            "pruner": "none",
            "select": {"best": 1, "seeds": 1},
        },
        "confirm": {"seeds": 1, "defaults": False},
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(study))
    home = new_home()
    run_study(file, home=home, workers=2)
    found = [r for r in outcome(home / "tiny").values() if r.get("phase") == "search"]
    hung = [r for r in found if r["params"].get("loss.gamma", 0) > 2]
    assert hung
    assert all(r["state"] == "diverged" for r in hung)
    assert {r["reason"] for r in hung} == {"not at epoch 2 within its time limit of 1 s"}
    assert all(r["state"] == "complete" for r in found if r not in hung)


def test_status_says_how_an_arm_is_trained(tiny, home, no_report, capsys, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(tiny))
    assert main(["run", str(file), "--home", str(home), "--quiet", "--engine", "stacked",
                 "--memory", "200MB"]) == 0  # fmt: skip
    resolved = json.loads((home / "tiny" / "study.json").read_text())
    assert resolved["resolved"]["engine"] == "stacked"
    assert resolved["plans"]["ce"]["memory"] == 200.0
    assert main(["status", str(file), "--home", str(home)]) == 0
    assert "  trains stacks of up to 64 trainings" in capsys.readouterr().out
    assert main(["run", str(file), "--home", str(home), "--engine", "plain"]) == 2
    assert "engine: stacked -> plain" in capsys.readouterr().err


def test_a_stacked_study_that_grows_leaves_what_it_has_alone(
    tiny, new_home, outcome, mirrored, no_report
):
    """Arms, trials and seeds are added, and the memory is changed; another engine is refused."""
    tiny["engine"] = "stacked"
    home = new_home()
    run_study(tiny, home=home)
    before = outcome(home / "tiny")
    grown = {
        **tiny,
        "memory": "300 MB",
        "arms": [*tiny["arms"], "balanced_ce"],
        "search": {**tiny["search"], "trials": 10},
        "confirm": {"seeds": 3},
    }
    run_study(grown, home=home, workers=2)
    after = outcome(home / "tiny")
    for name, record in before.items():
        if "/trial-" in name:
            assert after[name] == record
    assert sum("/trial-" in name for name in after) == 3 * 9
    assert all(f"confirm/{arm}/selected-0002.json" in after for arm in grown["arms"])
    for record in after.values():
        assert record.get("phase") is None or record["value"] is not None or record["reason"]
    notes = json.loads((home / "tiny" / "study.json").read_text())["notes"]
    assert "memory: 1 GB -> 300 MB" in notes[-1]["text"]
    assert not list((home / "tiny" / "states").iterdir())
    keys = {record["key"] for record in after.values() if "key" in record}
    assert keys <= set(mirrored(home))
    with pytest.raises(BadInput, match="engine: stacked -> plain"):
        run_study({**grown, "engine": "plain"}, home=home)


def test_what_a_kill_left_of_a_folder_of_states_goes(tiny, home, no_report):
    """Killed between the folder and its list of members, or while it was removed."""
    left = home / "tiny" / "states" / "0123456789abcdef"
    left.mkdir(parents=True)
    (left / "epoch-0001-piece-000.pt").write_bytes(b"half of a sta")
    run_study(tiny, home=home)
    assert not list((home / "tiny" / "states").iterdir())
