"""Whether batch norms know the variance that they meet in evaluation: recorder `variance_shift`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from losslab.experiments.models.batch_norm import ANY_NORM
from losslab.experiments.recorders.layers import numbered
from losslab.experiments.states import Job
from losslab.experiments.training import Parts

#: Training examples that are looked at, at most.
EXAMPLES = 1024


class VarianceShift:
    """Ratio of the variance that a batch norm meets in evaluation to the running one that it uses.

    Li et al. (CVPR 2019) call this variance shift: what dropout before a norm does to it. Of every
    channel the ratio is taken as max(r, 1 / r), of the training split's first 1,024 examples;
    `01_<name>` is the mean over the channels of the first norm that is run, `all` that of all
    channels. 1 is no shift. Without running statistics there is nothing to tell, nor of a channel
    that one of both finds constant.
    """

    def __init__(self, parts: Parts, job: Job) -> None:
        self.parts = parts

    def measure(self) -> dict[str, float]:
        """The ratios now."""
        model, found = self.parts.model, dict[str, Tensor]()
        model.eval()
        hooks = [
            module.register_forward_pre_hook(_watch(found, name))
            for name, module in model.named_modules()
            if isinstance(module, ANY_NORM) and module.running_var is not None
        ]
        try:
            with torch.no_grad():
                model(self.parts.data.train.features[:EXAMPLES])
        finally:
            for hook in hooks:
                hook.remove()
        told = {
            name: ratios.mean().item()
            for name, ratios in zip(numbered(list(found)), found.values(), strict=True)
            if len(ratios)
        }
        if told:
            told["all"] = torch.cat(list(found.values())).mean().item()
        return told


def _watch(found: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        rows = given[0].double().movedim(1, -1).flatten(0, -2)
        assert isinstance(norm.running_var, Tensor)
        ratio = rows.var(0, correction=0) / norm.running_var.double()
        ratio = ratio[torch.isfinite(ratio) & (ratio > 0)]
        found[name] = torch.maximum(ratio, 1 / ratio)

    return hook
