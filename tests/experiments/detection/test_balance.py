"""Weights of a detector's two losses against their definitions, and the record of gradients."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from losslab.errors import BadInput
from losslab.experiments.config import load_study
from losslab.experiments.detection.balance import Fixed, GradNorm, Uncertainty, build_balance
from losslab.experiments.preflight import first_job
from losslab.experiments.recorders import RECORDERS
from losslab.experiments.training import advance, batches, prepare, start


def job(model="retinanet", **detector):
    loaded = load_study(
        {
            "study": "weights",
            "dataset": {"name": "scenes", "train_images": 12, "validation_images": 4,
                        "test_images": 4, "size": 64, "largest": 32, "objects_per_image": 3},
            "model": {"name": model, "width": 4, "channels": 8, "head_depth": 1,
                      "prior_init": 0.01},
            "training": {"epochs": 2, "batch_size": 4, "record": ["task_gradients"]},
            "arms": ["ce"],
            "detector": detector,
            "search": {"trials": 3, "select": {"best": 1}},
            "confirm": {"seeds": 1},
        }
    )  # fmt: skip
    return first_job(loaded, loaded.arms["ce"], "cpu")


def test_without_a_balance_both_losses_are_added():
    losses = torch.tensor([2.0, 3.0])
    assert Fixed()(losses) == 5
    assert isinstance(build_balance(None), Fixed)
    assert build_balance({"name": "gradnorm", "alpha": 0.5}).alpha == 0.5


@pytest.mark.parametrize("rate", [1.0, 7.0])
def test_uncertainty_is_equation_10_with_the_variances_as_logarithms(rate):
    losses = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    balance = Uncertainty(rate)
    with torch.no_grad():
        balance.parameter.copy_(torch.tensor([0.3, -0.2]) / rate)
    total = balance(losses)
    sigmas = [math.exp(s / 2) for s in (0.3, -0.2)]  # s is log sigma²
    expected = 2 / sigmas[0] ** 2 + 3 / (2 * sigmas[1] ** 2) + sum(math.log(s) for s in sigmas)
    assert total.item() == pytest.approx(expected, rel=1e-6)
    (slope,) = torch.autograd.grad(total, losses)
    assert_close(slope.float(), balance.weights)


def test_uncertainty_settles_where_both_weighted_losses_are_a_half():
    losses, balance = torch.tensor([0.02, 40.0]), Uncertainty()
    optimizer = torch.optim.LBFGS(balance.parameters(), line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        total = balance(losses)
        total.backward()
        return total

    for _ in range(5):
        optimizer.step(closure)
    assert_close(balance.parameter.detach(), torch.tensor([0.04, 40.0]).log(), atol=1e-3, rtol=0)
    assert_close(balance.weights * losses, torch.tensor([0.5, 0.5]), atol=1e-3, rtol=0)


def test_the_rate_is_how_many_times_as_fast_the_variances_learn_under_adam():
    balance = Uncertainty(rate=10)
    optimizer = torch.optim.Adam(balance.parameters(), lr=1e-3)
    balance(torch.tensor([2.0, 3.0])).backward()
    optimizer.step()
    moved = 10 * balance.parameter.detach()
    assert_close(moved.abs(), torch.full((2,), 1e-2), rtol=1e-4, atol=0)


def two_tasks():
    """A shared layer, and two losses of very different size over it."""
    torch.manual_seed(3)
    trunk, heads = nn.Linear(5, 4).double(), [nn.Linear(4, 1).double() for _ in range(2)]
    inputs, wanted = torch.randn(6, 8, 5).double(), torch.randn(6, 8, 2).double()

    def losses(step):
        hidden = torch.tanh(trunk(inputs[step]))
        return torch.stack(
            [
                scale * (head(hidden)[:, 0] - wanted[step, :, task]).pow(2).mean()
                for task, (head, scale) in enumerate(zip(heads, (1.0, 30.0), strict=True))
            ]
        )

    return trunk, losses


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_gradnorm_follows_the_gradient_of_its_loss(alpha):
    """Against the paper's algorithm with autograd through the gradient norms, and torch's Adam."""
    trunk, losses = two_tasks()
    balance = GradNorm(alpha, rate=0.025)
    weights = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer, first = torch.optim.Adam([weights], lr=0.025), losses(0).detach()
    for step in range(6):
        found = losses(step)
        norms = torch.stack(
            [
                torch.autograd.grad(w * loss, trunk.weight, create_graph=True)[0].norm()
                for w, loss in zip(weights, found, strict=True)
            ]
        )
        ratio = found.detach() / first
        target = (norms.mean() * (ratio / ratio.mean()) ** alpha).detach()
        (weights.grad,) = torch.autograd.grad((norms - target).abs().sum(), weights)
        total = balance(found)
        assert_close(total, (weights.detach() * found).sum())  # the weights before their step
        balance.adapt(found, [trunk.weight])
        total.backward()  # the graph is still there
        optimizer.step()
        with torch.no_grad():
            weights.mul_(2 / weights.sum())
        assert_close(balance.weights, weights.detach())
    assert balance.weights[0] > 1 > balance.weights[1]  # the larger loss is held back


def test_gradnorm_learns_nothing_of_a_batch_without_objects():
    trunk, losses = two_tasks()
    balance, found = GradNorm(), losses(0)
    before = {name: value.clone() for name, value in balance.state_dict().items()}
    balance.adapt(torch.stack([found[0], found[1] * 0]), [trunk.weight])
    balance.adapt(torch.stack([found[0], torch.zeros(())]), [trunk.weight])  # no graph at all
    assert all(torch.equal(value, before[name]) for name, value in balance.state_dict().items())


def test_gradnorm_brings_two_norms_together():
    trunk, losses = two_tasks()
    balance = GradNorm(alpha=0.0)
    for step in range(300):
        balance.adapt(losses(step % 6), [trunk.weight])
    norms = [
        torch.stack(
            [
                torch.autograd.grad(w * loss, trunk.weight, retain_graph=True)[0].norm()
                for w, loss in zip(balance.weights, losses(step), strict=True)
            ]
        )
        for step in range(6)
    ]
    shares = torch.stack([norm[1] / norm.sum() for norm in norms])
    assert abs(shares.mean() - 0.5) < 0.15
    trunk_only = torch.stack([g.norm() for g in (torch.autograd.grad(
        loss, trunk.weight, retain_graph=True)[0] for loss in losses(0))])  # fmt: skip
    assert trunk_only[1] / trunk_only.sum() > 0.8  # what it started from


@pytest.mark.parametrize("model", ["retinanet", "two_stage"])
def test_the_record_is_what_two_backward_passes_give(model):
    own = job(model, balance="uncertainty", box_weight=3)
    parts = prepare(own)
    told = RECORDERS.create("task_gradients", parts=parts, job=own).measure()
    parts = prepare(own)
    parts.model.train()
    parts.loss.train()
    # in two stages what both losses of the second stage reach: not the first stage's subnets
    shared = {
        name: p for name, p in parts.model.named_parameters()
        if "subnet" not in name and not name.startswith(("scores", "boxes"))
    }  # fmt: skip
    shares, cosines, losses = [], [], []
    for batch in batches(12, 4, own, 0):
        slopes = []
        for place, weight in ((1, 1.0), (2, 0.5)):  # uncertainty's, at the beginning
            parts.model.zero_grad()
            terms = parts.batch_terms(own, batch, 0)
            (weight * terms[place]).backward()
            slopes.append(
                torch.cat(
                    [
                        (torch.zeros_like(p) if p.grad is None else p.grad).flatten().double()
                        for p in shared.values()
                    ]
                )
            )
            losses.append(terms[place].item())
        norms = [slope.norm().item() for slope in slopes]
        shares.append(norms[1] / sum(norms))
        cosines.append((slopes[0] @ slopes[1]).item() / math.prod(norms))
    assert told["boxes_share"] == pytest.approx(sum(shares) / 3, rel=1e-4)
    assert told["cosine"] == pytest.approx(sum(cosines) / 3, abs=1e-5)
    assert told["classes_loss"] == pytest.approx(sum(losses[::2]) / 3, rel=1e-5)
    assert told["boxes_loss"] == pytest.approx(sum(losses[1::2]) / 3, rel=1e-5)
    assert (told["classes_weight"], told["boxes_weight"]) == (1, 0.5)
    assert 0 < told["boxes_share_last"] < 1


@pytest.mark.parametrize("name", ["uncertainty", "gradnorm"])
def test_a_training_with_learnt_weights_goes_on_with_the_same_bits(name):
    whole = advance(start(job(balance=name)), 2)
    halves = advance(advance(start(job(balance=name)), 1), 2)
    assert whole.history == halves.history
    for state in ("model", "loss"):
        for key, value in getattr(whole, state).items():
            assert torch.equal(value, getattr(halves, state)[key]), key
    first, last = (whole.history[0][f"{when}/task_gradients/boxes_weight"] for when in
                   ("initial", "record"))  # fmt: skip
    assert first == (0.5 if name == "uncertainty" else 1)
    assert last != first


def test_learnt_weights_do_not_decay():
    groups = prepare(job(balance="uncertainty")).optimizer.param_groups
    assert groups[0]["weight_decay"] > 0
    assert [p.shape for p in groups[1]["params"]] == [(2,)]
    assert groups[1]["weight_decay"] == 0


@pytest.mark.parametrize(
    ("balance", "told"),
    [
        ("gradnrom", "detector.balance.name: unknown balance 'gradnrom'; did you mean 'gradnorm'"),
        ({"name": "gradnorm", "alfa": 1}, "detector.balance.alfa: unknown key; did you mean"),
        ({"name": "gradnorm", "alpha": -1}, "detector.balance.alpha: must be greater than or"),
        ({"name": "uncertainty", "rate": {"low": 0.0, "high": 2.0}}, "detector.balance.rate: must"),
        (3, "detector.balance: give the name of a balance"),
    ],
)
def test_mistakes_are_told(balance, told):
    with pytest.raises(BadInput, match="detector") as error:
        job(balance=balance)
    assert told in str(error.value)


def test_only_detectors_have_two_losses_to_record():
    with pytest.raises(BadInput, match="two losses of a detector"):
        RECORDERS.create("task_gradients", parts=None, job=None)
