"""What the loss tests share: one torch thread, every built-in loss, batches for both links."""

import pytest
import torch

from losslab.losses import LOSSES

COUNTS = [50, 30, 15, 5]
OF_POSITIONS = {
    "a plain call",
    "classes and positions apart",
    "ignoring is deleting",
    "order of examples",
    "class weights",
    "vmap against a loop",
    "extreme logits",
}
CASES = [
    (name, link)
    for name in ("ce", "balanced_ce", "focal", "focal_star")
    for link in ("sigmoid", "softmax")
    if (name, link) != ("focal_star", "softmax")
]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    """Name and link of every built-in loss in turn."""
    return request.param


@pytest.fixture
def make():
    """Build a loss; softmax losses get class counts for four classes."""

    def build(name, link, **arguments):
        if link == "softmax":
            arguments.setdefault("class_counts", COUNTS)
        return LOSSES.create(name, link=link, **arguments)

    return build


@pytest.fixture
def batch():
    """Logits and targets for a link: (7, 4) logits, some of them large."""

    def draw(link, dtype=torch.float64, seed=0):
        generator = torch.Generator().manual_seed(seed)
        logits = (3 * torch.randn(7, 4, generator=generator, dtype=torch.float64)).to(dtype)
        if link == "sigmoid":
            return logits, (torch.rand(7, 4, generator=generator) < 0.3).to(logits.dtype)
        return logits, torch.randint(4, (7,), generator=generator)

    return draw


@pytest.fixture(scope="session")
def conforms():
    """Runs `losslab check`'s checks on every layout of a loss under a link.

    Tracing takes a second: it is done for the first layout of the first link, and what is slow for
    the first layout of each; `make test-slow` compiles every link in earnest.
    """
    from losslab.losses.conformance import CHECKS, check_subject
    from losslab.losses.conformance.subject import subjects

    def check(name, link):
        cases = subjects(name, link)
        first = link == LOSSES.get(name).links[0]
        for index, case in enumerate(cases):
            left_out = () if first and index == 0 else ("torch.compile",)
            if index > 0:
                left_out += (
                    "gradient under each reduction",
                    "second order",
                    "gradient at soft targets",
                    "extreme logits in float16",
                )
            if case.layout == "(N, C, L)":  # positions are rows; what could differ, and no more
                left_out = tuple(name for name in CHECKS if name not in OF_POSITIONS)
            report = check_subject(case, left_out)
            assert not report.failures, report.table()

    return check
