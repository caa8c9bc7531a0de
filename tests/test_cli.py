"""The command line: what it prints, what it leaves alone, and how it ends."""

import json
import re
import subprocess
import sys

import pytest
import yaml

import losslab
from losslab import cli
from losslab.cli import main
from losslab.experiments.config import load_study
from losslab.experiments.schema import json_schema

STUDY = {
    "study": "small",
    "question": "Does it run?",
    "dataset": {
        "name": "clusters",
        "examples": 200,
        "validation_examples": 100,
        "test_examples": 100,
        "imbalance_ratio": 4,
        "dimensions": 3,
    },
    "model": {"name": "mlp", "hidden": [3]},
    "training": {"epochs": 2, "batch_size": 64},
    "arms": {
        "ce": "ce",
        "focal": {"loss": "focal"},
        "sgd": {"loss": "balanced_ce", "training.optimizer": "sgd"},
        "torch": {"loss": "torch.nn:BCEWithLogitsLoss"},
    },
    "search": {"trials": 3, "generation": 2, "select": {"best": 1, "seeds": 1}},
    "confirm": {"seeds": 2},
}
COMMANDS = ["list", "show", "run", "status", "best", "report", "export", "figures", "ui", "schema"]


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("study") / "small.yaml"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def home(tmp_path_factory, study_file):
    """A home with the small study in it, run by the command line; `told` is what was printed."""
    place = tmp_path_factory.mktemp("cli") / "home"
    command = [sys.executable, "-m", "losslab", "run", str(study_file), "--home", str(place)]
    done = subprocess.run(
        [*command, "--workers", "1"], capture_output=True, text=True, check=False,
        cwd=place.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (place / "told.txt").write_text(done.stdout)
    return place


@pytest.fixture
def told(capsys):
    """Runs a command that must succeed; what it printed."""

    def told(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        output = capsys.readouterr()
        assert output.err == ""
        return output.out

    return told


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^ +{command}\b", text, re.MULTILINE) for command in COMMANDS)
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert f"usage: losslab {command}" in capsys.readouterr().out


def test_the_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"losslab {losslab.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list", "studies"], ["rn"]])
def test_quick_answers_import_nothing_heavy(arguments):
    code = (
        "import sys\nfrom losslab.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'optuna', 'numpy', 'matplotlib'}\n"
        "raise SystemExit(sorted(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("kind", "some"),
    [
        ("losses", {"ce", "balanced_ce", "focal"}),
        ("datasets", {"clusters", "anchors", "digits", "table"}),
        ("models", {"mlp", "cnn"}),
        ("metrics", {"average_precision", "ece"}),
        ("studies", {"quickstart"}),
    ],
)
def test_list(told, kind, some):
    rows = json.loads(told("list", kind, "--json"))
    assert {row["name"] for row in rows} >= some
    assert all(row["summary"] and row["origin"] == "losslab" for row in rows)
    lines = told("list", kind).splitlines()
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]
    assert all(line.endswith(row["summary"]) for line, row in zip(lines, rows, strict=True))


def test_show_tells_formula_hyperparameters_and_ranges(told):
    page = told("show", "loss", "focal")
    assert page.startswith("focal\n=====\n")
    assert "(1 - p_t)^gamma" in page or "gamma" in page
    assert "Hyper-parameters, link sigmoid:" in page
    assert "Hyper-parameters, link softmax:" in page
    assert re.search(r"gamma = 2, searched 0 to 5 \(linear\): .*\[Lin", page)
    assert "BCEWithLogitsLoss" in told("show", "loss", "torch.nn:BCEWithLogitsLoss")


def test_the_schema_describes_study_files(told):
    schema = json.loads(told("schema"))
    assert schema == json_schema()
    assert set(schema["properties"]) >= {"dataset", "model", "training", "arms", "search"}
    for name in ("learning_rate", "batch_size", "optimizer"):
        references = str(schema["$defs"]["Training"]["properties"][name])
        assert "#/$defs/Range" in references
    assert "#/$defs/Range" not in str(schema["$defs"]["Training"]["properties"]["epochs"])


def test_shipped_studies_keep_to_the_schema():
    jsonschema = pytest.importorskip("jsonschema")
    from losslab.experiments.reading import read_yaml, shipped_studies

    validator = jsonschema.Draft202012Validator(json_schema())
    for path in shipped_studies().values():
        assert list(validator.iter_errors(read_yaml(path))) == []
    for wrong in ({"training": {"epoch": 3}}, {"arms": []}, {"sed": 1}):
        study = {"dataset": "digits", "arms": ["ce"], **wrong}
        assert list(validator.iter_errors(study)), wrong


