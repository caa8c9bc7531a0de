"""`losslab check` over every registered loss under sigmoid."""

import pytest

from losslab.losses import LOSSES

NAMES = [name for name in LOSSES.names() if "sigmoid" in LOSSES.get(name).links]


@pytest.mark.parametrize("name", NAMES)
def test_conformance(name, conforms):
    conforms(name, "sigmoid")


def test_all_of_them():
    assert len(NAMES) >= 28
