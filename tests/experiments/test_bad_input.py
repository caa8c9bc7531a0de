"""Bad input through the command line: exit code 2 and one message with place and remedy.

Nothing may be trained before it is told, and no traceback may be shown.
"""

import importlib.util
import os
import signal
import subprocess
import sys

import pytest
import yaml

from losslab.cli import main
from losslab.experiments import data, training, work
from losslab.experiments.config import load_study
from losslab.experiments.folder import StudyFolder
from losslab.experiments.observing import Observer
from losslab.experiments.opening import open_study

ROWS = [f"{i},{i * 2},{'ab'[i % 2]}" for i in range(40)]
TABLE = "\n".join(["x,y,kind", *ROWS])


@pytest.fixture(autouse=True)
def trained(monkeypatch):
    """Every training that was begun, in this process."""
    begun = []
    monkeypatch.setattr(work, "advance", lambda state, until: begun.append(state))
    monkeypatch.setattr(training, "_epoch", lambda *arguments: begun.append(arguments))
    return begun


@pytest.fixture
def refused(tiny, tmp_path, capsys, trained):
    """Runs the tiny study with changes and returns the complaint, which must be the only output."""

    def refused(*arguments, text=None, home=None, **changes):
        file = tmp_path / "mine.yaml"
        if text is None:
            text = yaml.safe_dump({**tiny, **changes}, sort_keys=False, allow_unicode=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        place = home or tmp_path / "home"
        code = main(["run", str(file), "--home", str(place), *arguments])
        told = capsys.readouterr()
        assert code == 2, told
        assert told.out == ""
        assert told.err.startswith("losslab: ")
        assert "Traceback" not in told.err
        assert trained == []
        assert not list(tmp_path.glob("home/*/arms/*/trial-*"))
        return told.err.removeprefix("losslab: ").rstrip("\n")

    return refused


@pytest.fixture
def table(tmp_path):
    """A `dataset` section over a file with this text."""

    def table(text, **options):
        (tmp_path / "mine.csv").write_text(text)
        return {"name": "table", "path": "mine.csv", "target": "kind", **options}

    return table


def inside(section, **changes):
    """Changes inside one section of the tiny study."""

    def change(tiny):
        return {section: {**tiny.get(section, {}), **changes}}

    return change


def loss(name, **options):
    return lambda _: {"arms": {"ce": "ce", "x": {"loss": {"name": name, **options}}}}


def top(**changes):
    return lambda _: changes


CASES = [
    # unknown names, with the nearest
    (top(arms=["ce", "focl"]), ["arms.focl.loss.name: unknown loss 'focl'", "mean 'focal'?"]),
    (top(loss="focl"), ["loss.name: unknown loss 'focl'", "did you mean 'focal'?", "known: "]),
    (top(dataset="digit"), ["dataset.name: unknown dataset", "did you mean 'digits'?"]),
    (top(model="mpl"), ["model.name: unknown model 'mpl'", "did you mean 'mlp'?"]),
    (top(metrics={"primary": "auc"}), ["metrics.primary: unknown metric", "mean 'roc_auc'?"]),
    (top(metrics={"extra": ["brir"]}), ["metrics.extra: unknown metric", "mean 'brier'?"]),
    (top(metrics={"decision": "ece"}), ["metrics.decision: ", "use one of accuracy, balanced"]),
    (top(metrics={"primary": "recall"}), ["metrics.primary: recall", "recall/1", "balanced_acc"]),
    (top(metrics={"primary": "recall/9"}), ["metrics: unknown class '9'", "classes are 0, 1"]),
    (top(metrics={"primary": "accuracy_few"}), ["metrics.primary: accuracy_few is nan"]),
    (top(metrics={"primary": "math:log"}), ["metrics.direction: say maximize or minimize"]),
    (top(metrics={"primary": "math:log", "direction": "maximize"}), ["metrics: metric 'math:log'"]),
    (loss("nowhere:Loss"), ["arms.x.loss.name: ", "No module named 'nowhere'", "package.module:"]),
    (loss("torch.nn:Nothing"), ["arms.x.loss.name: ", "no attribute 'Nothing'"]),
    (top(baseline="cee"), ["baseline: no arm is called 'cee' (arms: ce, focal)"]),
    # unknown and misspelt keys, with the path inside the file
    (top(sed=1), ["sed: unknown key; did you mean 'seed'?"]),
    (top(serch=None), ["serch: unknown key; did you mean 'search'?"]),
    (inside("training", epoch=3), ["training.epoch: unknown key; did you mean 'epochs'?"]),
    (inside("search", select={"bst": 1}), ["search.select.bst: unknown key; did you mean 'best'?"]),
    (inside("dataset", imbalance=3), ["dataset.imbalance: unknown key", "'imbalance_ratio'?"]),
    (inside("model", hiden=[3]), ["model.hiden: unknown key; did you mean 'hidden'?"]),
    (inside("model", zzz=1), ["model.zzz: unknown key (known keys: hidden, depth, width, "]),
    (loss("focal", gama=2), ["arms.x.loss.gama: unknown key; did you mean 'gamma'?"]),
    (loss("focal", link="softmax", alpha=1), ["arms.x.loss.alpha: unknown key", "under softmax"]),
    (loss("torch.nn:BCEWithLogitsLoss", weigth=1), ["arms.x.loss.weigth: ", "mean 'weight'?"]),
    (top(arms={"x": {"search": {}}}), ["arms.x.search: an arm can change dataset, model, train"]),
    (top(arms={"x": {"training.lr": 1}}), ["arms.x.training.lr: unknown key"]),
    (top(loss={"reduction": "sum"}), ["loss.name: is required and missing (known: "]),
    # values out of range or of the wrong kind
    (inside("training", momentum=2), ["training.momentum: must be less than 1, got 2"]),
    (inside("training", momentum=float("nan")), ["training.momentum: must be a finite number"]),
    (inside("training", epochs=float("inf")), ["training.epochs: must be a finite number"]),
    (inside("training", epochs=True), ["training.epochs: must be a number, got true"]),
    (inside("training", epochs="many"), ["training.epochs: must be a valid integer", "got 'many'"]),
    (inside("training", epochs=[3]), ["training.epochs: must be a valid integer, got [3]"]),
    (inside("training", optimizer="lion"), ["training.optimizer: must be 'adamw', 'adam' or"]),
    (inside("dataset", examples=True), ["dataset.examples: must be a number, got true"]),
    (inside("dataset", overlap=2), ["dataset.overlap: must be between 1e-06 and 1.0, got 2.0"]),
    (inside("model", hidden=[True]), ["model.hidden.0: must be a number, got true"]),
    (inside("model", hidden=[0]), ["model.hidden: widths must be at least 1, got [0]"]),
    (inside("model", prior_init=2), ["model.prior_init: must be on, off, or a probability"]),
    (loss("focal", gamma=-1), ["arms.x.loss.gamma: must be at least 0.0, got -1"]),
    (loss("focal", gamma=float("nan")), ["arms.x.loss.gamma: must be finite, got nan"]),
    (loss("focal", gamma=True), ["arms.x.loss.gamma: must be a number, got True"]),
    (loss("focal", link="logit"), ["arms.x.loss.link: must be sigmoid or softmax, got 'logit'"]),
    (loss("focal", reduction="men"), ["arms.x.loss: ", "'men'; did you mean 'mean'?"]),
    (loss("focal", reduction="none"), ["arms.x.loss: must give one number", "set its reduction"]),
    (loss("focal", class_weights=[1, 2]), ["arms.x.loss: ", "class_weights has 2 entries"]),
    (top(seed=-1), ["seed: must be greater than or equal to 0, got -1"]),
    (top(seed=2**70), ["seed: must be less than 9223372036854775808"]),
    (top(seed=True), ["seed: must be a number, got true"]),
    (top(device="gpu"), ["device: must be 'auto', 'cpu' or 'cuda', got 'gpu'"]),
    (top(dataset=["clusters"]), ["dataset: must be a mapping of keys, got ['clusters']"]),
    (top(dataset={"name": 3}), ["dataset.name: must be a name, got 3 (known: anchors, "]),
    (top(dataset=None), ["dataset.name: is required and missing (known: anchors, "]),
    (top(search=3), ["search: must be a mapping of keys, got 3"]),
    (top(training="sgd"), ["training: must be a mapping of keys, got 'sgd'"]),
    (top(model="cnn"), ["model.name: cnn needs images", "use mlp"]),
    # search spaces
    (loss("focal", gamma={"low": 5, "high": 1}), ["arms.x.loss.gamma: low must be below high, got "
     "low 5 and high 1"]),
    (loss("focal", gamma={"low": -1, "high": 1}), ["arms.x.loss.gamma: must be at least 0.0"]),
    (inside("training", learning_rate={"low": 1, "high": 0.1}), ["training.learning_rate: low mu"]),
    (inside("training", learning_rate={"low": 0, "high": 1, "scale": "log"}),
     ["training.learning_rate: a log scale needs low above 0, got 0"]),
    (inside("training", learning_rate={"low": 1}), ["training.learning_rate.high: is required"]),
    (inside("training", learning_rate={"low": True, "high": 2}), ["training.learning_rate.low: "]),
    (inside("training", learning_rate={"low": 1e-3, "high": 1, "scal": "log"}),
     ["training.learning_rate.scal: unknown key; did you mean 'scale'?"]),
    (inside("training", momentum={"low": 0.5, "high": 1.5}), ["training.momentum: must be less t"]),
    (inside("training", batch_size={"low": 16, "high": 64}), ["training.batch_size: takes whole "
     "numbers; add `integer: true`"]),
    (inside("training", batch_size={"low": 1, "high": 2}), ["training.batch_size: takes whole"]),
    (inside("training", optimizer={"choices": ["sgd", "lion"]}), ["training.optimizer: must be"]),
    (inside("training", epochs={"low": 2, "high": 4}), ["training.epochs: cannot be searched"]),
    (inside("training", judge={"choices": ["last", "best_validation"]}),
     ["training.judge: cannot be searched"]),
    (inside("dataset", overlap={"low": 0.1, "high": 0.2}), ["dataset.overlap: a dataset's options "
     "cannot be searched"]),
    (inside("model", hidden={"choices": [[4], ["wide"]]}), ["model.hidden", "'wide'"]),
    # budgets
    (inside("search", trials=0), ["search.trials: must be greater than or equal to 1, got 0"]),
    (inside("search", generation=True), ["search.generation: must be a number, got true"]),
    (inside("search", trials=1), ["search: trials: a budget of 1 cannot pay", "at least 2 trials"]),
    (inside("search", generation=0), ["search.generation: must be greater than or equal to 1"]),
    (inside("search", rungs=[4]), ["search.rungs: must all lie before the last epoch (4)"]),
    (inside("search", rungs=[2, 1]), ["search.rungs: must be ascending epochs from 1 on"]),
    (inside("search", sampler="grd"), ["search.sampler: must be 'tpe', 'random'"]),
    (inside("search", sampler="grid", grid_points=1), ["search.grid_points: must be greater than"]),
    (top(confirm={"seeds": 0}), ["confirm.seeds: must be greater than or equal to 1, got 0"]),
    # datasets that cannot be as asked for
    (inside("dataset", imbalance_ratio=1e5), ["dataset.imbalance_ratio: class 1 would have 0 rows; "
     "the largest reachable here is 299"]),
    (top(dataset={"name": "digits", "imbalance_factor": 1e4}), ["dataset.imbalance_factor: class",
     "largest reachable here is 95"]),
    # logits and targets that do not fit
    (loss("torch.nn:CTCLoss"), ["arms.x.loss: fails on logits of shape (8,)", "link: sigmoid",
     "write link: softmax, or take another loss"]),
    (loss("torch.nn:BCEWithLogitsLoss", link="softmax"), ["arms.x.loss: fails on logits of shape "
     "(8, 2) and torch.int64 targets of shape (8,)", "write link: sigmoid"]),
    (loss("torch.nn:CrossEntropyLoss"), ["arms.x.loss.name: CrossEntropyLoss", "link: softmax"]),
    (loss("torch.nn:BCELoss"), ["arms.x.loss.name: BCELoss", "torch.nn:BCEWithLogitsLoss"]),
    (loss("torch.nn:NLLLoss", link="softmax"), ["arms.x.loss.name: NLLLoss takes log-prob"]),
    (loss("torch.nn:Linear"), ["2 mistakes:", "x.loss.in_features: is required and missing"]),
    # arms and names
    (top(arms=[]), ["arms: give a list of losses, such as [ce, focal], or a mapping"]),
    (top(arms={}), ["arms: give a list of losses"]),
    (top(arms=None), ["arms: is required and missing"]),
    (top(arms="ce"), ["arms: give a list of losses", "got 'ce'"]),
    (top(arms=[1, 2]), ["arms: give a list of losses"]),
    (top(arms=["ce", "ce"]), ["arms: the same loss stands twice"]),
    (top(arms={"x": 3}), ["arms.x: must be a mapping of keys, got 3"]),
    (top(arms={"x": {"loss": 3}}), ["arms.x.loss: must be a mapping, got 3"]),
    (top(arms={"x": {"training": "sgd"}}), ["arms.x.training: must be a mapping, got 'sgd'"]),
    (top(arms={"A": "ce", "a": "focal"}), ["arms.a: 'A' is an arm too; names must differ in more"]),
    (top(arms={"": "ce"}), ["arms.'': a name is 1 to 100 printable characters"]),
    (top(arms={"a\nb": "ce"}), ["arms.'a\\nb': a name is 1 to 100 printable characters"]),
    (top(arms={"a" * 300: "ce"}), ["arms.'aaa", "a name is 1 to 100 printable characters"]),
    (top(arms={"x": None}), ["arms.x.loss.name: unknown loss 'x'"]),
    (top(study="a/b"), ["study: 'a/b' cannot name a folder", "letters, digits"]),
    (top(study=".."), ["study: '..' cannot name a folder"]),
    (top(study="artifacts"), ["study: 'artifacts' cannot name a folder"]),
    (top(study="a" * 300), ["study: String should have at most 100 characters"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "parts"), CASES, ids=[f"{number}-{parts[0][:40]}" for number, (_, parts) in
                                     enumerate(CASES)]
)  # fmt: skip
def test_a_mistake_is_told_with_its_place_and_a_remedy(tiny, refused, change, parts):
    told = refused(**change(tiny))
    assert told.startswith(parts[0]), told
    for part in parts:
        assert part in told
    assert len(told.splitlines()) <= 3


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (TABLE, {"target": "kin"}, "dataset.target: no column 'kin'; did you mean 'kind'?"),
        (TABLE, {"target": 7}, "dataset.target: column 7 is not there"),
        (TABLE, {"path": "yours.csv"}, "dataset.path: no file "),
        ("", {}, "is empty"),
        ("x,y,kind\n", {}, "has no rows"),
        ("x,kind\n" + "1,a\n" * 30, {}, "dataset.target: all 30 rows have the one class 'a'"),
        (TABLE + "\n901,2,rare\n903,4,rare", {}, "class 'rare' has 2 rows, 2 of them distinct, but "
         "the splits need at least 3"),
        (TABLE, {"test_fraction": 0}, "dataset.test_fraction: "),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used(refused, table, text, options, message):
    told = refused(dataset=table(text, **options))
    assert told.startswith("dataset.")
    assert message in told
    assert len(told.splitlines()) == 1


def test_several_mistakes_are_told_at_once(tiny, refused):
    told = refused(
        sed=1,
        study="a/b",
        training={"epoch": 3, "batch_size": 0, "learning_rate": {"low": 1, "high": 0}},
        arms={"focl": None, "x": {"loss": {"name": "focal", "gamma": -1}}, "y": 3},
        search={"trials": 0, "select": {"bst": 1}},
        dataset={**tiny["dataset"], "overlap": 3},
        metrics={"primary": "auc"},
        baseline="z",
    )
    first, *lines = told.splitlines()
    assert first == f"{len(lines)} mistakes:"
    paths = {line.strip().split(": ")[0] for line in lines}
    assert paths >= {
        "sed", "study", "training.epoch", "training.batch_size", "training.learning_rate",
        "arms.focl.loss.name", "arms.x.loss.gamma", "arms.y", "search.trials", "search.select.bst",
        "dataset.overlap", "metrics.primary", "baseline",
    }  # fmt: skip
    assert len(lines) == len(set(lines)) == len(paths)


def test_all_arms_are_tried_before_the_first_trial(refused):
    told = refused(
        arms={
            "ce": "ce",
            "a": {"loss": "torch.nn:CTCLoss"},
            "b": {"model": "cnn"},
            "c": {"loss": {"name": "focal", "reduction": "none"}},
        }
    )
    assert told.startswith("3 mistakes:")
    for place in ("arms.a.loss: ", "arms.b.model.name: ", "arms.c.loss: "):
        assert place in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: [1\narms: 2", "mine.yaml, line 2: not valid YAML"),
        (
            "study: a\nseed: 1\nstudy: b",
            "mine.yaml, line 3: not valid YAML: the key 'study' stands",
        ),
        ("", "mine.yaml: is empty; a study needs at least `dataset` and `arms`"),
        ("# nothing\n", "mine.yaml: is empty"),
        ("- ce", "mine.yaml: must be a mapping of keys, got a list"),
        ("hello", "mine.yaml: must be a mapping of keys, got a str"),
        (b"\xff\xfe\x00abc", "mine.yaml: is not UTF-8 text"),
        (b"a\x00: 1", "mine.yaml: not valid YAML: unacceptable character"),
        ("training: &a {epochs: *a}\narms: [ce]", "line 1: not valid YAML: *a stands inside"),
    ],
)
def test_a_file_that_is_no_study(refused, text, message):
    told = refused(text=text)
    assert message in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.trials", "--set search.trials: write path=value, such as search.trials=8"),
        ("=3", "--set =3: write path=value"),
        ("search..trials=3", "--set search..trials=3: write path=value"),
        ("search.trials=[", "--set search.trials=[: the value is not valid YAML"),
        ("search.trials=0", "search.trials: must be greater than or equal to 1, got 0"),
        ("search.trils=8", "search.trils: unknown key; did you mean 'trials'?"),
        ("training=3", "training: must be a mapping of keys, got 3"),
        ("training.epochs.x=3", "training.epochs: must be a valid integer"),
        (
            "arms.focal.loss=foca",
            "arms.focal.loss.name: unknown loss 'foca'; did you mean 'focal'?",
        ),
        ("training.learning_rate={low: 1, high: 0}", "training.learning_rate: low must be below"),
    ],
)
def test_overrides_are_checked_like_the_file(refused, override, message):
    assert refused("--set", override).startswith(message)


