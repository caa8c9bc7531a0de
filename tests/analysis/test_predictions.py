"""Curves, bins and margins of single runs against scikit-learn and naive loops."""

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from losslab.analysis.prediction_curves import precision_at, reliability_bins, sensitivity_at
from losslab.analysis.predictions import (
    FALSE_POSITIVE_RATES,
    MARGIN_EDGES,
    RECALLS,
    RULES,
    run_summaries,
    summarise_run,
)
from losslab.experiments.score_metrics import ece


def _scores(levels, n=300, seed=0):
    """Targets and scores; few `levels` give many ties."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.2).astype(int)
    z = rng.normal(1.5 * y, 1)
    return y, (np.round(z * levels) / levels if levels else z)


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_curves_are_scikit_learns(levels):
    y, z = _scores(levels)
    pos, neg = np.sort(z[y == 1]), np.sort(z[y == 0])
    precision, recall, _ = precision_recall_curve(y, z)
    grid = np.linspace(0.001, 1, 500)
    naive = [precision[np.flatnonzero(recall >= r - 1e-12)[-1]] for r in grid]
    np.testing.assert_allclose(precision_at(pos, neg, grid), naive)
    middles = (np.arange(20_000) + 0.5) / 20_000
    area = precision_at(pos, neg, middles).mean()
    assert area == pytest.approx(average_precision_score(y, z), abs=1e-3)

    rates, sensitivity, _ = roc_curve(y, z, drop_intermediate=False)
    expected = np.interp(middles, rates, sensitivity)
    np.testing.assert_allclose(sensitivity_at(pos, neg, middles), expected, atol=1e-12)
    assert sensitivity_at(pos, neg, middles).mean() == pytest.approx(roc_auc_score(y, z), abs=1e-3)


@pytest.mark.parametrize("classes", [2, 4])
def test_reliability_bins_are_those_of_ece(classes):
    rng = np.random.default_rng(1)
    y = rng.integers(0, classes, 500)
    p = rng.dirichlet(np.ones(classes), 500)
    p = p[:, 1] if classes == 2 else p
    count, confidence, outcome = reliability_bins(y, p)
    gaps = np.nan_to_num(np.abs(confidence - outcome))
    assert count.sum() == 500
    assert (count * gaps).sum() / 500 == pytest.approx(ece(y, p))
    inside = (p if classes == 2 else p.max(axis=1))[:, None]
    naive = [((inside > b / 15) & (inside <= (b + 1) / 15)).sum() for b in range(15)]
    assert count.tolist() == naive


def test_margins_norms_and_rules_of_several_classes():
    rng = np.random.default_rng(2)
    y, z = rng.integers(0, 3, 200), rng.normal(size=(200, 3))
    z[np.arange(200), y] += 1
    outputs = {"train_class_counts": [50, 5, 20]}
    outputs |= {"val_logits": z[:80], "val_targets": y[:80]}
    outputs |= {"test_logits": z[80:], "test_targets": y[80:]}
    run = summarise_run(outputs, "softmax")
    margins = [row[t] - np.delete(row, t).max() for row, t in zip(z[80:], y[80:], strict=True)]
    rare = y[80:] == 1  # one of three is the rarer half
    for side, chosen in enumerate((~rare, rare)):
        expected = np.histogram(np.array(margins)[chosen], MARGIN_EDGES)[0]
        assert run.margins[side].tolist() == expected.tolist()
    e = np.exp(z[80:])
    norms = 1 - (e / e.sum(axis=1, keepdims=True))[np.arange(120), y[80:]]
    assert run.norms[1].tolist() == np.histogram(norms[rare], 30, (0, 1))[0].tolist()
    default = balanced_accuracy_score(y[80:], z[80:].argmax(axis=1))
    corrected = balanced_accuracy_score(y[80:], (z[80:] - np.log([50, 5, 20])).argmax(axis=1))
    assert run.decisions[RULES[0]] == pytest.approx(default)
    assert run.decisions[RULES[2]] == pytest.approx(corrected)
    assert run.decisions[RULES[3]] >= max(default, run.decisions[RULES[1]])
    p = e / e.sum(axis=1, keepdims=True)
    macro = average_precision_score(np.eye(3)[y[80:]], p, average="macro")
    assert np.trapezoid(run.precision, RECALLS) == pytest.approx(macro, abs=0.02)
    assert len(run.sensitivity) == len(FALSE_POSITIVE_RATES)


def test_two_columns_one_column_and_ignored_elements_agree():
    y, z = _scores(0)
    plain = {f"{s}_{k}": v for s in ("val", "test") for k, v in (("logits", z), ("targets", y))}
    two = {**plain, "test_logits": np.stack([0 * z, z], axis=1)}
    more = {
        **plain,
        "test_logits": np.append(z, [9.0, np.nan]),
        "test_targets": np.append(y, [-1, 1]),
    }
    first = summarise_run(plain, "sigmoid")
    for other in (summarise_run(two, "softmax"), summarise_run(more, "sigmoid")):
        np.testing.assert_allclose(other.precision, first.precision)
        assert other.margins.tolist() == first.margins.tolist()
        assert other.ece == pytest.approx(first.ece)
        assert other.decisions == pytest.approx(first.decisions)


@pytest.mark.parametrize("logits", [np.zeros((4, 2, 3)), None, np.full(4, np.nan)])
def test_what_is_no_classification_has_no_summary(logits):
    outputs = {"val_targets": np.array([0, 1, 0, 1]), "test_targets": np.array([0, 1, 0, 1])}
    if logits is not None:
        outputs |= {"val_logits": logits, "test_logits": logits}
    assert summarise_run(outputs, "softmax") is None


def test_one_class_only_has_no_ranking():
    outputs = {f"{s}_targets": np.zeros(5, int) for s in ("val", "test")}
    outputs |= {f"{s}_logits": np.arange(5.0) for s in ("val", "test")}
    run = summarise_run(outputs, "sigmoid")
    assert np.isnan(run.precision).all()
    assert np.isnan(run.sensitivity).all()


def test_summaries_of_a_study_are_read_once(study, monkeypatch):
    writer = study(seeds=2)
    writer.build(search=False)
    y, z = _scores(0)
    for seed in (0, 1):
        writer.outputs("focal", seed, z.astype(np.float32), y)
    writer.diverge("ce", "selected", 0)
    frames = writer.frames()
    found = run_summaries(frames)
    assert {arm: [run.seed_index for run in runs] for arm, runs in found.items()} == {
        "focal": [0, 1]
    }
    monkeypatch.setattr("losslab.analysis.predictions.summarise_run", None)
    assert run_summaries(frames) is found