def test_a_dry_run_tells_the_plan_and_leaves_no_trace(told, study_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = told("run", study_file, "--home", tmp_path / "home", "--dry-run", "--workers", "2")
    assert list(tmp_path.iterdir()) == []
    assert "arms: ce, focal, sgd, torch (baseline: ce)" in plan
    assert "focal: searches loss.alpha, loss.gamma, learning_rate, weight_decay" in plan
    # 4 arms of 3 trainings to tune, and 2 seeds, selected and defaults, to confirm
    assert "trainings: 28 at most (12 to tune, 16 to confirm)" in plan
    assert re.search(r"time: about \d+ \w+ on 2 worker\(s\)", plan)
    assert re.search(r"disk: about \d+ MB", plan)
    changed = told("run", study_file, "--dry-run", "--set", "search.trials=5", "--set",
                   "confirm.defaults=false")  # fmt: skip
    assert "trainings: 28 at most (20 to tune, 8 to confirm)" in changed


def test_a_run_ends_with_a_table_and_the_places_of_its_files(home):
    text = (home / "told.txt").read_text()
    assert "Does it run?" in text
    for arm in STUDY["arms"]:
        assert re.search(rf"│ {arm}\b", text)
    assert f"report: {home / 'small' / 'report' / 'report.html'}" in text
    assert (home / "small" / "report" / "report.html").as_uri() in text
    assert f"losslab ui --home {home}" in text
    assert (home / "small" / "report" / "tables" / "results.csv").exists()


def test_a_finished_study_runs_again_in_silence(home, study_file, capsys):
    before = {path: path.read_bytes() for path in home.glob("small/*/*/*.json")}
    assert main(["run", str(study_file), "--home", str(home), "--quiet", "--workers", "1"]) == 0
    assert capsys.readouterr() == ("", "")
    assert {path: path.read_bytes() for path in home.glob("small/*/*/*.json")} == before
    assert len(before) >= 28


def test_status_counts_what_is_done(told, home, study_file):
    for study in ("small", study_file):
        lines = told("status", study, "--home", home).splitlines()
        assert lines[0] == "small: Does it run?"
        assert lines[1] == f"folder: {home / 'small'}"
        assert lines[2] == "running: no"
        arms = {line.split(":")[0]: line for line in lines[3:] if line[0] != " "}
        assert lines.count("  trains stacks of up to 64 trainings") == len(arms)
        assert set(arms) == set(STUDY["arms"])
        for line in arms.values():
            assert re.search(r"3 of 3 trainings \(2 \w+, 1 retrained\), 4 of 4 test runs", line)


def test_the_home_can_come_from_the_environment(told, home, monkeypatch):
    monkeypatch.setenv("LOSSLAB_HOME", str(home))
    assert told("status", "small").startswith("small: ")


def test_bests_yaml_is_a_study_of_the_selected_configurations(told, home, tmp_path):
    text = told("best", "small", "--home", home)
    pasted, python = text.split("# As Python:")
    arms = yaml.safe_load(pasted)["arms"]
    assert set(STUDY["arms"]) <= set(arms)
    file = tmp_path / "again.yaml"
    file.write_text(pasted)
    study = load_study(file)
    assert set(study.arms) == set(arms)  # the standing baseline is recognised, not added again
    before = load_study(STUDY)
    assert (study.baseline, study.standing) == (before.baseline, before.standing)
    for name, arm in study.arms.items():
        chosen = json.loads((home / "small" / "arms" / name / "selected.json").read_text())
        assert arm.spaces == {}
        assert arm.config == before.arms[name].configure(chosen["params"])
    assert "average_precision 0." in pasted
    assert "import" in python


def test_bests_python_builds_the_selected_loss_and_optimiser(told, home):
    import torch

    code = told("best", "small", "--home", home).split("# As Python:")[1]
    functions = {}
    exec(code, functions)
    for name in STUDY["arms"]:
        chosen = json.loads((home / "small" / "arms" / name / "selected.json").read_text())
        model = torch.nn.Linear(3, 1)
        loss, optimizer = functions[f"make_{name}"](model, torch.tensor([80, 20]))
        logits = model(torch.ones(5, 3)).squeeze(-1)
        value = loss(logits, torch.tensor([0.0, 1, 0, 0, 1]))
        assert value.ndim == 0
        value.backward()
        (group,) = optimizer.param_groups
        params = chosen["params"]
        assert group["lr"] == params["training.learning_rate"]
        assert group["weight_decay"] == params["training.weight_decay"]
        assert isinstance(optimizer, torch.optim.SGD) == (name == "sgd")
        if name == "focal":
            assert float(loss.gamma) == params["loss.gamma"]


def test_show_tells_a_datasets_and_a_models_options(told):
    assert "imbalance_factor: float = 20" in told("show", "dataset", "digits")
    assert "hidden" in told("show", "model", "mlp")


def test_report_and_export_write_files(told, home, tmp_path):
    import pandas as pd

    printed = told("report", "small", "--home", home, "--out", tmp_path / "out")
    assert f"report: {tmp_path / 'out' / 'report.html'}\n" in printed
    paths = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert all(path.stat().st_size > 0 for path in paths)
    assert {path.suffix for path in paths} >= {".html", ".csv", ".md", ".tex", ".pdf", ".png"}
    for frame, rows in (("trials", 12), ("confirmation", 16), ("ledger", 4)):
        for ending, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
            file = tmp_path / "new" / f"{frame}.{ending}"
            printed = told("export", "small", file, "--frame", frame, "--home", home)
            assert printed == f"{file}: {rows} rows\n"
            assert len(read(file)) == rows


def test_every_frame_exports_from_the_folder_and_from_a_store(told, home, tmp_path, monkeypatch):
    import pandas as pd

    monkeypatch.setenv("LOSSLAB_CACHE", str(tmp_path / "cache"))
    store = f"sqlite:///{home / 'mlflow.db'}"
    for frame in ("confirmation", "trials", "epochs", "selected", "ledger", "arms", "long"):
        one, other = tmp_path / f"{frame}.parquet", tmp_path / f"{frame}-mlflow.parquet"
        told("export", "small", one, "--frame", frame, "--home", home)
        told("export", "small", other, "--frame", frame, "--tracking-uri", store)
        pd.testing.assert_frame_equal(pd.read_parquet(one), pd.read_parquet(other))
    file = tmp_path / "cells.csv"
    told("export", "small", file, "--frame", "long", "--home", home)
    head, *lines = file.read_text().splitlines()
    assert all(name.isalpha() and name.isascii() for name in head.split(","))
    assert {line.replace("{,}", "").count(",") for line in lines} == {head.count(",")}
    assert not re.search(r"(?<!\\)[_%&#]", "\n".join(lines))


def test_a_store_that_is_not_there_is_bad_input(home, tmp_path, capsys):
    for uri in (
        f"sqlite:///{tmp_path}/none.db",
        "http://127.0.0.1:9",
        "none",
        f"{tmp_path}/mlruns",
        f"sqlite:///{home}/mlflow.db",
    ):
        study = "small" if "mlflow.db" not in uri else "other"
        assert main(["export", study, str(tmp_path / "x.csv"), "--tracking-uri", uri]) == 2
        told = capsys.readouterr().err
        assert told.startswith("losslab: ")
        assert "Traceback" not in told
    assert not (tmp_path / "none.db").exists()


def test_the_ui_is_bound_to_this_machine(home, monkeypatch, capsys):
    calls = []

    def run(command, **options):
        calls.append((command, options))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert main(["ui", "--home", str(home), "--port", "5870"]) == 0
    (command, _), = calls  # fmt: skip
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert f"sqlite:///{home / 'mlflow.db'}" in command
    assert re.search(r"http://127\.0\.0\.1:58\d\d", capsys.readouterr().out)


def test_an_interrupted_run_ends_with_130_and_says_how_to_go_on(monkeypatch, capsys, study_file):
    from losslab import progress

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(progress, "run_study", interrupted)
    assert main(["run", str(study_file), "--quiet"]) == cli.INTERRUPTED == 130
    assert "same command goes on" in capsys.readouterr().err


def test_a_full_disk_is_told_without_a_traceback(monkeypatch, capsys, study_file):
    import errno

    from losslab import progress

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(progress, "run_study", full)
    assert main(["run", str(study_file), "--quiet"]) == 1
    assert "the disk is full" in capsys.readouterr().err


def test_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -m losslab list metrics | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() in ("0", "1")
