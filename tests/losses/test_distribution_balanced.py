"""Distribution-balanced loss against the authors' formulas in plain loops, and by hand."""

import math

import pytest
import torch
from torch.func import functional_call, vmap

from losslab.errors import BadInput
from losslab.losses.cross_entropy import CrossEntropy
from losslab.losses.distribution_balanced import DistributionBalanced

COUNTS = [400, 120, 30, 5, 0]
EXAMPLES = 1000
VOC = {"map_mu": 0.3, "neg_scale": 5.0}


def draw(seed=0, shape=(12, 5)):
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    y = (torch.rand(*shape, generator=generator) < 0.3).double()
    y[0] = 0  # an example without any label
    return x, y


def authors(x, y, counts, examples, values):
    """ResampleLoss of the authors (rebalance, focal, logit_reg), element by element.

    Without its constant factor 2, which is `balance_param`.
    """
    v = {k: h.default for k, h in DistributionBalanced.declared("sigmoid").items()} | values
    counts = [min(max(1, n), examples - 1) for n in counts]
    found = []
    for logits, labels in zip(x.tolist(), y.tolist(), strict=True):
        drawn = sum(label / n for label, n in zip(labels, counts, strict=True))
        row = []
        for logit, label, n in zip(logits, labels, counts, strict=True):
            ratio = (1 / n) / drawn if drawn else math.inf
            weight = v["map_alpha"] + 1 / (1 + math.exp(-v["map_beta"] * (ratio - v["map_mu"])))
            logit += -math.log(examples / n - 1) * v["kappa"] / v["neg_scale"]
            if label:
                p_t = 1 / (1 + math.exp(-logit))
            else:
                p_t = 1 / (1 + math.exp(logit * v["neg_scale"]))
                weight /= v["neg_scale"]
            row.append(weight * (1 - p_t) ** v["gamma"] * -math.log(p_t))
        found.append(row)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("values", [{}, VOC, {"kappa": 0.5, "gamma": 0.7, "map_alpha": 0.4}])
def test_against_the_authors_formula(values):
    x, y = draw(1)
    loss = DistributionBalanced(class_counts=COUNTS, examples=EXAMPLES, reduction="none", **values)
    expected = authors(x, y, COUNTS, EXAMPLES, values)
    torch.testing.assert_close(loss(x, y), expected, rtol=1e-9, atol=1e-14)
    loss.reduction = "mean"
    assert loss(x, y).item() == pytest.approx(expected.mean().item())
    # Without `examples`, as if each of them had one label.
    loss = DistributionBalanced(class_counts=COUNTS, reduction="none", **values)
    expected = authors(x, y, COUNTS, sum(COUNTS), values)
    torch.testing.assert_close(loss(x, y), expected, rtol=1e-9, atol=1e-14)


def test_by_hand():
    # Label counts 10 and 40 of 100; the example has both: r = (1/10) / (1/10 + 1/40) = .8 and .2.
    loss = DistributionBalanced(
        class_counts=[10, 40, 50], examples=100, kappa=0, gamma=0, reduction="none"
    )
    values = loss(torch.zeros(1, 3), torch.tensor([[1, 1, 0]]))[0] / math.log(2)
    weights = [0.1 + 1 / (1 + math.exp(-10 * (r - 0.2))) for r in (0.8, 0.2, 0.16)]
    assert weights[1] == 0.6
    assert values.tolist() == pytest.approx([weights[0], 0.6, weights[2] / 2], rel=1e-6)
    # The shift: log(10 / 90) times kappa / neg_scale = 1/2.
    loss = DistributionBalanced(
        class_counts=[10, 40, 50], examples=100, kappa=1, gamma=0, reduction="none"
    )
    value = loss(torch.zeros(1, 3), torch.tensor([[1, 0, 0]]))[0, 0].item()
    weight = 0.1 + 1 / (1 + math.exp(-8))
    assert value == pytest.approx(weight * math.log(1 + 3), rel=1e-6)


