"""Optimisers over a stack: one step of AdamW, Adam or SGD for every training.

Parameters of N trainings lie side by side in one tensor (N, P), so a step is a few operations on
whole tensors; each training has its own numbers. The formulas are those of `torch.optim`, whose
state dicts go in and come out.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's own, which `build_optimizer` leaves as they are


class Columns:
    """Which columns of a (N, P) tensor hold which parameter.

    >>> columns = Columns({"weight": torch.Size([2, 3]), "bias": torch.Size([2])})
    >>> columns.total, {name: tuple(part.shape) for name, part in columns.split(torch.zeros(5, 8))}
    (8, {'weight': (5, 2, 3), 'bias': (5, 2)})
    """

    def __init__(self, shapes: Mapping[str, torch.Size]):
        self.shapes = dict(shapes)
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.total = sum(self.sizes)

    def split(self, flat: Tensor) -> list[tuple[str, Tensor]]:
        """Views of a flat tensor (N, P) by parameter, each (N, *shape)."""
        parts = flat.split(self.sizes, dim=1)
        return [
            (name, part.view(len(flat), *shape))
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        ]

    def row(self, tensors: Sequence[Tensor]) -> Tensor:
        """One training's tensors, in the order of the columns, as a row (P,)."""
        return torch.cat([tensor.reshape(-1) for tensor in tensors])


class StackedOptimizer(ABC):
    """What the optimisers share: rates, weight decay and clipping of every training.

    `trainings` are the configurations' training sections, `states` their optimisers' state dicts,
    in which `numbers` are those of the parameters in the columns; all trainings have done the same
    number of steps.
    """

    #: The tensors a parameter has in the state dict, as they are called there.
    kept: tuple[str, ...]

    def __init__(
        self,
        flat: Tensor,
        columns: Columns,
        trainings: Sequence[Mapping[str, Any]],
        states: Sequence[Mapping[str, Any]],
        numbers: Sequence[int],
    ):
        self.flat = flat
        self.columns = columns
        self.numbers = numbers
        self.groups = [state["param_groups"] for state in states]
        self.steps = 0  # what `_begin` finds otherwise
        self.weight_decay = self._column([float(each["weight_decay"]) for each in trainings])
        factors = [float(each.get("l1", 0.0)) for each in trainings]
        self.l1 = self._l1_factors(factors) if any(factors) else None
        norms = [each["clip_norm"] for each in trainings]
        self.clip_norm = (
            None
            if all(norm is None for norm in norms)
            else self._column([math.inf if norm is None else float(norm) for norm in norms])
        )
        self.moments = {name: torch.zeros_like(flat) for name in self.kept}
        for row, state in enumerate(states):
            for name in self.kept if state["state"] else ():
                parts = [state["state"][number][name] for number in numbers]
                self.moments[name][row] = columns.row(parts).to(flat)
        self._begin(trainings, states)

    def penalise(self, gradient: Tensor) -> None:
        """Add the gradient of every training's L1 penalty, in place, as `add_l1` does."""
        if self.l1 is not None:
            gradient.addcmul_(self.l1, self.flat.sign())

    def clip(self, gradient: Tensor) -> None:
        """Scale every training's gradient down to its largest norm, in place, as torch does."""
        if self.clip_norm is not None:
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((self.clip_norm / (norm + 1e-6)).clamp(max=1.0))

    @abstractmethod
    def step(self, gradient: Tensor, rates: Tensor) -> None:
        """Move the parameters; `rates` (N, 1). The gradient may be overwritten."""

    def forget(self, row: int) -> None:
        """A training has left: nothing of it moves any more."""
        for moment in self.moments.values():
            moment[row] = 0.0
        self.weight_decay[row] = 0.0
        if self.l1 is not None:
            self.l1[row] = 0.0

    def state_dict(self, row: int) -> dict[str, Any]:
        """One training's optimiser as torch would save it."""
        state: dict[int, dict[str, Any]] = {}
        if self.steps:
            state = {number: self._more() for number in self.numbers}
        for name, moment in self.moments.items() if self.steps else ():
            parts = self.columns.split(moment[row : row + 1])
            for number, (_, part) in zip(self.numbers, parts, strict=True):
                state[number][name] = part[0].clone()
        return {"state": state, "param_groups": [dict(group) for group in self.groups[row]]}

    @abstractmethod
    def _begin(
        self, trainings: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Any]]
    ) -> None:
        """Take over what else the state dicts and the settings say: above all `steps`."""

    def _more(self) -> dict[str, Any]:
        """What the state of a parameter holds besides."""
        return {}

    def _l1_factors(self, factors: Sequence[float]) -> Tensor:
        """Each training's factor where there is a weight, 0 elsewhere: (N, P)."""
        found = torch.zeros_like(self.flat)
        for (_, part), shape in zip(
            self.columns.split(found), self.columns.shapes.values(), strict=True
        ):
            if len(shape) >= 2:
                part.add_(self._column(factors).view(-1, *[1] * len(shape)))
        return found

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self.flat.dtype, device=self.flat.device).unsqueeze(1)


