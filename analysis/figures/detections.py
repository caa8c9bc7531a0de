"""Detections drawn on test images, the true boxes beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from losslab.analysis.detections import (
    HIT_IOU,
    DetectorRun,
    break_even_score,
    detector_runs,
    match,
)
from losslab.analysis.figures.parts import BLUE, ORANGE, arm_words, legend_below, short
from losslab.analysis.frames import StudyFrames
from losslab.analysis.held_out_images import image_names, rebuilt_test
from losslab.analysis.remembering import once
from losslab.analysis.style import PAGE, new_figure, plain, print_style
from losslab.datasets.detection.base import DetectionSplit

MOST_ARMS = 4  # columns of a page beside the true boxes
MOST_SIDE = 1.4  # inches of a picture
MOST_LETTERS = 20  # of an image's name, beside it
MOST_WORDS = 8  # boxes in a picture that words have room beside
FIRST, MISSED = 2, 2  # images that are drawn because they are the first; for their misses
_LOOKS: dict[str, dict[str, Any]] = {
    "true box": {"color": "black", "linestyle": "-", "linewidth": 1.0},
    "hit": {"color": BLUE, "linestyle": "-", "linewidth": 1.3},
    "false alarm": {"color": ORANGE, "linestyle": (0, (3.5, 1.2)), "linewidth": 1.3},
    "missed": {"color": "black", "linestyle": (0, (0.8, 0.8)), "linewidth": 1.5},
    "crowd": {"color": "0.3", "linestyle": (0, (6, 1, 1, 1)), "linewidth": 0.9},
}
_HALO = 1.4  # points of white around lines and letters, which stand on any picture


@dataclass(frozen=True)
class _Shown:
    """What is drawn: runs with their score thresholds, and images with the reason for each.

    `called`: what each of these images is called.
    """

    runs: list[tuple[DetectorRun, float]]
    images: list[tuple[int, str]]
    split: DetectionSplit
    called: list[str]


@print_style()
def detections_figure(frames: StudyFrames) -> Figure | None:
    """Test images with the true boxes, and what one run of each arm detects, beside each other.

    At most four arms: the baseline and those that the study's contrasts name go first. Images: the
    first two with objects by id; the two with the most missed objects, summed over the arms; and
    the one with the most confident false alarm. Each arm's score threshold is that of
    `detections.break_even_score`. None where no run stored detections, and where the dataset
    cannot be built any more or is not what it was.
    """
    shown = _shown(frames)
    if shown is None:
        return None
    names = [str(name) for name in frames.study["dataset"]["class_names"]]
    columns, rows = 1 + len(shown.runs), len(shown.images)
    width = min(PAGE, 0.3 + MOST_SIDE * columns)
    heights = [float(shown.split.sizes[i][0] / shown.split.sizes[i][1]) for i, _ in shown.images]
    side = (width - 0.3) / columns
    figure, axes = new_figure(
        width, 0.8 + sum(heights) * side + 0.04 * rows, rows, columns, height_ratios=heights
    )
    lines = np.reshape(axes, (rows, columns))
    for (image, reason), called, line in zip(shown.images, shown.called, lines, strict=True):
        _draw_truth(line[0], shown.split, image, names)
        line[0].set_ylabel(f"{plain(short(called, MOST_LETTERS))}\n{reason}", fontsize=6)
        for (run, threshold), axis in zip(shown.runs, line[1:], strict=True):
            _draw_found(axis, shown.split, image, run, threshold, names)
    axes[0].set_title("true boxes")
    for (run, _), axis in zip(shown.runs, axes[1:columns], strict=True):
        axis.set_title(plain(short(run.arm, 40), 20))
    crowd = any(shown.split.annotations.of(image)[2].any() for image, _ in shown.images)
    drawn = [name for name in _LOOKS if name != "crowd" or crowd]
    crosses: dict[str, Any] = {
        "missed": {"marker": "x", "ms": 4}
    }  # a missed box may lie under a false alarm
    handles = [Line2D([], [], label=n, **_LOOKS[n], **crosses.get(n, {})) for n in drawn]
    legend_below(figure, handles, columns=5)
    return figure


def detections_caption(frames: StudyFrames) -> str:
    """What `detections_figure` shows."""
    shown = _shown(frames)
    if shown is None:
        return ""
    seeds = sorted({run.seed_index for run, _ in shown.runs})
    thresholds = ", ".join(
        f"{arm_words(run.arm)} {f'{score:.2f}' if len(run.found.scores) else 'detects nothing'}"
        for run, score in shown.runs
    )
    objects = int((~shown.split.annotations.crowd).sum())
    left = len(frames.arms) - len(shown.runs)
    return (
        f"Test images: the true boxes, and what one run (seed {', '.join(map(str, seeds))}) of the "
        f"selected configuration of each arm detects. Images: the first {FIRST} with objects by "
        f"id, the {MISSED} with the most missed objects, summed over the arms, and the one with "
        f"the most confident false alarm. A hit (solid) has the class of a true box and an IoU of "
        f"at least {HIT_IOU:g} with it, which no better scored detection has taken; other "
        f"detections are false alarms (dashed); dotted boxes with a cross are missed. Numbers: "
        f"class, and score, where a picture has at most {MOST_WORDS} boxes. An arm's score "
        f"threshold lets through as many detections as there are "
        f"objects, {objects} in all {len(shown.split)} test images: {thresholds}."
        + (f" {left} more arms are not drawn." if left > 1 else "")
        + (" One more arm is not drawn." if left == 1 else "")
    )


@once
def _shown(frames: StudyFrames) -> _Shown | None:
    runs = [own[0] for own in detector_runs(frames).values()]
    split = _test_split(frames, runs[0].arm) if runs else None
    if split is None:
        return None
    # an arm may have images of its own, of another size or number
    runs = [run for run in runs if _same_truth(run, split)]
    kept = sorted(runs, key=lambda run: _rank(frames, run.arm))[:MOST_ARMS]
    drawn = [(run, break_even_score(run)) for run in runs if run in kept]
    if not drawn:
        return None
    images = _chosen(split, drawn)
    ids = [int(split.ids[image]) for image, _ in images]
    return _Shown(drawn, images, split, image_names(frames, runs[0].arm, ids))


def _test_split(frames: StudyFrames, arm: str) -> DetectionSplit | None:
    """The arm's test images, or None where they are gone or have changed."""
    split = rebuilt_test(frames, arm)
    return split if isinstance(split, DetectionSplit) else None


