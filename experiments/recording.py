"""Asking the recorders of a training, and leaving it as it was."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from losslab.experiments.global_random import kept, seed_all
from losslab.experiments.recorders import RECORDERS
from losslab.experiments.states import Job
from losslab.randomness import seed_integer

if TYPE_CHECKING:
    from losslab.experiments.training import Parts


def recorded(parts: "Parts", job: Job, prefix: str) -> dict[str, float]:
    """What the job's recorders measure now, as `prefix/<recorder>/<key>`; all else stays as it was.

    Model and loss keep mode, buffers and gradients, and random generators their states.
    """
    found: dict[str, float] = {}
    for name in job.config["training"].get("record") or ():
        modules = nn.ModuleList([parts.model, parts.loss])
        modes = [module.training for module in modules.modules()]
        before = {key: buffer.clone() for key, buffer in modules.named_buffers()}
        gradients = [parameter.grad for parameter in modules.parameters()]
        with kept(job.device):
            seed_all(seed_integer(job.study_seed, "record", job.run_seed), job.device)
            values = RECORDERS.create(name, parts=parts, job=job).measure()
        for module, mode in zip(modules.modules(), modes, strict=True):
            module.training = mode
        with torch.no_grad():
            for key, buffer in modules.named_buffers():
                buffer.copy_(before[key])
        for parameter, gradient in zip(modules.parameters(), gradients, strict=True):
            parameter.grad = gradient
        found |= {f"{prefix}/{name}/{key}": value for key, value in values.items()}
    return found
