"""docs/gradients.md: every formula is held to autograd and to losslab's losses, every block is run.

A block ```python <link> <loss> gives `loss` and `gradient` of each element, in the page's names.
"""

import math
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from losslab.losses import LOSSES

PAGE = (Path(__file__).parents[2] / "docs" / "gradients.md").read_text(encoding="utf-8")
FORMULAS = re.findall(r"```python (softmax|sigmoid) (\w+)\n(.*?)```", PAGE, re.S)
COUNTS = [70, 20, 8, 2]
HYPER = {
    ("softmax", "ce"): {},
    ("softmax", "balanced_ce"): {"a": 0.7},
    ("softmax", "focal"): {"a": 0.0},
    ("sigmoid", "ce"): {},
    ("sigmoid", "balanced_ce"): {"alpha": 0.3},
    ("sigmoid", "focal"): {"alpha": 0.3},
}
CASES = [
    pytest.param(link, loss, code, gamma, id=f"{link} {loss} {gamma}")
    for link, loss, code in FORMULAS
    for gamma in ((0.0, 0.5, 2.0, 5.0) if loss == "focal" else (0.0,))
]


def test_the_page_has_a_formula_for_each_loss_and_link():
    assert {(link, loss) for link, loss, _ in FORMULAS} == set(HYPER)
    assert len(FORMULAS) == len(HYPER)


@pytest.mark.parametrize(("link", "name", "code", "gamma"), CASES)
def test_a_formula_is_what_autograd_and_losslab_give(link, name, code, gamma):
    logits, targets, names = _example(link, gamma)
    exec(code, names)
    loss, gradient = names["loss"].squeeze(-1), names["gradient"]
    (by_torch,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    torch.testing.assert_close(gradient, by_torch)
    given = {**HYPER[link, name], **({"gamma": gamma} if name == "focal" else {})}
    counts = COUNTS if "a" in given else None
    ours = LOSSES.create(name, link=link, reduction="none", class_counts=counts, **given)
    losses = ours(logits, targets)
    torch.testing.assert_close(loss, losses)
    (by_losslab,) = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(gradient, by_losslab)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_the_formulas_names_are_torchs_cross_entropy(link):
    logits, targets, names = _example(link, 0.0)
    exec(next(code for each, loss, code in FORMULAS if (each, loss) == (link, "ce")), names)
    if link == "softmax":
        theirs = F.cross_entropy(logits, targets, reduction="none")
    else:
        theirs = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(names["loss"].squeeze(-1), theirs)


def test_every_other_block_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    blocks = [block for block in blocks if "frames_from_folder" not in block]
    assert sum(block.count("assert ") for block in blocks) >= 5
    torch.manual_seed(0)
    names = {"torch": torch, "math": math}
    for block in blocks:
        exec(block, names)


def _example(link, gamma):
    """Logits, targets and the names that a formula is written in."""
    random = torch.Generator().manual_seed(1)
    names = {"log": torch.log, "gamma": gamma}
    if link == "sigmoid":
        x = (3 * torch.randn(64, generator=random, dtype=torch.float64)).requires_grad_()
        y = (torch.rand(64, generator=random) < 0.3).double()
        s = 2 * y - 1
        alpha_t = torch.where(y == 1, 0.3, 0.7).double()
        return (
            x,
            y,
            {**names, "x": x, "s": s, "y": y, "p_t": torch.sigmoid(s * x), "alpha_t": alpha_t},
        )
    z = (2 * torch.randn(64, 4, generator=random, dtype=torch.float64)).requires_grad_()
    t = torch.randint(4, (64,), generator=random)
    p = torch.softmax(z, 1)
    weights = torch.tensor(COUNTS, dtype=torch.float64) ** -HYPER["softmax", "balanced_ce"]["a"]
    return z, t, {
        **names, "z": z, "p": p, "y": F.one_hot(t, 4).double(), "p_t": p.gather(1, t[:, None]),
        "w_t": (weights / weights.mean())[t][:, None],
    }  # fmt: skip
