"""Which anchor has which object to find: targets of anchors by IoU."""

from dataclasses import dataclass

import numpy as np

from losslab.datasets.detection.annotations import Annotations
from losslab.errors import BadInput
from losslab.experiments.detection.anchors import Anchors
from losslab.experiments.detection.overlap import areas, intersections

BACKGROUND = -1
IGNORED = -2
# IoUs that differ by less are equal. A box inside several anchors overlaps all of them alike but
# for the rounding of their corners, which is another one in the mirrored image.
TIE = 1e-6


@dataclass(frozen=True)
class AssignmentSettings:
    """How anchors are assigned.

    An anchor is positive, with the class of the box that it overlaps most, where that IoU is at
    least `positive`; background below `negative`; ignored between (Lin et al. 2017, section 4,
    "Anchors": 0.5 and 0.4). `best_from`: the anchors that overlap a box most, ties included, are
    positive too where their IoU with it is above 0 and at least this. None, the default, is what
    the paper's text says: an object that no anchor fits is not learnt. The authors' Detectron does
    it from 0.4 on (its background rule has the last word), torchvision and detectron2 do from 0
    on; such an anchor learns the box that it overlaps most itself, there and here. `crowd`: an
    anchor that is not positive is ignored where at least this share of its area lies in one crowd
    box (the paper is silent; Detectron leaves crowd boxes out, so that they are background).
    """

    positive: float = 0.5
    negative: float = 0.4
    best_from: float | None = None
    crowd: float = 0.5

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.negative <= self.positive <= 1:
            problems.append(
                f"negative, positive: need 0 < negative <= positive <= 1, "
                f"got {self.negative} and {self.positive}"
            )
        if self.best_from is not None and not 0 <= self.best_from <= 1:
            problems.append(f"best_from: must be off or in [0, 1], got {self.best_from}")
        if not 0 < self.crowd <= 1:
            problems.append(f"crowd: must be in (0, 1], got {self.crowd}")
        if problems:
            raise BadInput(problems)


@dataclass(frozen=True)
class Targets:
    """Targets of the anchors of n images.

    `labels` int16 (n, A): the class from 0 on, -1 for background, -2 for ignored. `matched` int32
    (n, A): the box, counted within its image, that a positive anchor has to find; -1 for others.
    """

    labels: np.ndarray
    matched: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def flipped(self, permutation: np.ndarray) -> "Targets":
        """The targets of the mirrored images, whose boxes stand in the same order.

        `permutation` is that of `anchors.flip_permutation`.
        """
        return Targets(self.labels[:, permutation], self.matched[:, permutation])

    def counts(self) -> dict[str, int]:
        """How many anchors are positive, background and ignored."""
        return {
            "positive": int((self.labels >= 0).sum()),
            "background": int((self.labels == BACKGROUND).sum()),
            "ignored": int((self.labels == IGNORED).sum()),
        }


def assign(
    anchors: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    crowd: np.ndarray,
    settings: AssignmentSettings | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Targets of anchors (A, 4) for the boxes (m, 4) of one image: labels and matched boxes.

    `labels` (m,) classes from 0 on, `crowd` (m,) bool; results as in `Targets`, (A,) each. IoU is
    computed in float64; the first of equally close boxes wins. Every anchor counts, also beyond
    the border and over padding, as in the paper.

    >>> anchors = np.array([[0, 0, 4, 4], [0, 0, 4, 9], [20, 20, 24, 24]])
    >>> box, label, crowd = np.array([[0, 0, 4, 4]]), np.array([7]), np.array([False])
    >>> [found.tolist() for found in assign(anchors, box, label, crowd)]
    [[7, -2, -1], [0, -1, -1]]
    """
    settings = settings or AssignmentSettings()
    found = np.full(len(anchors), BACKGROUND, dtype=np.int16)
    matched = np.full(len(anchors), -1, dtype=np.int32)
    objects = np.flatnonzero(~crowd)
    own_areas = areas(anchors)
    if len(objects):
        common = intersections(anchors, boxes[objects])
        ious = common / (own_areas[:, None] + areas(boxes[objects])[None, :] - common)
        closest = ious.argmax(axis=1)
        best = ious[np.arange(len(anchors)), closest]
        positive = best >= settings.positive
        if settings.best_from is not None:
            top = ious.max(axis=0)
            usable = (top > 0) & (top >= settings.best_from)
            positive |= ((ious >= top - TIE) & usable).any(axis=1)
        found[(best >= settings.negative) & ~positive] = IGNORED
        found[positive] = labels[objects[closest[positive]]]
        matched[positive] = objects[closest[positive]]
    if crowd.any():
        inside = intersections(anchors, boxes[crowd]).max(axis=1) / own_areas
        found[(inside >= settings.crowd) & (found < 0)] = IGNORED
    return found, matched


def assign_all(
    anchors: Anchors, annotations: Annotations, settings: AssignmentSettings | None = None
) -> Targets:
    """Targets of all images of a split: computed once, looked up in every epoch."""
    labels = np.empty((len(annotations), len(anchors)), dtype=np.int16)
    matched = np.empty((len(annotations), len(anchors)), dtype=np.int32)
    for i in range(len(annotations)):
        labels[i], matched[i] = assign(anchors.boxes, *annotations.of(i), settings)
    return Targets(labels, matched)


def matched_boxes(matched: np.ndarray, annotations: Annotations) -> np.ndarray:
    """The boxes that positive anchors have to find, float32 (p, 4), in the order of the anchors.

    `matched` (n, A) as in `Targets`, of the same images as `annotations`.
    """
    image, anchor = np.nonzero(matched >= 0)
    return annotations.boxes[annotations.offsets[image] + matched[image, anchor]]
