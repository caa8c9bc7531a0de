"""Scenes composed from real handwritten digits: small objects, clutter, and look-alikes.

A scene is a piece of one of scikit-learn's two photographs with its colours changed, with lines and
arcs drawn across it. On it are glyphs of scikit-learn's 1,797 handwritten digits (8 x 8 grey
levels), enlarged, leaning, stretched and coloured: those of `object_digits` are the objects; the
distractors are in equal parts digits of the other kinds and cut glyphs, pieces that have at most
0.45 of a digit left. Glyphs are drawn over one another, and pieces of photographs over some
objects, but every object shows at least 0.6 of its ink. Its box is tight around the ink that is
seen, so an occluded object has the box of its visible part; its class is not changed by occlusion.

No glyph is in two splits: those of test scenes are drawn by the study seed, the others divided
between training and validation by the run seed (a fifth for validation), and the backgrounds of
test scenes come from the right halves of the photographs, all others from the left ones. Scenes of
training and validation are composed anew for every run seed.

Why the defaults. With the anchors of the model `retinanet` (3,024 of 16 to 102 pixels at strides
8, 16 and 32; IoU 0.5 and 0.4) an object of 16 to 48 pixels is matched by 6 anchors on average, and
one in twenty by none, as in the paper. Half an object a scene gives 3 positives an image, 1 for
1,050 background anchors (1,000 scenes of study seed 0); with 5 objects a scene it is 1:94, with
0.05 it is 1:10,645. Each scene has two distractors on average, four for each object, which are the
hard negatives. The ratio was fixed first. Three classes, objects from 16 pixels on and a contrast
of 0.4 were then taken because focal loss at its defaults had an AP of 0.06 after a minute's
training with five classes and a contrast of 0.25, too near the floor to tell arms apart, and 0.14
with these; no other loss was looked at.

COCO's size ranges take a scene for a stored quarter of an original of four times its side: small
objects are below 8 pixels here, large ones above 24.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from losslab.datasets.base import content_hash
from losslab.datasets.detection.annotations import Annotations, box_areas
from losslab.datasets.detection.base import DetectionDataset, DetectionSplit
from losslab.datasets.detection.scenes_drawing import Scene, Thing, draw
from losslab.datasets.detection.scenes_glyphs import Photographs
from losslab.datasets.options import OptionChecks
from losslab.datasets.splitting import stratified_split
from losslab.randomness import generator

TEST_GLYPHS = 0.3  # share of the digits that only test scenes show
VALIDATION_GLYPHS = 0.2  # share of the others that only validation scenes show
SCALE = 0.25  # stored pixels for each "original" one, for COCO's size ranges
DIGITS = (0, 3, 4)
UNCUT = 1  # a piece of a one is a one
SPLITS = ("train", "validation", "test")


def build(
    study_seed: int,
    *,
    train_images: int = 2800,
    validation_images: int = 100,
    test_images: int = 200,
    size: int = 128,
    object_digits: list[int] | None = None,
    objects_per_image: float = 0.5,
    smallest: float = 16.0,
    largest: float = 48.0,
    occlusion: float = 0.2,
    distractors_per_image: float = 2.0,
    strokes_per_image: float = 6.0,
    contrast: float = 0.4,
    imbalance_factor: float = 1.0,
    imbalance_applies_to: Literal["train", "all"] = "train",
) -> "Scenes":
    """Compose a detection problem; the module's text tells how.

    - `train_images`, `validation_images`, `test_images`: scenes in each split, 1 to 100,000.
    - `size`: height and width of a scene in pixels, 32 to 2,048.
    - `object_digits`: the digits that are objects, one to nine of 0 to 9; class i is the i-th.
      By default 0, 3 and 4.
    - `objects_per_image`: mean of a Poisson distribution, 0.01 to 50; scenes without objects
      occur. With the size of scenes and objects it sets how rare foreground is.
    - `smallest`, `largest`: bounds of a glyph's longer side in pixels, 6 to `size`; its logarithm
      is uniform between them.
    - `occlusion`: share of the objects that a piece of a photograph partly covers, 0 to 1.
    - `distractors_per_image`, `strokes_per_image`: means of Poisson distributions, 0 to 100.
    - `contrast`: least difference in grey level between a glyph and what is under it, 0 to 0.5.
    - `imbalance_factor`: how many times as frequent the first class is as the last, >= 1; class i
      of K has a share proportional to imbalance_factor^(-i / (K - 1)).
    - `imbalance_applies_to`: `train`, and validation and test scenes have equal shares, or `all`.

    Raises `BadInput` with every mistake.

    >>> data = build(0, train_images=8, validation_images=4, test_images=4)
    >>> train, validation = data.split(0)
    >>> train.images.shape, train.masks.shape, len(validation.annotations)
    ((8, 3, 128, 128), (8, 128, 128), 4)
    """
    options = {key: value for key, value in locals().items() if key != "study_seed"}
    options["object_digits"] = list(DIGITS if object_digits is None else object_digits)
    _check(options)
    return Scenes(study_seed, options)


class Scenes(DetectionDataset):
    """The data set that `build` returns; splits are composed when they are asked for."""

    name = "scenes"

    def __init__(self, study_seed: int, options: dict[str, Any]):
        from sklearn.datasets import load_digits

        self.options = options
        self.class_names = [str(digit) for digit in options["object_digits"]]
        self._seed = study_seed
        source = load_digits()
        self._glyphs = (source.images / 16.0).astype(np.float32)
        self._digits = source.target.astype(np.int64)
        everything = np.arange(len(self._digits))
        self._pool_glyphs, self._test_glyphs = self._divide(
            everything, TEST_GLYPHS, generator(study_seed, "scenes test glyphs")
        )
        self._test = self._compose("test", 0)
        self.content_hash = content_hash(
            repr((study_seed, sorted(options.items()))), self._glyphs, self._test.digest()
        )

    def split(self, run_seed: int) -> tuple[DetectionSplit, DetectionSplit]:
        """Train and validation scenes of a run, composed from different glyphs."""
        return self._compose("train", run_seed), self._compose("validation", run_seed)

    def test(self, run_seed: int) -> DetectionSplit:
        """The test scenes; every run sees the same."""
        return self._test

    def _divide(
        self, glyphs: np.ndarray, fraction: float, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        alone = np.arange(len(glyphs))  # no two of the 1,797 glyphs are identical
        held = stratified_split(self._digits[glyphs], alone, fraction, random)
        return glyphs[~held], glyphs[held]

    def _glyphs_of(self, part: str, run_seed: int) -> np.ndarray:
        if part == "test":
            return self._test_glyphs
        random = generator(self._seed, "scenes glyphs", run_seed)
        parts = self._divide(self._pool_glyphs, VALIDATION_GLYPHS, random)
        return parts[part == "validation"]

    def _compose(self, part: str, run_seed: int) -> DetectionSplit:
        images, size = self.options[f"{part}_images"], self.options["size"]
        photographs = Photographs("test" if part == "test" else "pool")
        things_of = self._things(part, run_seed, images)
        scenes: list[Scene] = []
        for image in range(images):
            random = generator(self._seed, "scene", part, run_seed, image)
            things = things_of(image, random)
            strokes = int(random.poisson(self.options["strokes_per_image"]))
            scenes.append(
                draw(size, things, strokes, self.options["contrast"], photographs, random)
            )
        # Scenes of all parts and runs are different ones, so an id also tells the part.
        first = sum(self.options[f"{name}_images"] for name in SPLITS[: SPLITS.index(part)])
        return DetectionSplit(
            np.stack([scene.image for scene in scenes]),
            Annotations.of_images(
                [scene.boxes for scene in scenes],
                [scene.labels for scene in scenes],
                areas=[box_areas(scene.boxes) / SCALE**2 for scene in scenes],
            ),
            np.arange(first, first + images, dtype=np.int64),
            np.full((images, 2), size, dtype=np.int32),
            np.full(images, SCALE, dtype=np.float32),
            np.stack([scene.mask for scene in scenes]),
        )

    def _things(
        self, part: str, run_seed: int, images: int
    ) -> Callable[[int, np.random.Generator], list[Thing]]:
        """What is on each scene of a split, as a function of the scene's index and generator."""
        random = generator(self._seed, "scenes counts", part, run_seed)
        counts = random.poisson(self.options["objects_per_image"], size=images)
        ends = np.cumsum(counts)
        labels = random.permutation(
            np.repeat(np.arange(self.num_classes), self._class_sizes(part, int(ends[-1])))
        )
        glyphs = self._glyphs_of(part, run_seed)
        of_digit = [glyphs[self._digits[glyphs] == digit] for digit in range(10)]
        own = self.options["object_digits"]
        strange = glyphs[~np.isin(self._digits[glyphs], own)]
        whole = glyphs[self._digits[glyphs] != UNCUT]

        def things(image: int, random: np.random.Generator) -> list[Thing]:
            found = []
            for label in labels[ends[image] - counts[image] : ends[image]].tolist():
                glyph = self._glyphs[random.choice(of_digit[own[label]])]
                covered = bool(random.random() < self.options["occlusion"])
                found.append(Thing(glyph, self._side(random), label, is_covered=covered))
            for _ in range(random.poisson(self.options["distractors_per_image"])):
                is_cut = bool(random.random() < 0.5)
                glyph = self._glyphs[random.choice(whole if is_cut else strange)]
                found.append(Thing(glyph, self._side(random), is_cut=is_cut))
            return [found[k] for k in random.permutation(len(found))]

        return things

    def _class_sizes(self, part: str, objects: int) -> np.ndarray:
        """How many of `objects` belong to each class: their shares, rounded so that they sum up."""
        factor = self.options["imbalance_factor"]
        if part != "train" and self.options["imbalance_applies_to"] == "train":
            factor = 1.0
        classes = self.num_classes
        shares = factor ** (-np.arange(classes) / max(classes - 1, 1))
        ends = np.rint(np.cumsum(shares) / shares.sum() * objects).astype(np.int64)
        return np.diff(ends, prepend=0)

    def _side(self, random: np.random.Generator) -> float:
        bounds = np.log([self.options["smallest"], self.options["largest"]])
        return float(np.exp(random.uniform(*bounds)))


