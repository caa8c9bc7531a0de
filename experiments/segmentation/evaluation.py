"""What a segmentation network makes of a split: exact counts of all pixels, logits of some."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from losslab.experiments.data import Examples
from losslab.experiments.decision_metrics import confusion
from losslab.experiments.decisions import Decision, decision_scores
from losslab.experiments.elements import EVALUATION_ELEMENTS
from losslab.experiments.tasks.base import Link
from losslab.experiments.tasks.segmentation import Segmentation
from losslab.randomness import generator


@dataclass(frozen=True)
class Evaluated:
    """A split as a network sees it.

    Of the sampled pixels: `logits` float64 (N,) or (N, K), `targets` int64 (N,), `ids` int64 (N,)
    of their images. `confusions`: for each decision rule the counts (K, K) over all pixels. `masks`
    int16 (m, H, W): the classes decided by the first rule in the images that were asked for.
    """

    logits: np.ndarray
    targets: np.ndarray
    ids: np.ndarray
    confusions: list[np.ndarray]
    masks: np.ndarray


def sampled_pixels(targets: np.ndarray, ids: np.ndarray, study_seed: int) -> list[np.ndarray]:
    """Which pixels of each image are kept, as indices into its rows one after the other.

    `targets` (n, H, W). Each image gives an equal share of `Segmentation.most_stored`, drawn
    without replacement from its pixels that count by the study seed and the image's id: the same
    ones in every run and arm.

    >>> [len(own) for own in sampled_pixels(np.zeros((2, 200, 200), int), np.arange(2), 0)]
    [16384, 16384]
    """
    share = max(Segmentation.most_stored // len(ids), 1)
    found = []
    for image, number in zip(targets, ids.tolist(), strict=True):
        counted = np.flatnonzero(image.ravel() != Segmentation.ignore_index)
        random = generator(study_seed, "sampled pixels", number)
        size = min(share, len(counted))
        found.append(np.sort(random.choice(counted, size=size, replace=False)))
    return found


def evaluated(
    model: nn.Module,
    examples: Examples,
    task: Segmentation,
    link: Link,
    sample: Sequence[np.ndarray],
    rules: Sequence[Decision],
    shown: Sequence[int] = (),
) -> Evaluated:
    """Put a split through a model, in evaluation mode, a few images at a time.

    `sample` is of `sampled_pixels`, `rules` are the decision rules to count by, `shown` the places
    of the images whose masks are wanted. Raises `ValueError` where a logit is not finite.
    """
    height, width = examples.targets.shape[1:]
    chunk = max(1, EVALUATION_ELEMENTS // (height * width))
    counts = [np.zeros((task.num_classes,) * 2, dtype=np.int64) for _ in rules]
    logits, targets, masks = [], [], []
    model.eval()
    with torch.no_grad():
        for begin in range(0, len(examples), chunk):
            part = slice(begin, begin + chunk)
            raw = task.logits(model(examples.features[part]), link)
            rows = raw if task.outputs(link) == 1 else raw.movedim(1, -1)
            values = rows.reshape(-1, *rows.shape[3:]).double().cpu().numpy()
            if not np.isfinite(values).all():
                raise ValueError("a logit is not finite")
            truth = examples.targets[part].cpu().numpy().reshape(-1)
            counted = truth != task.ignore_index
            images = range(begin, min(begin + chunk, len(examples)))
            decided = [rule.decide(decision_scores(values, link)) for rule in rules]
            for total, predicted in zip(counts, decided, strict=True):
                total += confusion(truth[counted], predicted[counted], task.num_classes)
            kept = np.concatenate([sample[i] + (i - begin) * height * width for i in images])
            logits.append(values[kept])
            targets.append(truth[kept])
            whole = decided[0].reshape(-1, height, width).astype(np.int16)
            masks += [whole[i - begin] for i in images if i in shown]
    return Evaluated(
        np.concatenate(logits),
        np.concatenate(targets),
        np.repeat(examples.ids, [len(own) for own in sample]),
        counts,
        np.stack(masks) if masks else np.zeros((0, height, width), dtype=np.int16),
    )