def test_cma_es_needs_two_ranges_in_every_arm(tiny, refused):
    search = {**tiny["search"], "sampler": "cma-es"}
    fixed = {"name": "focal", "gamma": 1, "alpha": {"choices": [0.1, 0.2]}}
    told = refused(search=search, arms={"ce": "ce", "x": {"loss": fixed}})
    assert told == (
        "search.sampler: cma-es searches two or more ranges, and arm 'x' has choices (loss.alpha); "
        "use tpe"
    )
    told = refused(search=search, training={**tiny["training"], "weight_decay": 0})
    assert "arm 'ce' has a single number" in told


def test_a_sampler_whose_package_is_missing_is_told(tiny, refused, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told = refused(search={**tiny["search"], "sampler": "cma-es"})
    assert told.startswith(
        "search.sampler: cma-es needs the package cmaes; run 'pip install cmaes'"
    )


def test_a_gpu_that_is_not_there(refused, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused(device="cuda") == (
        "device: cuda was asked for, and torch sees no GPU; use auto or cpu"
    )


@pytest.mark.parametrize("workers", ["0", "-2"])
def test_workers_are_at_least_one(refused, workers):
    assert refused("--workers", workers).startswith("--workers: must be at least 1, got ")


@pytest.mark.parametrize("place", ["under a file", "/proc/nowhere"])
def test_a_home_that_cannot_be_written(refused, tmp_path, place):
    if place == "under a file":
        (tmp_path / "file").touch()
        place = tmp_path / "file" / "home"
    told = refused(home=place)
    assert told.startswith(f"--home: {place} cannot be written: ")
    assert "choose another folder with --home or LOSSLAB_HOME" in told


def test_an_unreachable_tracking_server(refused, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told = refused("--tracking-uri", "http://127.0.0.1:9")
    assert told.startswith("--tracking-uri: cannot use http://127.0.0.1:9: ")
    assert "start the server, correct the address, or leave the option out" in told


def test_a_locked_study_names_who_holds_it(refused, tmp_path):
    folder = tmp_path / "home" / "tiny"
    folder.mkdir(parents=True)
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from losslab.experiments.folder import StudyFolder\n"
        "with StudyFolder(Path(sys.argv[1]), 'tiny').locked():\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "home")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        told = refused()
        assert f"process {holder.pid} on {os.uname().nodename}" in told
        assert told.startswith("study 'tiny' is being run by ")
        assert "wait for it, stop it, or choose another folder with --home" in told
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


def test_a_changed_study_file_is_refused_with_its_keys(tiny, refused, copied):
    before = {p: p.read_bytes() for p in copied.rglob("*.json")}
    told = refused(home=copied, seed=3, training={"epochs": 5, "batch_size": 64}, arms=["ce"])
    first, *lines = told.splitlines()
    assert first == "study 'tiny' was started with other settings; these keys have changed:"
    assert lines[0].strip() == "arms.focal: was removed"
    assert {line.strip() for line in lines[1:-1]} == {
        "seed: 0 -> 3",
        "arms.ce.training.epochs: 4 -> 5",
    } | {line.strip() for line in lines if "content has changed" in line}
    assert "start anew with --fresh" in lines[-1]
    assert {p: p.read_bytes() for p in copied.rglob("*.json")} == before


def test_a_table_whose_content_has_changed_is_refused(tiny, refused, table, tmp_path):
    study = load_study({**tiny, "dataset": table(TABLE)}, folder=tmp_path)
    folder = StudyFolder(tmp_path / "home", "tiny")
    folder.create()
    open_study(study, folder, "cpu", {}, False, Observer())
    begun = folder.arm("ce") / "generation-000.json"
    begun.parent.mkdir(parents=True)
    begun.write_text("{}")
    data._dataset.cache_clear()  # as in a process of its own
    told = refused(dataset=table(TABLE.replace("39,78,b", "39,79,b")))
    assert "dataset of arm ce: its content has changed (hash " in told
    assert "dataset of arm focal: its content has changed (hash " in told
    assert "--fresh" in told


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "quikstart"], ["unknown study 'quikstart'; did you mean 'quickstart'?"]),
        (["run", "nowhere.yaml"], ["nowhere.yaml: there is no such study file", "quickstart"]),
        (["run", "."], [".: is a folder; give a study file", "quickstart"]),
        (["run", "x" * 300], ["cannot be a study file: File name too long"]),
        (["run", ""], ["unknown study ''"]),
        (["status", "quickstart"], ["'quickstart' has not been started in ", "losslab run"]),
        (["best", "nowhere"], ["unknown study 'nowhere'"]),
        (["report", "quickstart"], ["has not been started"]),
        (["export", "quickstart", "table.xlsx"], ["table.xlsx: the name must end in .parquet"]),
        (["export", "quickstart", "table.csv"], ["has not been started"]),
        (["ui"], ["holds no runs yet; start with `losslab run quickstart`"]),
        (["show", "loss", "focl"], ["unknown loss 'focl'; did you mean 'focal'?"]),
        (["figures", "--out", "file/figures"], ["--out: file/figures cannot be written: "]),
    ],
)
def test_other_commands_complain_alike(arguments, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOSSLAB_HOME", raising=False)
    (tmp_path / "file").touch()
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    for part in parts:
        assert part in told.err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_named_like_a_shipped_study_hides_it_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert main(["status", "quickstart", "--home", "elsewhere"]) == 2
    assert "has not been started" in capsys.readouterr().err


def test_results_that_cannot_be_written(finished, tmp_path, capsys):
    (tmp_path / "file").touch()
    blocked = tmp_path / "file" / "out"
    for arguments in (["report", "tiny", "--out", str(blocked)],
                      ["export", "tiny", str(blocked / "x.csv")]):  # fmt: skip
        assert main([*arguments, "--home", str(finished)]) == 2
        assert "cannot be written: Not a directory; choose another" in capsys.readouterr().err
    assert main(["best", "tiny", "--arm", "foca", "--home", str(finished)]) == 2
    assert "--arm: no arm is called 'foca' (arms: ce, focal)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["rn"], ["list"], ["list", "loses"], ["run"], ["run", "x", "--workers", "x"]]
)
def test_bad_arguments_end_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: losslab" in capsys.readouterr().err


