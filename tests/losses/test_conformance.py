"""`losslab check`: good losses pass, and each broken one fails for the reason that it is broken."""

from pathlib import Path

import pytest
import torch

from losslab.cli import main
from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter
from losslab.losses.conformance import CHECKS, check_loss, check_subject
from losslab.losses.conformance.frozen import Tape
from losslab.losses.conformance.subject import between, subjects, values_of

# The compiler is slow and has tests of its own.
QUICK = ("torch.compile",)


@pytest.fixture(autouse=True)
def strangers(monkeypatch):
    """The broken losses can be imported, as a module in the working folder can."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def failed(path, leave_out=QUICK, **arguments):
    """Names of the checks that failed in the first case, with what they say."""
    first = subjects(path, **arguments)[0]
    return {o.check: o.detail for o in check_subject(first, leave_out).failures}


@pytest.mark.parametrize(
    "path",
    [
        "Good",
        "GoodModule",
        "GoodState",
        "GoodWeights",
        "GoodRunningMean",
        "GradientThroughWeights",
    ],
)
def test_good_losses_pass(path):
    assert failed(f"broken_losses:{path}", leave_out=()) == {}


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("torch.nn:BCEWithLogitsLoss", {}),
        ("torch.nn:CrossEntropyLoss", {}),
        ("kornia.losses:BinaryFocalLossWithLogits", {"alpha": 0.25}),
        ("kornia.losses:FocalLoss", {"alpha": 0.25}),
        ("kornia.losses:DiceLoss", {}),
        ("monai.losses:FocalLoss", {}),
        ("monai.losses:TverskyLoss", {"sigmoid": True}),
    ],
)
def test_well_kept_libraries_pass(path, arguments):
    assert failed(path, **arguments) == {}


@pytest.mark.parametrize(
    ("path", "check", "told"),
    [
        ("WrongGradient", "gradient against finite differences", "finite difference"),
        ("NaNForSmallGamma", "extreme logits", "gradient is nan at gamma=0.1"),
        ("NaNAtOneHalf", "extreme logits", "value is nan at gamma=0.5"),
        ("Inert", "every hyper-parameter has an effect", "delta is inert"),
        ("InertWhereDeclared", "every hyper-parameter has an effect", "delta is inert"),
        ("WrongMean", "reductions", "mean is"),
        ("MeanOverAllButOne", "reductions", "mean is"),
        ("ModuleWithAWrongMean", "reductions", "as the mean of reduction none"),
        ("MeanWithoutAName", "a batch twice", "neither a mean (1) nor a sum (2)"),
        ("InertModule", "every hyper-parameter has an effect", "alpha is inert"),
        ("StateInAnAttribute", "no gradient into weights and state", "backward"),
        ("StateInAFloat", "same call, same value", "no buffer of the state dict keeps state"),
        ("StateInTheClass", "instances apart", "another one was trained"),
        (
            "StateOutsideTheStateDict",
            "same call, same value",
            "no buffer of the state dict keeps state",
        ),
        ("StateLearnsFromValidation", "eval leaves the state", "changed running"),
        ("StateAssigned", "vmap against a loop", "state running"),
        ("GradientThroughTheState", "no gradient into weights and state", ""),
        ("LeaksGradMode", "grad mode", "turned grad mode on"),
        ("WritesOnItsLogits", "inputs untouched", "in place"),
        ("CountsByPosition", "order of examples", "in another order"),
        ("ClaimsAMixture", "soft targets are a mixture", "differs from the mixture"),
        ("BranchesOnAValue", "vmap against a loop", "raised"),
        ("FalseIdentity", "identities", "gamma 1 is cross-entropy: value off by"),
        ("ScalesItsSavedGradient", "backward twice, and scaled", "second gradient differs"),
        ("WrongSecondOrder", "second order", "has no graph"),
        ("NaNInAModule", "extreme logits", "nan at gamma=0.5"),
        ("HalfTheGradientOfASum", "gradient under each reduction", "reduction sum"),
        ("FlatFarOut", "gradient against finite differences", "finite difference"),
        ("Reseeds", "settings untouched", "torch's random generator"),
        ("NoGradient", "gradient against finite differences", "0 everywhere"),
    ],
)
def test_each_broken_loss_fails_for_its_reason(path, check, told):
    found = failed(f"broken_losses:{path}")
    assert check in found, found
    assert told in found[check]


def test_classes_and_positions_mixed_up_are_found():
    case = subjects("broken_losses:MixesClassesAndPositions")[1]
    assert case.layout == "(N, C, L)"
    found = {o.check: o.detail for o in check_subject(case, QUICK).failures}
    assert "as those of (N L, C)" in found["classes and positions apart"]


def test_what_the_compiler_gets_wrong_is_found():
    assert "compiled value is off" in failed("broken_losses:ScalarState", ())["torch.compile"]


def test_a_wrong_gradient_in_float32_alone_is_found(monkeypatch):
    from losslab.losses.cross_entropy import CrossEntropy

    def careless(self, logits, targets):
        return (1 + logits.exp()).log() - targets * logits  # loses all digits below -17 in float32

    monkeypatch.setattr(CrossEntropy, "elementwise", careless)
    monkeypatch.setattr(CrossEntropy, "fused", lambda self, x, y: None)
    assert "extreme logits" in failed("ce", link="sigmoid")


def test_half_precision_overflow_is_found(monkeypatch):
    from losslab.losses.focal import FocalStar

    monkeypatch.setattr(FocalStar, "upcasts", True)  # and so it computes in float16
    found = failed("focal_star")
    assert {"half precision", "extreme logits in float16"} & set(found)


def test_every_check_can_fail(tmp_path):
    """Checks without a broken loss above are shown to fail here, on one that breaks many rules."""
    (tmp_path / "wreck.py").write_text(
        "import torch\n"
        "from losslab.hyperparameters import Hyperparameter\n"
        "from losslab.losses.base import Loss\n"
        "class Wreck(Loss):\n"
        "    links = ('sigmoid',)\n"
        "    hyperparameters = {'k': Hyperparameter(0.5, low=0.0, high=1.0, meaning='')}\n"
        "    def forward(self, logits, targets):\n"
        "        if len(logits) < 2:\n"
        "            return (logits / 0).sum()\n"
        "        kept = targets != -100\n"
        "        share = targets.sum() / (targets.sum() - targets.numel())\n"
        "        weight = 1 if self.class_weights is None else 3\n"
        "        order = logits.cumsum(0) * share * weight * logits.is_contiguous()\n"
        "        return (order * kept).sum() + 1\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        found = failed("wreck:Wreck")
    for check in (
        "strided tensors",
        "ignoring is deleting",
        "empty batch",
        "one-sided batches",
        "one example",
        "class weights",
        "declared ranges",
        "half precision",
    ):
        assert check in found, (check, found)


def test_the_command(capsys):
    assert main(["check", "ce", "--link", "softmax"]) == 0
    told = capsys.readouterr().out
    assert "ce, softmax (N, C)" in told
    assert "gradient against finite differences" in told
    assert "all checks passed (2 cases)" in told
    assert main(["check", "broken_losses:Inert", "--failures"]) == 1
    told = capsys.readouterr().out
    assert "delta is inert: from 0 to 2 value and gradient change by" in told
    assert "2 checks failed" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["focl"], "did you mean 'focal'?"),
        (["focal", "--link", "logit"], "exists for sigmoid and softmax, got 'logit'"),
        (["kornia.losses:FocalLoss"], "--set NAME=VALUE"),
        (["focal", "--set", "gama=1"], "did you mean 'gamma'?"),
        (["focal", "--set", "gamma"], "expected NAME=VALUE"),
        (["torch.nn.functional:cross_entropy"], "wrap a function"),
        (["math:pi"], "float"),
        (["ce", "--set", "link=softmax"], "give the link by --link"),
    ],
)
def test_bad_input_is_told_without_a_traceback(arguments, told, capsys):
    assert main(["check", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_what_is_fixed_is_not_searched():
    assert {tuple(s.declared) for s in subjects("focal", "sigmoid", gamma=1)} == {("alpha",)}
    with pytest.raises(BadInput, match="exists for"):
        subjects("focal_star", "softmax")


def test_frozen_constants():  # the weight counts as 2 exp(x) of the recording run
    """With weights frozen, the slope of w(x) f(x) is w f', whatever w is."""
    x = torch.tensor([0.3, -1.2], dtype=torch.float64)

    def loss(x):
        with torch.no_grad():
            weight = x.exp() * 2
        return (weight * x.square() + x.detach() * x).sum()

    tape = Tape()
    with tape:
        loss(x)
    with tape:
        ahead = loss(x + 1e-6)
    with tape:
        behind = loss(x - 1e-6)
    expected = (2 * x.exp() * 2 * x + x).sum()
    assert ((ahead - behind) / 2e-6).item() == pytest.approx(expected.item(), rel=1e-8)


def test_values_of_a_range():
    entry = Hyperparameter(1.0, low=0.01, high=100.0, scale="log", meaning="")
    assert between(entry, 0.5) == pytest.approx(1.0)
    assert values_of(entry)[0] == pytest.approx(0.01)
    assert {0.5, 1.0, 2.0} <= set(values_of(entry))


def test_checks_leave_threads_and_generators_as_they_were():
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    check_loss("ce", "sigmoid", leave_out=QUICK)
    assert torch.rand(1) == expected
    assert torch.get_num_threads() == threads
    assert len(CHECKS) > 30
