"""Equalized focal loss and EQLv2 against the authors' loops, with gradients by autograd."""

import pytest
import torch
from torch.func import functional_call, vmap

from losslab.errors import BadInput
from losslab.losses.cross_entropy import CrossEntropy
from losslab.losses.equalized import EQLv2, EqualizedFocal
from losslab.losses.focal import Focal

KINDS = (EqualizedFocal, EQLv2)
COUNTS = [60, 25, 10, 5]


def draw(seed=0, shape=(12, 4)):
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    often = torch.tensor([0.5, 0.3, 0.1, 0.0]).reshape(-1, *[1] * (len(shape) - 2))
    y = torch.rand(*shape, generator=generator) < (often if len(shape) > 1 else 0.2)
    return x, y.double()


def equalized_focal(x, y, quotient, gamma, s, alpha):
    """Li et al. 2022 in probabilities, for (N, K)."""
    p_t = torch.where(y > 0, torch.sigmoid(x), torch.sigmoid(-x))
    focusing = gamma + s * (1 - quotient.clamp(0, 1))
    weight = focusing / gamma * (alpha * y + (1 - alpha) * (1 - y))
    return -weight * (1 - p_t) ** focusing * p_t.log()


def eql_v2(x, y, quotient, gamma, mu, alpha):
    """Tan et al. 2021 in probabilities, for (N, K)."""
    negative = 1 / (1 + torch.exp(-gamma * (quotient - mu)))
    weight = y * (1 + alpha * (1 - negative)) + (1 - y) * negative
    p_t = torch.where(y > 0, torch.sigmoid(x), torch.sigmoid(-x))
    return -weight * p_t.log()


PLAIN = {EqualizedFocal: (equalized_focal, 1.0), EQLv2: (eql_v2, 100.0)}
VALUES = {
    EqualizedFocal: [{}, {"gamma": 1.0, "s": 3.0, "alpha": 0.7}],
    EQLv2: [{}, {"gamma": 5.0, "mu": 0.4, "alpha": 1.5}],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [0, 1])
def test_step_by_step_against_the_authors_algorithm(kind, case):
    plain, start = PLAIN[kind]
    values = {k: h.default for k, h in kind.declared("sigmoid").items()} | VALUES[kind][case]
    loss = kind(class_counts=COUNTS, reduction="none", **values)
    positive, negative = torch.zeros(2, 4, dtype=torch.float64)
    quotient = torch.full((4,), start, dtype=torch.float64)
    for step in range(4):
        x, y = draw(step)
        y[5, 2] = y[0, 0] = -100
        kept = y != -100
        logits = x.clone().requires_grad_()
        expected = torch.where(kept, plain(logits, y.clamp(min=0), quotient, **values), 0)
        torch.testing.assert_close(loss(x, y), expected.detach(), rtol=1e-9, atol=1e-13)
        # Then the gradients of this batch, positives and negatives apart, column by column.
        (slope,) = torch.autograd.grad(expected.sum(), logits)
        positive = positive + (slope.abs() * (y == 1)).sum(0)
        negative = negative + (slope.abs() * (y == 0)).sum(0)
        quotient = positive / negative
        torch.testing.assert_close(loss.positive_gradient, positive, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(loss.negative_gradient, negative, rtol=1e-9, atol=1e-13)
    assert quotient[3] == 0  # a column without positives
    assert len(set(loss.quotient.tolist())) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_more_dimensions_count_into_their_column(kind):
    one, two = (kind(class_counts=COUNTS, reduction="none") for _ in range(2))
    for seed in range(3):
        x, y = draw(seed, (3, 4, 2, 2))
        y[0, 1, 0] = -100
        flat = two(x.movedim(1, -1).reshape(-1, 4), y.movedim(1, -1).reshape(-1, 4))
        torch.testing.assert_close(one(x, y).movedim(1, -1).reshape(-1, 4), flat)
    torch.testing.assert_close(one.positive_gradient, two.positive_gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_two_class_counts_are_one_column_whatever_the_shape(kind):
    flat, shaped = (kind(class_counts=[90, 10], reduction="none") for _ in range(2))
    for seed in range(3):
        x, y = draw(seed)
        torch.testing.assert_close(shaped(x, y).reshape(-1), flat(x.reshape(-1), y.reshape(-1)))
    assert flat.quotient.shape == (1,)
    assert torch.equal(flat.negative_gradient, shaped.negative_gradient)
    assert shaped(x[0, 0], y[0, 0]).shape == ()


def test_the_first_batch_is_the_plain_loss():
    x, y = draw(1)
    focal = Focal(gamma=1.5, alpha=0.4)(x, y)
    found = EqualizedFocal(gamma=1.5, alpha=0.4, class_counts=COUNTS)(x, y)
    assert found.item() == pytest.approx(focal.item(), rel=1e-12)
    found = EQLv2(class_counts=COUNTS)(x, y)
    assert found.item() == pytest.approx(CrossEntropy()(x, y).item(), rel=1e-12)


def test_identities_hold_after_batches_too():
    focal = EqualizedFocal(s=0, gamma=1.5, class_counts=COUNTS)
    eql = EQLv2(mu=-100, class_counts=COUNTS)
    for seed in range(3):
        x, y = draw(seed)
        assert focal(x, y).item() == pytest.approx(Focal(gamma=1.5)(x, y).item(), rel=1e-12)
        assert eql(x, y).item() == pytest.approx(CrossEntropy()(x, y).item(), rel=1e-12)
    assert focal.quotient.min() < 1


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_leaves_the_state_and_a_restored_loss_goes_on(kind):
    loss = kind(class_counts=COUNTS)
    for seed in range(3):
        loss(*draw(seed))
    restored = kind(class_counts=COUNTS)
    restored.load_state_dict(loss.state_dict())
    x, y = draw(9)
    loss.eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(x, y)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    loss.train()
    for seed in (9, 10):
        x, y = draw(seed)
        assert restored(x, y).item() == loss(x, y).item() != kind(class_counts=COUNTS)(x, y).item()
    assert loss.half().quotient.dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_with_state_frozen(kind):
    x, y = draw(4, (5, 4))
    y[1, 1] = 0.3
    loss = kind(class_counts=COUNTS)
    for seed in range(2):
        loss(*draw(seed))
    loss.eval()
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, y), x)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, y), x)


