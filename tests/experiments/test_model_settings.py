"""Settings of any model, recorders, auxiliary heads and losses with parameters of their own."""

import pytest
import torch
import yaml
from torch import nn

from losslab.errors import BadInput
from losslab.experiments.config import load_study
from losslab.experiments.models.settings import SETTINGS
from losslab.experiments.recorders import RECORDERS
from losslab.experiments.stacking import plan_of
from losslab.experiments.states import Job
from losslab.experiments.tasks.base import WithAuxiliary
from losslab.experiments.training import advance, prepare, start

DATA = {"name": "clusters", "examples": 120, "validation_examples": 40, "test_examples": 40,
        "dimensions": 3, "imbalance_ratio": 4}  # fmt: skip
MODEL = {"name": "mlp", "hidden": [4]}


@pytest.fixture
def scaled():
    """A setting that scales inputs by a factor, and centres them where asked to."""

    @SETTINGS.register("scaled", "Scale what comes in.")
    def scaled(
        model: nn.Module, *, factor: float = 2.0, centred: bool = False, features: torch.Tensor
    ) -> nn.Module:
        if factor == 13:
            raise BadInput("factor: 13 brings bad luck")
        return nn.Sequential(Affine(factor, features.mean(0) if centred else 0), model)

    yield
    SETTINGS.unregister("scaled")


class Affine(nn.Module):
    def __init__(self, factor, centre):
        super().__init__()
        self.factor, self.centre = factor, centre

    def forward(self, features):
        return self.factor * (features - self.centre)


@pytest.fixture
def nosy():
    """A recorder that measures the norm of the weights, and leaves a mess."""

    @RECORDERS.register("nosy", "Whatever.")
    class Nosy:
        def __init__(self, parts, job):
            self.parts = parts

        def measure(self):
            torch.rand(3)
            self.parts.model.eval()
            outputs = self.parts.model(self.parts.data.train.features)
            outputs.sum().backward()
            weights = [p.detach().flatten() for p in self.parts.model.parameters()]
            return {"norm": float(torch.cat(weights).norm())}

    yield
    RECORDERS.unregister("nosy")


def study_of(model=None, training=None, arms=None):
    return load_study(
        {
            "dataset": DATA,
            "model": model if "name" in (model or {}) else {**MODEL, **(model or {})},
            "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, **(training or {})},
            "arms": arms or {"ce": {"loss": {"name": "ce"}}},
        }
    )


def job_of(study, arm="ce", **params):
    arm = study.arms[arm]
    return Job(arm.configure({**arm.defaults, **params}), 0, 3, ("log_loss",), maximize=False)


def test_a_new_setting_can_be_what_arms_differ_in(scaled):
    arms = {
        "ce": {},
        "small": {"model": {"scaled": 0.5}},
        "all": {"model": {"scaled": {"centred": True}}},
    }
    study = study_of(arms=arms)
    assert "scaled" not in study.arms["ce"].config["model"]
    assert study.arms["small"].config["model"]["scaled"] == {"factor": 0.5, "centred": False}
    plain, small, both = (prepare(job_of(study, arm)) for arm in arms)
    features = plain.data.train.features
    # The model behind the setting begins at the weights that it has without it.
    assert torch.equal(small.model(features), plain.model(0.5 * features))
    assert torch.equal(both.model(features), plain.model(2.0 * (features - features.mean(0))))


def test_a_setting_can_be_searched(scaled):
    study = study_of({"scaled": {"low": 0.1, "high": 10, "scale": "log"}})
    assert study.arms["ce"].defaults["model.scaled.factor"] == pytest.approx(1.0)
    job = job_of(study, **{"model.scaled.factor": 3.0})
    assert prepare(job).model[0].factor == 3.0
    study = study_of({"scaled": {"factor": {"choices": [1, 2]}}})
    assert study.arms["ce"].config["model"]["scaled"]["factor"] == 1


@pytest.mark.parametrize(
    ("model", "message"),
    [({"scaled": "big"}, "model.scaled.factor: must be a valid number"),
     ({"scaled": {"facto": 2}}, "model.scaled.facto: unknown key; did you mean 'factor'?"),
     ({"scale": 2}, "model.scale: unknown key"),
     ({"scaled": {"low": 0, "high": "x"}}, "model.scaled.high")],
)  # fmt: skip
def test_mistakes_in_settings_are_told(scaled, model, message):
    with pytest.raises(BadInput, match=message):
        study_of(model)


