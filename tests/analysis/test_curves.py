import time

import numpy as np
import pytest
from scipy.special import expit

from losslab.analysis import curves
from losslab.errors import BadInput


def test_loss_and_gradient_are_the_papers_formulas():
    x = np.linspace(-6, 6, 49)
    p = expit(x)
    loss, gradient = curves.loss_and_gradient("ce", x)
    np.testing.assert_allclose(loss, -np.log(p), rtol=1e-9)
    np.testing.assert_allclose(gradient, p - 1, rtol=1e-9)
    loss, gradient = curves.loss_and_gradient("focal", x, gamma=2.0)
    np.testing.assert_allclose(loss, -((1 - p) ** 2) * np.log(p), rtol=1e-9)
    np.testing.assert_allclose(gradient, (1 - p) ** 2 * (2 * p * np.log(p) + p - 1), rtol=1e-9)
    loss, gradient = curves.loss_and_gradient("focal_star", x, gamma=4.0, beta=0.0)
    np.testing.assert_allclose(loss, np.logaddexp(0, -4 * x) / 4, rtol=1e-9)
    np.testing.assert_allclose(gradient, -expit(-4 * x), rtol=1e-9)


def test_figure_1_claims_of_the_paper():
    # section 3.2: with gamma 2, p_t = .9 has 100 times lower loss than CE
    figure = curves.figure_1()
    lines = figure.axes[0].get_lines()
    assert len(lines) == 5
    ce = np.interp(0.9, *lines[0].get_data())
    focal = np.interp(0.9, *lines[3].get_data())
    assert ce / focal == pytest.approx(100, rel=1e-3)
    assert figure.axes[0].get_xlim() == (0, 1)
    assert figure.axes[0].get_ylim() == (0, 5)


def test_figures_5_and_6_axes():
    five, six = curves.figure_5().axes[0], curves.figure_6().axes[0]
    assert (five.get_xlim(), five.get_ylim()) == ((-5, 5), (0, 5))
    assert six.get_xlim() == (-10, 10)
    assert six.get_ylim()[0] == -1.2
    # FL with gamma 2 is the one whose gradient falls below -1
    lowest = [line.get_ydata().min() for line in six.get_lines()]
    assert [low < -1.05 for low in lowest] == [False, True, False, False]


def _naive(logits, targets, gamma):
    p_t = np.where(targets == 1, expit(logits), expit(-logits))
    loss = -((1 - p_t) ** gamma) * np.log(p_t)
    found = {}
    for name, value in (("foreground", 1), ("background", 0)):
        ordered = np.sort(loss[targets == value])
        found[name] = np.concatenate([[0], np.cumsum(ordered) / ordered.sum()])
    return found


def test_cumulative_loss_equals_a_naive_computation():
    rng = np.random.default_rng(0)
    targets = (rng.random(3000) < 0.1).astype(int)
    logits = rng.normal(-2 + 4 * targets, 2.0)
    found, claims = curves.cumulative_loss(logits, targets)
    for claim, gamma in zip(claims.itertuples(), (0, 0.5, 1, 2), strict=True):
        expected = _naive(logits, targets, gamma)
        for name, cumulative in expected.items():
            line = found[(found["set"] == name) & (found["gamma"] == gamma)]
            position = np.round(line["fraction"] * (len(cumulative) - 1)).astype(int)
            np.testing.assert_allclose(line["cumulative"], cumulative[position], atol=1e-9)
            assert line["fraction"].iloc[0] == 0
            assert line["fraction"].iloc[-1] == 1
            assert line["fraction"].is_monotonic_increasing
        positives = int(targets.sum())
        assert (claim.foreground, claim.background) == (positives, 3000 - positives)
        hardest = int(np.ceil(0.2 * positives))
        share = 1 - expected["foreground"][positives - hardest]
        assert claim.hardest_foreground_share == pytest.approx(share, abs=1e-9)
        # smallest k with at least 99 % of the loss in the k hardest
        carried = 1 - expected["background"][::-1]
        assert claim.background_99 == np.argmax(carried >= 0.99 - 1e-12)
        assert claim.background_99_fraction == claim.background_99 / claim.background


def test_forms_of_logits_agree_and_others_are_refused():
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(size=200), rng.integers(0, 2, 200)
    two = np.stack([0.3 - logits / 2, 0.3 + logits / 2], axis=1)
    expected = curves.cumulative_loss(logits, targets)[1]
    for given in (logits[:, None], two):
        found = curves.cumulative_loss(given, targets)[1]
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    with pytest.raises(BadInput, match="foreground with background"):
        curves.cumulative_loss(rng.normal(size=(200, 3)), targets)


def test_ignored_infinite_and_empty_sets():
    logits = np.array([1.0, np.nan, -1.0, 2.0])
    found, claims = curves.cumulative_loss(logits, np.array([0, 0, 0, -1]))
    assert (claims["background"] == 2).all()
    assert (claims["foreground"] == 0).all()
    assert claims["hardest_foreground_share"].isna().all()
    assert set(found["set"]) == {"background"}
    curves.figure_4(found, claims)
    nothing, claims = curves.cumulative_loss(np.empty(0), np.empty(0))
    assert nothing.empty
    curves.figure_4(nothing, claims)


def test_points_are_thinned():
    rng = np.random.default_rng(0)
    found, _ = curves.cumulative_loss(rng.normal(size=100_000), rng.integers(0, 2, 100_000))
    assert found.groupby(["set", "gamma"]).size().max() <= 410


@pytest.mark.slow
def test_ten_million_anchors_in_time():
    rng = np.random.default_rng(0)
    targets = (rng.random(10_000_000) < 0.01).astype(np.int64)
    logits = rng.normal(-6 + 5 * targets, 2).astype(np.float32)
    start = time.perf_counter()
    curves.cumulative_loss(logits, targets)
    assert time.perf_counter() - start < 60