def _check(options: dict[str, Any]) -> None:
    checks = OptionChecks()
    for part in SPLITS:
        checks.integer(f"{part}_images", options[f"{part}_images"], 1, 100_000)
    digits = options["object_digits"]
    usable = all(isinstance(d, int) and not isinstance(d, bool) and 0 <= d <= 9 for d in digits)
    if not usable or len(set(digits)) != len(digits) or not 1 <= len(digits) <= 9:
        checks.add("object_digits", f"must be one to nine different digits, got {digits}")
    checks.number("objects_per_image", options["objects_per_image"], 0.01, 50)
    if checks.integer("size", options["size"], 32, 2048):
        usable = checks.number("smallest", options["smallest"], 6, options["size"])
        usable &= checks.number("largest", options["largest"], 6, options["size"])
        if usable and options["largest"] < options["smallest"]:
            checks.add("largest", f"must be at least smallest, got {options['largest']}")
    checks.number("occlusion", options["occlusion"], 0, 1)
    checks.number("distractors_per_image", options["distractors_per_image"], 0, 100)
    checks.number("strokes_per_image", options["strokes_per_image"], 0, 100)
    checks.number("contrast", options["contrast"], 0, 0.5)
    checks.number("imbalance_factor", options["imbalance_factor"], 1, 1e6)
    checks.choice("imbalance_applies_to", options["imbalance_applies_to"], ("train", "all"))
    checks.done()