def test_a_label_of_every_example_or_of_none_has_finite_odds():
    loss = DistributionBalanced(
        class_counts=[100, 0, 50], examples=100, kappa=2, gamma=0, reduction="none"
    )
    values = loss(torch.zeros(1, 3), torch.ones(1, 3))[0] / loss.element_weights(torch.ones(1, 3))
    # n counts as 99 and as 1: odds of 99, 1/99 and 1.
    expected = [math.log(1 + 1 / 99), math.log(100), math.log(2)]
    assert values[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_an_example_without_labels_has_the_largest_weight():
    x, y = torch.zeros(2, 5, dtype=torch.float64), torch.zeros(2, 5)
    y[1, 0] = -100  # an ignored label counts as absent
    loss = DistributionBalanced(class_counts=COUNTS, kappa=0, gamma=0, reduction="none")
    found = loss(x, y) / (math.log(2) / 2)
    assert found[0].tolist() == pytest.approx([1.1] * 5)
    assert found[1].tolist() == pytest.approx([0, 1.1, 1.1, 1.1, 1.1])


def test_two_class_counts_are_one_label():
    loss = DistributionBalanced(class_counts=[90, 10], reduction="none")
    shift = 0.025 * math.log(10 / 90)
    for shape in ((6,), (3, 2), ()):
        x = torch.linspace(-2, 2, max(1, math.prod(shape)), dtype=torch.float64).reshape(shape)
        z = x + shift
        found = loss(x, torch.ones(shape))
        weight = 0.1 + 1 / (1 + math.exp(-8))  # r = 1
        torch.testing.assert_close(
            found, weight * torch.sigmoid(-z) ** 2 * -torch.sigmoid(z).log(), rtol=1e-10, atol=0
        )
        found = loss(x, torch.zeros(shape))
        off = torch.sigmoid(2 * z) ** 2 * -torch.sigmoid(-2 * z).log() / 2
        torch.testing.assert_close(found, 1.1 * off, rtol=1e-10, atol=0)


def test_labels_are_dimension_one():
    x, y = draw(2, (4, 5, 3))
    loss = DistributionBalanced(class_counts=COUNTS, reduction="none")
    flat = loss(x.movedim(1, -1).reshape(-1, 5), y.movedim(1, -1).reshape(-1, 5))
    torch.testing.assert_close(loss(x, y).movedim(1, -1).reshape(-1, 5), flat)


def test_without_all_its_parts_it_is_cross_entropy():
    x, y = draw(3)
    bare = {"map_alpha": 0.5, "map_beta": 0, "neg_scale": 1, "kappa": 0, "gamma": 0}
    found = DistributionBalanced(class_counts=COUNTS, reduction="none", **bare)(x, y)
    expected = CrossEntropy(reduction="none")(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_weight_sum_divides_by_the_weights():
    x, y = draw(4)
    y[2, 1] = -100
    weights = DistributionBalanced(
        class_counts=COUNTS, kappa=0, gamma=0, neg_scale=1, reduction="none"
    )(torch.zeros_like(x), y) / math.log(2)
    loss = DistributionBalanced(class_counts=COUNTS, reduction="weight_sum")
    found = loss(x, y).item()
    loss.reduction = "sum"
    assert found == pytest.approx(loss(x, y).item() / weights.sum().item())


def test_gradient_with_soft_targets_too():
    x, y = draw(5, (6, 5))
    y[1:3] = 0.3 + 0.4 * y[1:3]
    x.requires_grad_()
    for values in ({}, {"gamma": 0.5, "neg_scale": 7}):
        loss = DistributionBalanced(class_counts=COUNTS, **values)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, y), x)
        assert torch.autograd.gradgradcheck(lambda x, loss=loss: loss(x, y), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_at_the_corners_of_the_search_space(dtype):
    big = 1e4
    x = torch.tensor([[big, -big, 0, 30, -30]] * 3, dtype=dtype)
    y = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 1, 0]])
    spaces = DistributionBalanced.declared("sigmoid")
    for bits in range(2 ** len(spaces)):
        values = {
            k: (h.high if bits >> i & 1 else h.low) for i, (k, h) in enumerate(spaces.items())
        }
        loss = DistributionBalanced(class_counts=COUNTS, **values)
        logits = x.clone().requires_grad_()
        value = loss(logits, y)
        (slope,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert slope.isfinite().all()
        assert slope.dtype == dtype


def test_vmap_over_hyper_parameters_is_the_loop():
    spaces = DistributionBalanced.declared("sigmoid")
    losses = [
        DistributionBalanced(
            class_counts=COUNTS,
            examples=EXAMPLES,
            **{k: h.low + f * (h.high - h.low) for k, h in spaces.items()},
        )
        for f in (0.0, 0.4, 1.0)
    ]
    stack = {k: torch.stack([getattr(loss, k) for loss in losses]) for k in spaces}
    xs, ys = (torch.stack(parts) for parts in zip(*(draw(i) for i in range(3)), strict=True))
    ys[1, 3] = -100
    found = vmap(lambda state, x, y: functional_call(losses[0], state, (x, y)))(stack, xs, ys)
    expected = torch.stack([loss(x, y) for loss, x, y in zip(losses, xs, ys, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_compiles_fullgraph():
    torch._dynamo.reset()
    loss = DistributionBalanced(class_counts=COUNTS, examples=EXAMPLES)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*draw(7)), loss(*draw(7)), rtol=1e-12, atol=0)


def test_errors():
    with pytest.raises(BadInput, match="class_counts is missing"):
        DistributionBalanced()
    with pytest.raises(BadInput, match="class_counts is missing"):
        DistributionBalanced(examples=9)
    with pytest.raises(BadInput, match=r"examples=100, but a label has 400 of them"):
        DistributionBalanced(class_counts=COUNTS, examples=100)
    with pytest.raises(BadInput, match=r"examples must be a whole number >= 2, got 1000\.0"):
        DistributionBalanced(class_counts=COUNTS, examples=1000.0)
    with pytest.raises(BadInput, match="class_counts has 5 entries"):
        DistributionBalanced(class_counts=COUNTS)(torch.zeros(7), torch.zeros(7))
    assert "examples=1000" in repr(DistributionBalanced(class_counts=COUNTS, examples=1000))
