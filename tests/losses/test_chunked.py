"""The one-pass sums on plain CPU tensors: every kind of input, memory, repeated backward."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from losslab.losses import closed_form, focal_chunk
from losslab.losses.balanced_cross_entropy import BalancedCrossEntropy
from losslab.losses.chunked import focal_pass
from losslab.losses.closed_form import focal_total
from losslab.losses.focal import Focal
from losslab.losses.focal_chunk import Power

NAN, INF = math.nan, math.inf


def reference(logits, targets, gamma, alpha, ignored, reduction):
    """The reduced loss in log space, float64, differentiable, the ignored taken out by index."""
    kept = targets != ignored
    x, y = logits.double()[kept], targets.double()[kept]
    log_p, log_q = F.logsigmoid(x), F.logsigmoid(-x)
    loss = y * alpha * torch.exp(gamma * log_q) * -log_p
    loss = loss + (1 - y) * (1 - alpha) * torch.exp(gamma * log_p) * -log_q
    divisor = {"sum": 1, "mean": len(y), "positives": y.sum().item()}[reduction]
    return loss.sum() / max(1, divisor)


def draw(kind, shape=(11, 13), seed=0):
    """Logits, some of them large, and targets of a kind."""
    generator = torch.Generator().manual_seed(seed)
    x = 5 * torch.randn(*shape, generator=generator)
    hard = torch.rand(*shape, generator=generator) < 0.2
    if kind == "soft":
        return x, torch.rand(*shape, generator=generator)
    if kind in ("ignored", "soft ignored"):
        y = hard.float() if kind == "ignored" else torch.rand(*shape, generator=generator)
        y[torch.rand(*shape, generator=generator) < 0.3] = -100
        return x, y
    return x, hard.to({"float": torch.float32, "int": torch.int64, "bool": torch.bool}[kind])


def settings(gamma, alpha):
    return tuple(
        None if v is None else torch.tensor(v, dtype=torch.float64) for v in (gamma, alpha)
    )


@pytest.fixture(params=["one chunk", "many chunks", "traced"])
def way(request, monkeypatch):
    """One chunk, many of them, and what compiled code and GPUs do."""
    if request.param == "many chunks":
        monkeypatch.setattr(focal_chunk, "CHUNK", 8)
        monkeypatch.setattr(focal_chunk, "SMALLEST_CHUNK", 8)
    if request.param == "traced":
        monkeypatch.setattr(closed_form, "is_plain", lambda *tensors: False)
    return request.param


@pytest.mark.parametrize("kind", ["float", "int", "bool", "soft", "ignored", "soft ignored"])
@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 1.0, 1.7, 2.0, 3.0, 6.5])
@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.usefixtures("way")
def test_value_and_gradient_for_every_kind_of_target(kind, gamma, alpha):
    for reduction in ("sum", "mean", "positives"):
        x, y = draw(kind)
        x.requires_grad_()
        found = focal_total(x, y, *settings(gamma, alpha), -100, reduction)
        weight = 0.5 if alpha is None else alpha
        expected = reference(x, y, gamma or 0.0, weight, -100, reduction)
        scale = 2 if alpha is None else 1
        assert found.item() == pytest.approx(scale * expected.item(), rel=1e-6)
        (gradient,) = torch.autograd.grad(found, x)
        (wanted,) = torch.autograd.grad(scale * expected, x)
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-7)
        assert (gradient[y == -100] == 0).all()


@pytest.mark.parametrize("reduction", ["sum", "mean", "positives"])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.usefixtures("way")
def test_ignored_elements_count_nothing_whatever_their_logit(reduction, gamma):
    x = torch.tensor([0.3, NAN, INF, -INF, -1.2, 3e38], requires_grad=True)
    y = torch.tensor([1.0, -100, -100, -100, 0, -100])
    found = focal_total(x, y, *settings(gamma, 0.3), -100, reduction)
    (gradient,) = torch.autograd.grad(found, x)
    short = x.detach()[[0, 4]].requires_grad_()
    expected = focal_total(short, y[[0, 4]], *settings(gamma, 0.3), -100, reduction)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert gradient[[1, 2, 3, 5]].tolist() == [0, 0, 0, 0]
    (wanted,) = torch.autograd.grad(expected, short)
    torch.testing.assert_close(gradient[[0, 4]], wanted)


@pytest.mark.usefixtures("way")
def test_nothing_left_is_zero():
    for x, y in (
        (torch.ones(2, 3), torch.full((2, 3), -100)),
        (torch.ones(0, 3), torch.ones(0, 3)),
    ):
        x.requires_grad_()
        found = focal_total(x, y, *settings(2.0, 0.25), -100, "mean")
        assert found.item() == 0
        assert torch.autograd.grad(found, x)[0].tolist() == torch.zeros_like(x).tolist()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.7, 2.0])
@pytest.mark.usefixtures("way")
def test_infinite_logits_count_as_the_largest_number_and_nan_stays(gamma):
    largest = torch.finfo(torch.float32).max
    for logit, target, value, slope in (
        (INF, 1.0, 0.0, 0.0),
        (INF, 0.0, largest, 1.0),
        (-INF, 1.0, largest, -1.0),
        (-INF, 0.0, 0.0, 0.0),
        (NAN, 1.0, NAN, NAN),
    ):
        x = torch.tensor([logit], requires_grad=True)
        found = focal_total(x, torch.tensor([target]), *settings(gamma, None), -100, "sum")
        (gradient,) = torch.autograd.grad(found, x)
        assert found.item() == pytest.approx(value, nan_ok=True)
        assert gradient.item() == pytest.approx(slope, nan_ok=True)


@pytest.mark.parametrize(
    "targets",
    [
        [1.0, 1.5],
        [-0.1, 1.0],
        [NAN, 0.0],
        [INF, 0.0],
        [-100.0, 2.0],
        [2.0] + [0.5] * 8,  # y (1-y) sums to 0
        [-7.0, 1.0],
    ],
)
def test_targets_out_of_range_are_left_to_the_way_that_names_them(targets):
    y = torch.tensor(targets)
    assert focal_total(torch.zeros(len(y)), y, None, None, -100, "mean") is None
    y[y == -100] = 0
    assert focal_total(torch.zeros(len(y)), y, None, None, None, "mean") is None


def test_what_it_does_not_do():
    x, y = draw("float")
    two = torch.tensor([1.0, 2.0])
    assert focal_total(x, y, two, None, -100, "mean") is None
    assert focal_total(x, y.clone().requires_grad_(), None, None, -100, "mean") is None
    gamma = torch.tensor(2.0, requires_grad=True)
    assert focal_total(x, y, gamma, None, -100, "mean") is None
    seen = []

    def call(x):
        seen.append(focal_total(x, y, None, None, -100, "mean"))
        return x.sum()

    torch.func.grad(call)(x)
    assert seen == [None]


def test_any_layout():
    x, y = draw("ignored")
    gamma, alpha = settings(1.5, 0.25)
    expected = focal_total(x, y, gamma, alpha, -100, "mean").item()
    wide = torch.zeros(13, 22)
    wide[:, ::2] = x.t()
    for logits, targets in (
        (x.t().contiguous().t(), y),
        (x, y.t().contiguous().t()),
        (wide[:, ::2].t(), y),
    ):
        logits = logits.detach().requires_grad_()
        found = focal_total(logits, targets, gamma, alpha, -100, "mean")
        assert found.item() == pytest.approx(expected, rel=1e-6)
        (gradient,) = torch.autograd.grad(found, logits)
        again = x.clone().requires_grad_()
        focal_total(again, y, gamma, alpha, -100, "mean").backward()
        torch.testing.assert_close(gradient, again.grad, rtol=1e-6, atol=0)
    constant = torch.zeros(()).expand(4, 5)
    assert focal_total(constant, constant, None, None, -100, "mean").item() == pytest.approx(
        math.log(2)
    )


@pytest.mark.parametrize("kind", ["float", "soft", "ignored"])
@pytest.mark.parametrize("gamma", [None, 2.0])
@pytest.mark.usefixtures("way")
def test_backward_again_scaled_and_twice(kind, gamma):
    x, y = draw(kind, (3, 4))
    x = (x / 5).double().requires_grad_()
    arguments = (*settings(gamma, 0.3), -100)
    total = focal_total(x, y, *arguments, "mean")
    (first,) = torch.autograd.grad(total, x, retain_graph=True)
    kept = first.clone()
    (scaled,) = torch.autograd.grad(total, x, torch.tensor(-3.0).double(), retain_graph=True)
    torch.testing.assert_close(scaled, -3 * kept, rtol=1e-14, atol=0)
    assert torch.equal(first, kept)
    first.mul_(7)  # is the caller's own
    (again,) = torch.autograd.grad(total, x)
    assert torch.equal(again, kept)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(total, x)
    assert torch.autograd.gradcheck(lambda x: focal_total(x, y, *arguments, "positives"), x)
    assert torch.autograd.gradgradcheck(lambda x: focal_total(x, y, *arguments, "positives"), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_upstream_gradients_at_once(dtype):
    x, y = draw("ignored")
    x = x.to(dtype).requires_grad_()
    total = focal_total(x, y, *settings(2.0, 0.25), -100, "mean")
    upstream = torch.tensor([1.0, -2.0])
    (rows,) = torch.autograd.grad(total, x, upstream, is_grads_batched=True, retain_graph=True)
    (one,) = torch.autograd.grad(total, x)
    torch.testing.assert_close(rows, torch.stack([one, -2 * one]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["float", "soft", "ignored"])
@pytest.mark.usefixtures("way")
def test_half_precision_is_computed_in_float32(dtype, kind):
    x, y = draw(kind)
    half = x.to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    arguments = (y, *settings(1.5, 0.25), -100, "mean")
    found, expected = focal_total(half, *arguments), focal_total(full, *arguments)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    # Slopes that are 0 in float16 before the upstream factor is applied.
    upstream = torch.tensor(2.0**14)
    (gradient,) = torch.autograd.grad(found, half, upstream)
    (wanted,) = torch.autograd.grad(expected, full, upstream)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, wanted.to(dtype), rtol=1e-2, atol=1e-7)
    assert (gradient != 0).float().mean() > 0.9 * (wanted.abs() > 1e-7).float().mean()


def test_only_inputs_and_slopes_are_saved():
    def saved(x, y):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            total = focal_total(x, y, *settings(2.0, 0.25), -100, "mean")
        return kept, total

    x, y = draw("float")
    kept, total = saved(x.requires_grad_(), y)
    assert [t.data_ptr() for t in kept[:2]] == [x.data_ptr(), y.data_ptr()]
    assert [t.shape for t in kept[2:]] == [x.shape]
    assert total.requires_grad
    kept, total = saved(x.detach(), y)
    assert not total.requires_grad
    assert kept == []
    with torch.no_grad():
        assert saved(x, y)[0] == []


def test_peak_memory_is_at_most_that_of_binary_cross_entropy():
    x = torch.randn(1_000_000).requires_grad_()
    hard = (torch.rand(1_000_000) < 0.01).float()

    def peak(loss, targets):
        x.grad = None
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            loss(x, targets).backward()
        taken = highest = 0
        for event in record.profiler.kineto_results.events():
            if event.name() == "[memory]":
                taken += event.nbytes()
                highest = max(highest, taken)
        return highest

    limit = peak(F.binary_cross_entropy_with_logits, hard)
    assert limit >= 8_000_000
    for gamma in (0.0, 1.0, 2.0, 1.5, 1.7):
        assert peak(Focal(gamma=gamma), hard) <= limit
    assert peak(Focal(), torch.rand(1_000_000)) <= limit


def test_sums_are_as_accurate_as_their_terms():
    x = torch.randn(700_000, generator=torch.Generator().manual_seed(0))
    y = (x > 1).float()
    for gamma in (0.0, 0.5, 2.0):
        found = focal_total(x, y, *settings(gamma, 0.25), None, "mean").item()
        expected = reference(x, y, gamma, 0.25, -100, "mean").item()
        assert found == pytest.approx(expected, rel=2e-7)


@pytest.mark.parametrize(
    "gamma", [0.3, 0.5, 1.0, 1.5, 2.0, 2.7, 3.0, 4.0, 5.0, 6.5, 7.0, 64.0, 66.0]
)
def test_powers(gamma):
    q = torch.linspace(-1, 1, 41, dtype=torch.float64)
    power = Power(gamma)
    more = [-q.abs().log() if power.needs_log else torch.empty_like(q)]
    found = power(q, torch.empty_like(q), more if power.needs_result else [])
    torch.testing.assert_close(found, q.abs() ** gamma, rtol=1e-13, atol=0)


def test_small_alpha_is_not_rounded_away():
    x = torch.tensor([0.7], requires_grad=True)
    for target, alpha in ((1.0, 1e-7), (0.0, 1 - 1e-7)):
        loss = BalancedCrossEntropy(alpha=alpha, reduction="sum")(x, torch.tensor([target]))
        sign = 2 * target - 1
        assert loss.item() == pytest.approx(1e-7 * math.log1p(math.exp(-sign * 0.7)), rel=1e-6)


def test_per_element_pass_extrapolates_without_checks():
    x, y = torch.tensor([0.5, 0.5]), torch.tensor([1.5, math.pi])
    losses = torch.empty(2)
    focal_pass(x, y, 2.0, None, None, checks=False, losses=losses)
    at = [closed_form.focal(x[:1], torch.tensor([t]), torch.tensor(2.0)).item() for t in (0.0, 1.0)]
    expected = [at[0] + t * (at[1] - at[0]) for t in (1.5, math.pi)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)
