"""torch.func, torch.compile, repeated and second-order backward; documentation examples."""

import re
from pathlib import Path

import pytest
import torch
from torch.func import functional_call, grad, vmap

from losslab.losses import LOSSES
from losslab.losses.focal import Focal

ROOT = Path(__file__).parents[2]


def stack_of(make, name, link, size=3):
    """`size` losses with differing hyper-parameters, and their stacked buffers."""
    losses = []
    for i in range(size):
        spaces = LOSSES.get(name).declared(link)
        values = {k: h.low + (h.high - h.low) * i / (size - 1) for k, h in spaces.items()}
        losses.append(make(name, link, **values))
    names = list(losses[0].hyperparameter_values)
    return losses, {k: torch.stack([getattr(loss, k) for loss in losses]) for k in names}


@pytest.mark.parametrize("reduction", ["mean", "none", "weight_sum"])
def test_vmap_over_hyper_parameters_logits_and_targets_is_the_loop(case, make, batch, reduction):
    name, link = case
    losses, stacked = stack_of(make, name, link)
    if not stacked:
        pytest.skip("no hyper-parameters")
    batches = [batch(link, seed=i) for i in range(3)]
    for x, y in batches:
        y[2] = -100
        x[2] = float("nan")
    for loss in losses:
        loss.reduction = reduction
    xs, ys = (torch.stack(parts) for parts in zip(*batches, strict=True))

    def call(values, x, y):
        return functional_call(losses[0], values, (x, y))

    def total(values, x, y):
        return call(values, x, y).sum()

    for dims, pick in (
        ((0, 0, 0), lambda i: (xs[i], ys[i])),
        ((0, None, None), lambda i: (xs[1], ys[1])),
        ((0, 0, None), lambda i: (xs[i], ys[1])),
        ((0, None, 0), lambda i: (xs[1], ys[i])),
    ):
        x, y = (t if d == 0 else t[1] for t, d in zip((xs, ys), dims[1:], strict=True))
        found = vmap(call, in_dims=dims)(stacked, x, y)
        slopes = vmap(grad(total, argnums=1), in_dims=dims)(stacked, x, y)
        for i, loss in enumerate(losses):
            x_i = pick(i)[0].clone().requires_grad_()
            value = loss(x_i, pick(i)[1])
            torch.testing.assert_close(found[i], value.detach(), rtol=1e-12, atol=1e-14)
            (slope,) = torch.autograd.grad(value.sum(), x_i)
            torch.testing.assert_close(slopes[i], slope, rtol=1e-11, atol=1e-14)


def test_vmap_over_the_last_dimension_and_under_outer_autograd():
    loss = Focal(reduction="none")
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    y = (torch.rand(5, 3) < 0.5).double()
    gammas = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)

    def call(gamma, x, y):
        return functional_call(loss, {"gamma": gamma}, (x, y))

    found = vmap(call, in_dims=(0, 1, 1), out_dims=1)(gammas, x, y)
    (slope,) = torch.autograd.grad(found.sum(), x)
    x_again = x.detach().requires_grad_()
    expected = torch.stack(
        [
            Focal(gamma=g.item(), reduction="none")(x_again[:, i], y[:, i])
            for i, g in enumerate(gammas)
        ],
        1,
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), x_again)[0])


def test_nested_vmap():
    loss = Focal(link="softmax")
    z = torch.randn(2, 6, 3, dtype=torch.float64)
    t = torch.randint(3, (6,))
    gammas = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)

    def call(gamma, z):
        return functional_call(loss, {"gamma": gamma}, (z, t))

    found = vmap(lambda g: vmap(lambda z: call(g, z))(z))(gammas)
    for i, gamma in enumerate(gammas):
        for j in range(2):
            expected = Focal(link="softmax", gamma=gamma.item())(z[j], t)
            torch.testing.assert_close(found[i, j], expected, rtol=1e-12, atol=0)


