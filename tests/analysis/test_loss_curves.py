"""Curves of losses against closed forms and naive computations."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import nn
from torch.nn import functional as F

from losslab.analysis import reference_batches as batches
from losslab.analysis.loss_curves import ANY, curves_of, loss_curves, points, settings
from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter
from losslab.losses.base import Loss

COLUMNS = ["name", "link", "hyperparameter", "value", "target", "margin", "p_t", "loss",
           "gradient", "weight"]  # fmt: skip


def _one(name, link=None, **fixed):
    (curves,) = curves_of(name, link, **fixed)
    return curves


def _close(found, expected, **tolerance):
    np.testing.assert_allclose(found, expected, **{"rtol": 1e-9, "atol": 1e-12, **tolerance})


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_cross_entropy(link):
    found = loss_curves("ce", link)
    assert list(found.columns) == COLUMNS
    assert set(found["target"]) == {ANY}
    m = found["margin"]
    assert (m.min(), m.max()) == (-6, 6)
    assert m.is_monotonic_increasing
    _close(found["p_t"], expit(m))
    _close(found["loss"], np.logaddexp(0, -m))
    _close(found["gradient"], -expit(-m))
    _close(found["weight"], 1)


def test_focal_is_alpha_t_times_the_papers_derivative():
    curves = _one("focal", "sigmoid")
    assert set(curves.frame["target"]) == {"positive", "negative"}
    assert curves.moving == {
        "gamma": ["positive", "negative"],
        "alpha": ["positive", "negative"],
    }
    assert curves.values("gamma") == [0, 1.25, 2, 3.75, 5]
    assert curves.values("alpha") == pytest.approx([0.05, 0.25, 0.5, 0.725, 0.95])
    for (name, value, target), rows in curves.frame.groupby(["hyperparameter", "value", "target"]):
        gamma, alpha = (value, 0.25) if name == "gamma" else (2.0, value)
        alpha_t = alpha if target == "positive" else 1 - alpha
        p, q = expit(rows["margin"]), expit(-rows["margin"])
        c = np.logaddexp(0, -rows["margin"])
        _close(rows["loss"], alpha_t * q**gamma * c, rtol=1e-8)
        _close(rows["gradient"], -alpha_t * q**gamma * (q + gamma * p * c), rtol=1e-8)
        _close(rows["weight"], alpha_t * q**gamma * (1 + gamma * p * c / q), rtol=1e-8)


def test_class_weights_of_a_softmax_show_rare_and_frequent_classes():
    rows = _one("balanced_ce", "softmax").of("a")
    rows = rows[(rows["value"] == 1.5) & (rows["margin"] == 0)].set_index("target")
    ratio = rows.loc["rare class", "weight"] / rows.loc["frequent class", "weight"]
    assert ratio == pytest.approx(12**1.5)  # 12,000 to 1,000


def test_logit_adjustment_shifts_the_margin_by_the_prior():
    curves = _one("logit_adjustment", "sigmoid")
    for target, sign in (("positive", 1), ("negative", -1)):
        rows = curves.line("tau", target, 2.5)
        shift = sign * 2.5 * np.log(1000 / 19000)
        _close(rows["gradient"], -expit(-(rows["margin"] + shift)))


def test_label_smoothing_pulls_back_what_is_too_sure():
    rows = _one("label_smoothing", "sigmoid").line("eps", ANY, 0.3)
    _close(rows["gradient"], -expit(-rows["margin"]) + 0.15)
    assert points(rows, "weight", [0.95], by="p_t") == pytest.approx(0.1 / 0.05)


def test_mining_has_a_threshold_that_the_batch_decides():
    curves = _one("ohem", "sigmoid")
    margins = np.sort(batches.binary_batch().margins.numpy())
    for keep in curves.values("keep"):
        rows = curves.line("keep", ANY, keep)
        hardest = margins[round(keep * len(margins)) - 1]
        _close(rows["weight"], rows["margin"] <= hardest)
        _close(rows["loss"], np.where(rows["weight"], np.logaddexp(0, -rows["margin"]), 0))


def test_harmonised_weights_are_one_over_the_density():
    curves = _one("ghm_c", "sigmoid")
    assert curves.moving == {}  # momentum: the batch is always the same
    batch = batches.binary_batch()
    bins = np.clip((expit(-batch.margins.numpy()) * 30).astype(int), 0, 29)
    beta = len(bins) / (30 * np.bincount(bins, minlength=30))
    rows = curves.line("momentum", ANY)
    place = (expit(-rows["margin"]) * 30).astype(int)
    _close(rows["weight"], beta[place])
    _close(rows["loss"], beta[place] * np.logaddexp(0, -rows["margin"]))


def test_state_is_warmed_up():
    # EQLv2: positives weigh 1 + alpha (1 - f), negatives f; f is 1 before any state
    curves = _one("eql_v2")
    for alpha in curves.values("alpha"):
        on, off = (
            points(curves.line("alpha", target, alpha), "weight", [0.3], by="p_t").item()
            for target in ("positive", "negative")
        )
        assert 0 < off < 0.99
        assert on == pytest.approx(1 + alpha * (1 - off))


def test_random_draws_are_averaged():
    curves = _one("random_sampling", "sigmoid")
    negative = curves.line("negatives_per_positive", "negative")
    np.testing.assert_allclose(negative["weight"], 3 / 19, atol=0.1)
    assert negative["weight"].mean() == pytest.approx(3 / 19, rel=0.1)
    _close(curves.line("negatives_per_positive", "positive")["weight"], 1)


def test_dice_is_the_derivative_of_its_fraction_by_one_element():
    curves = _one("dice", "sigmoid")
    batch = batches.binary_batch()
    y = batch.targets.numpy()
    p = expit(batch.margins.numpy() * (2 * y - 1))
    N, D = 2 * (p * y).sum(), (p * p).sum() + y.sum()
    for target, sign in (("positive", 1), ("negative", -1)):
        rows = curves.line("smooth", target)
        p = expit(sign * rows["margin"])
        slope = -2 * ((target == "positive") * D - N * p) / D**2
        _close(rows["gradient"], 20_000 * sign * slope * p * (1 - p), rtol=1e-4)
        # the loss shown is what the derivative adds up to
        ends = points(rows, "loss", [-4, 4])
        between = rows[rows["margin"].between(-4, 4)]
        area = np.trapezoid(between["gradient"], between["margin"])
        assert ends[0] - ends[1] == pytest.approx(-area, rel=1e-2)


def test_labels_that_see_their_row_are_given_rows():
    curves = _one("zlpr")
    batch = curves.batch
    assert batch.targets.shape == (5000, 5)
    assert batch.targets.mean() == pytest.approx(0.05)
    x = (batch.margins.reshape(5000, 5) * (2 * batch.targets - 1)).numpy()
    y = batch.targets.numpy()
    # log(1 + sum over false labels of exp(x)), of which e^x / (1 + sum) is the derivative
    size = np.exp(x) / (1 + (np.exp(x) * (1 - y)).sum(1, keepdims=True))
    mean = size[(y == 0) & (np.abs(x) < 0.24)].mean()
    found = points(curves.line("", "negative"), "gradient", [0.0])
    # 25,000 elements, and a mean over 5,000 rows
    assert -found == pytest.approx(5 * mean, rel=0.02)


def test_weights_of_rows_are_drawn_for_rare_and_frequent_labels():
    curves = _one("class_balanced_ce", "sigmoid")
    n = np.array([25.0, 750.0])
    for rate in curves.values("one_minus_beta"):
        effective = -np.expm1(n * np.log1p(-rate))
        found = [
            points(curves.line("one_minus_beta", target, rate), "weight", [0.5], by="p_t").item()
            for target in ("rare, positive", "frequent, positive", "frequent, negative")
        ]
        assert found[0] / found[1] == pytest.approx(effective[1] / effective[0])
        assert found[2] == found[0]  # all labels of a row have the weight of its true one
        for target in curves.targets:
            rows = curves.line("one_minus_beta", target, rate)
            _close(rows["loss"], rows["weight"] * np.logaddexp(0, -rows["margin"]))
    # the distribution-balanced loss weighs by column too: here 1 / 25 of 1 / 750, to none
    curves = _one("distribution_balanced")
    rare, frequent = (
        points(curves.line("gamma", f"{label}, negative", 0.0), "weight", [0.5], by="p_t").item()
        for label in ("rare", "frequent")
    )
    weight = lambda r: 0.1 + expit(10 * (r - 0.2))  # noqa: E731
    shifts = 0.05 / 2 * np.log(np.array([25, 750]) / (1250 - np.array([25, 750])))
    slope = 2 * expit(2 * shifts)  # over 1/2, that of cross-entropy at 0
    assert rare == pytest.approx(weight(30) * slope[0])
    assert frequent == pytest.approx(weight(1 / 30) * slope[1])


def test_a_regression_loss_is_drawn_against_the_error():
    curves = _one("smooth_l1")
    assert curves.frame["p_t"].isna().all()
    for beta in curves.values("beta"):
        rows = curves.line("beta", "error", beta)
        d = rows["margin"].abs()
        _close(rows["weight"], 1 / np.maximum(d, beta))
        _close(rows["loss"], np.where(d < beta, d * d / (2 * beta), d - beta / 2))


def test_a_box_loss_is_drawn_against_a_shift_and_a_width():
    curves = _one("giou")
    shifted, stretched = curves.line("", "shifted box"), curves.line("", "stretched box")
    s = shifted["margin"].abs()
    common = np.maximum(1 - s, 0)
    _close(shifted["loss"], 1 - common / (2 - common) + (1 + s - (2 - common)) / (1 + s))
    _close(stretched["loss"], 1 - 2.0 ** -stretched["margin"].abs())
    assert curves.frame["weight"].isna().all()


def test_cosines_are_drawn_at_their_scale():
    curves = _one("ldam")
    rows = curves.line("scale", "rare class")
    m = rows["margin"]
    assert (m.min(), m.max()) == (-1, 1)
    _close(rows["p_t"], expit(30 * m))
    weight = points(curves.line("one_minus_beta", "rare class"), "gradient", [-1.0]) / -30
    q = expit(-30 * (m - 0.5)) / expit(-30 * m)  # the rarest class has the margin .5
    _close(rows["weight"], weight * q, rtol=1e-6)


# Other people's modules -------------------------------------------------------------------------


class MeanOfBCE(nn.Module):
    def __init__(self, weight: float = 1.0):
        super().__init__()
        if weight > 1.5:
            raise ValueError("too heavy")
        self.weight = weight

    def forward(self, x, y):
        return self.weight * F.binary_cross_entropy_with_logits(x, y)


class SumOfBCE(nn.Module):
    def forward(self, x, y):
        return F.binary_cross_entropy_with_logits(x, y, reduction="sum")


class ImagesOnly(nn.Module):
    def forward(self, x, y):
        assert x.ndim == 4
        return F.cross_entropy(x, y)


class Overlap(nn.Module):
    def forward(self, x, y):
        p = torch.sigmoid(x)
        return 1 - 2 * (p * y).sum() / (p.sum() + y.sum())


def _path(kind):
    return f"{__name__}:{kind.__name__}"


@pytest.mark.parametrize("kind", [MeanOfBCE, SumOfBCE, ImagesOnly])
def test_a_module_with_one_value_for_the_batch(kind):
    curves = _one(_path(kind))
    assert set(curves.targets) == {ANY}
    name = "weight" if kind is MeanOfBCE else ""
    rows = curves.line(name, ANY)
    np.testing.assert_allclose(rows["gradient"], -expit(-rows["margin"]), rtol=1e-4)
    expected = np.logaddexp(0, -rows["margin"]) - np.logaddexp(0, -6)
    np.testing.assert_allclose(rows["loss"], expected, atol=2e-3)


def test_guessed_ranges_end_where_a_constructor_refuses():
    curves = _one(_path(MeanOfBCE))
    assert curves.values("weight") == [0.0, 0.25, 0.5, 0.75, 1.0]  # 2, its double, is refused
    np.testing.assert_allclose(curves.line("weight", ANY, 0.5)["weight"], 0.5, rtol=1e-4)


def test_a_module_whose_elements_see_each_other_is_given_a_batch():
    curves = _one(_path(Overlap))
    assert len(curves.batch.margins) == 20_000
    assert set(curves.targets) == {"positive", "negative"}
    assert "times the 20,000 elements" in curves.told


def test_torchs_own_losses():
    rows = loss_curves("torch.nn:BCEWithLogitsLoss")
    np.testing.assert_allclose(rows["loss"], np.logaddexp(0, -rows["margin"]), rtol=1e-5)
    assert set(rows["link"]) == {"sigmoid"}
    # which takes class probabilities too, but of one class they say nothing
    assert set(loss_curves("torch.nn:CrossEntropyLoss")["link"]) == {"softmax"}
    rows = loss_curves("torch.nn:SmoothL1Loss", "identity").query("value == 1")
    np.testing.assert_allclose(rows["weight"], 1 / np.maximum(rows["margin"].abs(), 1), rtol=1e-4)


def test_a_library_that_needs_an_argument():
    kornia = "kornia.losses:BinaryFocalLossWithLogits"
    with pytest.raises(BadInput, match="alpha"):
        loss_curves(kornia)
    theirs, ours = _one(kornia, alpha=0.25), _one("focal", "sigmoid")
    for target in ("positive", "negative"):
        for column in ("loss", "gradient"):
            a, b = (c.line("gamma", target)[column] for c in (theirs, ours))
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


class Unfinished(Loss):
    links = ("sigmoid",)


def test_what_cannot_be_evaluated_says_why():
    with pytest.raises(BadInput, match="does not define elementwise"):
        curves_of(_path(Unfinished))
    with pytest.raises(BadInput, match="did you mean 'focal'"):
        curves_of("focl")
    with pytest.raises(BadInput, match="exists for sigmoid and softmax"):
        curves_of("focal", "identity")


def test_nothing_is_left_behind():
    torch.manual_seed(3)
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    one, two = (loss_curves("random_sampling", "sigmoid") for _ in range(2))
    assert one.equals(two)
    assert torch.get_rng_state().equal(generator)
    assert torch.get_num_threads() == threads


def test_settings_are_quarters_of_the_range_on_its_scale():
    entry = Hyperparameter(2.0, low=0.01, high=100.0, meaning="", scale="log")
    assert settings(entry) == [0.01, 0.1, 2.0, 10.0, 100.0]  # 1 is too near 2
    outside = Hyperparameter(9.0, low=0.0, high=4.0, meaning="")
    assert settings(outside) == [0, 1, 2, 3, 4, 9]


def test_margins_of_the_reference_batch_are_the_told_quantiles():
    batch = batches.binary_batch()
    m, y = batch.margins.numpy(), batch.targets.numpy()
    assert (len(m), y.sum()) == (20_000, 1000)
    # 19/20 of normal(4, 1.5) + 1/20 of uniform(-7, 7) below 4: 19/40 + 11/280
    assert np.mean(m[y == 0] < 4) == pytest.approx(19 / 40 + 11 / 280, abs=1e-3)
    assert np.mean(m[y == 1] < 1.5) == pytest.approx(0.4 + 8.5 / 70, abs=1e-3)
    assert np.abs(m).max() > 6
