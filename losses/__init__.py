"""Losses, behind one contract (`losslab.losses.base`)."""

from losslab.registry import Registry

LOSSES = Registry(
    "loss",
    "losslab.losses",
    {
        "ce": (
            "Cross-entropy.",
            "losslab.losses.cross_entropy:CrossEntropy",
        ),
        "balanced_ce": (
            "Cross-entropy weighted by class: alpha (sigmoid) or n_j^-a (softmax).",
            "losslab.losses.balanced_cross_entropy:BalancedCrossEntropy",
        ),
        "focal": (
            "Focal loss (Lin et al. 2017): down-weights well-classified examples.",
            "losslab.losses.focal:Focal",
        ),
        "focal_star": (
            "FL*, the focal paper's alternative form (Lin et al. 2017, appendix).",
            "losslab.losses.focal:FocalStar",
        ),
    },
)
