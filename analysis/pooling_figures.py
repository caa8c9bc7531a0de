"""How average and max pooling route gradients: their gradient by the input, drawn."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn.functional import avg_pool2d, max_pool2d

from losslab.analysis.style import PAGE, new_figure, print_style

#: The settings that the figure shows, by what it calls them.
SETTINGS: dict[str, dict[str, Any]] = {
    "2×2, stride 2": {"kernel_size": 2, "stride": 2},
    "3×3, stride 1": {"kernel_size": 3, "stride": 1},
    "3×3, stride 2, padding 1": {"kernel_size": 3, "stride": 2, "padding": 1},
    "2×2, stride 2, all ties": {"kernel_size": 2, "stride": 2},
}
SIDE = 6


def pooling_gradient(
    image: np.ndarray, kind: Literal["average", "max"], **options: Any
) -> np.ndarray:
    """The gradient of the sum of a pooling's outputs by its input (H, W), in float64.

    `options` are those of `torch.nn.functional.avg_pool2d` or `max_pool2d`.

    >>> pooling_gradient(np.array([[1.0, 2.0], [3.0, 4.0]]), "average", kernel_size=2).tolist()
    [[0.25, 0.25], [0.25, 0.25]]
    >>> pooling_gradient(np.array([[1.0, 2.0], [3.0, 4.0]]), "max", kernel_size=2).tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    values = torch.from_numpy(np.asarray(image, dtype=np.float64)).requires_grad_()
    pool = avg_pool2d if kind == "average" else max_pool2d
    (gradient,) = torch.autograd.grad(pool(values[None, None], **options).sum(), values)
    return gradient.numpy()


def example_images() -> Mapping[str, np.ndarray]:
    """The input (6, 6) of each of `SETTINGS`: the numbers 0 to 35 in random order, or all 0."""
    mixed = np.random.default_rng(3).permutation(SIDE**2).reshape(SIDE, SIDE)
    return {
        name: np.zeros((SIDE, SIDE)) if "ties" in name else mixed.astype(float) for name in SETTINGS
    }


@print_style()
def pooling_figure() -> Figure:
    """Inputs, and the gradients of the sum of the outputs by them, average above max pooling.

    One column for each of `SETTINGS`. Numbers are what stands in each place; darker is more.
    """
    rows = ("input", "average", "max")
    figure, axes = new_figure(PAGE, 5.4, len(rows), len(SETTINGS))
    for place, (name, image) in enumerate(example_images().items()):
        shown = [image] + [pooling_gradient(image, k, **SETTINGS[name]) for k in ("average", "max")]
        for row, values in enumerate(shown):
            axis = axes[row * len(SETTINGS) + place]
            _draw(axis, values, whole=row != 1)
            if place == 0:
                axis.set_ylabel(rows[row] if row == 0 else f"{rows[row]} pooling")
        axes[place].set_title(name)
    return figure


def _draw(axis: Any, values: np.ndarray, whole: bool) -> None:
    axis.imshow(values, cmap="Greys", vmin=0, vmax=2.4 * max(values.max(), 1e-9))
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(True)
    for (y, x), value in np.ndenumerate(values):
        words = f"{value:.0f}" if whole else f"{value:.2f}".lstrip("0") or "0"
        axis.text(x, y, words, ha="center", va="center", fontsize=5.5)


def pooling_caption() -> str:
    """What `pooling_figure` shows."""
    return (
        "How pooling routes gradients. Top: inputs, 6 × 6. Below: the gradient of the sum of the "
        "outputs by each place of the input. Average pooling gives every place of a window 1/k² of "
        "the window's gradient, and a place in several windows the sum; padding counts among the "
        "k² places, and what falls on it is lost. Max pooling gives all to the greatest place of a "
        "window; a place that is the greatest of several windows gets the gradient of each, and of "
        "equal places the first in reading order gets all."
    )
