"""Building what a training needs from its configuration: model, loss, optimiser, schedule."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from losslab.datasets.base import content_hash
from losslab.errors import BadInput
from losslab.experiments.models import MODELS
from losslab.experiments.models.heads import CosineLinear
from losslab.experiments.models.settings import apply_settings, settings_for
from losslab.experiments.tasks import Task
from losslab.losses import LOSSES
from losslab.losses.base import Loss


def build_model(
    config: Mapping[str, Any],
    task: Task,
    link: Any,
    input_shape: tuple[int, ...],
    class_counts: np.ndarray,
    seed: int,
    features: Tensor | None = None,
) -> nn.Module:
    """The model of a `model` section, with initial weights drawn from `seed` alone.

    `features` are those of the training split, for settings that are fitted to them.
    """
    build = MODELS.get(config["name"])
    known = settings_for(build, config)
    settings = {key: value for key, value in config.items() if key in known}
    skipped = ("name", "prior_init", *settings)
    options = {key: value for key, value in config.items() if key not in skipped}
    outputs = task.outputs(link)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed does it too, in 3 ms
        model: nn.Module = build(input_shape=input_shape, outputs=outputs, **options)
        model = apply_settings(model, settings, features, outputs)
    prior = config.get("prior_init", False)
    if prior is not False:
        set_prior_bias(model, outputs, link, class_counts, None if prior is True else float(prior))
    return model


def set_prior_bias(
    model: nn.Module, outputs: int, link: str, class_counts: np.ndarray, rarity: float | None
) -> None:
    """Start the model at the class prior (Lin et al. 2017, section 3.3): set its last bias.

    Under sigmoid the bias is log(π/(1-π)), under softmax log π_j. π is the class distribution of
    the training split, or `rarity` for every foreground class if it is given. Raises `BadInput`
    if the model's last layer has no bias of that size.
    """
    biases: list[Tensor] = [
        bias
        for module in model.modules()
        if isinstance(bias := getattr(module, "bias", None), Tensor)
    ]
    cosine = any(isinstance(module, CosineLinear) for module in model.modules())
    if cosine or not biases or biases[-1].shape != (outputs,):
        raise BadInput("prior_init: needs a model whose last layer has a bias, one per output")
    prior = np.maximum(class_counts, 0.5) / class_counts.sum()
    if rarity is not None:
        if link == "softmax" and len(prior) > 2:
            raise BadInput(
                "prior_init: a single probability has no meaning under softmax with "
                f"{len(prior)} classes; use prior_init: on"
            )
        prior = np.array([1 - rarity, rarity]) if link == "softmax" else np.full(outputs, rarity)
    logits = np.log(prior) if link == "softmax" else np.log(prior) - np.log1p(-prior)
    with torch.no_grad():
        biases[-1].copy_(torch.from_numpy(logits[-outputs:]))


def build_loss(
    config: Mapping[str, Any], task: Task, class_counts: np.ndarray
) -> "Loss | ForeignLoss":
    """The loss of a `loss` section: one of losslab's own kind, or any importable module."""
    options = {key: value for key, value in config.items() if key not in ("name", "link")}
    loss = LOSSES.get(config["name"])
    if inspect.isclass(loss) and issubclass(loss, Loss):
        if options.get("reduction", "default") == "default":
            usual = task.default_reduction
            options["reduction"] = usual if usual in loss.reductions else "mean"
        return loss(
            link=config["link"],
            class_counts=torch.from_numpy(class_counts),
            ignore_index=task.ignore_index,
            **options,
        )
    given = inspect.signature(loss).parameters
    if "class_counts" in given and "class_counts" not in options:
        options["class_counts"] = torch.from_numpy(class_counts)
    return ForeignLoss(loss(**options), task, config["link"])


