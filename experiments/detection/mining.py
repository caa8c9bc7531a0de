"""Online hard example mining as detectors do it: suppression first, then the highest losses."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from losslab.errors import BadInput
from losslab.experiments.detection.nms import suppress


@dataclass(frozen=True)
class MiningSettings:
    """The variants of the focal loss paper's Table 1d (Lin et al. 2017, section 5.1).

    `batch_size`: how many anchors a batch of images keeps (128, 256, 512). `nms_threshold`: IoU
    above which the anchor with the lower loss is dropped first (0.7, 0.5). `negatives_per_positive`
    off: simply the highest losses; 3: at most a quarter of the batch are positives, the hardest,
    and there are at most 3 negatives, the hardest, for each (for one, where there is no positive).
    """

    batch_size: int = 128
    nms_threshold: float = 0.7
    negatives_per_positive: float | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.batch_size < 1:
            problems.append(f"batch_size: must be at least 1, got {self.batch_size}")
        if not 0 <= self.nms_threshold <= 1:
            problems.append(f"nms_threshold: must be in [0, 1], got {self.nms_threshold}")
        ratio = self.negatives_per_positive
        if ratio is not None and ratio <= 0:
            problems.append(f"negatives_per_positive: must be off or above 0, got {ratio}")
        if problems:
            raise BadInput(problems)


def mine(losses: Tensor, boxes: Tensor, labels: Tensor, settings: MiningSettings) -> Tensor:
    """The anchors that OHEM trains on: a bool mask (B, A).

    `losses` (B, A): each anchor's loss; `boxes` (B, A, 4): its decoded box; `labels` (B, A): its
    target, -1 for background and -2 for ignored, which is never kept. In every image, and within
    it among anchors of the same target, boxes suppress others of lower loss, as in the code of
    Shrivastava et al. (CVPR 2016); then the highest losses of the whole batch are kept. Ties go to
    the anchor that comes first. A loss of nan counts as the lowest. No gradient passes.
    """
    images = torch.arange(len(losses), device=losses.device)[:, None].expand_as(labels)
    counted = (labels != -2).reshape(-1)
    place = torch.nonzero(counted)[:, 0].cpu().numpy()
    score = losses.detach().reshape(-1)[counted].double().nan_to_num(nan=-np.inf).cpu().numpy()
    corners = boxes.detach().reshape(-1, 4)[counted].cpu().numpy()
    target = labels.reshape(-1)[counted].cpu().numpy().astype(np.int64)
    group = images.reshape(-1)[counted].cpu().numpy() * (target.max(initial=-1) + 2) + target + 1

    def hardest(among: np.ndarray, number: int) -> np.ndarray:
        rows = np.flatnonzero(among)
        kept = suppress(corners[rows], score[rows], settings.nms_threshold, group[rows], number)
        return place[rows[kept]]

    ratio = settings.negatives_per_positive
    if ratio is None:
        chosen = hardest(np.ones(len(place), dtype=bool), settings.batch_size)
    else:
        positives = hardest(target >= 0, max(1, round(settings.batch_size / (1 + ratio))))
        room = settings.batch_size - len(positives)
        number = min(room, round(ratio * max(len(positives), 1)))
        chosen = np.concatenate([positives, hardest(target < 0, number)])
    mask = torch.zeros(losses.numel(), dtype=torch.bool)
    mask[torch.from_numpy(chosen)] = True
    return mask.reshape(losses.shape).to(losses.device)
