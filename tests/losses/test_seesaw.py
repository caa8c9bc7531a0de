"""Seesaw loss against a plain loop with counts, and its gradient with S held fixed."""

import math

import pytest
import torch
from torch.func import functional_call, vmap

from losslab.errors import BadInput
from losslab.losses.cross_entropy import CrossEntropy
from losslab.losses.seesaw import Seesaw

CLASSES = 4
COUNTS = [1] * CLASSES


def draw(seed=0, shape=(9, CLASSES)):
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    # Skewed: class 0 half of the time.
    t = torch.randint(-CLASSES, CLASSES, (shape[0], *shape[2:]), generator=generator).clamp(min=0)
    return z, t


def scales(z, t, seen, p, q):
    """S_tj of one example, by the paper's definition and the authors' clamps."""
    scores = [math.exp(v - max(z)) for v in z]
    scores = [v / sum(scores) for v in scores]
    found = []
    for j in range(len(z)):
        mitigation = min(1.0, max(1, seen[j]) / max(1, seen[t])) ** p
        compensation = max(1.0, scores[j] / max(scores[t], 0.01)) ** q
        found.append(1.0 if j == t else mitigation * compensation)
    return found


@pytest.mark.parametrize(("p", "q"), [(0.8, 2.0), (1.5, 0.0), (0.0, 4.0), (0.3, 0.5)])
def test_value_and_gradient_against_a_loop_over_batches(p, q):
    loss, seen = Seesaw(p=p, q=q, class_counts=COUNTS, reduction="none"), [0] * CLASSES
    for step in range(3):
        z, t = draw(step)
        t[4] = -100
        z[7] = torch.tensor([60.0, -60.0, 0.0, 1.0])  # P_t below 0.01
        t[7] = 1
        for target in t.tolist():
            if target >= 0:
                seen[target] += 1
        z.requires_grad_()
        values = loss(z, t)
        (slopes,) = torch.autograd.grad(values.sum(), z)
        for i, (row, target) in enumerate(zip(z.tolist(), t.tolist(), strict=True)):
            if target < 0:
                assert values[i] == 0
                assert not slopes[i].any()
                continue
            s = scales(row, target, seen, p, q)
            terms = [a * math.exp(b) for a, b in zip(s, row, strict=True)]
            share = [term / sum(terms) for term in terms]
            assert values[i].item() == pytest.approx(-math.log(share[target]), rel=1e-10, abs=1e-14)
            expected = [v - (j == target) for j, v in enumerate(share)]
            assert slopes[i].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert loss.seen.tolist() == seen


def test_against_the_form_of_mmdet():
    z, t = draw(5, (30, CLASSES))
    loss = Seesaw(class_counts=COUNTS)
    counts = torch.bincount(t, minlength=CLASSES).double()
    # Full ratio matrices, thresholded by masks.
    ratio = counts[None, :].clamp(min=1) / counts[:, None].clamp(min=1)
    mitigation = torch.where(ratio < 1, ratio.pow(0.8), 1.0)[t]
    score = torch.softmax(z, 1)
    relative = score / score.gather(1, t[:, None]).clamp(min=0.01)
    compensation = torch.where(relative > 1, relative.pow(2), 1.0)
    onehot = torch.nn.functional.one_hot(t, CLASSES)
    shifted = z + (mitigation * compensation).log() * (1 - onehot)
    expected = torch.nn.functional.cross_entropy(shifted, t)
    assert loss(z, t).item() == pytest.approx(expected.item(), rel=1e-12)


def test_by_hand():
    # 8 of class 0 and 1 of class 1: negatives of the rare class are scaled by (1/8)^(2/3) = 1/4.
    loss = Seesaw(p=2 / 3, class_counts=[1, 1], reduction="none")
    values = loss(torch.zeros(9, 2), torch.tensor([0] * 8 + [1])).exp()
    assert values.tolist() == pytest.approx([1.25] * 8 + [2.0], rel=1e-6)
    # P = (.2, .8), t = 0: compensation 4^.5 = 2, so 1 + 2 * 4 = 9.
    loss = Seesaw(p=0, q=0.5, class_counts=[1, 1])
    assert loss(torch.tensor([[0.0, math.log(4)]]), torch.tensor([0])).exp().item() == (
        pytest.approx(9.0, rel=1e-6)
    )


def test_more_dimensions_are_examples():
    z, t = draw(6, (3, CLASSES, 5, 2))
    t[0, 1] = -100
    one, two = (Seesaw(class_counts=COUNTS, reduction="none") for _ in range(2))
    flat = two(z.movedim(1, -1).reshape(-1, CLASSES), t.reshape(-1))
    torch.testing.assert_close(one(z, t).reshape(-1), flat)
    assert one.seen.sum() == (t >= 0).sum()
    assert torch.equal(one.seen, two.seen)