@pytest.mark.parametrize("kind", KINDS)
def test_soft_targets_mix_both_losses_and_weight_sum_divides_by_the_weights(kind):
    x, _ = draw(5)
    y = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = kind(class_counts=COUNTS, reduction="none")
    for seed in range(2):
        loss(*draw(seed))
    loss.eval()
    mixture = y * loss(x, torch.ones_like(y)) + (1 - y) * loss(x, torch.zeros_like(y))
    torch.testing.assert_close(loss(x, y), mixture, rtol=1e-12, atol=0)
    total = loss(x, y).sum().item()
    loss.reduction = "weight_sum"
    if kind is EQLv2:
        # Weights by their definition, from the accumulated quotient.
        off = torch.sigmoid(12 * (loss.quotient - 0.8))
        weights = y * (1 + 4 * (1 - off)) + (1 - y) * off
    else:
        weights = (1 + 4 * (1 - loss.quotient.clamp(max=1))) * (0.25 * y + 0.75 * (1 - y))
    assert loss(x, y).item() == pytest.approx(total / weights.sum().item(), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_at_the_corners_of_the_search_space(kind, dtype):
    row = [1e4, -1e4, 0.0, 30.0]
    x = torch.tensor([row, row, row], dtype=dtype)
    y = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]])
    for corner in ("low", "high"):
        values = {name: getattr(h, corner) for name, h in kind.declared("sigmoid").items()}
        loss = kind(class_counts=COUNTS, **values)
        for _ in range(3):
            logits = x.clone().requires_grad_()
            value = loss(logits, y)
            (slope,) = torch.autograd.grad(value, logits)
            assert value.isfinite()
            assert slope.isfinite().all()
            assert slope.dtype == dtype
        assert all(state.isfinite().all() for state in loss.state_dict().values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [COUNTS, [3, 1]])
def test_vmap_over_hyper_parameters_and_state_is_the_loop(kind, counts):
    spaces = kind.declared("sigmoid")
    losses = [
        kind(class_counts=counts, **{k: h.low + f * (h.high - h.low) for k, h in spaces.items()})
        for f in (0.0, 0.5, 1.0)
    ]
    names = (*spaces, *losses[0].state_dict())
    stack = {k: torch.stack([getattr(loss, k) for loss in losses]) for k in names}
    template = kind(class_counts=counts)

    def call(state, x, y):
        return functional_call(template, state, (x, y))

    for step in range(4):
        batches = [draw(10 * step + i) for i in range(3)]
        batches[1][1][0, 0] = -100
        xs, ys = (torch.stack(parts) for parts in zip(*batches, strict=True))
        if step == 3:
            found = vmap(call, in_dims=(0, None, None))(stack, xs[0], ys[0])
            batches = [batches[0]] * 3
        else:
            found = vmap(call)(stack, xs, ys)
        for i, (loss, batch) in enumerate(zip(losses, batches, strict=True)):
            torch.testing.assert_close(found[i], loss(*batch), rtol=1e-11, atol=1e-14)
            for name, state in loss.state_dict().items():
                torch.testing.assert_close(stack[name][i], state, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_fullgraph(kind):
    torch._dynamo.reset()
    loss, other = kind(class_counts=COUNTS), kind(class_counts=COUNTS)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for seed in range(3):
        torch.testing.assert_close(compiled(*draw(seed)), other(*draw(seed)), rtol=1e-9, atol=0)
    torch.testing.assert_close(loss.quotient, other.quotient)


def test_errors():
    for kind in KINDS:
        with pytest.raises(BadInput, match="class_counts is missing"):
            kind()
        with pytest.raises(BadInput, match="unknown link 'softmax'"):
            kind(link="softmax", class_counts=COUNTS)
    with pytest.raises(BadInput, match="gamma must be at least"):
        EqualizedFocal(gamma=0, class_counts=COUNTS)
    with pytest.raises(BadInput, match="class_counts has 4 entries"):
        EQLv2(class_counts=COUNTS)(torch.zeros(3, 5), torch.zeros(3, 5))
