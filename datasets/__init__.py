"""Imbalanced datasets, behind one contract (`losslab.datasets.base`)."""

from losslab.registry import Registry

DATASETS = Registry(
    "dataset",
    "losslab.datasets",
    {
        "clusters": (
            "Synthetic Gaussian clusters: imbalance ratio, overlap, label noise, dimensions.",
            "losslab.datasets.clusters:build",
        ),
        "anchors": (
            "Synthetic dense detection: many anchors an image, 1:1000, easy and hard background.",
            "losslab.datasets.anchors:build",
        ),
        "digits": (
            "Real handwritten digits (scikit-learn), long-tailed or with one rare class.",
            "losslab.datasets.digits:build",
        ),
        "table": (
            "Your own CSV or Parquet file.",
            "losslab.datasets.table:build",
        ),
        "scenes": (
            "Object detection: real handwritten digits, small and rare, on cluttered scenes.",
            "losslab.datasets.detection.scenes:build",
        ),
        "coco": (
            "Object detection: your own images with COCO annotations.",
            "losslab.datasets.detection.coco:build",
        ),
        "voc": (
            "Object detection: your own images with Pascal VOC annotations.",
            "losslab.datasets.detection.voc:build",
        ),
    },
)
