"""The examples in the docstrings of every module, run as they are printed."""

import doctest
import importlib
import pkgutil

import pytest

import losslab
from losslab import analysis, datasets, experiments, losses

ROOMS = [losslab, analysis, datasets, experiments, losses]
# The rooms lie beside the root, so walking the root alone finds them only in a wheel.
MODULES = sorted(
    {room.__name__ for room in ROOMS}
    | {
        module.name
        for room in ROOMS
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
        if not module.name.endswith(".__main__")
    }
)
EXAMPLES = 30  # there are more; far fewer would mean that modules were not found


def _examples(name):
    return sum(len(test.examples) for test in doctest.DocTestFinder().find(_module(name)))


def _module(name):
    return importlib.import_module(name)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    failed, _ = doctest.testmod(_module(name))
    assert failed == 0


def test_all_rooms_were_walked():
    rooms = {name.split(".")[1] for name in MODULES if "." in name}
    assert {"losses", "datasets", "experiments", "analysis", "registry", "cli"} <= rooms
    assert "losslab.experiments.models.mlp" in MODULES
    assert sum(_examples(name) for name in MODULES) > EXAMPLES