# What looks odd and is fine


@pytest.mark.parametrize(
    "arms",
    [
        {"a/b": "ce", "../x": "focal"},
        {"é": "ce", "ö": "focal", "损失": "focal"},
        {1: "ce", 2.5: "focal"},
        {"a b": "ce", "a-b": "focal", "a_b": "focal"},
        {"-": "ce", "..": "focal"},
        {"ce": {}},
        {"ce": {"training": None, "loss": None}},
    ],
)
def test_unusual_arm_names_are_fine(tiny, tmp_path, capsys, arms):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**tiny, "arms": arms}, allow_unicode=True, sort_keys=False))
    study = load_study(file)
    assert [name for name in study.arms if not study.arms[name].implicit] == [str(a) for a in arms]
    folders = {arm.slug for arm in study.arms.values()}
    assert len(folders) == len(study.arms)
    assert all("/" not in folder and folder.strip(".") for folder in folders)


@pytest.mark.parametrize("section", ["training", "model", "search", "confirm", "metrics", "loss"])
def test_an_empty_section_is_as_if_it_were_not_there(tiny, section):
    del tiny["search"]  # its budget would not cover what the other defaults ask for
    without = {key: value for key, value in tiny.items() if key != section}
    assert load_study({**without, section: None}).resolved == load_study(without).resolved
