"""Temperature scaling: one number, fitted on validation, that logits are divided by.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. It
changes probabilities and leaves every ranking and every decision as it is.
"""

import numpy as np
from scipy.optimize import brentq

#: Temperatures that are tried; a fit that wants more, or less, ends at the limit.
LOWEST, HIGHEST = 0.01, 100.0


def fitted_temperature(targets: np.ndarray, scores: np.ndarray) -> float:
    """The T that minimises the mean log loss of sigmoid or softmax of `scores` / T.

    `targets` int (N,), `scores` (N,), the log odds of class 1, or (N, K). The log loss is convex in
    b = 1/T, and its derivative, the mean of E_p[score] - score of the target, is zero at the one
    minimum: found by Brent's method in log b to 1e-9. Where validation is told apart without a
    mistake the log loss falls for ever as T does, and T is `LOWEST`; where scores say nothing, or
    the opposite of the truth, it is `HIGHEST`. Scores that are equal throughout have T = 1.

    Raises `ValueError` where shapes do not fit, nothing is given, or a score is not finite.

    >>> round(fitted_temperature(np.array([1, 1, 1, 0]), np.full(4, 2 * np.log(3))), 6)
    2.0
    """
    values, targets = np.asarray(scores, dtype=np.float64), np.asarray(targets)
    if values.ndim not in (1, 2) or targets.shape != values.shape[:1] or not len(targets):
        raise ValueError(f"{targets.shape} targets do not fit scores of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite")
    slope = _slope_of_one(targets, values) if values.ndim == 1 else _slope(targets, values)
    low, high = -np.log(HIGHEST), -np.log(LOWEST)
    ends = slope(low), slope(high)
    if ends[0] == ends[1] == 0:
        return 1.0
    if ends[0] >= 0:
        return HIGHEST
    if ends[1] <= 0:
        return LOWEST
    return float(np.exp(-brentq(slope, low, high, xtol=1e-9, rtol=1e-9)))


def _slope_of_one(targets: np.ndarray, scores: np.ndarray):
    """Derivative of the log loss by 1/T, as a function of log 1/T; scores are log odds."""
    right = float(scores[targets == 1].sum())

    def slope(log_b: float) -> float:
        # tanh neither overflows nor needs two branches: p = (1 + tanh(z/2)) / 2
        p = 0.5 * (1 + np.tanh(0.5 * np.exp(log_b) * scores))
        return (float(p @ scores) - right) / len(scores)

    return slope


def _slope(targets: np.ndarray, scores: np.ndarray):
    """The same for softmax; a row's common shift changes nothing, and its maximum becomes zero."""
    scores = scores - scores.max(axis=1, keepdims=True)
    right = float(scores[np.arange(len(scores)), targets].sum())

    def slope(log_b: float) -> float:
        p = np.exp(np.exp(log_b) * scores)
        expected = np.einsum("nk,nk->n", p, scores) / p.sum(axis=1)
        return (float(expected.sum()) - right) / len(scores)

    return slope
