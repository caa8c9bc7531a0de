"""The wheel: it holds the whole tree and nothing else, and works away from the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("losses", "datasets", "experiments", "analysis")


def _tree():
    """What the wheel must hold: path in the wheel -> file here."""
    files = {f"losslab/{p.relative_to(ROOT / 'losslab')}": p for p in _sources(ROOT / "losslab")}
    for room in ROOMS:
        folder = ROOT / room
        files |= {f"losslab/{room}/{p.relative_to(folder)}": p for p in _sources(folder)}
    return files


def _sources(folder):
    kinds = (".py", ".yaml", ".csv", ".typed", ".jinja", ".css")
    return [p for p in folder.rglob("*") if p.suffix in kinds and "__pycache__" not in p.parts]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("wheel")
    copy = place / "tree"  # a build writes into its tree; this one is ours
    copy.mkdir()
    for name in ("losslab", *ROOMS, "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    (copy / "README.md").touch()  # named by pyproject.toml
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place)]
    done = subprocess.run([*command, str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel in a folder of its own."""
    target = tmp_path_factory.mktemp("target")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--disable-pip-version-check", "--target", str(target), str(wheel)],
        check=True, capture_output=True,
    )  # fmt: skip
    return target


@pytest.fixture
def outside(installed, tmp_path):
    """Runs code far from the repository, with the wheel and the other packages but no more."""

    def run(code):
        # -S leaves out site-packages' .pth files, and with them the editable install.
        start = (
            f"import sys; sys.path[:0] = [{str(installed)!r}]; "
            f"sys.path.append({sysconfig.get_path('purelib')!r})\n"
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return subprocess.run(
            [sys.executable, "-S", "-I", "-c", start + textwrap.dedent(code)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_the_wheel_holds_the_tree_and_nothing_else(wheel):
    tree = _tree()
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == set(tree)
        for name, file in tree.items():
            assert archive.read(name) == file.read_bytes(), name
    # the comparison would mean nothing if the tree had not been found
    assert {"losslab/py.typed", "losslab/losses/focal.py", "losslab/__main__.py"} <= names
    assert "losslab/experiments/studies/quickstart.yaml" in names
    assert "losslab/experiments/models/mlp.py" in names
    assert "losslab/analysis/report/templates/study.html.jinja" in names
    assert sum(name.endswith(".csv") for name in names) >= 26


def test_the_wheel_names_its_command_and_its_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        about = {n.split("/", 1)[1]: n for n in archive.namelist() if ".dist-info/" in n}
        assert "losslab = losslab.cli:main" in archive.read(about["entry_points.txt"]).decode()
        assert "License-Expression: Apache-2.0" in archive.read(about["METADATA"]).decode()
        assert any("LICENSE" in name for name in about)


def test_the_wheel_works_outside_the_repository(outside, installed):
    done = outside(
        """
        import losslab, losslab.losses, losslab.datasets, losslab.analysis, sys
        from losslab.cli import main
        print(losslab.__file__, losslab.losses.__file__)
        for kind in ("studies", "losses", "datasets", "models"):
            assert main(["list", kind]) == 0
        """
    )
    assert done.returncode == 0, done.stderr
    places, *listed = done.stdout.splitlines()
    assert all(place.startswith(str(installed)) for place in places.split())
    listed = {line.split()[0] for line in listed}
    assert {"quickstart", "focal", "digits", "mlp"} <= listed


def test_a_shipped_study_is_found_and_checked_from_the_wheel(outside, installed):
    done = outside(
        """
        from losslab.experiments.config import load_study
        from losslab.analysis import tables
        print(sorted(load_study("quickstart").arms), tables.__file__)
        """
    )
    assert done.returncode == 0, done.stderr
    assert "['balanced_ce', 'ce', 'focal']" in done.stdout
    assert str(installed) in done.stdout


def test_the_console_script_is_installed(installed):
    script = installed / "bin" / "losslab"
    assert "from losslab.cli import main" in script.read_text()