def _same_truth(run: DetectorRun, split: DetectionSplit) -> bool:
    return np.array_equal(run.ids, split.ids) and np.array_equal(
        run.truth.boxes, split.annotations.boxes
    )


def _rank(frames: StudyFrames, arm: str) -> int:
    """The baseline first, then the arms that claims are about, then the others in their order."""
    claims = frames.study.get("contrasts") or []
    named = [claim[side] for claim in claims for side in ("better", "than")]
    order = list(dict.fromkeys([frames.study["baseline"], *named, *frames.arms]))
    return order.index(arm)


def _above(run: DetectorRun, image: int, threshold: float) -> tuple[np.ndarray, ...]:
    boxes, scores, labels = run.found.of(image)
    kept = scores >= threshold
    return boxes[kept], scores[kept], labels[kept]


def _chosen(
    split: DetectionSplit, runs: Sequence[tuple[DetectorRun, float]]
) -> list[tuple[int, str]]:
    """Images by their place in the split, each with the reason why it is drawn."""
    missed, loudest = np.zeros(len(split), dtype=int), np.zeros(len(split))
    for run, threshold in runs:
        for image in range(len(split)):
            boxes, scores, labels = _above(run, image, threshold)
            truth = split.annotations.of(image)
            state, taken = match((boxes, scores, labels), truth)
            missed[image] += int((~taken & ~truth[2]).sum())
            loudest[image] = max(loudest[image], scores[state == 0].max(initial=0.0))
    objects = split.annotations.keep(~split.annotations.crowd).counts
    by_id = np.argsort(split.ids, kind="stable")
    chosen = [(int(i), "first") for i in by_id[objects[by_id] > 0][:FIRST]]
    for values, count, reason in (
        (missed, MISSED, "most misses"),
        (loudest, 1, "false alarm"),
    ):
        order = by_id[np.argsort(-values[by_id], kind="stable")]
        known = {image for image, _ in chosen}
        fresh = [int(i) for i in order if values[i] > 0 and int(i) not in known]
        chosen += [(i, reason) for i in fresh[:count]]
    return chosen