def test_a_setting_may_stand_in_a_module_beside_the_study_file(tmp_path):
    lines = [
        "def apply(model, *, factor: float = 2.0):",
        "    model.told = factor",
        "    return model",
    ]
    (tmp_path / "my_setting_of_mine.py").write_text("\n".join(lines))
    (tmp_path / "own.yaml").write_text(
        yaml.safe_dump(
            {"dataset": DATA, "model": {**MODEL, "my_setting_of_mine:apply": 0.5}, "arms": ["ce"]}
        )
    )
    study = load_study(tmp_path / "own.yaml")
    assert prepare(job_of(study)).model.told == 0.5


def test_keys_close_to_a_setting_or_unlike_any_are_told(scaled):
    with pytest.raises(BadInput, match=r"model.scald: unknown key; did you mean 'scaled'\?"):
        study_of({"scald": 2})
    with pytest.raises(BadInput, match=r"model.qqq: unknown key .known keys: hidden.* scaled"):
        study_of({"qqq": 2})


def test_a_single_recorder_needs_no_list(nosy):
    study = study_of(training={"record": "nosy"})
    assert study.arms["ce"].config["training"]["record"] == ["nosy"]


def test_a_setting_that_does_not_suit_is_told(scaled):
    with pytest.raises(BadInput, match="scaled: factor: 13 brings bad luck"):
        prepare(job_of(study_of({"scaled": 13})))


def test_recorders_measure_before_and_after_and_change_nothing(nosy):
    with_it, without = (
        advance(start(job_of(study_of(training=training))), 2)
        for training in ({"record": ["nosy"]}, {})
    )
    for name, weight in without.model.items():
        assert torch.equal(weight, with_it.model[name])
    first, second = with_it.history
    assert set(first) - set(second) == {"initial/nosy/norm"}
    begun = start(job_of(study_of())).model
    norm = torch.cat([weight.flatten() for weight in begun.values()]).norm()
    assert first["initial/nosy/norm"] == pytest.approx(float(norm))
    norm = torch.cat([weight.flatten() for weight in with_it.model.values()]).norm()
    assert second["record/nosy/norm"] == pytest.approx(float(norm))
    plan = plan_of(job_of(study_of(training={"record": ["nosy"]})), "auto", 1000)
    assert (plan.engine, plan.stack) == ("plain", 1)


def test_an_unknown_recorder_is_told():
    with pytest.raises(BadInput, match=r"training.record.0: unknown recorder 'gradient'"):
        study_of(training={"record": ["gradient"]})


class TwoHeads(nn.Module):
    """A model with an auxiliary head, which it has in training only."""

    def __init__(self, input_shape, outputs, weight: float = 0.4):
        super().__init__()
        self.weight = weight
        self.trunk = nn.Linear(input_shape[0], 5)
        self.heads = nn.ModuleList([nn.Linear(5, outputs) for _ in range(2)])

    def forward(self, features):
        main, auxiliary = (head(self.trunk(features)) for head in self.heads)
        return WithAuxiliary(main, auxiliary, self.weight) if self.training else main


def test_an_auxiliary_loss_is_weighed_and_added(monkeypatch):
    monkeypatch.setattr("losslab.experiments.models.mlp.TwoHeads", TwoHeads, raising=False)
    job = job_of(study_of({"name": "losslab.experiments.models.mlp:TwoHeads"}))
    parts = prepare(job)
    batch = torch.arange(16)
    parts.model.train()
    parts.batch_loss(job, batch, 0).backward()
    ours = [parameter.grad.clone() for parameter in parts.model.parameters()]
    parts.model.zero_grad()
    main, auxiliary, _ = parts.model(parts.data.train.features[batch])
    targets = parts.data.train.targets[batch].float()
    binary = nn.functional.binary_cross_entropy_with_logits
    (binary(main[:, 0], targets) + 0.4 * binary(auxiliary[:, 0], targets)).backward()
    for mine, parameter in zip(ours, parts.model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)
    assert isinstance(advance(start(job), 1).value, float)


class Weighed(nn.Module):
    """A loss with a parameter: Kendall et al.'s weight of a single task."""

    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(self, logits, targets):
        loss = nn.functional.binary_cross_entropy_with_logits(logits, targets)
        return loss * torch.exp(-self.log_variance) + self.log_variance


def test_parameters_of_a_loss_train_and_do_not_decay(monkeypatch):
    monkeypatch.setattr("losslab.losses.identity.Weighed", Weighed, raising=False)
    arms = {"weighed": {"loss": {"name": "losslab.losses.identity:Weighed"}}}
    study = study_of(arms=arms, training={"weight_decay": 0.1})
    job = job_of(study, "weighed")
    whole = advance(start(job), 2)
    weight = whole.loss["module.log_variance"]
    assert 1e-4 < abs(float(weight)) < 1
    halves = advance(advance(start(job), 1), 2)
    assert torch.equal(halves.loss["module.log_variance"], weight)
    groups = prepare(job).optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert plan_of(job, "auto", 1000).reason == "its loss has parameters that train"
