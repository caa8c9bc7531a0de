"""Anchor-level average precision against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from losslab.experiments.detection.anchor_metrics import anchor_average_precision


def test_against_scikit_learn():
    random = np.random.default_rng(0)
    logits = np.round(random.normal(size=(4, 300, 3)), 1).astype(np.float32)  # with ties
    labels = random.choice([-2, -1, 0, 2], p=[0.1, 0.8, 0.05, 0.05], size=(4, 300))
    found = anchor_average_precision(logits, labels)
    kept = labels != -2
    assert list(found) == [0, 2]
    for c in found:
        expected = average_precision_score(labels[kept] == c, logits[kept][:, c])
        assert found[c] == pytest.approx(expected)


def test_without_positives():
    assert anchor_average_precision(np.zeros((1, 3, 2)), np.full((1, 3), -1)) == {}
