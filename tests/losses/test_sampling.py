"""Random sampling of negatives: counts, uniformity, independence, reproducibility."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.func import functional_call, vmap

from losslab.errors import BadInput
from losslab.losses.cross_entropy import CrossEntropy
from losslab.losses.sampling import RandomSampling, random_bits

POSITIVES, NEGATIVES = 4, 60


def batch():
    y = torch.zeros(POSITIVES + NEGATIVES)
    y[::16] = 1
    return torch.zeros_like(y), y


def drawn(loss, times):
    """Which negatives each of many draws keeps, (times, negatives)."""
    x, y = batch()
    return np.array([(loss(x, y)[y == 0] != 0).numpy() for _ in range(times)])


def test_all_positives_and_so_many_negatives():
    x, y = batch()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(x.shape, generator=generator)
    full = CrossEntropy(reduction="none")(x, y)
    for ratio, number in ((1, 4), (3, 12), (10, 40), (100, 60)):
        loss = RandomSampling(negatives_per_positive=ratio, reduction="none")
        values = loss(x, y)
        kept = values != 0
        assert kept[y == 1].all()
        assert kept[y == 0].sum() == number
        assert torch.equal(values[kept], full[kept])
        loss.reduction = "mean"
        loss.draws.fill_(0)
        assert loss(x, y).item() == pytest.approx(full[kept].sum().item() / (4 + number))
    loss = RandomSampling(negatives_per_positive=7, reduction="none")
    assert (loss(x, 0 * y) != 0).sum() == 7  # no positive: as with one


def test_ignored_elements_are_never_drawn():
    x, y = batch()
    y[5:50] = -100
    loss = RandomSampling(negatives_per_positive=3, reduction="none")
    for _ in range(20):
        kept = loss(x, y) != 0
        assert not kept[5:50].any()
        assert kept.sum() == (y == 1).sum() * 4


def test_every_image_by_itself():
    x, y = torch.zeros(30, 20), torch.zeros(30, 20)
    y[:10, :2] = 1
    loss = RandomSampling(negatives_per_positive=3, per_image=True, reduction="none")
    kept = loss(x, y) != 0
    assert kept.sum(1).tolist() == [8] * 10 + [3] * 20
    assert len({tuple(row.tolist()) for row in kept[10:]}) > 15  # images draw apart


@pytest.mark.parametrize("seed", [0, 2024])
def test_every_negative_is_drawn_equally_often(seed):
    times, number = 1000, 3 * POSITIVES
    counts = drawn(RandomSampling(seed=seed, reduction="none"), times).sum(0)
    expected = times * number / NEGATIVES
    # Without replacement the counts vary less than multinomial ones, by (n - m) / (n - 1).
    statistic = ((counts - expected) ** 2 / expected).sum()
    statistic *= (NEGATIVES - 1) / (NEGATIVES - number)
    assert 1e-3 < stats.chi2.sf(statistic, NEGATIVES - 1) < 1 - 1e-3


def test_draws_are_independent():
    times, number = 1000, 3 * POSITIVES
    kept = drawn(RandomSampling(reduction="none"), times)
    overlap = stats.hypergeom(NEGATIVES, number, number)
    for lag in (1, 2, 17):
        common = (kept[lag:] & kept[:-lag]).sum(1)
        seen = np.bincount(common.clip(max=6), minlength=7)
        expected = len(common) * np.append(overlap.pmf(np.arange(6)), overlap.sf(5))
        assert stats.chisquare(seen, expected).pvalue > 1e-3
    # Neighbours in the batch are drawn together as often as any two.
    together = (kept[:, 1:] & kept[:, :-1]).mean()
    chance = number * (number - 1) / (NEGATIVES * (NEGATIVES - 1))
    assert together == pytest.approx(chance, abs=4 * np.sqrt(chance / kept[:, 1:].size))


def test_seeds_draw_apart():
    one, other = (drawn(RandomSampling(seed=s, reduction="none"), 400) for s in (0, 1))
    assert (one & other).sum(1).mean() == pytest.approx(12 * 12 / NEGATIVES, abs=0.3)


def test_bits_are_those_of_splitmix64():
    def plain(start, place):
        z = (start + (place + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    # The published stream from 1234567.
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [plain(1234567, i) for i in range(5)] == published
    for start in (1234567, 0, -1, -(2**63), 2**63 - 1):
        bits = random_bits(torch.tensor(start), torch.arange(50))
        assert [b % 2**64 for b in bits.tolist()] == [plain(start % 2**64, i) for i in range(50)]


def test_bits_are_uniform():
    bits = random_bits(3, torch.arange(1 << 15))
    for shift in (0, 30, 56):
        byte = (bits >> shift) & 255
        assert stats.chisquare(np.bincount(byte.numpy(), minlength=256)).pvalue > 1e-3


def test_reproducible_without_touching_a_generator():
    before = torch.get_rng_state()
    first, second = (drawn(RandomSampling(seed=5, reduction="none"), 4) for _ in range(2))
    assert (first == second).all()
    assert len({row.tobytes() for row in first}) == 4
    assert torch.equal(torch.get_rng_state(), before)


def test_a_restored_loss_goes_on_as_it_would_have():
    x, y = batch()
    loss = RandomSampling(reduction="none")
    for _ in range(3):
        loss(x, y)
    restored = RandomSampling(reduction="none")
    restored.load_state_dict(loss.state_dict())
    assert restored.draws.item() == 3
    for _ in range(2):
        assert torch.equal(restored(x, y), loss(x, y))


def test_evaluation_draws_nothing_new():
    x, y = batch()
    loss = RandomSampling(reduction="none")
    trained = loss(x, y)
    loss.eval()
    assert torch.equal(loss(x, y), trained)
    assert loss.draws.item() == 1
    loss.train()
    assert not torch.equal(loss(x, y), trained)


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_gradient_of_the_last_draw(link):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(9, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.zeros(9, 3) if link == "sigmoid" else torch.zeros(9, dtype=torch.long)
    y[0] = 1
    loss = RandomSampling(link=link, negatives_per_positive=2).eval()
    assert torch.autograd.gradcheck(lambda x: loss(x, y), x)


def test_vmap_over_ratios_and_draws_is_the_loop():
    generator = torch.Generator().manual_seed(2)
    losses = [RandomSampling(negatives_per_positive=r, seed=9) for r in (1.0, 2.6, 7.0)]
    losses[2].draws.fill_(40)
    names = ("negatives_per_positive", "draws")
    stack = {k: torch.stack([getattr(loss, k) for loss in losses]) for k in names}
    template = RandomSampling(seed=9)
    for _ in range(3):
        x = torch.randn(3, 50, generator=generator, dtype=torch.float64)
        y = (torch.rand(3, 50, generator=generator) < 0.1).double()
        y[:, 4] = -100

        def call(state, x, y):
            return functional_call(template, state, (x, y))

        found = vmap(call)(stack, x, y)
        expected = torch.stack([loss(x[i], y[i]) for i, loss in enumerate(losses)])
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert stack["draws"].tolist() == [3, 3, 43]


def test_compiles_fullgraph_and_counts_its_draws():
    x, y = batch()
    x = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    torch._dynamo.reset()
    loss, other = RandomSampling(), RandomSampling()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        torch.testing.assert_close(compiled(x, y), other(x, y))
    assert loss.draws.item() == 3


def test_errors():
    with pytest.raises(BadInput, match="seed must be a whole number >= 0, got -1"):
        RandomSampling(seed=-1)
    assert RandomSampling(seed=2**64 + 3)(*batch()) == RandomSampling(seed=3)(*batch())
    assert "seed=7" in repr(RandomSampling(seed=7))
