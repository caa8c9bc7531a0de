"""Hard example mining: cross-entropy over the elements that the network does worst on."""

from typing import ClassVar

import torch
from torch import Tensor

from losslab.hyperparameters import Hyperparameter
from losslab.losses.identity import Identity
from losslab.losses.selection import RatioSelection, SelectedCrossEntropy

_OHEM = (
    "Shrivastava, Gupta, Girshick, Training Region-based Object Detectors with Online Hard "
    "Example Mining, CVPR 2016"
)
_SSD = (
    "Liu, Anguelov, Erhan, Szegedy, Reed, Fu, Berg, SSD: Single Shot MultiBox Detector, "
    "ECCV 2016, section 2.2"
)


class OHEM(SelectedCrossEntropy):
    """Online hard example mining: the mean cross-entropy of the hardest elements.

    The round(keep * n) elements with the highest loss, at least 1, of the n that are not ignored
    (Shrivastava et al. 2016, section 4; they keep 128 of about 4000 regions, without their
    suppression of overlapping regions here). keep 1 is cross-entropy. Ties go to the element that
    comes first. `mean` divides by the number kept. `per_image`: see `SelectedCrossEntropy`; other
    arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> x, y = torch.tensor([0.0, 9.0, 9.0, 9.0]), torch.ones(4)
    >>> OHEM(keep=0.25)(x, y)  # log 2, of the first alone
    tensor(0.6931)
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "keep": Hyperparameter(
            0.25,
            low=0.05,
            high=1.0,
            meaning="fraction of the elements that is kept, the hardest; 1 is cross-entropy",
            paper="custom: 0.1 to 0.25 in segmentation; Shrivastava et al. 2016 keep about 0.03",
            scale="log",
            minimum=0.0,
            maximum=1.0,
        )
    }
    formula = "L = -log p_t of the round(keep n) elements with the smallest p_t"
    citation = _OHEM + ", section 4"
    identities = (Identity("keep 1 is cross-entropy", {"keep": 1}, "ce"),)
    keep: Tensor

    def selected(self, values: Tensor, targets: Tensor, kept: Tensor) -> Tensor | None:
        """The hardest elements."""
        number = (self.keep * self.count(kept)).clamp(min=1)
        return self.highest(values, kept, number)


class OHEMRatio(RatioSelection):
    """Hard negative mining: all positives and the hardest negatives, 3 per positive.

    With P positives (sigmoid: any target above 0; softmax: any class but 0), the
    round(negatives_per_positive * P) negatives with the highest loss are kept (Liu et al. 2016,
    section 2.2; 1 is the balanced variant). Without a positive as many negatives are kept as with
    one, so that an all-negative batch, or image under `per_image`, is learnt from; the SSD heads
    of mmdet and torchvision keep none there. Those rank within the image and divide by the
    positives: `per_image=True, reduction="positives"`. Ties go to the element that comes first.
    Other arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> x, y = torch.tensor([0.0, 1.0, -9.0, -9.0]), torch.tensor([1.0, 0, 0, 0])
    >>> OHEMRatio(negatives_per_positive=1, reduction="none")(x, y)  # log 2, log(1 + e)
    tensor([0.6931, 1.3133, 0.0000, 0.0000])
    """

    formula = (
        "L = -log p_t of all P positives and of the round(r max(P, 1)) negatives with the "
        "smallest p_t, r = negatives_per_positive"
    )
    citation = _SSD + "; after " + _OHEM

    def keys(self, values: Tensor) -> Tensor:
        """The loss."""
        return values


class OHEMThreshold(SelectedCrossEntropy):
    """Mining by confidence: elements with p_t below a threshold, and never too few.

    Kept are the elements with p_t < max(threshold, t), where t admits the round(min_kept * n)
    elements with the smallest p_t, at least 1, of the n that are not ignored. p_t is exp(-loss),
    for soft targets too. The rule of segmentation codes (mmseg's OHEMPixelSampler, threshold 0.7
    by custom), whose minimum is a number of pixels, 100 000, which is 0.19 of a 512 x 1024 crop;
    ours is smaller, for it to leave the threshold in force where most elements are easy. Ties go
    to the element that comes first. Other arguments, shapes, errors: see `Loss`.

    >>> import torch
    >>> x, y = torch.tensor([0.0, -1.0, 9.0, 9.0]), torch.ones(4)
    >>> OHEMThreshold(reduction="none")(x, y)  # p_t .5, .27 and twice .9999
    tensor([0.6931, 1.3133, 0.0000, 0.0000])
    """

    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {
        "threshold": Hyperparameter(
            0.7,
            low=0.5,
            high=0.95,
            meaning="elements with a smaller p_t are kept",
            paper="custom (mmseg)",
            minimum=0.0,
            maximum=1.0,
        ),
        "min_kept": Hyperparameter(
            0.05,
            low=0.01,
            high=1.0,
            meaning="smallest fraction of the elements that is kept; 1 is cross-entropy",
            scale="log",
            minimum=0.0,
            maximum=1.0,
        ),
    }
    formula = (
        "L = -log p_t where p_t < threshold, and of the round(min_kept n) elements with the "
        "smallest p_t"
    )
    citation = _OHEM + "; as mmsegmentation's OHEMPixelSampler"
    identities = (Identity("min_kept 1 is cross-entropy", {"min_kept": 1}, "ce"),)
    threshold: Tensor
    min_kept: Tensor

    def selected(self, values: Tensor, targets: Tensor, kept: Tensor) -> Tensor | None:
        """The elements below the threshold, and the hardest ones."""
        hard = values > -torch.log(self.threshold).to(values.dtype)
        number = (self.min_kept * self.count(kept)).clamp(min=1)
        return (kept & hard) | self.highest(values, kept, number)