class StackedAdam(StackedOptimizer):
    """Adam (Kingma, Ba, ICLR 2015), bias-corrected, with weight decay in the gradient (L2)."""

    kept = ("exp_avg", "exp_avg_sq")

    def _begin(
        self, trainings: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Any]]
    ) -> None:
        if states[0]["state"]:
            self.steps = int(states[0]["state"][self.numbers[0]]["step"])
        self.buffer = torch.empty_like(self.flat)

    def step(self, gradient: Tensor, rates: Tensor) -> None:
        """A step of `torch.optim.Adam`."""
        self._decay(gradient, rates)
        self.steps += 1
        first, second = BETAS
        mean, square = self.moments["exp_avg"], self.moments["exp_avg_sq"]
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        correction = math.sqrt(1 - second**self.steps)
        torch.sqrt(square, out=self.buffer).div_(correction).add_(EPSILON)
        torch.div(mean, self.buffer, out=self.buffer).mul_(rates / (1 - first**self.steps))
        self.flat.sub_(self.buffer)

    def _decay(self, gradient: Tensor, rates: Tensor) -> None:
        gradient.addcmul_(self.flat, self.weight_decay)

    def _more(self) -> dict[str, Any]:
        return {"step": torch.tensor(float(self.steps))}


class StackedAdamW(StackedAdam):
    """Adam with decoupled weight decay (Loshchilov, Hutter, ICLR 2019): a step of its own."""

    def _decay(self, gradient: Tensor, rates: Tensor) -> None:
        self.flat.mul_(1 - rates * self.weight_decay)


class StackedSGD(StackedOptimizer):
    """Gradient descent with momentum and L2 weight decay, as torch has it."""

    kept = ("momentum_buffer",)

    def _begin(
        self, trainings: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Any]]
    ) -> None:
        self.steps = int(any(state["state"] for state in states))
        self.momentum = self._column([float(each["momentum"]) for each in trainings])

    def state_dict(self, row: int) -> dict[str, Any]:
        """One training's optimiser as torch would save it: without momentum, it keeps nothing."""
        found = super().state_dict(row)
        return found if self.momentum[row] else {**found, "state": {}}

    def step(self, gradient: Tensor, rates: Tensor) -> None:
        """A step of `torch.optim.SGD`."""
        self.steps += 1
        gradient.addcmul_(self.flat, self.weight_decay)
        buffer = self.moments["momentum_buffer"]
        buffer.mul_(self.momentum).add_(gradient)
        self.flat.addcmul_(buffer, rates, value=-1)


def stacked_optimizer(
    flat: Tensor,
    columns: Columns,
    trainings: Sequence[Mapping[str, Any]],
    states: Sequence[Mapping[str, Any]],
    numbers: Sequence[int],
) -> StackedOptimizer:
    """The optimiser that the training sections name; they all name the same."""
    kinds: dict[str, type[StackedSGD] | type[StackedAdam]]
    kinds = {"sgd": StackedSGD, "adam": StackedAdam, "adamw": StackedAdamW}
    return kinds[trainings[0]["optimizer"]](flat, columns, trainings, states, numbers)
