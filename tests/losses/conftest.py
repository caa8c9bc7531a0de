"""What the loss tests share: one torch thread, every built-in loss, batches for both links."""

import pytest
import torch

from losslab.losses import LOSSES

COUNTS = [50, 30, 15, 5]
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
