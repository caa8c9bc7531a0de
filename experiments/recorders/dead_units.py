"""Units that do not learn: recorder `dead_units`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from losslab.experiments.models.activations import KINDS
from losslab.experiments.recorders.layers import first_batch, numbered
from losslab.experiments.states import Job
from losslab.experiments.training import Parts

#: An activation is flat where its slope is below this share of its greatest one.
FLAT = 0.005


class DeadUnits:
    """Share of units that are dead: flat for every example of one fixed batch, in evaluation mode.

    A unit is one number of an activation layer's output, of maps one channel (flat at every place);
    it is flat where the slope of its activation is below 0.5 % of the greatest slope that this
    activation has. So a ReLU is dead if it gives 0 for all examples; a sigmoid (|x| > 6.7) or tanh
    (|x| > 3.3) if it is saturated for all; a GELU if x < -3.3 for all, or near -0.75, where it
    turns; a leaky ReLU of slope 0.01 never. No gradient comes through a dead unit to what is before
    it.

    `01_<name>` is the share in the first activation layer that is run, `all` the share of all
    units, and `flat` the share of pairs of example and unit that are flat. The batch is the first
    one of the first epoch.
    """

    def __init__(self, parts: Parts, job: Job) -> None:
        self.parts, self.job = parts, job

    def measure(self) -> dict[str, float]:
        """The shares now; nothing where the model has no activation layer."""
        parts = self.parts
        parts.model.eval()
        found: dict[str, Tensor] = {}
        hooks = [
            module.register_forward_pre_hook(_watch(found, name, module))
            for name, module in parts.model.named_modules()
            if isinstance(module, KINDS)
        ]
        try:
            with torch.no_grad():
                parts.model(parts.data.train.features[first_batch(parts, self.job)])
        finally:
            for hook in hooks:
                hook.remove()
        if not found:
            return {}
        dead = [flat.all(0) for flat in found.values()]
        means = [layer.double().mean().item() for layer in dead]
        shares = dict(zip(numbered(list(found)), means, strict=True))
        counts = torch.tensor([[flat.sum(), flat.numel()] for flat in found.values()]).sum(0)
        shares["all"] = torch.cat(dead).double().mean().item()
        shares["flat"] = (counts[0] / counts[1]).item()
        return shares


def _watch(found: dict[str, Tensor], name: str, module: nn.Module) -> Callable[..., None]:
    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        flat = flat_where(module, given[0])
        # Places of a map, or anchors, are examples of one unit; a layer run twice counts once more.
        rows = flat.movedim(1, -1) if flat.ndim == 4 else flat
        rows = rows.flatten(0, -2)
        found[name] = rows if name not in found else torch.cat([found[name], rows])

    return hook


def flat_where(activation: nn.Module, inputs: Tensor) -> Tensor:
    """Where an activation's slope is below `FLAT` of its greatest one between -20 and 20.

    >>> flat_where(nn.ReLU(), torch.tensor([-1.0, 2.0]))
    tensor([ True, False])
    """
    grid = torch.linspace(-20, 20, 4001, dtype=inputs.dtype, device=inputs.device)
    return _slope(activation, inputs).abs() < FLAT * _slope(activation, grid).abs().max()


def _slope(activation: nn.Module, inputs: Tensor) -> Tensor:
    with torch.enable_grad():
        # `forward`, since a call would run the hook again; a copy, since it may work in place.
        leaf = inputs.detach().clone().requires_grad_()
        return torch.autograd.grad(activation.forward(leaf.clone()).sum(), leaf)[0]
