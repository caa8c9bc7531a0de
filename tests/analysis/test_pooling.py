"""How pooling routes gradients, window by window: what docs/graphs.md says of it, tried out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, max_pool2d

from losslab.analysis import pooling_figures
from losslab.analysis.pooling_figures import pooling_gradient

DOCS = Path(__file__).parents[2] / "docs"

SETTINGS = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 3, "stride": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 2, "stride": 3},
]


def _by_hand(image, kind, kernel_size, stride, padding=0, count_include_pad=True):
    """The gradient of the sum of outputs, window by window."""
    height, width = image.shape
    gradient = np.zeros_like(image)
    out = [(side + 2 * padding - kernel_size) // stride + 1 for side in image.shape]
    for i, j in np.ndindex(*out):
        window = [
            (y, x)
            for y in range(i * stride - padding, i * stride - padding + kernel_size)
            for x in range(j * stride - padding, j * stride - padding + kernel_size)
            if 0 <= y < height and 0 <= x < width
        ]
        if kind == "average":
            divisor = kernel_size**2 if count_include_pad else len(window)
            for place in window:
                gradient[place] += 1 / divisor
        else:  # the first of the greatest, in reading order
            gradient[max(window, key=lambda place: image[place])] += 1
    return gradient


@pytest.mark.parametrize("options", SETTINGS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("kind", ["average", "max"])
def test_pooling_routes_gradients_window_by_window(kind, options):
    random = np.random.default_rng(0)
    for image in (random.normal(size=(7, 6)), random.integers(0, 3, (7, 6)).astype(float)):
        assert pooling_gradient(image, kind, **options) == pytest.approx(
            _by_hand(image, kind, **options)
        )


def test_padding_takes_its_part_of_an_average_unless_it_is_left_out():
    options, image = {"kernel_size": 3, "stride": 2, "padding": 1}, np.zeros((6, 6))
    counted = pooling_gradient(image, "average", **options)
    assert counted.sum() == pytest.approx(9 - (5 + 4 * 3) / 9)  # 9 windows: one corner, 4 edges
    left_out = pooling_gradient(image, "average", count_include_pad=False, **options)
    assert left_out == pytest.approx(_by_hand(image, "average", count_include_pad=False, **options))
    assert left_out.sum() == pytest.approx(9)


def test_padding_never_wins_a_maximum():
    image = np.full((4, 4), -5.0)
    assert max_pool2d(torch.from_numpy(image)[None], 3, 2, 1).max() == -5
    assert pooling_gradient(image, "max", kernel_size=3, stride=2, padding=1).sum() == 4


def test_of_equal_values_max_pooling_takes_the_first_and_amax_shares():
    image = np.ones((2, 2))
    assert pooling_gradient(image, "max", kernel_size=2).tolist() == [[1, 0], [0, 0]]
    values = torch.ones(2, 2, requires_grad=True)
    (shared,) = torch.autograd.grad(values.amax(), values)
    assert shared.tolist() == [[0.25, 0.25], [0.25, 0.25]]
    (first,) = torch.autograd.grad(values.flatten().max(dim=0).values, values)
    assert first.tolist() == [[1, 0], [0, 0]]


def test_nan_takes_the_maximum_and_its_gradient():
    image = np.array([[1.0, np.nan], [3.0, 4.0]])
    assert pooling_gradient(image, "max", kernel_size=2).tolist() == [[0, 1], [0, 0]]


def test_average_pooling_is_linear_and_a_maximum_changes_its_route():
    """What one knows by the gradient: all of an average, nothing of a maximum a step away."""
    image = torch.tensor([[[1.0, 2.0], [3.0, 3.5]]])
    moved = image.clone()
    moved[0, 1, 0] = 4.0  # passes the greatest
    assert (avg_pool2d(moved, 2) - avg_pool2d(image, 2)).item() == pytest.approx(0.25)
    assert (max_pool2d(moved, 2) - max_pool2d(image, 2)).item() == pytest.approx(0.5)
    assert pooling_gradient(image[0].numpy(), "max", kernel_size=2)[1, 0] == 0


def test_the_figure_shows_the_gradients():
    figure = pooling_figures.pooling_figure()
    images = pooling_figures.example_images()
    drawn = [axis.images[0].get_array() for axis in figure.axes]
    for place, (name, image) in enumerate(images.items()):
        assert (drawn[place] == image).all()
        for row, kind in ((1, "average"), (2, "max")):
            wanted = _by_hand(image, kind, **pooling_figures.SETTINGS[name])
            assert np.allclose(drawn[4 * row + place], wanted)
    figure.draw_without_rendering()
    caption = " ".join(pooling_figures.pooling_caption().split())
    assert caption in " ".join((DOCS / "graphs.md").read_text().split())