def test_hyper_parameters_batched_at_two_levels():
    loss = Focal(reduction="none")
    x, y = torch.randn(5, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    gammas = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    alphas = torch.tensor([[0.1, 0.6], [0.2, 0.7], [0.3, 0.8]], dtype=torch.float64)

    def call(gamma, alpha):
        return functional_call(loss, {"gamma": gamma, "alpha": alpha}, (x, y))

    found = vmap(vmap(call, in_dims=(None, 0)))(gammas, alphas)
    pairs = vmap(vmap(call))(gammas[:, None].expand(3, 2), alphas)
    for i in range(3):
        for j in range(2):
            one = Focal(gamma=gammas[i].item(), alpha=alphas[i, j].item(), reduction="none")(x, y)
            torch.testing.assert_close(found[i, j], one, rtol=1e-12, atol=0)
            torch.testing.assert_close(pairs[i, j], one, rtol=1e-12, atol=0)


def test_compiles_fullgraph(case, make, batch):
    name, link = case
    # Half precision takes the upcasting and recomputing path; once per link is enough.
    dtype = torch.bfloat16 if name == "balanced_ce" else torch.float32
    x, y = batch(link, dtype)
    y[3] = -100
    loss = make(name, link, reduction="weight_sum")
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    gradients = []
    for call in (loss, compiled):
        logits = x.clone().requires_grad_()
        value = call(logits, y)
        value.backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(compiled(x, y), loss(x, y), rtol=1e-5, atol=0)
    assert gradients[1].dtype == dtype
    close = {"rtol": 1e-5, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-5}
    torch.testing.assert_close(gradients[1], gradients[0], **close)


def test_one_compiled_graph_serves_every_gamma():
    torch._dynamo.reset()
    loss = Focal(alpha=0.5)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    x, y = torch.randn(9), torch.ones(9)
    for gamma in (0.0, 1.0, 2.0, 3.3):
        loss.gamma.fill_(gamma)
        expected = Focal(alpha=0.5, gamma=gamma)(x, y)
        torch.testing.assert_close(compiled(x, y), expected, rtol=1e-5, atol=0)


def test_second_order_and_repeated_backward(case, make, batch):
    name, link = case
    x, y = batch(link)
    y[1] = -100
    loss = make(name, link, reduction="positives", **{"gamma": 0.4} if "focal" in name else {})
    x = (x / 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, y), x)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, y), x)
    value = loss(x, y)
    first = torch.autograd.grad(value, x, retain_graph=True)[0].clone()
    scaled = torch.autograd.grad(value, x, torch.tensor(-3.0, dtype=x.dtype), retain_graph=True)[0]
    again = torch.autograd.grad(value, x, retain_graph=True)[0]
    differentiable = torch.autograd.grad(value, x, create_graph=True)[0]
    assert torch.equal(first, again)
    torch.testing.assert_close(scaled, -3 * first, rtol=1e-14, atol=0)
    torch.testing.assert_close(differentiable.detach(), first, rtol=1e-12, atol=1e-16)


def test_hessian_by_nested_reverse_mode(batch):
    x, y = batch("softmax")
    loss = Focal(link="softmax", reduction="sum")
    hessian = torch.func.jacrev(torch.func.jacrev(lambda z: loss(z, y[:1])))(x[:1]).reshape(4, 4)
    z = x[:1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(z, y[:1]), z, create_graph=True)
    rows = [torch.autograd.grad(s, z, retain_graph=True)[0][0] for s in slope[0]]
    torch.testing.assert_close(hessian, torch.stack(rows), rtol=1e-10, atol=1e-14)


def test_grad_mode_is_left_as_it_was(case, make, batch):
    name, link = case
    x, y = batch(link)
    x.requires_grad_()
    loss = make(name, link)
    with torch.no_grad():
        assert not loss(x, y).requires_grad
        assert not torch.is_grad_enabled()
    assert loss(x, y).requires_grad
    assert torch.is_grad_enabled()
    with torch.inference_mode():
        assert loss(x, y).item() == loss(x, y).item()


def test_autocast_changes_nothing(case, make, batch):
    name, link = case
    x, y = batch(link, torch.float32)
    expected = make(name, link)(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = make(name, link)(x, y)
    assert found.dtype == torch.float32
    assert found.item() == expected.item()


def test_the_documentation_lists_every_loss():
    text = (ROOT / "docs" / "losses.md").read_text()
    table = text.partition("## The losses")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, flags=re.M)) == LOSSES.names()


def test_the_documentation_runs():
    text = (ROOT / "docs" / "losses.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(blocks) >= 2
    opening = blocks[0].split("@LOSSES")[1].strip().splitlines()
    assert len(opening) <= 10
    try:
        # One module's namespace, as a reader who types the blocks in order.
        exec("\n".join(blocks), {"__name__": "documentation"})
    finally:
        LOSSES.unregister("brier")
