"""Temperature scaling against scikit-learn's logistic regression and a naive search."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from losslab import run_study
from losslab.experiments.calibration import HIGHEST, LOWEST, fitted_temperature


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
def test_binary_is_logistic_regression_without_intercept(scale):
    rng = np.random.default_rng(0)
    z = rng.normal(-1, 2, 400)
    y = (rng.random(400) < 1 / (1 + np.exp(-z))).astype(int)
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=1000)
    model.fit(scale * z[:, None], y)
    assert 1 / fitted_temperature(y, scale * z) == pytest.approx(model.coef_[0, 0], rel=1e-5)


@pytest.mark.parametrize("classes", [2, 5])
def test_softmax_minimises_sklearns_log_loss(classes):
    rng = np.random.default_rng(1)
    z = 4 * rng.normal(size=(300, classes))
    y = np.array([rng.choice(classes, p=np.exp(r / 4) / np.exp(r / 4).sum()) for r in z])

    def loss(log_t):
        p = np.exp((z - z.max(axis=1, keepdims=True)) / np.exp(log_t))
        return log_loss(y, p / p.sum(axis=1, keepdims=True), labels=range(classes))

    best = minimize_scalar(loss, bounds=(-3, 4), method="bounded", options={"xatol": 1e-8})
    found = fitted_temperature(y, z)
    assert found == pytest.approx(np.exp(best.x), rel=1e-4)
    assert 3 < found < 5
    # one column of differences is the same model
    if classes == 2:
        assert fitted_temperature(y, z[:, 1] - z[:, 0]) == pytest.approx(found, rel=1e-7)


def test_limits():
    z = np.array([-1.0, -2.0, 1.0, 3.0])
    assert fitted_temperature(np.array([0, 0, 1, 1]), z) == LOWEST
    assert fitted_temperature(np.array([1, 1, 0, 0]), z) == HIGHEST
    assert fitted_temperature(np.array([0, 1]), np.zeros(2)) == 1.0
    assert fitted_temperature(np.array([0, 1]), np.full((2, 3), 7.0)) == 1.0


def test_huge_logits_give_no_warning():
    z = np.array([1e4, -1e4, 1e4, 5e3])
    assert fitted_temperature(np.array([1, 0, 0, 1]), z) > 1
    assert fitted_temperature(np.array([1, 0, 0, 1]), np.stack([-z, z], axis=1)) > 1


@pytest.mark.parametrize(
    ("targets", "scores"),
    [([0, 1], [0.0]), ([], []), ([0, 1], [0.0, np.nan]), ([0], [[[0.0]]])],
)
def test_mistakes(targets, scores):
    with pytest.raises(ValueError, match=r"do not fit|finite"):
        fitted_temperature(np.array(targets), np.array(scores))


def test_confirmation_runs_record_it(tiny, tmp_path, no_report):
    tiny |= {"arms": ["ce"], "confirm": {"seeds": 1}}
    run_study(tiny, home=tmp_path, tracking_uri="none")
    place = tmp_path / "tiny" / "confirm" / "ce" / "selected-0000"
    metrics = json.loads(place.with_suffix(".json").read_text())["metrics"]
    arrays = np.load(place.with_suffix(".npz"))
    temperature = metrics["test_calibrated/temperature"]
    logits = arrays["test_logits"].astype(float) / temperature
    p = softmax(logits, axis=1) if logits.ndim == 2 else 1 / (1 + np.exp(-logits))
    found = metrics["test_calibrated/log_loss"]
    assert found == pytest.approx(log_loss(arrays["test_targets"], p), rel=1e-6)
    fitted = fitted_temperature(arrays["val_targets"], arrays["val_logits"])
    assert temperature == pytest.approx(fitted, rel=1e-5)
    recorded = {name for name in metrics if name.startswith("test_calibrated/")}
    kinds = {"log_loss", "brier", "ece", "temperature"}
    assert {name.partition("/")[2] for name in recorded} == kinds
