"""What detection datasets share: splits of images with boxes, and the record of what is in them.

The contract is that of `losslab.datasets.base`: a fixed test split that depends on the study seed
alone, and train and validation splits drawn by the run seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from losslab.datasets.base import SplitDataset, TaskKind, content_hash
from losslab.datasets.detection.annotations import Annotations, box_areas

ANNOTATED = ("offsets", "boxes", "labels", "crowd", "areas")  # of `Annotations`, in its order
# COCO's size ranges, by area in original pixels: small, medium, large.
COCO_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}


@dataclass(frozen=True)
class DetectionSplit:
    """Images of one split with their boxes.

    `images` uint8 (n, 3, H, W), red, green, blue; it may be a memory map. `annotations` in pixels
    of these images. `ids` int64 (n,): stable over splits and seeds. `sizes` int32 (n, 2): height
    and width of what is image; the rest, at the right and the bottom, is padding. `scales` float32
    (n,): stored pixels for each original pixel. `masks` uint8 (n, H, W), where there are any: 0
    for background, 1 + class for visible pixels of objects.
    """

    images: np.ndarray
    annotations: Annotations
    ids: np.ndarray
    sizes: np.ndarray
    scales: np.ndarray
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self) -> str:
        """A hash of ids, boxes and images, for stating what two runs have in common."""
        return content_hash(self.ids, *self.annotations.arrays(), self.sizes, self.images)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name; `from_arrays` makes the split again."""
        boxes = dict(zip(ANNOTATED, self.annotations.arrays(), strict=True))
        own = {name: getattr(self, name) for name in ("images", "ids", "sizes", "scales")}
        masks = {} if self.masks is None else {"masks": self.masks}
        return {**own, **masks, **boxes}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "DetectionSplit":
        """The split of what `arrays` gave."""
        boxes = Annotations(*(arrays[name] for name in ANNOTATED))
        own = {name: array for name, array in arrays.items() if name not in ANNOTATED}
        return cls(annotations=boxes, **own)


class DetectionDataset(SplitDataset[DetectionSplit]):
    """A dataset of images with boxes; nothing is fitted, so every run sees the same test images.

    `class_names` are the K classes of objects; background is none of them.
    """

    task: TaskKind = "detection"

    def class_counts(self, split: DetectionSplit) -> np.ndarray:
        """How many objects of each class `split` has (int64, (K,)); crowd regions do not count."""
        labels = split.annotations.labels[~split.annotations.crowd]
        return np.bincount(labels, minlength=self.num_classes).astype(np.int64)

    def _describe_examples(self, train: DetectionSplit) -> dict[str, Any]:
        return {"image_shape": list(train.images.shape[1:])}

    def _describe_split(self, split: DetectionSplit) -> dict[str, Any]:
        counts = self.class_counts(split)
        return {
            "images": len(split),
            "images_without_objects": int((split.annotations.counts == 0).sum()),
            "objects": int(counts.sum()),
            "class_counts": counts.tolist(),
            "prior": (counts / max(counts.sum(), 1)).tolist(),
            "crowd": int(split.annotations.crowd.sum()),
            "object_sizes": object_sizes(split),
        }


def object_sizes(split: DetectionSplit) -> dict[str, Any]:
    """How large the objects of a split are, crowd left out.

    `quantiles`: 0, 5, 25, 50, 75, 95 and 100 % of the square root of the box's area in stored
    pixels. `octaves`: how many objects lie between 2^k and 2^(k+1) pixels by that measure. `coco`:
    how many are small, medium and large by COCO's ranges, which are in original pixels.
    """
    objects = ~split.annotations.crowd
    sizes = np.sqrt(box_areas(split.annotations.boxes[objects]).astype(np.float64))
    levels = (0, 5, 25, 50, 75, 95, 100)
    quantiles = np.percentile(sizes, levels).round(2).tolist() if len(sizes) else []
    octaves, counts = np.unique(np.floor(np.log2(sizes)).astype(int), return_counts=True)
    areas = split.annotations.areas[objects]
    return {
        "quantiles": {f"{level}%": q for level, q in zip(levels, quantiles, strict=False)},
        "octaves": {
            f"{2.0**k:g} to {2.0 ** (k + 1):g}": int(n)
            for k, n in zip(octaves, counts, strict=True)
        },
        "coco": {
            name: int(((areas >= low) & (areas < high)).sum())
            for name, (low, high) in COCO_SIZES.items()
        },
    }
