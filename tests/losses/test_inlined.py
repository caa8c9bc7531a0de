"""exp and log1p as polynomials, and the compiled losses that are made of them."""

import shutil

import pytest
import torch

from losslab.losses import LOSSES
from losslab.losses.inlined import exp_of_negative, log1p_of_unit


def test_polynomials_at_the_ends():
    ends = torch.tensor([0.0, -100.0, -3e38, -torch.inf, torch.nan])
    assert exp_of_negative(ends)[:4].tolist() == [1, 0, 0, 0]
    assert exp_of_negative(ends)[4].isnan()
    assert log1p_of_unit(torch.tensor([0.0])).item() == 0
    assert log1p_of_unit(torch.tensor([torch.nan])).isnan()


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
@pytest.mark.parametrize("name", ["ce", "focal"])
def test_compiled_loss_is_as_accurate_as_the_eager_one(name):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3000, generator=generator) * 128 - 100
    y = torch.ones(3000)
    x[::2], y[::2] = -x[::2], 0
    y[::7] = -100
    x[::7] = torch.nan
    for gamma in (0.5, 2.0, 5.0) if name == "focal" else (0.0,):
        arguments = {"gamma": gamma, "alpha": 0.5} if name == "focal" else {}
        torch._dynamo.reset()
        results = []
        for dtype, compiles in ((torch.float64, False), (torch.float32, True)):
            loss = LOSSES.create(name, **arguments)
            call = torch.compile(loss, fullgraph=True) if compiles else loss
            logits = x.detach().to(dtype, copy=True).requires_grad_()
            value = call(logits, y)
            value.backward()
            results.append((value.item(), logits.grad))
        assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
        exact = results[0][1]
        error = (results[1][1] - exact).abs()
        assert (error <= (2e-6 * exact.abs()).clamp(min=2e-38)).all()
        assert (results[1][1][::7] == 0).all()
