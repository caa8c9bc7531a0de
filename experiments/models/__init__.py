"""Models, behind one contract: `build(input_shape, outputs, **options) -> nn.Module`.

`input_shape` is the shape of one example's features, `outputs` the numbers wanted per element. The
model maps (batch, *input_shape) to (batch, outputs), or (batch, anchors, outputs) in dense tasks.
"""

from losslab.registry import Registry

MODELS = Registry(
    "model",
    "losslab.models",
    {
        "mlp": (
            "Multi-layer perceptron over feature vectors (images are flattened).",
            "losslab.experiments.models.mlp:build",
        ),
        "cnn": (
            "Small convolutional network over images.",
            "losslab.experiments.models.cnn:build",
        ),
        "resnet": (
            "Residual network over small images, with or without its shortcuts.",
            "losslab.experiments.models.resnet_classifier:build",
        ),
        "gan": (
            "A generator and a discriminator of rows, for the task of generation.",
            "losslab.experiments.models.gan:build",
        ),
        "pspnet": (
            "Segmentation: dilated ResNet, pyramid pooling, auxiliary head in training only.",
            "losslab.experiments.models.pspnet:build",
        ),
        "retinanet": (
            "One-stage detector: compact ResNet, feature pyramid, shared class and box subnets.",
            "losslab.experiments.models.retinanet:build",
        ),
        "two_stage": (
            "Two-stage detector: proposals of no class, then a head that classifies each.",
            "losslab.experiments.models.two_stage:build",
        ),
    },
)
