"""Studies of losses that need more than logits: schedules, heads, links, state, reductions."""

import pytest
import torch

from losslab.errors import BadInput
from losslab.experiments.config import load_study
from losslab.experiments.models.heads import CosineLinear
from losslab.experiments.models.mlp import build as build_mlp
from losslab.experiments.preflight import preflight
from losslab.experiments.states import Job
from losslab.experiments.training import advance, prepare, start
from losslab.losses import LOSSES
from losslab.losses.base import Loss


def job_of(study, arm):
    """The arm's defaults on one run seed."""
    resolved = load_study(study)
    chosen = resolved.arms[arm]
    return Job(chosen.configure(chosen.defaults), study_seed=0, run_seed=1)


class Recorder(Loss):
    """Notes what progress it is told, as a stranger's schedule would read it."""

    links = ("sigmoid",)
    seen: list[float] = []  # noqa: RUF012

    def elementwise(self, logits, targets):
        self.seen.append(self.progress.item())
        return torch.nn.functional.softplus(logits) - targets * logits


def test_progress_runs_from_0_to_1_and_goes_on_after_a_rung(tiny):
    LOSSES.register("recorder", "notes progress")(Recorder)
    try:
        tiny["arms"] = ["recorder"]
        job = job_of(tiny, "recorder")
        Recorder.seen.clear()
        state = advance(start(job), 1)
        first = list(Recorder.seen)
        advance(state, 4)
    finally:
        LOSSES.unregister("recorder")
    steps = len(Recorder.seen)
    assert steps == 4 * len(first)
    assert Recorder.seen == pytest.approx([step / steps for step in range(steps)], abs=1e-12)


def test_no_rung_before_the_last_change_of_a_schedule(tiny):
    tiny["training"]["epochs"] = 20
    tiny["search"]["rungs"] = [5, 10, 15, 18, 19]
    cosine = {"name": "mlp", "hidden": [4], "head": "cosine"}
    tiny["arms"] = {
        "ce": "ce",
        "searched": {"loss": "ldam", "model": cosine},
        "fixed": {"loss": {"name": "ldam", "drw_start": 0.6}, "model": cosine},
    }
    study = load_study(tiny)
    rungs = {name: study.rungs_of(arm) for name, arm in study.arms.items()}
    assert rungs == {"ce": [5, 10, 15, 18, 19], "searched": [18, 19], "fixed": [15, 18, 19]}


def test_deferred_weights_come_when_they_are_due():
    counts = [90, 10]
    loss = LOSSES.create("ldam", link="softmax", class_counts=counts, drw_start=0.5)
    z, t = torch.zeros(1, 2), torch.tensor([1])
    early = loss(z, t).item()
    loss.set_progress(0.49)
    assert loss(z, t).item() == early
    loss.set_progress(0.5)
    assert loss(z, t).item() > early  # the rare class weighs more than 1


def test_a_loss_of_cosines_asks_for_a_cosine_head(tiny):
    tiny["arms"] = ["ce", "ldam"]
    with pytest.raises(BadInput, match=r"arms\.ldam.*head: cosine.*got mlp with head linear"):
        load_study(tiny)
    tiny["model"]["head"] = "cosine"
    tiny["arms"] = ["ldam"]
    parts = prepare(job_of(tiny, "ldam"))
    assert isinstance(parts.model[-1], CosineLinear)
    tiny["model"]["prior_init"] = True
    with pytest.raises(BadInput, match="prior_init: needs a model whose last layer has a bias"):
        preflight(load_study(tiny), "cpu")


def test_cosines():
    torch.manual_seed(0)
    model = build_mlp((6,), 3, hidden=[], head="cosine").double()
    x = torch.randn(5, 6, dtype=torch.float64)
    expected = torch.nn.functional.cosine_similarity(x[:, None], model[-1].weight[None], dim=-1)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model(7 * x), expected)


def test_a_loss_brings_its_only_link(tiny):
    tiny["arms"] = ["ce", "seesaw"]
    study = load_study(tiny)
    links = {name: arm.config["loss"]["link"] for name, arm in study.arms.items()}
    assert links == {"ce": "sigmoid", "seesaw": "softmax"}


def test_regression_losses_are_refused_with_the_reason(tiny):
    tiny["arms"] = ["ce", "giou"]
    with pytest.raises(BadInput, match=r"arms\.giou.*compares predictions with numbers"):
        load_study(tiny)


def test_a_loss_without_the_tasks_reduction_takes_its_mean(tiny):
    sizes = {"train_images": 4, "validation_images": 4, "test_images": 4}
    tiny["dataset"] = {"name": "anchors", **sizes}
    tiny["arms"] = ["dice"]
    assert prepare(job_of(tiny, "dice")).loss.reduction == "mean"
    tiny["arms"] = ["ohem"]
    assert prepare(job_of(tiny, "ohem")).loss.reduction == "positives"


@pytest.mark.parametrize("name", ["ghm_c", "equalized_focal", "random_sampling", "seesaw"])
def test_state_goes_on_after_a_rung_with_the_same_bits(tiny, name):
    tiny["arms"] = [name]
    job = job_of(tiny, name)
    at_once = advance(start(job), 4)
    in_steps = advance(advance(start(job), 1), 4)
    assert at_once.loss.keys() == in_steps.loss.keys() != set()
    for key in at_once.loss:
        assert torch.equal(at_once.loss[key], in_steps.loss[key])
    for key in at_once.model:
        assert torch.equal(at_once.model[key], in_steps.model[key])


def test_every_loss_of_classes_trains_in_a_study(tiny):
    """One epoch of each on rows, with what its class says it needs."""
    tiny["training"]["epochs"] = 1
    names = [name for name in LOSSES.names() if "identity" not in LOSSES.get(name).links]
    heads = {name: LOSSES.get(name).head for name in names}
    tiny["arms"] = {
        name: {"loss": name, "model": {"name": "mlp", "hidden": [4], "head": heads[name]}}
        for name in names
    }
    study = load_study(tiny)
    reasons = {}
    for name in names:
        arm = study.arms[name]
        job = Job(arm.configure(arm.defaults), study_seed=0, run_seed=1)
        reasons[name] = advance(start(job), 1).diverged
    assert {name: reason for name, reason in reasons.items() if reason} == {}
    assert len(names) > 30
