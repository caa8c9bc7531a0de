"""Segmentation: a class for every pixel of an image, some of them ignored."""

import numpy as np
import torch
from torch import Tensor

from losslab.errors import BadInput
from losslab.experiments.tasks.base import ElementTask, Link


class Segmentation(ElementTask):
    """Model outputs (B, K, H, W), targets (B, H, W) of class indices, -1 for ignored pixels.

    The loss is one of softmax over the classes by default and a mean over the pixels that count;
    under sigmoid it is K classes, each against the rest, or one output for two classes.
    """

    kind = "segmentation"
    default_reduction = "mean"
    primary = "miou"
    measures = frozenset({"ranking", "probability", "decision", "segmentation"})
    prepares = "losslab.experiments.segmentation.parts:prepare_segmentation"
    judges = "losslab.experiments.segmentation.judging:judge_segmentation"
    alone = "a segmentation network keeps a core busy by itself"
    #: Enough for curves; a megabyte a run with ten classes.
    most_stored = 1 << 15

    @property
    def default_link(self) -> Link:
        """Softmax, however many classes there are."""
        return "softmax"

    def logits(self, outputs: Tensor, link: Link) -> Tensor:
        """(B, H, W) for one output, otherwise (B, K, H, W)."""
        if outputs.ndim != 4 or outputs.shape[1] != self.outputs(link):
            raise BadInput(
                f"name: the model gives {tuple(outputs.shape)} and not {self.outputs(link)} logits "
                f"for every pixel; write model: pspnet"
            )
        return outputs.squeeze(1) if self.outputs(link) == 1 else outputs

    def loss_targets(self, targets: Tensor, link: Link) -> Tensor:
        """Class indices under softmax; floats (B, H, W) or (B, K, H, W) under sigmoid."""
        if link == "softmax":
            return targets
        if self.outputs(link) == 1:
            return targets.float()
        ignored = targets == self.ignore_index
        classes = torch.nn.functional.one_hot(targets.masked_fill(ignored, 0), self.num_classes)
        one_hot = classes.movedim(-1, 1).float()
        return one_hot.masked_fill(ignored.unsqueeze(1), float(self.ignore_index))

    def rows(self, logits: Tensor, targets: Tensor, link: Link) -> tuple[np.ndarray, np.ndarray]:
        """The pixels that are not ignored, image by image."""
        values = logits if self.outputs(link) == 1 else logits.movedim(1, -1)
        counted = targets != self.ignore_index
        return values[counted].double().cpu().numpy(), targets[counted].cpu().numpy()
