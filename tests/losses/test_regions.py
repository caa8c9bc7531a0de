"""Losses over regions: which elements make a set, against plain Python loops over elements."""

import itertools
import math

import pytest
import torch
from torch.func import functional_call, grad, vmap

from losslab.errors import BadInput
from losslab.losses.dice import Dice, Jaccard
from losslab.losses.lovasz import Lovasz
from losslab.losses.regions import RegionLoss
from losslab.losses.tversky import FocalTversky, Tversky

IGNORED = -100


def sums(set_):
    """TP, FP, FN of a list of (logit, p, y, weight)."""
    return (
        sum(w * p * y for _, p, y, w in set_),
        sum(w * p * (1 - y) for _, p, y, w in set_),
        sum(w * (1 - p) * y for _, p, y, w in set_),
    )


def dice_1(set_, smooth):
    tp, fp, fn = sums(set_)
    return 1 - (2 * tp + smooth) / (2 * tp + fp + fn + smooth)


def dice_2(set_, smooth):
    product = sum(w * p * y for _, p, y, w in set_)
    squares = sum(w * (p * p + y * y) for _, p, y, w in set_)
    return 1 - (2 * product + smooth) / (squares + smooth)


def jaccard(set_, smooth):
    tp, fp, fn = sums(set_)
    return 1 - (tp + smooth) / (tp + fp + fn + smooth)


def tversky(set_, smooth, fn_weight=0.7):
    tp, fp, fn = sums(set_)
    return 1 - (tp + smooth) / (tp + (1 - fn_weight) * fp + fn_weight * fn + smooth)


def focal_tversky(set_, smooth):
    return tversky(set_, smooth, 0.6) ** 0.5


def lovasz(set_, error):
    """Sum of m_i (J_i - J_{i-1}), with every J_i counted afresh."""
    ordered = sorted(((error(*each), *each[2:]) for each in set_), reverse=True)
    everything = sum(w * y for _, y, w in ordered)
    total, before = 0.0, 0.0
    for i in range(1, len(ordered) + 1):
        wrong = ordered[:i]
        missed = sum(w * y for _, y, w in wrong)
        union = everything + sum(w * (1 - y) for _, y, w in wrong)
        after = 1 - (everything - missed) / union if union else 0.0
        total += ordered[i - 1][0] * (after - before)
        before = after
    return total


def hinge(x, p, y, w):
    return max(0.0, 1 - (2 * y - 1) * x)


def distance(x, p, y, w):
    return abs(y - p)


LOSSES = {
    "dice": (Dice, {"smooth": 0.1}, lambda link: lambda s: dice_2(s, 0.1)),
    "dice 1": (Dice, {"power": 1, "smooth": 0.1}, lambda link: lambda s: dice_1(s, 0.1)),
    "jaccard": (Jaccard, {"smooth": 0.1}, lambda link: lambda s: jaccard(s, 0.1)),
    "tversky": (Tversky, {"smooth": 0.1}, lambda link: lambda s: tversky(s, 0.1)),
    "focal tversky": (
        FocalTversky,
        {"smooth": 0.1, "fn_weight": 0.6, "exponent": 0.5},
        lambda link: lambda s: focal_tversky(s, 0.1),
    ),
    "lovasz": (
        Lovasz,
        {},
        lambda link: lambda s: lovasz(s, hinge if link == "sigmoid" else distance),
    ),
}
KINDS = list(itertools.product(["batch", "sample"], ["macro", "micro"], ["keep", "skip"]))


@pytest.fixture(params=LOSSES)
def kind(request):
    return LOSSES[request.param]


@pytest.fixture(params=["sigmoid", "softmax"])
def link(request):
    return request.param


