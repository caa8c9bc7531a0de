"""Recorders: what a training can tell about itself beside its metrics, epoch by epoch.

A recorder is a class `Recorder(parts, job)` with `measure() -> dict[str, float]`. A study asks for
some with `training: {record: [gradients]}`; each is called before the first epoch and after every
one, and may run the model and its backward pass as it likes: modes, buffers, gradients and random
states are put back (`experiments.recording`). Its values stand in the history as
`record/<recorder>/<key>`, those from before the first epoch as `initial/<recorder>/<key>` in the
row of the first. Parameters it must leave alone.
"""

from losslab.registry import Registry

RECORDERS = Registry(
    "recorder",
    "losslab.recorders",
    {
        "batch_norm": (
            "How far running statistics of batch norms have moved since before the first epoch.",
            "losslab.experiments.recorders.batch_norm:BatchNormDrift",
        ),
        "task_gradients": (
            "Shares of a detector's class and box loss in the gradient of what they share.",
            "losslab.experiments.recorders.task_gradients:TaskGradients",
        ),
        "gradients": (
            "Norm of the loss's gradient by each layer's weights, on one fixed batch.",
            "losslab.experiments.recorders.gradients:Gradients",
        ),
        "dead_units": (
            "Share of units whose activation is flat for every example of one fixed batch.",
            "losslab.experiments.recorders.dead_units:DeadUnits",
        ),
        "weights": (
            "Sparsity, norms and a histogram of the weights.",
            "losslab.experiments.recorders.weights:Weights",
        ),
        "variance_shift": (
            "Variance that batch norms meet in evaluation, by the one that they expect.",
            "losslab.experiments.recorders.variance_shift:VarianceShift",
        ),
    },
)
