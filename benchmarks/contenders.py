"""What the losses are measured against: torchvision's formula, and other libraries if installed."""

from collections.abc import Callable
from importlib import import_module, util

import torch
import torch.nn.functional as F
from torch import Tensor

Contender = Callable[[Tensor, Tensor], Tensor]
GAMMA, ALPHA = 2.0, 0.25


def torchvision_formula(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss as torchvision.ops writes it down, mean reduction."""
    p = torch.sigmoid(logits)
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = ALPHA * targets + (1 - ALPHA) * (1 - targets)
    return (alpha_t * (ce * ((1 - p_t) ** GAMMA))).mean()


def gather_formula(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax focal loss as it is usually written down."""
    log_p = F.log_softmax(logits, 1).gather(1, targets[:, None]).squeeze(1)
    return (-((1 - log_p.exp()) ** GAMMA) * log_p).mean()


def sigmoid_contenders() -> dict[str, Contender]:
    """Sigmoid focal losses with gamma 2 and alpha .25, by name."""
    found: dict[str, Contender] = {"formula": torchvision_formula}
    if installed("kornia"):
        kornia = import_module("kornia.losses").binary_focal_loss_with_logits
        found["kornia"] = lambda x, y: kornia(x, y, alpha=ALPHA, gamma=GAMMA, reduction="mean")
    if installed("monai"):
        found["monai"] = import_module("monai.losses").FocalLoss(gamma=GAMMA, alpha=ALPHA)
    if installed("fvcore"):
        fvcore = import_module("fvcore.nn").sigmoid_focal_loss
        found["fvcore"] = lambda x, y: fvcore(x, y, alpha=ALPHA, gamma=GAMMA, reduction="mean")
    return found


def softmax_contenders() -> dict[str, Contender]:
    """Softmax focal losses with gamma 2, by name."""
    found: dict[str, Contender] = {"formula": gather_formula}
    if installed("kornia"):
        kornia = import_module("kornia.losses").focal_loss
        found["kornia"] = lambda z, t: kornia(z, t, alpha=None, gamma=GAMMA, reduction="mean")
    if installed("monai"):
        focal = import_module("monai.losses").FocalLoss
        monai = focal(gamma=GAMMA, use_softmax=True, to_onehot_y=True)
        found["monai"] = lambda z, t: monai(z, t[:, None])
    return found


def installed(package: str) -> bool:
    """Whether `package` can be imported; says so once if not."""
    if util.find_spec(package) is not None:
        return True
    if package not in _missing:
        print(f"{package} is not installed: its rows are left out")
        _missing.add(package)
    return False


_missing: set[str] = set()
