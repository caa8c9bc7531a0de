"""Classification: one label an example."""

import numpy as np
import torch
from torch import Tensor

from losslab.experiments.tasks.base import ElementTask, Link


class Classification(ElementTask):
    """Model outputs (B, outputs), targets (B,) of class indices."""

    kind = "classification"
    default_reduction = "mean"

    def logits(self, outputs: Tensor, link: Link) -> Tensor:
        """(B,) for one output, otherwise (B, K)."""
        return outputs.squeeze(-1) if self.outputs(link) == 1 else outputs

    def loss_targets(self, targets: Tensor, link: Link) -> Tensor:
        """Floats (B,) or one-hot (B, K) under sigmoid, class indices (B,) under softmax."""
        if link == "softmax":
            return targets
        if self.outputs(link) == 1:
            return targets.float()
        return torch.nn.functional.one_hot(targets, self.num_classes).float()

    def rows(self, logits: Tensor, targets: Tensor, link: Link) -> tuple[np.ndarray, np.ndarray]:
        """Every example counts."""
        return logits.double().cpu().numpy(), targets.cpu().numpy()
