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
        "sklearn_table": (
            "Real tables of scikit-learn (breast cancer, wine), features unscaled.",
            "losslab.datasets.sklearn_tables:build",
        ),
        "table": (
            "Your own CSV or Parquet file.",
            "losslab.datasets.table:build",
        ),
        "modes": (
            "Generation: a mixture of Gaussians in the plane with long-tailed mode frequencies.",
            "losslab.datasets.modes:build",
        ),
        "scenes": (
            "Object detection: real handwritten digits, small and rare, on cluttered scenes.",
            "losslab.datasets.detection.scenes:build",
        ),
        "scene_masks": (
            "Segmentation: the scenes with a class for every pixel, long-tailed if wanted.",
            "losslab.datasets.segmentation.scenes:build",
        ),
        "masks": (
            "Segmentation: your own folder of images and folder of PNG masks.",
            "losslab.datasets.segmentation.folders:build",
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
