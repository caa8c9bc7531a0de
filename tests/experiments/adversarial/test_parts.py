"""Two networks in turns, against a loop written by hand with torch alone."""

import copy

import pytest
import torch
from torch.nn import functional as F

from losslab.errors import BadInput
from losslab.experiments.building import weights_digest
from losslab.experiments.config import load_study
from losslab.experiments.costs import training_costs
from losslab.experiments.preflight import first_job
from losslab.experiments.states import load_states, save_states
from losslab.experiments.training import advance, prepare, start


def study(**changes):
    return {
        "study": "game",
        "dataset": {"name": "modes", "modes": 4, "imbalance_ratio": 5, "examples": 256,
                    "validation_examples": 200, "test_examples": 300},
        "model": {"name": "gan", "noise": 3, "hidden": [16]},
        "training": {"epochs": 4, "batch_size": 64, "learning_rate": 0.01, "weight_decay": 0.1,
                     "generator_learning_rate": 0.002, "schedule": "constant"},
        "arms": ["non_saturating", "hinge"],
        "search": {"trials": 1, "select": {"best": 1, "seeds": 0}},
        "confirm": {"seeds": 2, "defaults": False},
        **changes,
    }  # fmt: skip


def job(**changes):
    loaded = load_study(study(**changes))
    return first_job(loaded, next(iter(loaded.arms.values())), "cpu")


def rated(parts, rate=0.01):
    """Parts whose learning rate is set, as the runner does before every step."""
    for group in parts.optimizer.param_groups:
        group["lr"] = rate
    return parts


def test_a_step_is_that_of_a_loop_by_hand():
    parts = rated(prepare(job()))
    g, d = copy.deepcopy(parts.model.generator), copy.deepcopy(parts.model.discriminator)
    options = {"betas": (0.5, 0.999), "weight_decay": 0.1}
    for_g = torch.optim.AdamW(g.parameters(), lr=0.002, **options)
    for_d = torch.optim.AdamW(d.parameters(), lr=0.01, **options)
    ones, zeros = torch.ones(64, 1), torch.zeros(64, 1)
    for number in range(3):
        batch = torch.arange(64) + 64 * number
        torch.manual_seed(number)
        rated(parts)
        told = parts.step(job(), batch, 0)
        torch.manual_seed(number)
        noise, real = torch.randn(64, 3), parts.data.train.features[batch]
        with torch.no_grad():
            fake = g(noise)
        loss = F.binary_cross_entropy_with_logits(d(real), ones)
        loss = loss + F.binary_cross_entropy_with_logits(d(fake), zeros)
        for_d.zero_grad()
        loss.backward()
        for_d.step()
        for_g.zero_grad()
        F.binary_cross_entropy_with_logits(d(g(noise)), ones).backward()
        for_g.step()
        assert told.item() == pytest.approx(loss.item(), rel=1e-6)
    for mine, theirs in ((parts.model.generator, g), (parts.model.discriminator, d)):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_the_joint_loss_gives_each_network_the_gradient_of_its_own_loss():
    parts = prepare(job())
    torch.manual_seed(0)
    parts.batch_loss(job(), torch.arange(64), 0).backward()
    torch.manual_seed(0)
    noise, real = torch.randn(64, 3), parts.data.train.features[:64]
    scores = parts.model(parts.model.generate(noise))
    for network, loss in (
        (parts.model.discriminator, parts.loss.discriminator(parts.model(real), scores)),
        (parts.model.generator, parts.loss.generator(scores)),
    ):
        wanted = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        for parameter, gradient in zip(network.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_resumes_to_the_same_bits(optimizer, tmp_path):
    training = {**study()["training"], "optimizer": optimizer, "clip_norm": 1.0}
    begun = start(job(training=training))
    whole = advance(begun, 4)
    half = advance(begun, 2)
    save_states(tmp_path / "half.pt", [half])
    ((loaded,), _) = load_states(tmp_path / "half.pt")
    rest = advance(loaded, 4)
    assert not whole.diverged
    assert [w.tobytes() for w in map(torch.Tensor.numpy, whole.model.values())] == [
        w.tobytes() for w in map(torch.Tensor.numpy, rest.model.values())
    ]
    assert set(whole.optimizer) == {"generator", "discriminator"}
    assert [row["val/mode_divergence"] for row in whole.history] == [
        row["val/mode_divergence"] for row in rest.history
    ]
    steps = whole.optimizer["generator"]["state"]
    assert steps
    assert begun.model["generator.0.weight"].ne(whole.model["generator.0.weight"]).any()


def test_the_generator_follows_its_own_rate_and_the_schedule():
    state = advance(start(job(training={**study()["training"], "schedule": "cosine"})), 1)
    rates = {name: state.optimizer[name]["param_groups"][0]["lr"] for name in state.optimizer}
    assert rates["generator"] / rates["discriminator"] == pytest.approx(0.2)
    assert state.history[0]["learning_rate"] == rates["discriminator"] < 0.01


def test_the_costs_are_those_of_both_networks():
    costs = training_costs(job())
    generator, discriminator = 3 * 16 + 16 + 16 * 2 + 2, 2 * 16 + 16 + 16 + 1
    assert costs["cost/parameters"] == generator + discriminator
    assert costs["cost/flops"] == 2 * (2 * 16 + 16)  # of one score
    assert costs["cost/peak_megabytes"] > 4 * 4 * (generator + discriminator) / 1e6


def test_arms_of_one_seed_begin_alike_and_see_the_same_noise():
    loaded = load_study(study())
    parts = [prepare(first_job(loaded, arm, "cpu")) for arm in loaded.arms.values()]
    assert len({weights_digest(each.model) for each in parts}) == 1
    made = [each.generated(first_job(loaded, arm, "cpu"), "test", 5)
            for each, arm in zip(parts, loaded.arms.values(), strict=True)]  # fmt: skip
    assert (made[0] == made[1]).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "mlp"}, "name: mlp is no pair of networks; write model: gan"),
        ({"model": {"name": "gan", "noise": 0}}, "noise: must be at least 1, got 0"),
        ({"model": {"name": "gan", "prior_init": True}}, "prior_init: a discriminator"),
    ],
)
def test_what_is_no_game_is_told(changes, told):
    with pytest.raises(BadInput) as error:
        prepare(job(**changes))
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arms": ["hing"]}, "arms.hing.loss.name: unknown adversarial loss 'hing'; did you mean"),
        ({"arms": {"a": {"loss": {"name": "hinge", "link": "sigmoid"}}}}, "loss.link: the losses"),
        ({"arms": {"a": {"loss": {"name": "hinge", "margin": 2}}}}, "loss.margin: unknown key"),
        ({"metrics": {"primary": "roc_auc"}}, "has no meaning where the task is adversarial"),
    ],
)
def test_mistakes_in_the_file_are_told(changes, told):
    with pytest.raises(BadInput) as error:
        load_study(study(**changes))
    assert told in str(error.value)


def test_the_plain_loss_is_the_standing_baseline():
    loaded = load_study(study(arms=["hinge"]))
    assert loaded.baseline == "non_saturating"
    assert loaded.arms["non_saturating"].implicit
