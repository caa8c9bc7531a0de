"""Box coding against the formulas in plain Python."""

import math

import pytest
import torch
from torch.testing import assert_close

from losslab.experiments.detection.coding import LARGEST_LOG, clip, decode, encode


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(3)
    corner = 90 * torch.rand(2, 40, 2, generator=generator, dtype=torch.float64)
    side = 1 + 60 * torch.rand(2, 40, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corner, corner + side], -1)


def by_hand(anchor, box, weights):
    xa, ya, wa, ha = (
        (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2,
        anchor[2] - anchor[0], anchor[3] - anchor[1],
    )  # fmt: skip
    x, y, w, h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
    plain = ((x - xa) / wa, (y - ya) / ha, math.log(w / wa), math.log(h / ha))
    return [value * weight for value, weight in zip(plain, weights, strict=True)]


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_encode_and_back(pairs, weights):
    anchors, boxes = pairs
    expected = [by_hand(a, b, weights) for a, b in zip(*pairs.tolist(), strict=True)]
    offsets = encode(anchors, boxes, weights)
    assert_close(offsets, torch.tensor(expected, dtype=torch.float64))
    assert_close(decode(anchors, offsets, weights), boxes)


def test_what_is_far_too_large_is_clamped():
    anchor = torch.tensor([0.0, 0, 16, 16])
    box = decode(anchor, torch.tensor([0.0, 0, 1e4, LARGEST_LOG]), (1, 1, 1, 1))
    assert_close(box, torch.tensor([-492.0, -492, 508, 508]))  # 1000 wide around (8, 8)


def test_no_offset_is_the_anchor(pairs):
    assert_close(decode(pairs[0], torch.zeros(40, 4, dtype=torch.float64)), pairs[0])


def test_clip_to_each_image_s_size():
    boxes = torch.tensor([[[-3.0, -4, 50, 60]], [[70.0, 80, 90, 95]]])
    found = clip(boxes, torch.tensor([[20.0], [88.0]]), torch.tensor([[30.0], [75.0]]))
    assert found.tolist() == [[[0, 0, 30, 20]], [[70, 80, 75, 88]]]
