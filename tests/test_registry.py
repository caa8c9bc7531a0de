"""The registry: decorator, catalogue, entry points of installed packages, dotted paths."""

import importlib
import subprocess
import sys
import textwrap

import pytest

from losslab.datasets import DATASETS
from losslab.errors import BadInput, DuplicateName, PluginError, UnknownName
from losslab.experiments.metrics import METRICS
from losslab.experiments.models import MODELS
from losslab.losses import LOSSES
from losslab.registry import Registry, load, nearest

GROUP = "losslab.testing.things"


@pytest.fixture
def things():
    return Registry("thing", GROUP, {"pi": ("A constant.", "math:pi"), "root": ("", "math:sqrt")})


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package with one module of its name and entry points, by hand."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(package, code, **points):
        (tmp_path / f"{package}.py").write_text(textwrap.dedent(code))
        about = tmp_path / f"{package}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"[{GROUP}]", *(f"{name} = {path}" for name, path in points.items())]
        (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
        importlib.invalidate_caches()
        return tmp_path

    return install


def test_catalogue_and_dotted_paths(things):
    import math

    assert things.get("pi") == math.pi
    assert things.get("root")(9) == 3
    assert things.get("math:tau") == math.tau
    assert things.get("os.path:join") is __import__("os").path.join
    assert things.get("collections.OrderedDict") is load("collections:OrderedDict")
    assert things.names() == ["pi", "root"]


def test_decorator_registers_summarises_and_creates(things):
    @things.register("pair")
    def pair(first, second=2):
        """Two of them.

        And more.
        """
        return first, second

    assert things.get("pair") is pair
    assert things.create("pair", first=1) == (1, 2)
    entry = next(entry for entry in things.entries() if entry.name == "pair")
    assert entry.summary == "Two of them."
    assert __file__ in entry.origin
    assert things.names() == ["pair", "pi", "root"]
    things.unregister("pair")
    things.unregister("pi")  # what is built in stays
    assert things.names() == ["pi", "root"]


def test_an_argument_called_name_reaches_what_is_created(things):
    @things.register("named")
    def named(name):
        return name

    assert things.create("named", name="x") == "x"


def test_registering_twice_names_both_places(things):
    @things.register("mine")
    def first():
        """The first."""

    with pytest.raises(DuplicateName) as caught:

        @things.register("mine")
        def second():
            """The second."""

    lines = [first.__code__.co_firstlineno, first.__code__.co_firstlineno + 6]
    for line in lines:
        assert f"{__file__}:{line}" in str(caught.value)
    assert things.get("mine") is first
    with pytest.raises(DuplicateName, match=rf"'pi'.*losslab \(math:pi\).*{__name__}|test_regis"):
        things.register("pi")(first)
    assert things.get("pi") == load("math:pi")


def test_unknown_names_list_the_known_and_the_nearest(things):
    with pytest.raises(UnknownName) as caught:
        things.get("rot")
    message = str(caught.value)
    assert "unknown thing 'rot'" in message
    assert "did you mean 'root'?" in message
    assert "known: pi, root" in message
    assert "package.module:Name" in message
    with pytest.raises(UnknownName) as caught:
        things.get("zzzzzz")
    assert "did you mean" not in str(caught.value)
    assert nearest("focl", ["ce", "focal"]) == "; did you mean 'focal'?"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere:Thing", "No module named 'nowhere'"),
        ("math:nothing", "has no attribute 'nothing'"),
        ("math:", "not a path"),
        (":pi", "not a path"),
        ("math.pi.real.imaginary", "No module named|has no attribute"),
    ],
)
def test_paths_that_lead_nowhere_say_why(things, path, reason):
    with pytest.raises(UnknownName, match=reason):
        things.get(path)


def test_a_plugin_is_found_by_its_entry_point(things, install):
    install("goodthings", "def build(size=1): return 'x' * size", good="goodthings:build")
    assert "good" in things.names()
    assert things.create("good", size=3) == "xxx"
    entry = next(entry for entry in things.entries() if entry.name == "good")
    assert (entry.origin, entry.summary) == ("goodthings", "from goodthings")
    with pytest.raises(DuplicateName, match=r"goodthings \(goodthings:build\)"):
        things.register("good")(len)


