"""Predicted masks beside the test images and their true masks."""

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from losslab.analysis.figures.parts import arm_words, short
from losslab.analysis.frames import StudyFrames
from losslab.analysis.held_out_images import rebuilt_test
from losslab.analysis.remembering import once
from losslab.analysis.segmentation import MaskedRun, masked_runs
from losslab.analysis.style import PAGE, new_figure, plain, print_style
from losslab.datasets.base import IGNORE, Split

MOST_ARMS = 4  # columns beside the image and the true mask
FIRST, WRONG = 3, 2  # images that are drawn because they are the first; for their wrong pixels
MOST_NAMED = 20  # classes that a legend names
_SIDE = 1.15  # inches of a picture, at most


@dataclass(frozen=True)
class _Shown:
    """What is drawn: runs, and images by their place in the split with the reason for each."""

    runs: list[MaskedRun]
    images: list[tuple[int, str]]
    split: Split


@print_style()
def masks_figure(frames: StudyFrames) -> Figure | None:
    """Test images, their true masks, and the mask that one run of each arm predicts.

    At most four arms: the baseline and those that the study's contrasts name go first. Images: of
    those whose masks were kept, the first three by id and the two with the most wrong pixels over
    the arms that are drawn. None where no run kept masks, and where the dataset cannot be built any
    more or is not what it was.
    """
    shown = _shown(frames)
    if shown is None:
        return None
    names = [str(name) for name in frames.study["dataset"]["class_names"]]
    colours = class_colours(len(names))
    columns, rows = 2 + len(shown.runs), len(shown.images)
    width = min(PAGE, 0.5 + _SIDE * columns)
    height, wide = shown.split.targets.shape[1:]
    side = (width - 0.5) / columns * height / wide
    figure, axes = new_figure(width, 0.75 + side * rows, rows, columns)
    for (image, reason), line in zip(shown.images, np.reshape(axes, (rows, columns)), strict=True):
        truth = shown.split.targets[image]
        pixels = (shown.split.features[image].transpose(1, 2, 0) + 1) / 2
        line[0].imshow(np.clip(pixels, 0, 1), interpolation="nearest")
        line[0].set_ylabel(f"image {shown.split.ids[image]}\n{reason}", fontsize=7)
        _mask(line[1], truth, colours)
        for run, axis in zip(shown.runs, line[2:], strict=True):
            predicted = _of_image(run, int(shown.split.ids[image]))
            _mask(axis, np.where(truth == IGNORE, IGNORE, predicted), colours)
            counted = truth != IGNORE
            right = float((predicted == truth)[counted].mean())
            _told(axis, f"{100 * right:.0f} %")
    axes[0].set_title("image")
    axes[1].set_title("true mask")
    for run, axis in zip(shown.runs, axes[2:columns], strict=True):
        axis.set_title(plain(short(run.arm, 30), 16))
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(True)
            spine.set_color("0.6")
    _legend(figure, names, colours, shown)
    return figure


def masks_caption(frames: StudyFrames) -> str:
    """What `masks_figure` shows."""
    shown = _shown(frames)
    if shown is None:
        return ""
    seeds = ", ".join(str(seed) for seed in sorted({run.seed_index for run in shown.runs}))
    left = len(frames.arms) - len(shown.runs)
    return (
        f"Test images, the true class of every pixel, and the class that one run (seed {seeds}) of "
        f"the selected configuration of each arm gives it, at argmax or 0.5. Of the "
        f"{len(shown.runs[0].ids)} images whose masks were kept, the first {FIRST} by id and the "
        f"{WRONG} with the most wrong pixels, summed over the arms drawn. In the corner: how many "
        f"of the pixels that count are right. The first class is white, the others go from dark to "
        f"light." + (f" {left} more arm(s) are not drawn." if left > 0 else "")
    )


def class_colours(classes: int) -> np.ndarray:
    """A colour (classes, 3) for each class, of lightness all its own: white, then dark to light.

    >>> class_colours(3).round(2).tolist()[0]
    [1.0, 1.0, 1.0]
    """
    others = mpl.colormaps["viridis"](np.linspace(0.0, 0.9, max(classes - 1, 1)))[:, :3]
    return np.vstack([np.ones((1, 3)), others])[:classes]


@once
def _shown(frames: StudyFrames) -> _Shown | None:
    runs = masked_runs(frames)
    split = rebuilt_test(frames, runs[0].arm) if runs else None
    if not isinstance(split, Split) or not len(runs[0].ids):
        return None
    # an arm may have images of its own
    same = [run for run in runs if np.array_equal(run.ids, runs[0].ids)]
    kept = sorted(same, key=lambda run: _rank(frames, run.arm))[:MOST_ARMS]
    drawn = [run for run in runs if run in kept]
    place = {int(number): i for i, number in enumerate(split.ids)}
    if any(int(number) not in place for number in drawn[0].ids):
        return None
    places = [place[int(number)] for number in drawn[0].ids]
    wrong = {i: _wrong(drawn, split, i) for i in places}
    images = [(i, "first") for i in places[:FIRST]]
    rest = sorted(places[FIRST:], key=lambda i: -wrong[i])[:WRONG]
    return _Shown(drawn, [*images, *((i, "most wrong") for i in rest)], split)


def _rank(frames: StudyFrames, arm: str) -> int:
    """The baseline first, then the arms that claims are about, then the others in their order."""
    claims = frames.study.get("contrasts") or []
    named = [claim[side] for claim in claims for side in ("better", "than")]
    order = list(dict.fromkeys([frames.study["baseline"], *named, *frames.arms]))
    return order.index(arm)


def _wrong(runs: list[MaskedRun], split: Split, image: int) -> int:
    truth = split.targets[image]
    masks = (_of_image(run, int(split.ids[image])) for run in runs)
    return sum(int(((mask != truth) & (truth != IGNORE)).sum()) for mask in masks)


def _of_image(run: MaskedRun, number: int) -> np.ndarray:
    mask: np.ndarray = run.masks[run.ids == number][0]
    return mask


def _mask(axis: Axes, classes: np.ndarray, colours: np.ndarray) -> None:
    shown: Any = np.ma.masked_equal(classes, IGNORE)
    axis.set_facecolor("0.75")  # what does not count
    axis.imshow(
        shown, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(colours) - 0.5,
        interpolation="nearest",
    )  # fmt: skip


def _told(axis: Axes, text: str) -> None:
    halo = [effects.withStroke(linewidth=1.4, foreground="white")]
    axis.text(
        0.04, 0.96, text, transform=axis.transAxes, va="top", fontsize=6.5, path_effects=halo
    )  # fmt: skip


def _legend(figure: Figure, names: list[str], colours: np.ndarray, shown: _Shown) -> None:
    handles = [
        Patch(facecolor=colour, edgecolor="0.4", label=arm_words(name))
        for name, colour in zip(names[:MOST_NAMED], colours, strict=False)
    ]
    if any((shown.split.targets[i] == IGNORE).any() for i, _ in shown.images):
        handles.append(Patch(facecolor="0.75", edgecolor="0.4", label="does not count"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 6), handlelength=1.2
    )