def test_without_factors_it_is_cross_entropy():
    z, t = draw(7)
    loss = Seesaw(p=0, q=0, class_counts=COUNTS)
    assert loss(z, t).item() == pytest.approx(CrossEntropy(link="softmax")(z, t).item(), rel=1e-14)


def test_gradient_with_state_frozen():
    z, t = draw(8, (5, CLASSES))
    loss = Seesaw(q=0, class_counts=COUNTS)  # with q the factor is detached: see the loop above
    loss(z, t)
    loss.eval()
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, t), z)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, t), z)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_at_the_corners_of_the_search_space(dtype):
    big = 1e4
    z = torch.tensor([[big, 0, -big, 1], [-big, big, 0, 0], [0, 0, 0, -big]], dtype=dtype)
    for p in (0.0, 1.5):
        for q in (0.0, 4.0):
            loss = Seesaw(p=p, q=q, class_counts=COUNTS, reduction="none")
            x = z.clone().requires_grad_()
            values = loss(x, torch.tensor([2, 1, 3]))
            (slopes,) = torch.autograd.grad(values.sum(), x)
            # The most that log S can add is q log 100 and, here, log 3.
            assert (values[[0, 2]] >= 0.99 * big).all()
            assert (values <= 2 * z[0, 0].float() + 6 * q + 2).all()
            assert values[1] == 0
            assert slopes.isfinite().all()
            assert slopes[0].tolist() == [1, 0, -1, 0]


def test_infinite_logits():
    z = torch.tensor([[float("-inf"), 0.0, 1.0, 0.0]], requires_grad=True)
    value = Seesaw(class_counts=COUNTS)(z, torch.tensor([1]))
    value.backward()
    assert value.isfinite()
    assert z.grad[0, 0] == 0


def test_evaluation_leaves_the_counts_and_a_restored_loss_goes_on():
    loss = Seesaw(class_counts=COUNTS)
    for seed in range(3):
        loss(*draw(seed))
    restored = Seesaw(class_counts=COUNTS)
    restored.load_state_dict(loss.state_dict())
    z, t = draw(9)
    loss.eval()
    before = loss.seen.clone()
    inside = loss(z, t)
    assert torch.equal(loss.seen, before)
    loss.train()
    assert loss(z, t).item() == restored(z, t).item() != inside.item()
    assert torch.equal(loss.seen, restored.seen)
    assert loss.half().seen.dtype == torch.int64


def test_vmap_over_hyper_parameters_and_state_is_the_loop():
    losses = [Seesaw(p=p, q=q, class_counts=COUNTS) for p, q in ((0, 4), (0.8, 2), (1.5, 0))]
    losses[1].seen.copy_(torch.tensor([100, 3, 9, 20]))
    stack = {k: torch.stack([getattr(loss, k) for loss in losses]) for k in ("p", "q", "seen")}
    template = Seesaw(class_counts=COUNTS)

    def call(state, z, t):
        return functional_call(template, state, (z, t))

    for step in range(3):
        batches = [draw(10 * step + i, (7, CLASSES, 2)) for i in range(3)]
        batches[2][1][0] = -100
        zs, ts = (torch.stack(parts) for parts in zip(*batches, strict=True))
        if step == 2:
            found = vmap(call, in_dims=(0, None, None))(stack, zs[0], ts[0])
            batches = [batches[0]] * 3
        else:
            found = vmap(call)(stack, zs, ts)
        for i, (loss, batch) in enumerate(zip(losses, batches, strict=True)):
            torch.testing.assert_close(found[i], loss(*batch), rtol=1e-12, atol=0)
            assert torch.equal(stack["seen"][i], loss.seen)


def test_compiles_fullgraph():
    torch._dynamo.reset()
    loss, other = Seesaw(class_counts=COUNTS), Seesaw(class_counts=COUNTS)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        torch.testing.assert_close(compiled(*draw(seed)), other(*draw(seed)), rtol=1e-12, atol=0)
    assert torch.equal(loss.seen, other.seen)


def test_errors():
    with pytest.raises(BadInput, match="class_counts is missing"):
        Seesaw()
    with pytest.raises(BadInput, match="unknown link 'sigmoid'"):
        Seesaw(link="sigmoid", class_counts=COUNTS)
    with pytest.raises(BadInput, match=r"p must be at least 0\.0"):
        Seesaw(p=-1, class_counts=COUNTS)
