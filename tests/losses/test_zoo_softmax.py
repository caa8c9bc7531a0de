"""`losslab check` over every registered loss under softmax, and over those of regression."""

import pytest

from losslab.losses import LOSSES

CASES = [
    (name, link)
    for name in LOSSES.names()
    for link in LOSSES.get(name).links
    if link in ("softmax", "identity")
]


@pytest.mark.parametrize(("name", "link"), CASES, ids=["-".join(case) for case in CASES])
def test_conformance(name, link, conforms):
    conforms(name, link)


def test_all_of_them():
    assert {link for _, link in CASES} == {"softmax", "identity"}
    assert len(CASES) >= 34
