"""Hard example mining against plain Python loops and the rules of mmdet and mmseg."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, vmap

from losslab.errors import BadInput
from losslab.losses.cross_entropy import CrossEntropy
from losslab.losses.mining import OHEM, OHEMRatio, OHEMThreshold

KINDS = (OHEM, OHEMRatio, OHEMThreshold)


def draw(link, seed=0, shape=(6, 5), positives=0.3):
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    if link == "sigmoid":
        return x, (torch.rand(*shape, generator=generator) < positives).double()
    n, _, *rest = shape
    y = torch.randint(shape[1], (n, *rest), generator=generator)
    return x, torch.where(torch.rand(y.shape, generator=generator) < positives, y, 0)


def images(values, per_image):
    """Lists of (place, value, ...) to select from."""
    rows = values if per_image else values.reshape(1, -1)
    return [list(enumerate(row.reshape(-1).tolist())) for row in rows]


def hardest(entries, number):
    return {place for place, _ in sorted(entries, key=lambda e: (-e[1], e[0]))[:number]}


def selection(loss, values, targets, ignored, rule):
    """Which elements are kept, by a loop over images; `rule` gets entries and positives."""
    mask = np.zeros(values.numel(), dtype=bool)
    flat_y, flat_gone = targets.reshape(-1), ignored.reshape(-1)
    offset = 0
    for entries in images(values, loss.per_image):
        valid = [(offset + place, value) for place, value in entries]
        offset += len(entries)
        valid = [entry for entry in valid if not flat_gone[entry[0]]]
        positives = {place for place, _ in valid if flat_y[place] > 0}
        for place in rule(valid, positives) if valid else ():
            mask[place] = True
    return torch.from_numpy(mask).reshape(values.shape)


def rounded(number):
    return int(np.rint(number))


RULES = {
    OHEM: lambda loss: (
        lambda valid, _: hardest(valid, max(1, rounded(loss.keep.item() * len(valid))))
    ),
    OHEMRatio: lambda loss: (
        lambda valid, positives: (
            positives
            | hardest(
                [e for e in valid if e[0] not in positives],
                rounded(loss.negatives_per_positive.item() * max(1, len(positives))),
            )
        )
    ),
    OHEMThreshold: lambda loss: (
        lambda valid, _: (
            {place for place, value in valid if math.exp(-value) < loss.threshold.item()}
            | hardest(valid, max(1, rounded(loss.min_kept.item() * len(valid))))
        )
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
@pytest.mark.parametrize("per_image", [False, True])
def test_against_a_loop(kind, link, per_image):
    kept_numbers = set()
    for seed in range(4):
        x, y = draw(link, seed, (5, 4, 3), positives=(0.3, 0.05, 0.0, 0.9)[seed])
        y[0, 1], y[3, 0] = -100, -100
        for fraction in (0.0, 0.3, 1.0):
            values = {
                name: h.low + fraction * (h.high - h.low) for name, h in kind.declared(link).items()
            }
            loss = kind(link=link, per_image=per_image, reduction="none", **values)
            unreduced = CrossEntropy(link=link, reduction="none")(x, y)
            expected = selection(loss, unreduced, y, y == -100, RULES[kind](loss))
            found = loss(x, y)
            torch.testing.assert_close(found, torch.where(expected, unreduced, 0.0))
            number = int(expected.sum())
            kept_numbers.add(number)
            loss.reduction = "mean"
            assert loss(x, y).item() == pytest.approx(unreduced[expected].sum().item() / number)
            loss.reduction = "positives"
            positives = max(1, int((expected & (y > 0)).sum()))
            assert loss(x, y).item() == pytest.approx(unreduced[expected].sum().item() / positives)
    assert len(kept_numbers) > 1  # the cases differ


def test_the_ratio_is_that_of_ssd_where_every_image_has_a_positive():
    # mmdet's SSD head: per image all positives and the top 3 P of the negatives, over the positives
    # of the batch.
    x, y = draw("softmax", 3, (4, 6, 30), positives=0.12)
    y[:, 0] = 2
    expected, positives = 0.0, int((y > 0).sum())
    for logits, labels in zip(x, y, strict=True):
        each = -torch.log_softmax(logits, 0).gather(0, labels[None])[0]
        number = min(3 * int((labels > 0).sum()), int((labels == 0).sum()))
        negatives = each[labels == 0].topk(number).values
        expected += (each[labels > 0].sum() + negatives.sum()).item()
    loss = OHEMRatio(link="softmax", per_image=True, reduction="positives")
    assert loss(x, y).item() == pytest.approx(expected / positives, rel=1e-12)


@pytest.mark.parametrize("min_kept", [0.1, 0.6])
def test_the_threshold_is_that_of_mmseg(min_kept):
    x, y = draw("softmax", 4, (2, 5, 8, 8))
    y[0, 2] = 255
    loss = OHEMThreshold(link="softmax", min_kept=min_kept, ignore_index=255, reduction="none")
    # OHEMPixelSampler: sorted p_t of the valid pixels, the larger of its k-th entry and 0.7.
    p_t = torch.softmax(x, 1).gather(1, torch.where(y == 255, 0, y)[:, None])[:, 0]
    ordered = p_t[y != 255].sort().values
    bound = max(ordered[round(min_kept * len(ordered))].item(), 0.7)
    expected = (p_t < bound) & (y != 255)
    assert torch.equal(loss(x, y) != 0, expected)
    assert 0 < expected.sum() < len(ordered)


def test_ties_go_to_the_first_and_the_number_is_exact():
    x, y = torch.zeros(10), torch.zeros(10)
    y[7:9] = 1
    for loss, places in (
        (OHEM(keep=0.3), [0, 1, 2]),
        (OHEMRatio(negatives_per_positive=2), [0, 1, 2, 3, 7, 8]),
        (OHEMThreshold(threshold=0.5, min_kept=0.4), [0, 1, 2, 3]),  # p_t < .5 holds nowhere
    ):
        loss.reduction = "none"
        assert loss(x, y).nonzero()[:, 0].tolist() == places
    # Long enough for a sort that is not stable to show.
    x = torch.zeros(5000).index_fill(0, torch.arange(0, 5000, 7), -9.0)
    kept = OHEM(keep=0.3, reduction="none")(x, torch.zeros(5000)).nonzero()[:, 0]
    assert kept.tolist() == [i for i in range(5000) if i % 7][:1500]


def test_one_to_one_is_balanced_and_without_positives_there_are_still_negatives():
    x, y = draw("sigmoid", 5, (40, 3), positives=0.1)
    loss = OHEMRatio(negatives_per_positive=1, reduction="none")
    values = loss(x, y)
    assert (values[y == 0] != 0).sum() == (y == 1).sum() > 3
    assert (values[y == 1] != 0).all()
    for ratio, number in ((1, 1), (3, 3), (10, 10)):
        loss = OHEMRatio(negatives_per_positive=ratio, reduction="none")
        values = loss(x, 0 * y)
        assert (values != 0).sum() == number
        assert values.max() == torch.nn.functional.softplus(x).max()
    loss = OHEMRatio(per_image=True, reduction="none")
    assert (loss(x, 0 * y) != 0).sum(1).tolist() == [3] * 40
    assert (OHEMRatio(reduction="none")(x, 0 * y + 1) != 0).all()


@given(seed=st.integers(0, 999), keep=st.floats(0.05, 1), link=st.sampled_from(KINDS))
@settings(max_examples=25, deadline=None)
def test_selected_and_ignored_elements_do_not_mix(seed, keep, link):
    """Elements that are ignored take no place, whatever their logits."""
    x, y = draw("sigmoid", seed)
    loss = link(reduction="none", **({"keep": keep} if link is OHEM else {}))
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    gone[0, 0] = False
    some = loss(torch.where(gone, 1e4, x), torch.where(gone, -100, y))
    torch.testing.assert_close(some[~gone], loss(x[~gone], y[~gone]))
    assert not some[gone].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_keeping_all_is_cross_entropy(kind, link):
    x, y = draw(link, 6)
    values = {
        OHEM: {"keep": 1},
        OHEMRatio: {"negatives_per_positive": 1e9},
        OHEMThreshold: {"min_kept": 1, "threshold": 0.5},
    }[kind]
    weights = [0.5, 1, 2, 3, 4]
    results = []
    for loss in (
        kind(link=link, class_weights=weights, reduction="weight_sum", **values),
        CrossEntropy(link=link, class_weights=weights, reduction="weight_sum"),
    ):
        logits = x.clone().requires_grad_()
        value = loss(logits, y)
        results.append((value.item(), torch.autograd.grad(value, logits)[0].tolist()))
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", KINDS)
def test_selection_is_by_the_unweighted_loss(kind):
    x, y = draw("sigmoid", 7)
    plain = kind(reduction="none")(x, y)
    weighted = kind(reduction="none", class_weights=[100, 1, 1, 1, 1])(x, y)
    torch.testing.assert_close(weighted[:, 0], 100 * plain[:, 0])
    torch.testing.assert_close(weighted[:, 1:], plain[:, 1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_gradient(kind, link):
    x, y = draw(link, 8, (7, 4), positives=0.2)
    values = {OHEM: {}, OHEMRatio: {"negatives_per_positive": 1}, OHEMThreshold: {"threshold": 0.3}}
    x.requires_grad_()
    for reduction in ("mean", "sum"):
        loss = kind(link=link, reduction=reduction, **values[kind])
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, y), x)
        assert torch.autograd.gradgradcheck(lambda x, loss=loss: loss(x, y), x)
    loss.reduction = "none"
    found = loss(x, y)
    (slope,) = torch.autograd.grad(found.sum(), x)
    left_out = found == 0 if link == "sigmoid" else (found == 0)[:, None].expand_as(x)
    assert left_out.any()
    assert not slope[left_out].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_extreme_logits_at_the_corners_of_the_search_space(kind, dtype, link):
    x = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 0.0, 1e4], [1.0, 1.0, -1e4]], dtype=dtype)
    y = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]]) if link == "sigmoid" else [2, 0, 1]
    for corner in ("low", "high"):
        values = {name: getattr(h, corner) for name, h in kind.declared(link).items()}
        logits = x.clone().requires_grad_()
        value = kind(link=link, **values)(logits, torch.as_tensor(y))
        (slope,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert value > 1e3  # the hardest ones, at a loss of 1e4, are in
        assert slope.isfinite().all()
        assert slope.dtype == dtype


def test_a_loss_that_is_not_a_number_is_not_hidden():
    x, y = draw("sigmoid", 9)
    x[y == 0] = torch.where(torch.arange(int((y == 0).sum())) == 1, torch.nan, x[y == 0])
    for kind in KINDS:
        assert kind()(x, y).isnan()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_image", [False, True])
def test_vmap_over_hyper_parameters_and_batches_is_the_loop(kind, per_image):
    for link in ("sigmoid", "softmax"):
        spaces = kind.declared(link)
        losses = [
            kind(
                link=link,
                per_image=per_image,
                **{k: h.low + f * (h.high - h.low) for k, h in spaces.items()},
            )
            for f in (0.02, 0.3, 1.0)
        ]
        stack = {k: torch.stack([getattr(loss, k) for loss in losses]) for k in spaces}
        batches = [draw(link, 10 + i, (5, 4, 3)) for i in range(3)]
        xs, ys = (torch.stack(parts) for parts in zip(*batches, strict=True))
        xs[1, 2], ys[1, 2] = torch.nan, -100

        def call(values, x, y, loss=losses[0]):
            return functional_call(loss, values, (x, y))

        found = vmap(call)(stack, xs, ys)
        shared = vmap(call, in_dims=(0, None, None))(stack, xs[0], ys[0])
        for i, loss in enumerate(losses):
            torch.testing.assert_close(found[i], loss(xs[i], ys[i]), rtol=1e-12, atol=0)
            torch.testing.assert_close(shared[i], loss(xs[0], ys[0]), rtol=1e-12, atol=0)
        assert len(set(shared.tolist())) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_fullgraph(kind):
    x, y = draw("sigmoid", 11)
    y[1, 1] = -100
    loss = kind(per_image=True)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), loss(x, y), rtol=1e-12, atol=0)


def test_empty_and_wholly_ignored_batches_give_zero():
    for kind in KINDS:
        for per_image in (False, True):
            loss = kind(per_image=per_image)
            for x, y in (
                (torch.zeros(0, 3), torch.zeros(0, 3)),
                (torch.zeros(2, 3), torch.full((2, 3), -100)),
            ):
                x.requires_grad_()
                value = loss(x, y)
                value.backward()
                assert value.item() == 0
                assert not x.grad.any()


def test_errors():
    with pytest.raises(BadInput, match="per_image must be a bool, got 'yes'"):
        OHEM(per_image="yes")
    with pytest.raises(BadInput, match=r"more than one target per image.*\(3,\)"):
        OHEMRatio(per_image=True)(torch.zeros(3), torch.zeros(3))
    with pytest.raises(BadInput, match="more than one target per image"):
        OHEM(link="softmax", per_image=True)(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(BadInput, match=r"keep must be at most 1\.0"):
        OHEM(keep=2)
    assert repr(OHEM(per_image=True)) == (
        "OHEM(link='sigmoid', reduction='mean', per_image=True, keep=0.25)"
    )