@pytest.fixture
def images():
    """Logits (3, 4, 5, 2) and targets; class 3 nowhere, class 2 in the first image alone."""

    def draw(link, seed=0, ignored=True, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        x = (2 * torch.randn(3, 4, 5, 2, generator=generator, dtype=torch.float64)).to(dtype)
        if link == "sigmoid":
            t = (torch.rand(x.shape, generator=generator) < 0.3).to(dtype)
            t[1:, 2], t[:, 3] = 0, 0
        else:
            t = torch.randint(2, (3, 5, 2), generator=generator)
            t[0, 0, 0] = 2
        if ignored:
            t.view(-1)[torch.randperm(t.numel(), generator=generator)[: t.numel() // 5]] = IGNORED
        return x, t

    return draw


def naive(link, per, average, absent, x, t, value, weights):
    """Values of every set in order and whether it counts, by loops over (n, c, position)."""
    groups = {}
    n_examples, n_classes = x.shape[:2]
    x, t = x.flatten(2), t.flatten(2 if link == "sigmoid" else 1)
    for n, c in itertools.product(range(n_examples), range(n_classes)):
        key = (n if per == "sample" else 0, c if average == "macro" else 0)
        members = groups.setdefault(key, [])
        for m in range(x.shape[2]):
            target = t[n, c, m].item() if link == "sigmoid" else t[n, m].item()
            if target == IGNORED:
                continue
            column = [math.exp(v) for v in x[n, :, m].tolist()]
            if link == "sigmoid":
                p, y = 1 / (1 + math.exp(-x[n, c, m].item())), target
            else:
                p, y = column[c] / sum(column), float(target == c)
            weight = weights[c] if average == "micro" else 1.0
            members.append((x[n, c, m].item(), p, y, weight))
    values, counts = [], []
    for (_, c), members in groups.items():
        counted = bool(members) and (absent == "keep" or any(y > 0 for _, _, y, _ in members))
        factor = weights[c] if average == "macro" else 1.0
        values.append(factor * value(members) if counted else 0.0)
        counts.append(counted)
    return values, counts


@pytest.mark.parametrize(("per", "average", "absent"), KINDS, ids="-".join)
def test_every_kind_of_set_against_a_loop(kind, link, images, per, average, absent):
    cls, arguments, value_of = kind
    x, t = images(link)
    if per == "sample":
        t[2] = IGNORED  # an example of which nothing is left
    weights = [1.0, 2.0, 0.5, 3.0]
    options = {"per": per, "average": average, "absent": absent, "link": link, **arguments}
    expected, counted = naive(link, per, average, absent, x, t, value_of(link), weights)
    shape = {"batch": (), "sample": (3,)}[per] + {"macro": (4,), "micro": ()}[average]
    found = cls(reduction="none", class_weights=weights, **options)(x, t)
    assert found.shape == shape
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    total = cls(reduction="sum", class_weights=weights, **options)(x, t)
    assert total.item() == pytest.approx(sum(expected), rel=1e-9)
    mean = cls(class_weights=weights, **options)(x, t)
    assert mean.item() == pytest.approx(sum(expected) / sum(counted), rel=1e-9)


def test_defaults_by_link(link):
    loss = Dice(link=link)
    assert (loss.per, loss.absent) == ("batch", "keep")
    assert loss.average == {"sigmoid": "micro", "softmax": "macro"}[link]
    told = repr(loss)
    assert "power=2" in told
    assert f"average={loss.average!r}" in told


def test_one_dimension_is_one_class_and_no_dimension_one_element():
    x, y = torch.randn(9, dtype=torch.float64), torch.tensor([1, 0, 0, 1, 0, 0, 0, 1, 0])
    for cls in (Dice, Tversky, Lovasz):
        column = cls()(x[:, None], y[:, None])
        assert cls()(x, y).item() == column.item()
        assert cls(average="macro")(x, y).item() == column.item()
        assert cls(per="sample", reduction="none")(x, y).shape == (9,)
        assert cls()(x[0], y[0]).item() == cls()(x[:1], y[:1]).item()


def test_ignoring_is_deleting(kind, link, images):
    cls, arguments, _ = kind
    x, t = images(link, seed=4)
    if link == "sigmoid":  # whole positions, so that they can be deleted
        gone = t[:, :1] == IGNORED
        t = torch.where(gone, IGNORED, torch.where(t == IGNORED, 1, t))
        gone = gone[:, 0]
    else:
        gone = t == IGNORED
    assert gone.any()
    flat = x.movedim(1, -1)[~gone]
    left = t.movedim(1, -1)[~gone] if link == "sigmoid" else t[~gone]
    dirty = torch.where(gone.unsqueeze(1), torch.tensor(float("nan")).double(), x).requires_grad_()
    for average in ("macro", "micro"):
        loss = cls(link=link, average=average, **arguments)
        value = loss(dirty, t)
        assert value.item() == pytest.approx(loss(flat, left).item(), rel=1e-12)
        (slope,) = torch.autograd.grad(value, dirty)
        (expected,) = torch.autograd.grad(loss(flat.requires_grad_(), left), flat)
        torch.testing.assert_close(slope.movedim(1, -1)[~gone], expected, rtol=1e-9, atol=1e-14)
        assert (slope.movedim(1, -1)[gone] == 0).all()


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_gradients_against_finite_differences(kind, link, images, per):
    cls, arguments, _ = kind
    x, t = images(link)
    loss = cls(link=link, per=per, **arguments)
    x, t = x[:2, :, :2], t[:2, ..., :2, :]
    assert torch.autograd.gradcheck(lambda x: loss(x, t), x.requires_grad_())
    x, t = x[:1, :, :1].detach().requires_grad_(), t[:1, ..., :1, :]
    assert torch.autograd.gradgradcheck(lambda x: loss(x, t), x)


@pytest.mark.parametrize("name", ["dice", "dice 1", "jaccard", "tversky", "focal tversky"])
def test_vmap_over_hyper_parameters_is_the_loop(name, link, images):
    cls, arguments, _ = LOSSES[name]
    fixed = {key: value for key, value in arguments.items() if key in cls.structural}
    losses = []
    for i in range(3):
        spaces = cls.declared(link)
        values = {k: h.low + (h.high - h.low) * i / 2 for k, h in spaces.items()}
        losses.append(cls(link=link, **fixed, **values))
    stacked = {
        key: torch.stack([getattr(loss, key) for loss in losses])
        for key in losses[0].hyperparameter_values
    }
    xs, ts = (torch.stack(each) for each in zip(*(images(link, i) for i in range(3)), strict=True))

    def call(values, x, t):
        return functional_call(losses[0], values, (x, t))

    found = vmap(call)(stacked, xs, ts)
    slopes = vmap(grad(call, argnums=1))(stacked, xs, ts)
    for i, loss in enumerate(losses):
        x = xs[i].clone().requires_grad_()
        value = loss(x, ts[i])
        assert found[i].item() == pytest.approx(value.item(), rel=1e-12)
        (slope,) = torch.autograd.grad(value, x)
        torch.testing.assert_close(slopes[i], slope, rtol=1e-11, atol=1e-15)


def test_vmap_over_batches_of_a_loss_without_hyper_parameters(link, images):
    xs, ts = (torch.stack(each) for each in zip(*(images(link, i) for i in range(3)), strict=True))
    loss = Lovasz(link=link, per="sample")
    found = vmap(loss)(xs, ts)
    for i in range(3):
        assert found[i].item() == pytest.approx(loss(xs[i], ts[i]).item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("corner", [0, 1])
def test_extreme_logits(kind, link, dtype, corner):
    cls, arguments, _ = kind
    spaces = cls.declared(link)
    values = {k: (h.low, h.high)[corner] for k, h in spaces.items()}
    fixed = {key: value for key, value in arguments.items() if key in cls.structural}
    loss = cls(link=link, average="macro", **fixed, **values)
    target = torch.tensor([0, 1, 1, 0, 1])
    ladder = torch.tensor([1e4, 120.0, 60.0, 40.0, 17.0])
    for right in (True, False):
        signed = ladder * (2 * target - 1) * (1 if right else -1)
        if link == "sigmoid":
            x, t = signed[:, None], target[:, None]
        else:
            x, t = torch.stack([torch.zeros(5), signed], 1), target
        x = x.to(dtype).requires_grad_()
        value = loss(x, t)
        (slope,) = torch.autograd.grad(value, x)
        assert value.dtype == torch.float32
        assert slope.dtype == dtype
        assert slope.isfinite().all()
        if right:
            assert 0 <= value.item() < 1e-3
        elif cls is Lovasz and link == "sigmoid":
            assert 17 < value.item() < 1e4
        else:
            classes = [target.tolist(), (1 - target).tolist()][: 1 if link == "sigmoid" else 2]
            expected = [all_wrong(cls, values, sum(y), len(y) - sum(y)) for y in classes]
            assert value.item() == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def all_wrong(cls, values, positives, negatives):
    """1 - smooth / (weighted errors + smooth): no hits, everything else missed or an alarm."""
    if cls is Lovasz:
        return 1.0
    fn_weight = values.get("fn_weight")
    errors = positives + negatives
    if fn_weight is not None:
        errors = fn_weight * positives + (1 - fn_weight) * negatives
    return (errors / (errors + values["smooth"])) ** values.get("exponent", 1.0)


def test_infinite_logits_and_nan(kind, link):
    cls, arguments, _ = kind
    loss = cls(link=link, **arguments)
    inf = float("inf")
    rows = torch.tensor([[inf, 0.0], [0.0, -inf], [inf, -inf], [-inf, inf]], requires_grad=True)
    target = torch.tensor([0, 0, 0, 1])
    if link == "sigmoid":
        target = torch.stack([1 - target, target], 1)
    value = loss(rows, target)
    assert value.isfinite()
    assert torch.autograd.grad(value, rows)[0].isfinite().all()
    broken = rows.detach().clone()
    broken[1, 1] = float("nan")
    assert loss(broken, target).isnan()


def test_sums_are_not_in_half_precision(kind):
    # 2^18 elements at p = 1/2: the sum, 131072, is beyond float16, which ends at 65504.
    cls, arguments, _ = kind
    options = {key: value for key, value in arguments.items() if key != "smooth"}
    x = torch.zeros(1, 1, 512, 512, dtype=torch.float16, requires_grad=True)
    value = cls(**options)(x, torch.ones(1, 1, 512, 512, dtype=torch.float16))
    expected = {  # TP = FN = n/2, FP = 0
        Dice: 0.25 / 1.25 if arguments.get("power", 2) == 2 else 0.5 / 1.5,
        Jaccard: 0.5,
        Tversky: 0.35 / 0.85,
        FocalTversky: (0.3 / 0.8) ** 0.5,
        Lovasz: 1.0,
    }[cls]
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.grad(value, x)[0].isfinite().all()


def test_absent_classes_by_hand():
    # Two classes, all targets class 0, p = (3/4, 1/4) twice. Jaccard of class 0: 1.5 / 2; class 1
    # has no positive: smooth / (.5 + smooth).
    z = torch.tensor([[math.log(3.0), 0.0]] * 2, dtype=torch.float64)
    t = torch.zeros(2, dtype=torch.long)
    absent = 1 - 0.1 / 0.6
    kept = Jaccard(link="softmax", smooth=0.1, reduction="none")(z, t)
    assert kept.tolist() == pytest.approx([1 - 1.6 / 2.1, absent])
    assert Jaccard(link="softmax", smooth=0.1)(z, t).item() == pytest.approx(kept.mean().item())
    skipped = Jaccard(link="softmax", smooth=0.1, absent="skip")
    assert skipped(z, t).item() == pytest.approx(1 - 1.6 / 2.1)
    negatives = Jaccard(absent="skip")(torch.zeros(3, requires_grad=True), torch.zeros(3))
    assert negatives.item() == 0


def test_nothing_left_is_zero_with_gradient_zero(kind, link):
    cls, arguments, _ = kind
    for per, average in itertools.product(("batch", "sample"), ("macro", "micro")):
        loss = cls(link=link, per=per, average=average, **arguments)
        for x, t in (
            (torch.randn(3, 4, requires_grad=True), torch.full((3,), IGNORED)),
            (torch.randn(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.long)),
        ):
            t = t[:, None].expand(-1, 4) if link == "sigmoid" else t
            value = loss(x, t)
            assert value.item() == 0
            assert (torch.autograd.grad(value, x)[0] == 0).all()


def test_smooth_has_an_effect_at_both_ends_of_its_range(link, images):
    x, t = images(link)
    for cls in (Dice, Jaccard, Tversky, FocalTversky):
        low, default, high = (cls(link=link, smooth=s)(x, t).item() for s in (1e-6, 1e-5, 1.0))
        assert low > default > high
        assert low - high > 1e-2


def test_wrong_options_are_told():
    with pytest.raises(BadInput, match=r"unknown per 'image'.*batch, sample"):
        Dice(per="image")
    with pytest.raises(BadInput, match="unknown average 'weighted'"):
        Tversky(average="weighted")
    with pytest.raises(BadInput, match="unknown absent 'drop'"):
        Lovasz(absent="drop")
    with pytest.raises(BadInput, match="power must be 1 or 2, got 3"):
        Dice(power=3)
    with pytest.raises(BadInput, match=r"smooth must be at least 1e-08, got 0"):
        Jaccard(smooth=0)
    with pytest.raises(BadInput, match="unknown reduction 'positives'"):
        Dice(reduction="positives")
    with pytest.raises(NotImplementedError, match="does not define region"):
        RegionLoss()(torch.zeros(2), torch.zeros(2))


@pytest.mark.parametrize("name", ["focal tversky", "lovasz"])  # the longest path, and the sort
def test_compiles_fullgraph(name, link, images):
    cls, arguments, _ = LOSSES[name]
    loss = cls(link=link, **arguments)
    x, t = images(link, dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, t), loss(x, t), rtol=1e-5, atol=1e-7)
