"""From logits to predicted classes: at the default, at a tuned threshold, or prior-corrected.

Every rule is an offset that is taken off the logits: class 1 where logit > offset for (N,)
logits, argmax of (logits - offset) for (N, K).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from losslab.errors import BadInput
from losslab.experiments import decision_metrics
from losslab.experiments.metrics import metric

Rule = Literal["default", "tuned", "prior_corrected"]
# tau 0 is exactly 0: it must give the default decision.
TAUS = np.arange(-10, 61) / 20  # -0.5, -0.45 ... 3.0


@dataclass(frozen=True)
class Decision:
    """A decision rule that can be stored: its name and what is taken off the logits.

    `offset` holds one number for (N,) logits, K numbers for (N, K), and `(0.0,)`, which stands for
    any shape, at the default. `tau` is the strength of the prior in a rule tuned for several
    classes.

    >>> Decision("tuned", (0.5,)).decide(np.array([0.4, 0.5, 0.6])).tolist()
    [0, 0, 1]
    """

    name: Rule
    offset: tuple[float, ...] = (0.0,)
    tau: float | None = None

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Predicted classes, int64 (N,), of logits (N,) or (N, K); ties go to the lower class."""
        values = np.asarray(logits)
        if values.ndim == 1:
            # A comparison, not a difference, which could round a score onto the threshold.
            return (values > self._fitting(values)[0]).astype(np.int64)
        return (values - self._fitting(values)).argmax(axis=1).astype(np.int64)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Sigmoid (N,) or softmax (N, K) of logits less the offset, float64.

        For the prior-corrected rule these are the probabilities under balanced classes.

        >>> Decision("prior_corrected", (-2.0,)).probabilities(np.array([-2.0])).tolist()
        [0.5]
        """
        values = np.asarray(logits, dtype=np.float64)
        values = values - self._fitting(values)
        if values.ndim == 1:
            return np.exp(-np.logaddexp(0, -values))
        values = np.exp(values - values.max(axis=1, keepdims=True))
        return values / values.sum(axis=1, keepdims=True)

    def _fitting(self, logits: np.ndarray) -> np.ndarray:
        offset = np.asarray(self.offset, dtype=np.float64)
        width = 1 if logits.ndim == 1 else logits.shape[1]
        if logits.ndim > 2 or len(offset) not in (1, width):
            raise ValueError(f"logits of shape {logits.shape} do not fit {len(offset)} offsets")
        return offset


def default_decision() -> Decision:
    """Class 1 above logit 0 (probability 0.5), or the largest logit.

    >>> default_decision().decide(np.array([[0.1, 0.2], [3.0, -1.0]])).tolist()
    [1, 0]
    """
    return Decision("default")


def prior_corrected(prior: np.ndarray, logits: np.ndarray) -> Decision:
    """Take the training prior off: logits - log prior (Menon et al. 2021, eq. 9 at tau 1).

    `prior` (K,) is the class distribution of the training split; for (N,) logits, whose number is
    log(p / (1 - p)), the offset is log(pi_1 / pi_0). Raises `ValueError` where a prior is not
    positive.

    >>> round(prior_corrected(np.array([0.75, 0.25]), np.zeros(1)).offset[0], 6)  # -log 3
    -1.098612
    """
    logs = _log_prior(prior, logits)
    offset = [logs[1] - logs[0]] if np.ndim(logits) == 1 else logs
    return Decision("prior_corrected", tuple(float(value) for value in offset))


def tuned(
    targets: np.ndarray,
    logits: np.ndarray,
    prior: np.ndarray,
    metric_name: str = "balanced_accuracy",
) -> Decision:
    """The rule that maximises a decision metric on validation data.

    For (N,) logits: over all midpoints between consecutive distinct logits, and 0 where it lies
    outside them; the one nearest 0 on ties. So the tuned rule is never worse than the default on
    the data it is tuned on, up to ties. O(N log N), since `balanced_accuracy`,
    `accuracy` and `macro_f1` need only counts. For (N, K): argmax of logits - tau · log prior over
    `TAUS`, the tau nearest 0 on ties.

    Raises `BadInput` for a metric other than these three and `ValueError` where a logit is not
    finite.

    >>> tuned(np.array([0, 0, 1]), np.array([-4.0, -3.0, -1.0]), np.array([2/3, 1/3])).offset
    (-2.0,)
    """
    targets, values = np.asarray(targets), np.asarray(logits)
    if values.ndim > 2 or len(values) != len(targets) or not len(targets):
        raise ValueError(f"{len(targets)} targets do not fit logits of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("logits must be finite")
    if values.ndim == 2 and values.shape[1] > 2:
        return _tuned_tau(targets, values, prior, metric_name)
    if values.ndim == 2:  # two classes under softmax: the difference decides
        threshold = _tuned_threshold(targets, values[:, 1] - values[:, 0], metric_name)
        return Decision("tuned", (0.0, threshold))
    return Decision("tuned", (_tuned_threshold(targets, values, metric_name),))


def decision_scores(logits: np.ndarray, link: str) -> np.ndarray:
    """Logits whose differences between classes are those of log probabilities.

    K outputs under sigmoid are log(p / (1 - p)), from which a log prior must not be taken; their
    log p is used instead. Everything else is such already.

    >>> decision_scores(np.array([[0.0, 0.0]]), "sigmoid").round(4).tolist()
    [[-0.6931, -0.6931]]
    """
    if link == "sigmoid" and logits.ndim == 2:
        return -np.logaddexp(0.0, -logits)
    return logits


def check_decision_metric(name: str) -> None:
    """Raise `BadInput` unless `tuned` can maximise the metric.

    >>> check_decision_metric("log_loss")
    Traceback (most recent call last):
    losslab.errors.BadInput: a decision cannot be tuned for 'log_loss'; use one of accuracy, \