def test_a_broken_plugin_names_its_package_and_takes_nobody_down(things, install):
    install("brokenthings", "raise RuntimeError('no such driver')", bad="brokenthings:build")
    install("finethings", "build = 'fine'", fine="finethings:build")
    install("emptythings", "", hollow="emptythings:build")
    assert things.names() == ["bad", "fine", "hollow", "pi", "root"]
    assert things.get("fine") == "fine"
    with pytest.raises(PluginError) as caught:
        things.get("bad")
    for part in ("'bad'", "'brokenthings'", "RuntimeError", "no such driver"):
        assert part in str(caught.value)
    with pytest.raises(PluginError, match=r"'emptythings'.*has no attribute 'build'"):
        things.get("hollow")


def test_a_name_that_two_packages_claim_fails_only_when_asked_for(things, install):
    install("onethings", "build = 1", same="onethings:build", one="onethings:build")
    install("twothings", "build = 2", same="twothings:build", two="twothings:build")
    assert things.names() == ["one", "pi", "root", "same", "two"]
    assert (things.get("one"), things.get("two")) == (1, 2)
    with pytest.raises(DuplicateName) as caught:
        things.get("same")
    assert "onethings (onethings:build)" in str(caught.value)
    assert "twothings (twothings:build)" in str(caught.value)
    told = {entry.name: entry.summary for entry in things.entries()}
    assert "registered twice" in told["same"]
    assert "registered twice" not in told["one"]


def test_a_plugin_that_claims_a_built_in_name_breaks_that_name_alone(things, install):
    install("greedythings", "build = 3", pi="greedythings:build", three="greedythings:build")
    assert things.get("three") == 3
    assert things.names() == ["pi", "root", "three"]
    with pytest.raises(DuplicateName, match=r"losslab \(math:pi\) and by greedythings"):
        things.get("pi")


def test_the_same_package_found_twice_is_no_conflict(things, install, tmp_path, monkeypatch):
    import shutil

    place = install("copiedthings", "build = 4", four="copiedthings:build")
    shutil.copytree(place, tmp_path / "again")
    monkeypatch.syspath_prepend(str(tmp_path / "again"))
    assert things.get("four") == 4


def test_the_command_line_lives_with_bad_plugins(tmp_path):
    """A real process with an installed package whose losses are broken, fine and contested."""
    (tmp_path / "zooloss.py").write_text("import torch\nFine = torch.nn.BCEWithLogitsLoss\n")
    (tmp_path / "sickloss.py").write_text("import a_module_that_is_not_there\n")
    for package, points in {
        "zooloss": "fine = zooloss:Fine\nce = zooloss:Fine",
        "sickloss": "sick = sickloss:Sick",
    }.items():
        about = tmp_path / f"{package}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[losslab.losses]\n{points}\n")
    code = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from losslab.cli import main
        assert main(["list", "losses"]) == 0
        assert main(["list", "losses", "--json"]) == 0
        assert "torch" not in sys.modules
        assert main(["show", "loss", "focal"]) == 0
        assert main(["show", "loss", "fine"]) == 0
        assert main(["show", "loss", "sick"]) == 2
        assert main(["show", "loss", "ce"]) == 1
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "from zooloss" in done.stdout
    complaints = done.stderr.splitlines()
    assert "'sickloss'" in complaints[0]
    assert "a_module_that_is_not_there" in complaints[0]
    assert "losslab.losses.cross_entropy:CrossEntropy" in complaints[1]
    assert "zooloss (zooloss:Fine)" in complaints[1]


@pytest.mark.parametrize("registry", [LOSSES, DATASETS, MODELS, METRICS], ids=lambda r: r.kind)
def test_every_built_in_can_be_imported_and_has_a_summary(registry):
    built_in = [entry for entry in registry.entries() if entry.origin == "losslab"]
    assert built_in
    for entry in built_in:
        assert callable(registry.get(entry.name)), entry
        assert entry.summary.endswith("."), entry
        assert len(entry.summary) < 90  # it stands on one line of `list`


@pytest.mark.parametrize("kind", ["losses", "datasets", "models", "studies"])
def test_listing_imports_nothing_heavy(kind):
    code = (
        "import sys\nfrom losslab.cli import main\n"
        f"assert main(['list', {kind!r}]) == 0\n"
        "print({'torch', 'mlflow', 'optuna', 'sklearn'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"
    assert len(done.stdout.splitlines()) >= 2


def test_bad_input_counts_its_problems():
    assert str(BadInput(["a", "b"])) == "2 mistakes:\n  a\n  b"
    assert BadInput("a").problems == ["a"]
