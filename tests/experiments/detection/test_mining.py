"""OHEM with suppression against a plain loop."""

import numpy as np
import pytest
import torch

from losslab.errors import BadInput
from losslab.experiments.detection.mining import MiningSettings, mine


def overlap(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0) * max(h, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def looped(losses, boxes, labels, settings):
    """Suppress in each image and target, sort what is left of the batch, take the first."""
    left = []
    for image in range(len(losses)):
        for target in sorted(set(labels[image].tolist()) - {-2}):
            own = [a for a in range(labels.shape[1]) if labels[image, a] == target]
            own.sort(key=lambda a: -losses[image, a])
            kept = []
            for a in own:
                near = (overlap(boxes[image, a], boxes[image, b]) for b in kept)
                if all(each <= settings.nms_threshold for each in near):
                    kept.append(a)
            left += [(losses[image, a].item(), image, a, target) for a in kept]
    left.sort(key=lambda each: -each[0])
    ratio = settings.negatives_per_positive
    if ratio is None:
        chosen = left[: settings.batch_size]
    else:
        positives = [each for each in left if each[3] >= 0]
        positives = positives[: round(settings.batch_size / (1 + ratio))]
        number = round(ratio * max(len(positives), 1))
        number = min(number, settings.batch_size - len(positives))
        chosen = positives + [each for each in left if each[3] < 0][:number]
    return {(image, a) for _, image, a, _ in chosen}


@pytest.fixture
def batch():
    random = np.random.default_rng(4)
    corner = 60 * random.random((3, 200, 2))
    boxes = np.concatenate([corner, corner + 5 + 20 * random.random((3, 200, 2))], axis=-1)
    labels = random.choice([-2, -1, 0, 1], p=[0.1, 0.8, 0.05, 0.05], size=(3, 200))
    labels[2][labels[2] >= 0] = -1  # one image without objects
    return random.gamma(1.0, size=(3, 200)), boxes, labels


@pytest.mark.parametrize("ratio", [None, 3.0, 1.0])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("size", [1, 16, 128, 100_000])
def test_against_a_loop(batch, ratio, threshold, size):
    settings = MiningSettings(size, threshold, ratio)
    found = mine(*map(torch.from_numpy, batch), settings)
    expected = looped(*batch, settings)
    if size == 1 and ratio is not None:
        expected = {max(zip(*np.nonzero(batch[2] >= 0), strict=True), key=lambda at: batch[0][at])}
    assert {tuple(at) for at in found.nonzero().tolist()} == expected
    assert not found[torch.from_numpy(batch[2]) == -2].any()


def test_a_quarter_of_positives_at_most(batch):
    found = mine(*map(torch.from_numpy, batch), MiningSettings(16, 1.0, 3.0))
    assert int((torch.from_numpy(batch[2])[found] >= 0).sum()) == 4
    assert int(found.sum()) == 16


def test_without_positives_as_many_negatives_as_with_one(batch):
    losses, boxes, labels = map(torch.from_numpy, batch)
    found = mine(losses, boxes, labels.clamp(max=-1), MiningSettings(64, 0.7, 3.0))
    assert int(found.sum()) == 3


def test_all_mistakes_at_once():
    with pytest.raises(BadInput) as told:
        MiningSettings(0, 2, -1)
    assert len(told.value.problems) == 3
