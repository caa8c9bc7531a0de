"""Dense detection: many anchors an image, foreground or background, some ignored."""

import numpy as np
from torch import Tensor

from losslab.experiments.tasks.base import ElementTask, Link


class Dense(ElementTask):
    """Model outputs (B, A, outputs), targets (B, A): 1 foreground, 0 background, -1 ignored.

    Losses are summed over all anchors and divided by the number of foreground ones by default
    (`reduction: positives`), as in the focal loss paper (Lin et al. 2017, section 4.1).
    """

    kind = "dense"
    default_reduction = "positives"

    def logits(self, outputs: Tensor, link: Link) -> Tensor:
        """(B, A) under sigmoid, (B, 2, A) under softmax."""
        return outputs.squeeze(-1) if self.outputs(link) == 1 else outputs.movedim(-1, 1)

    def loss_targets(self, targets: Tensor, link: Link) -> Tensor:
        """Floats with -1 for ignored under sigmoid, class indices with -1 under softmax."""
        return targets if link == "softmax" else targets.float()

    def rows(self, logits: Tensor, targets: Tensor, link: Link) -> tuple[np.ndarray, np.ndarray]:
        """The anchors that are not ignored, image by image."""
        values = logits.movedim(1, -1) if link == "softmax" else logits
        counted = targets != self.ignore_index
        return values[counted].double().cpu().numpy(), targets[counted].cpu().numpy()
