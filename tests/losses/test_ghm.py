"""GHM-C and GHM-R against loops over bins, the authors' code re-derived, and mpmath."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch.func import functional_call, vmap

from losslab.errors import BadInput
from losslab.losses.cross_entropy import CrossEntropy
from losslab.losses.ghm import GHMC, GHMR
from losslab.losses.smooth_l1 import AuthenticSmoothL1


def draw(link, seed=0, shape=(40, 4)):
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    if link == "softmax":
        return x, torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    if link == "identity":
        return 0.1 * x, torch.zeros_like(x)
    return x, (torch.rand(*shape, generator=generator) < 0.3).double()


def gradient_norm(x, y):
    """g of every element, from probabilities."""
    if y.is_floating_point():
        return (torch.sigmoid(x) - y).abs()
    return 1 - torch.softmax(x, 1).gather(1, y.clamp(min=0).unsqueeze(1)).squeeze(1)


def histogram(norm, valid, bins):
    counts, places = [0] * bins, []
    for g, ok in zip(norm.reshape(-1).tolist(), valid.reshape(-1).tolist(), strict=True):
        places.append(min(bins - 1, math.floor(g * bins)))
        counts[places[-1]] += ok
    return np.array(counts, dtype=float), places


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
@pytest.mark.parametrize("bins", [1, 5, 30])
def test_one_batch_is_the_papers_formula(link, bins):
    x, y = draw(link, 1, (30, 4, 2))
    y[3, 1] = -100
    loss = GHMC(link=link, bins=bins, momentum=0, reduction="none")
    plain = CrossEntropy(link=link, reduction="none")(x, y).reshape(-1)
    counts, places = histogram(gradient_norm(x, y), y != -100, bins)
    number = counts.sum()
    assert number == (y != -100).sum()
    found = loss(x, y).reshape(-1)
    for i, place in enumerate(places):
        expected = number / (counts[place] * bins) * plain[i].item() if plain[i] else 0.0
        assert found[i].item() == pytest.approx(expected, rel=1e-12)
    loss.reduction = "mean"
    assert loss(x, y).item() == pytest.approx(found.sum().item() / number, rel=1e-12)
    # What is ignored counts nowhere, whatever its logit.
    x[3, :] = torch.where(y[3] == -100, 1e4, x[3]) if link == "sigmoid" else x[3]
    assert loss(x, y).item() == pytest.approx(found.sum().item() / number, rel=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.95])
def test_momentum_follows_the_recursion(momentum):
    bins, state = 8, np.zeros(8)
    loss = GHMC(bins=bins, momentum=momentum, reduction="none")
    for step, size in enumerate((40, 7, 90, 1)):
        x, y = draw("sigmoid", step, (size, 3))
        found = loss(x, y)
        counts, places = histogram(gradient_norm(x, y), y != -100, bins)
        state = momentum * state + (1 - momentum) * counts
        beta = torch.tensor([state.sum() / (bins * state[place]) for place in places])
        expected = beta.reshape(y.shape) * CrossEntropy(reduction="none")(x, y)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        np.testing.assert_allclose(loss.counts, state, rtol=1e-14)
    if momentum == 0:
        assert np.array_equal(loss.counts.numpy(), counts)


def authors(batches, bins, momentum):
    """Weights of GHM_Detection's and mmdet's loop, batch by batch."""
    edges = np.arange(bins + 1) / bins
    edges[-1] += 1e-6
    moving, all_weights = np.zeros(bins), []
    for norm in batches:
        weights, occupied = np.zeros(len(norm)), 0
        for i in range(bins):
            inside = (norm >= edges[i]) & (norm < edges[i + 1])
            if number := inside.sum():
                moving[i] = momentum * moving[i] + (1 - momentum) * number
                weights[inside] = len(norm) / (moving[i] if momentum > 0 else number)
                occupied += 1
        all_weights.append(weights / occupied)
    return all_weights


@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_against_the_authors_loop(momentum):
    bins = 5 if momentum else 12
    loss = GHMC(bins=bins, momentum=momentum, normalize="mmdet", reduction="none")
    batches = [draw("sigmoid", seed, (100, 3)) for seed in range(4)]
    norms = [gradient_norm(x, y).reshape(-1).numpy() for x, y in batches]
    for step, ((x, y), weights) in enumerate(
        zip(batches, authors(norms, bins, momentum), strict=True), start=1
    ):
        # Theirs start from 0 without correcting for it: too small counts, too large weights.
        expected = torch.tensor(weights * (1 - momentum**step)).reshape(y.shape)
        expected *= CrossEntropy(reduction="none")(x, y)
        torch.testing.assert_close(loss(x, y), expected, rtol=1e-9, atol=0)
    assert len({len(np.unique(np.floor(norm * bins))) for norm in norms}) == 1


def test_weights_sum_up_to_the_number_of_elements_or_to_the_occupied_share():
    x, y = draw("sigmoid", 3, (6, 2))
    places = torch.floor(gradient_norm(x, y) * 30)
    share = len(places.unique()) / 30
    plain = CrossEntropy(reduction="none")(x, y)
    for normalize, expected in (("paper", share), ("mmdet", 1.0)):
        loss = GHMC(momentum=0, normalize=normalize, reduction="none")
        assert (loss(x, y) / plain).mean().item() == pytest.approx(expected)
        loss.reduction = "weight_sum"
        total = loss(x, y)
        loss.reduction = "mean"
        assert total.item() == pytest.approx(loss(x, y).item() / expected)


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_one_bin_is_cross_entropy(link):
    loss, plain = GHMC(link=link, bins=1), CrossEntropy(link=link)
    for seed in range(3):
        x, y = draw(link, seed, (9, 3))
        assert loss(x, y).item() == plain(x, y).item()


@pytest.mark.parametrize("kind", [GHMC, GHMR])
def test_evaluation_uses_the_density_and_leaves_it(kind):
    link = kind.links[0]
    x, y = draw(link, 4)
    loss = kind(link=link, reduction="none")
    plain = kind(link=link, bins=1, reduction="none")(x, y)
    loss.eval()
    assert torch.equal(loss(x, y), plain)  # nothing known yet
    loss.train()
    trained = loss(x, y)
    assert not torch.allclose(trained, plain)
    before = loss.counts.clone()
    loss.eval()
    torch.testing.assert_close(loss(x, y), trained, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss(x[:1], y[:1]), trained[:1], rtol=1e-12, atol=0)
    assert torch.equal(loss.counts, before)


def test_a_bin_never_seen_counts_as_one_element():
    loss = GHMC(bins=4, momentum=0, reduction="none")
    x = torch.full((10,), -9.0)
    loss(x, torch.zeros(10))
    loss.eval()
    found = loss(torch.tensor([0.1, -9.0]), torch.zeros(2))
    plain = CrossEntropy(reduction="none")(torch.tensor([0.1, -9.0]), torch.zeros(2))
    assert (found / plain).tolist() == pytest.approx([10 / 4, 1 / 4])


@pytest.mark.parametrize("kind", [GHMC, GHMR])
def test_a_restored_loss_goes_on_as_it_would_have(kind):
    link = kind.links[0]
    loss = kind(link=link)
    for seed in range(3):
        loss(*draw(link, seed))
    restored = kind(link=link)
    restored.load_state_dict(loss.state_dict())
    assert list(loss.state_dict()) == ["counts"]
    x, y = draw(link, 9)
    assert restored(x, y).item() == loss(x, y).item() != kind(link=link)(x, y).item()
    assert loss.half().counts.dtype == torch.float64


@pytest.mark.parametrize(("kind", "link"), [(GHMC, "sigmoid"), (GHMC, "softmax"), (GHMR, None)])
def test_gradient_with_the_density_frozen(kind, link):
    link = link or "identity"
    x, y = draw(link, 5, (6, 3))
    loss = kind(link=link)
    loss(x, y)
    loss.eval()
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, y), x)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, y), x)
    loss.train()
    loss.reduction = "none"
    weights = loss(x, y).detach() / kind(link=link, bins=1, reduction="none")(x, y).detach()
    (slope,) = torch.autograd.grad(loss(x, y).sum(), x)
    bare = kind(link=link, bins=1, reduction="none")(x, y)
    (expected,) = torch.autograd.grad((bare * weights).sum(), x)
    # The same batch again leaves the density's proportions as they are.
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mu", [1e-3, 0.02, 0.2])
def test_smooth_l1_against_mpmath(mu):
    points = [0.0, 1e-9, 1e-5, 3e-3, 0.02, 0.5, 40.0, 1e4, 1e25]
    d = torch.tensor(points + [-p for p in points], requires_grad=True)
    loss = GHMR(mu=mu, bins=1, reduction="none")(d, torch.zeros_like(d))
    assert torch.equal(loss, AuthenticSmoothL1(mu=mu, reduction="none")(d, torch.zeros_like(d)))
    (slope,) = torch.autograd.grad(loss.sum(), d)
    for i, point in enumerate(d.tolist()):
        with mpmath.workdps(60):
            exact = mpmath.sqrt(mpmath.mpf(point) ** 2 + mpmath.mpf(mu) ** 2)
            expected, rate = float(exact - mu), float(point / exact)
        assert loss[i].item() == pytest.approx(expected, rel=1e-6)
        assert slope[i].item() == pytest.approx(rate, rel=1e-6)


def test_regression_weights_against_the_authors_loop():
    loss = GHMR(momentum=0, normalize="mmdet", reduction="none")
    x, y = draw("identity", 6, (50, 4))
    y = y + 0.01
    mu = 0.02
    d = (x - y).numpy()
    norm = np.abs(d / np.sqrt(mu * mu + d * d)).reshape(-1)
    (weights,) = authors([norm], 10, 0.0)
    expected = weights.reshape(50, 4) * (np.sqrt(d * d + mu * mu) - mu)
    np.testing.assert_allclose(loss(x, y), expected, rtol=1e-10)
    loss.reduction = "mean"
    assert 10 * loss(x, y).item() == pytest.approx(10 * expected.sum() / 200)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("normalize", ["paper", "mmdet"])
@pytest.mark.parametrize("link", ["sigmoid", "softmax", "identity"])
def test_extremes_at_the_corners_of_the_search_space(dtype, normalize, link):
    kind = GHMR if link == "identity" else GHMC
    x = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 0.0, 1e4]], dtype=dtype)
    y = torch.tensor([2, 0]) if link == "softmax" else torch.tensor([[0, 0, 1], [1, 1, 1]])
    if link == "identity":
        y = y.to(dtype)
    for corner in ("low", "high"):
        values = {name: getattr(h, corner) for name, h in kind.declared(link).items()}
        loss = kind(link=link, normalize=normalize, **values)
        for _ in range(2):
            logits = x.clone().requires_grad_()
            value = loss(logits, y)
            (slope,) = torch.autograd.grad(value, logits)
            assert value.isfinite()
            assert slope.isfinite().all()
            assert slope.dtype == dtype


@pytest.mark.parametrize("normalize", ["paper", "mmdet"])
@pytest.mark.parametrize("link", ["sigmoid", "softmax", "identity"])
def test_vmap_over_hyper_parameters_and_state_is_the_loop(link, normalize):
    kind = GHMR if link == "identity" else GHMC
    spaces = kind.declared(link)
    losses = [
        kind(
            link=link,
            normalize=normalize,
            **{k: h.low + f * (h.high - h.low) for k, h in spaces.items()},
        )
        for f in (0.0, 0.4, 1.0)
    ]
    stack = {k: torch.stack([getattr(loss, k) for loss in losses]) for k in (*spaces, "counts")}
    template = kind(link=link, normalize=normalize)

    def call(state, x, y):
        return functional_call(template, state, (x, y))

    for step in range(4):
        batches = [draw(link, 10 * step + i, (12, 3)) for i in range(3)]
        if link != "identity":
            batches[0][1][2] = -100
        xs, ys = (torch.stack(parts) for parts in zip(*batches, strict=True))
        if step == 3:  # one batch for all
            found = vmap(call, in_dims=(0, None, None))(stack, xs[0], ys[0])
            batches = [batches[0]] * 3
        else:
            found = vmap(call)(stack, xs, ys)
        expected = torch.stack([loss(x, y) for loss, (x, y) in zip(losses, batches, strict=True)])
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(stack["counts"], torch.stack([loss.counts for loss in losses]))
    assert not template.counts.any()


@pytest.mark.parametrize("kind", [GHMC, GHMR])
def test_compiles_fullgraph(kind):
    link = kind.links[0]
    torch._dynamo.reset()
    loss, other = kind(link=link), kind(link=link)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        x, y = draw(link, seed)
        torch.testing.assert_close(compiled(x, y), other(x, y), rtol=1e-12, atol=0)
    torch.testing.assert_close(loss.counts, other.counts)


def test_errors():
    with pytest.raises(BadInput, match="GHMC: bins must be a whole number >= 1, got 0"):
        GHMC(bins=0)
    with pytest.raises(BadInput, match="unknown normalize 'mmde'; did you mean 'mmdet'"):
        GHMR(normalize="mmde")
    with pytest.raises(BadInput, match=r"momentum must be at most 0\.9999"):
        GHMC(momentum=1)
    with pytest.raises(BadInput, match="unknown reduction 'positives'"):
        GHMR(reduction="positives")
    assert "bins=30, normalize='paper', momentum=0.75" in repr(GHMC())