def build_box_loss(config: Mapping[str, Any]) -> Loss:
    """The box loss of a `detector` section: a loss of numbers, summed over boxes."""
    options = {key: value for key, value in config.items() if key != "name"}
    kind = LOSSES.get(config["name"])
    if "identity" not in getattr(kind, "links", ()):
        raise BadInput(f"{config['name']} compares no boxes; use smooth_l1, giou or the like")
    loss: Loss = LOSSES.create(config["name"], link="identity", reduction="sum", **options)
    return loss


class ForeignLoss(nn.Module):
    """Any module called as `module(logits, targets)`, made to follow the task's conventions.

    Ignored elements are left out before the call; a result that is not reduced is reduced as the
    task does by default (the mean, or the sum over the number of positives).
    """

    def __init__(self, module: nn.Module, task: Task, link: str):
        super().__init__()
        self.module = module
        self.task = task
        self.link = link
        self.reduction = "mean"  # as far as one can tell: what it gives is used as it is

    def set_progress(self, fraction: float) -> None:
        """Pass the progress on to a module that follows a schedule."""
        told = getattr(self.module, "set_progress", None)
        if callable(told):
            told(fraction)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The reduced loss."""
        if self.task.kind in ("dense", "detection", "segmentation"):
            counted = targets != self.task.ignore_index
            if self.link == "softmax":
                logits = logits.movedim(1, -1)
            logits, targets = logits[counted], targets[counted]
        if logits.ndim == 1:  # one column: some libraries insist on (N, C), and none on (N,)
            logits, targets = logits.unsqueeze(-1), targets.unsqueeze(-1)
        losses = self.module(logits, targets)
        if losses.ndim == 0:
            return losses
        if self.task.default_reduction == "positives":
            return losses.sum() / (targets > 0).sum().clamp(min=1)
        return losses.mean()


def build_optimizer(
    config: Mapping[str, Any], model: nn.Module, loss: nn.Module
) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD over all parameters; the learning rate is set before every step.

    Weight decay is decoupled in AdamW; in Adam and SGD it is the gradient of an L2 penalty.

    Parameters of the loss, such as weights of tasks, train beside the model's, and do not decay.
    """
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if own := list(loss.parameters()):
        groups.append({"params": own, "weight_decay": 0.0})
    weight_decay = float(config["weight_decay"])
    if config["optimizer"] == "sgd":
        return torch.optim.SGD(
            groups, lr=0.0, momentum=config["momentum"], weight_decay=weight_decay
        )
    kind = torch.optim.Adam if config["optimizer"] == "adam" else torch.optim.AdamW
    return kind(groups, lr=0.0, weight_decay=weight_decay)


def is_weight(parameter: Tensor) -> bool:
    """Whether an L1 penalty takes a parameter in: neither biases nor norms, which have one row."""
    return parameter.ndim >= 2


def add_l1(model: nn.Module, factor: float) -> None:
    """Add the gradient of `factor` times the sum of |w| over a model's weights, sign(0) being 0.

    Before gradients are clipped and the optimiser scales them: under Adam it is no exact L1.
    """
    if factor:
        for parameter in model.parameters():
            if parameter.grad is not None and is_weight(parameter):
                parameter.grad.add_(parameter.detach().sign(), alpha=factor)


def learning_rate(config: Mapping[str, Any], step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step (counted from 0), warm-up and schedule applied.

    >>> c = {"learning_rate": 1.0, "schedule": "cosine", "epochs": 2, "warmup_epochs": 0}
    >>> [round(learning_rate(c, step, 2), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    total = config["epochs"] * steps_per_epoch
    warmup = min(config["warmup_epochs"] * steps_per_epoch, total)
    peak = float(config["learning_rate"])
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    if config["schedule"] == "cosine":
        return peak * (1 + math.cos(math.pi * progress)) / 2
    if config["schedule"] == "step":
        return peak * 0.1 ** sum(step >= share * total for share in (2 / 3, 8 / 9))
    return peak


def weights_digest(model: nn.Module) -> str:
    """A hash of a model's parameters and buffers."""
    return content_hash(*[t.detach().cpu().numpy() for t in model.state_dict().values()])