balanced_accuracy, macro_f1
    """
    if name not in _FROM_COUNTS:
        known = ", ".join(sorted(_FROM_COUNTS))
        raise BadInput(f"a decision cannot be tuned for {name!r}; use one of {known}")


def _tuned_threshold(targets: np.ndarray, logits: np.ndarray, metric_name: str) -> float:
    check_decision_metric(metric_name)
    scores = np.asarray(logits, dtype=np.float64)
    order = np.argsort(scores)
    scores = scores[order]
    positive = (targets == 1)[order]
    ends = np.flatnonzero(scores[1:] != scores[:-1])  # the last of each run of equal scores
    low, high = scores[ends], scores[ends + 1]
    # low/2 + high/2 cannot overflow; where no number lies between, low itself parts them.
    thresholds = low / 2 + high / 2
    thresholds = np.where((thresholds < low) | (thresholds >= high), low, thresholds)
    below = ends + 1
    missed = np.cumsum(positive)[ends]
    if not scores[0] <= 0 < scores[-1]:
        outside_above = scores[-1] <= 0
        thresholds = np.append(thresholds, 0.0)
        below = np.append(below, len(scores) if outside_above else 0)
        missed = np.append(missed, positive.sum() if outside_above else 0)
    true_negative, false_negative = below - missed, missed
    true_positive = positive.sum() - missed
    false_positive = (~positive).sum() - true_negative
    values = _FROM_COUNTS[metric_name](true_negative, false_positive, false_negative, true_positive)
    # Equal counts can differ in the last bit, depending on the order of additions.
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return float(thresholds[best[np.argmin(np.abs(thresholds[best]))]])


def _tuned_tau(
    targets: np.ndarray, logits: np.ndarray, prior: np.ndarray, metric_name: str
) -> Decision:
    check_decision_metric(metric_name)
    score = metric(metric_name).function
    logs = _log_prior(prior, logits)
    values = []
    for tau in TAUS:
        predicted = (logits - tau * logs).argmax(axis=1)
        matrix = decision_metrics.confusion(targets, predicted, logits.shape[1])
        values.append(score(targets, predicted, confusion=matrix))
    best = np.flatnonzero(np.array(values) >= max(values) - 1e-12)
    tau = float(TAUS[best[np.argmin(np.abs(TAUS[best]))]])
    return Decision("tuned", tuple(float(value) for value in tau * logs), tau)


def _log_prior(prior: np.ndarray, logits: np.ndarray) -> np.ndarray:
    prior = np.asarray(prior, dtype=np.float64)
    classes = 2 if np.ndim(logits) == 1 else np.shape(logits)[1]
    if prior.shape != (classes,) or not (prior > 0).all():
        raise ValueError(f"the prior must hold {classes} positive numbers, got {prior.tolist()}")
    return np.log(prior)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is 0: a class without targets does not count."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _balanced_accuracy(tn: np.ndarray, fp: np.ndarray, fn: np.ndarray, tp: np.ndarray):
    return np.nanmean([_ratio(tn, tn + fp), _ratio(tp, tp + fn)], axis=0)


def _macro_f1(tn: np.ndarray, fp: np.ndarray, fn: np.ndarray, tp: np.ndarray):
    first = np.where(tn + fp > 0, _ratio(2 * tn, 2 * tn + fn + fp), np.nan)
    second = np.where(tp + fn > 0, _ratio(2 * tp, 2 * tp + fn + fp), np.nan)
    return np.nanmean([first, second], axis=0)


def _accuracy(tn: np.ndarray, fp: np.ndarray, fn: np.ndarray, tp: np.ndarray):
    return (tn + tp) / (tn + fp + fn + tp)


_FROM_COUNTS = {
    "balanced_accuracy": _balanced_accuracy,
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
}
