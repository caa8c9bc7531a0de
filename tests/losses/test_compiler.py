"""The real compiler over every loss, where there is one."""

import shutil

import pytest

from losslab.losses import LOSSES
from losslab.losses.conformance.subject import subjects
from losslab.losses.conformance.transforms import inductor

CASES = [(name, link) for name in LOSSES.names() for link in LOSSES.get(name).links]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize(("name", "link"), CASES, ids=["-".join(case) for case in CASES])
def test_inductor(name, link):
    assert inductor(subjects(name, link)[0]) == "backend inductor"
