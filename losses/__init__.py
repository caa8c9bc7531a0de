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
        "label_smoothing": (
            "Cross-entropy against smoothed targets.",
            "losslab.losses.label_smoothing:LabelSmoothing",
        ),
        "focal": (
            "Focal loss (Lin et al. 2017): down-weights well-classified examples.",
            "losslab.losses.focal:Focal",
        ),
        "focal_star": (
            "FL*, the focal paper's alternative form (Lin et al. 2017, appendix).",
            "losslab.losses.focal:FocalStar",
        ),
        "poly1_ce": (
            "Poly-1 cross-entropy: its first polynomial coefficient shifted.",
            "losslab.losses.poly:Poly1CrossEntropy",
        ),
        "poly1_focal": (
            "Poly-1 focal loss.",
            "losslab.losses.poly:Poly1Focal",
        ),
        "class_balanced_ce": (
            "Cross-entropy weighted by the effective number of examples.",
            "losslab.losses.effective_number:ClassBalancedCrossEntropy",
        ),
        "class_balanced_focal": (
            "Focal loss weighted by the effective number of examples.",
            "losslab.losses.effective_number:ClassBalancedFocal",
        ),
        "ldam": (
            "LDAM: margins that grow with rarity, with deferred re-weighting; cosine head.",
            "losslab.losses.ldam:LDAM",
        ),
        "logit_adjustment": (
            "Cross-entropy on logits shifted by tau times the log prior.",
            "losslab.losses.logit_adjustment:LogitAdjustment",
        ),
        "balanced_softmax": (
            "Balanced softmax: logit adjustment with tau 1.",
            "losslab.losses.logit_adjustment:BalancedSoftmax",
        ),
        "vs": (
            "VS loss: logits scaled and shifted by class.",
            "losslab.losses.logit_adjustment:VectorScaling",
        ),
        "asl": (
            "Asymmetric loss: focusing and clipping apart for positives and negatives.",
            "losslab.losses.asymmetric:AsymmetricLoss",
        ),
        "asl_single_label": (
            "Asymmetric loss for one label out of C.",
            "losslab.losses.asymmetric:AsymmetricSingleLabel",
        ),
        "gce": (
            "Generalised cross-entropy, between cross-entropy and mean absolute error.",
            "losslab.losses.generalized_ce:GeneralizedCrossEntropy",
        ),
        "truncated_gce": (
            "Generalised cross-entropy, constant for examples far off.",
            "losslab.losses.generalized_ce:TruncatedGeneralizedCrossEntropy",
        ),
        "squared_error": (
            "Squared error of the probabilities (Brier score).",
            "losslab.losses.squared_error:SquaredError",
        ),
        "symmetric_ce": (
            "Cross-entropy plus reverse cross-entropy.",
            "losslab.losses.symmetric:SymmetricCrossEntropy",
        ),
        "ohem": (
            "Online hard example mining: the hardest fraction of a batch or image.",
            "losslab.losses.mining:OHEM",
        ),
        "ohem_ratio": (
            "All positives and the hardest negatives, some per positive (3; 1 balances).",
            "losslab.losses.mining:OHEMRatio",
        ),
        "ohem_threshold": (
            "Examples below a probability, and a minimum of the hardest.",
            "losslab.losses.mining:OHEMThreshold",
        ),
        "random_sampling": (
            "All positives and random negatives, some per positive.",
            "losslab.losses.sampling:RandomSampling",
        ),
        "ghm_c": (
            "GHM-C: weighted by the density of gradient norms.",
            "losslab.losses.ghm:GHMC",
        ),
        "ghm_r": (
            "GHM-R: GHM for regression, on a smooth absolute error.",
            "losslab.losses.ghm:GHMR",
        ),
        "seesaw": (
            "Seesaw loss: rare classes spared the negatives of frequent ones.",
            "losslab.losses.seesaw:Seesaw",
        ),
        "equalized_focal": (
            "Equalised focal loss: focusing by each class's gradient balance.",
            "losslab.losses.equalized:EqualizedFocal",
        ),
        "eql_v2": (
            "EQL v2: positives and negatives weighted by each class's gradient balance.",
            "losslab.losses.equalized:EQLv2",
        ),
        "quality_focal": (
            "Quality focal loss: focusing by the distance to a soft target.",
            "losslab.losses.quality:QualityFocal",
        ),
        "varifocal": (
            "Varifocal loss: positives weighted by their quality, negatives focused.",
            "losslab.losses.quality:Varifocal",
        ),
        "distribution_balanced": (
            "Distribution-balanced loss for long-tailed multi-label data.",
            "losslab.losses.distribution_balanced:DistributionBalanced",
        ),
        "zlpr": (
            "ZLPR: one loss for the whole label set of an example.",
            "losslab.losses.multilabel:ZLPR",
        ),
        "two_way": (
            "Two-way loss: examples and classes as label sets.",
            "losslab.losses.multilabel:TwoWay",
        ),
        "dice": (
            "Dice loss of a region.",
            "losslab.losses.dice:Dice",
        ),
        "jaccard": (
            "Soft Jaccard (IoU) loss of a region.",
            "losslab.losses.dice:Jaccard",
        ),
        "tversky": (
            "Tversky loss: false negatives and positives weighted apart.",
            "losslab.losses.tversky:Tversky",
        ),
        "focal_tversky": (
            "Tversky loss to a power, class by class.",
            "losslab.losses.tversky:FocalTversky",
        ),
        "lovasz": (
            "Lovász hinge and Lovász-softmax: the IoU's convex extension.",
            "losslab.losses.lovasz:Lovasz",
        ),
        "smooth_l1": (
            "Smooth L1 (Huber) loss for regression.",
            "losslab.losses.smooth_l1:SmoothL1",
        ),
        "asl1": (
            "Authentic smooth L1 loss for regression: smooth everywhere.",
            "losslab.losses.smooth_l1:AuthenticSmoothL1",
        ),
        "balanced_l1": (
            "Balanced L1 loss for regression (Libra R-CNN).",
            "losslab.losses.smooth_l1:BalancedL1",
        ),
        "iou": (
            "IoU loss of boxes.",
            "losslab.losses.boxes:IoU",
        ),
        "giou": (
            "Generalised IoU loss of boxes.",
            "losslab.losses.boxes:GIoU",
        ),
        "diou": (
            "Distance IoU loss of boxes.",
            "losslab.losses.boxes:DIoU",
        ),
        "ciou": (
            "Complete IoU loss of boxes.",
            "losslab.losses.boxes:CIoU",
        ),
    },
)

#: Losses of a generator and a discriminator, which have a contract of their own
#: (`losslab.losses.adversarial`).
ADVERSARIAL = Registry(
    "adversarial loss",
    "losslab.adversarial_losses",
    {
        "non_saturating": (
            "Cross-entropy of real against generated (Goodfellow et al. 2014).",
            "losslab.losses.adversarial:NonSaturating",
        ),
        "least_squares": (
            "Squared distance of scores to 1 and 0 (Mao et al. 2017).",
            "losslab.losses.adversarial:LeastSquares",
        ),
        "hinge": (
            "Hinge loss with margin 1; the generator raises its scores (Lim, Ye 2017).",
            "losslab.losses.adversarial:Hinge",
        ),
    },
)