def _picture(axis: Axes, split: DetectionSplit, image: int) -> None:
    height, width = (int(side) for side in split.sizes[image])
    pixels = split.images[image][:, :height, :width].transpose(1, 2, 0)
    axis.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest")
    axis.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    for spine in axis.spines.values():
        spine.set_visible(False)


def _draw_truth(axis: Axes, split: DetectionSplit, image: int, names: Sequence[str]) -> None:
    _picture(axis, split, image)
    truth = split.annotations.of(image)
    told = len(truth[0]) <= MOST_WORDS
    for box, label, crowd in zip(*truth, strict=True):
        _box(axis, box, "crowd" if crowd else "true box", names[int(label)] if told else "")


def _draw_found(
    axis: Axes,
    split: DetectionSplit,
    image: int,
    run: DetectorRun,
    threshold: float,
    names: Sequence[str],
) -> None:
    _picture(axis, split, image)
    boxes, scores, labels = _above(run, image, threshold)
    truth = split.annotations.of(image)
    state, taken = match((boxes, scores, labels), truth)
    left = ~taken & ~truth[2]
    told = len(boxes) + left.sum() <= MOST_WORDS
    for box, label in zip(truth[0][left], truth[1][left], strict=True):
        _box(axis, box, "missed", names[int(label)] if told else "")
    for box, score, label, how in zip(boxes, scores, labels, state, strict=True):
        if how >= 0:  # what lies in a crowd is neither
            look = "hit" if how else "false alarm"
            words = f"{names[int(label)]} {score:.2f}".replace(" 0.", " .")
            _box(axis, box, look, words if told else "")


def _box(axis: Axes, box: np.ndarray, look: str, text: str) -> None:
    """A box with its words: hits above at the left, misses and false alarms below.

    Boxes of several kinds may coincide: all white lies below all lines, and dashes above what is
    solid. Words at a picture's edge go to the inner side.
    """
    style, order = _LOOKS[look], list(_LOOKS).index(look)
    x1, y1, x2, y2 = (float(end) for end in box)
    wide = {"color": "white", "linewidth": style["linewidth"] + _HALO, "zorder": 2}
    for looks in (wide, {**style, "zorder": 3 + 0.1 * order}):
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **looks))
    halo = [effects.withStroke(linewidth=_HALO, foreground="white")]
    if look == "missed":
        axis.plot(
            (x1 + x2) / 2, (y1 + y2) / 2, "x", color="black", ms=5, zorder=4,
            path_effects=[effects.withStroke(linewidth=1.5 + _HALO, foreground="white")],
        )  # fmt: skip
    if not text:
        return
    width, height = axis.get_xlim()[1], axis.get_ylim()[0]
    right = look == "false alarm"
    below = look in ("false alarm", "missed")
    below = y2 < 0.9 * height if below else y1 < 0.1 * height
    axis.text(
        np.clip(x2 if right else x1, 0, width), np.clip(y2 if below else y1, 0, height),
        short(text, 16).replace("$", r"\$"), fontsize=6, path_effects=halo, clip_on=True, zorder=5,
        ha="right" if right else "left", va="top" if below else "bottom",
    )  # fmt: skip
