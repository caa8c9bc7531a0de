"""The live objects of a stack: data, model and validation of many trainings at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from losslab.experiments.data import Examples
from losslab.experiments.elements import EVALUATION_ELEMENTS
from losslab.experiments.stack_optimizers import Columns
from losslab.experiments.states import Job, State
from losslab.experiments.tasks import ElementTask
from losslab.experiments.tasks.base import Link
from losslab.experiments.training import batches, data_of

#: Elements of all trainings that one forward pass of an evaluation takes: the caches hold them.
ELEMENTS = 1 << 13
#: Layers that act on every number by itself, so that a stack is no different to them.
ELEMENTWISE = (nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.Identity)


def batched_layers(module: nn.Module) -> list[tuple[str, nn.Module]] | None:
    """The layers of a plain chain of linear and elementwise ones, which need no vmap; else None.

    One product for all, written out, takes less time than vmap's, and has none of its overhead in
    Python.
    """
    if type(module) is not nn.Sequential or _is_hooked(module):
        return None
    # Not `named_children`, which leaves out a layer that stands there for the second time.
    layers = [(name, layer) for name, layer in module._modules.items() if layer is not None]
    known = (nn.Linear, nn.Flatten, *ELEMENTWISE)
    if any(type(layer) not in known or _is_hooked(layer) for _, layer in layers):
        return None
    if any(type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) != (1, -1)
           for _, layer in layers):  # fmt: skip
        return None
    return layers


def _is_hooked(module: nn.Module) -> bool:
    """Whether a module does more, forwards or backwards, than its class says."""
    hooks: list[Any] = [
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    ]
    for parameter in module.parameters(recurse=False):
        hooks += [parameter._backward_hooks, parameter._post_accumulate_grad_hooks]
    return any(hooks) or "forward" in vars(module)


def first_names(module: nn.Module) -> dict[str, str]:
    """For every name in a module's state dict, the first name of the same tensor.

    >>> layer = nn.Linear(2, 2)
    >>> first_names(nn.Sequential(layer, layer))["1.weight"]
    '0.weight'
    """
    firsts: dict[int, str] = {}
    tensors = module.state_dict(keep_vars=True)
    return {name: firsts.setdefault(id(tensor), name) for name, tensor in tensors.items()}


class StackedModel:
    """N models of one shape: parameters in one tensor (N, P), buffers by name, one forward pass.

    `module` is any one of the models; its own weights are never used. `numbers` are those of the
    trained parameters among all, as the optimiser's state dict counts them.
    """

    def __init__(self, module: nn.Module, states: Sequence[State], task: ElementTask, link: Link):
        self.module = module
        self.task = task
        self.link = link
        self.layers = batched_layers(module)
        self.names = first_names(module)
        named = list(module.named_parameters())
        self.numbers = [i for i, (_, p) in enumerate(named) if p.requires_grad]
        parameters = {name: p for name, p in named if p.requires_grad}
        self.columns = Columns({name: p.shape for name, p in parameters.items()})
        if not parameters:
            raise ValueError("none of its parameters is trained")
        first = next(iter(parameters.values()))
        self.flat = torch.stack(
            [self.columns.row([state.model[name] for name in parameters]) for state in states]
        ).to(first)
        # Leaves that share the memory of `flat`, so that a step of the optimiser moves them.
        self.leaves = {
            name: part.detach().requires_grad_() for name, part in self.columns.split(self.flat)
        }
        self.buffers = {
            name: torch.stack([state.model[name] for state in states]).to(first.device)
            for name in dict.fromkeys(self.names.values())
            if name not in parameters
        }

    def logits(self, features: Tensor) -> Tensor:
        """Logits (N, ...) of features (N, B, ...), in the layout that losses take."""
        return self._all(self.leaves, self.buffers, features)

    def logits_of(self, rows: Sequence[int], features: Tensor) -> Tensor:
        """Logits of the models `rows` on the same features (B, ...), in evaluation."""
        if self.layers is None:
            # Views, not copies: what a model does to its buffers is kept, as in the plain loop.
            return torch.stack([
                self._one({name: leaf.detach()[row] for name, leaf in self.leaves.items()},
                          {name: buffer[row] for name, buffer in self.buffers.items()}, features)
                for row in rows
            ])  # fmt: skip
        leaves = {name: leaf.detach()[rows] for name, leaf in self.leaves.items()}
        buffers = {name: buffer[rows] for name, buffer in self.buffers.items()}
        return self._all(leaves, buffers, features.expand(len(rows), *features.shape))

    def gradient(self, loss: Tensor, out: Tensor) -> bool:
        """The gradient of every training in one tensor (N, P); whether all parameters take part."""
        found = torch.autograd.grad(loss, list(self.leaves.values()), allow_unused=True)
        for (_, place), part in zip(self.columns.split(out), found, strict=True):
            if part is None:
                return False
            place.copy_(part)
        return True

    def state_dict(self, row: int) -> dict[str, Tensor]:
        """One training's parameters and buffers, in the module's own order."""
        parts = {**self.leaves, **self.buffers}
        return {name: parts[first].detach()[row].clone() for name, first in self.names.items()}

    def put(self, row: int, weights: dict[str, Tensor]) -> None:
        """Replace one training's parameters and buffers."""
        with torch.no_grad():
            for name, part in self.columns.split(self.flat):
                part[row].copy_(weights[name])
            for name, buffer in self.buffers.items():
                buffer[row].copy_(weights[name])

    def _all(self, leaves: Any, buffers: Any, features: Tensor) -> Tensor:
        # Features always have the dimension of the stack, expanded where they are shared: else
        # vmap makes one wide product of all models, which was two to three times slower.
        if self.layers is None:
            return vmap(self._one)(leaves, buffers, features)
        parts = {**buffers, **leaves}
        fresh = False  # whether nobody else holds the features
        for name, layer in self.layers:
            if isinstance(layer, nn.Flatten):
                features = features.flatten(2)
            elif isinstance(layer, nn.Linear):
                bias = None if layer.bias is None else parts[self.names[f"{name}.bias"]]
                weight = parts[self.names[f"{name}.weight"]]
                features = batched_linear(features, weight, bias)
            elif isinstance(layer, nn.ReLU) and fresh:
                features = features.relu_()  # needs its own output only, and saves a tensor
            else:
                features = layer(features)
            # Not of a view: changing one in place is differentiated by way of copies.
            fresh = isinstance(layer, nn.Linear) and features.ndim == 3
        return torch.stack([self.task.logits(each, self.link) for each in features.unbind()])

    def _one(self, leaves: Any, buffers: Any, features: Tensor) -> Tensor:
        outputs = functional_call(self.module, (leaves, buffers), (features,))
        return self.task.logits(outputs, self.link)


def batched_linear(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer for each of N trainings: (N, B, ..., in) and (N, out, in) to (N, B, ..., out).

    >>> x, w, b = torch.ones(2, 5, 3), torch.ones(2, 4, 3), torch.zeros(2, 4)
    >>> batched_linear(x, w, b).shape
    torch.Size([2, 5, 4])
    """
    if features.ndim > 3:
        flat = batched_linear(features.flatten(1, -2), weight, bias)
        return flat.unflatten(1, features.shape[1:-1])
    turned = weight.transpose(1, 2)
    if bias is None:
        return torch.bmm(features, turned)
    return torch.baddbmm(bias.unsqueeze(1), features, turned)


class StackedData:
    """The training data of a stack: trainings on one run seed share their split and batches."""

    def __init__(self, jobs: Sequence[Job], task: ElementTask):
        seeds = [job.run_seed for job in jobs]
        distinct = list(dict.fromkeys(seeds))
        self.places = [distinct.index(seed) for seed in seeds]
        self.rows = [
            [row for row, place in enumerate(self.places) if place == wanted]
            for wanted in range(len(distinct))
        ]
        self.jobs = [jobs[rows[0]] for rows in self.rows]
        self.data = [data_of(job) for job in self.jobs]
        self.task = task

    def batches(self, epoch: int) -> list[tuple[Tensor, ...]]:
        """The batches of an epoch: for every step, the indices for each run seed."""
        job = self.jobs[0]
        size, device = job.config["training"]["batch_size"], job.device
        orders = [
            batches(len(data.train), size, job, epoch)
            for data, job in zip(self.data, self.jobs, strict=True)
        ]
        return [tuple(b.to(device) for b in step) for step in zip(*orders, strict=True)]

    def batch(self, indices: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features and loss targets of a step, (N, B, ...)."""
        link = self.jobs[0].link
        features, targets = [], []
        for data, index in zip(self.data, indices, strict=True):
            features.append(data.train.features[index])
            targets.append(self.task.loss_targets(data.train.targets[index], link))
        return self._spread(features), self._spread(targets)

    def _spread(self, parts: list[Tensor]) -> Tensor:
        if len(parts) == 1:
            return parts[0].expand(len(self.places), *parts[0].shape)
        stacked = torch.stack(parts)
        return stacked if len(parts) == len(self.places) else stacked[self.places]


def stacked_rows(
    model: StackedModel, rows: Sequence[int], examples: Examples
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Float64 logits and targets of all counted elements, for the models `rows`."""
    per_example = int(np.prod(examples.targets.shape[1:], dtype=np.int64))
    # Somebody's model may give something else for another batch: the plain loop's is kept then.
    elements = EVALUATION_ELEMENTS if model.layers is None else ELEMENTS // len(rows)
    chunk = max(1, elements // per_example)
    found: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []) for _ in rows]
    model.module.eval()
    with torch.no_grad():
        for begin in range(0, len(examples), chunk):
            part = slice(begin, begin + chunk)
            raw = model.logits_of(rows, examples.features[part])
            for (logits, targets), each in zip(found, raw, strict=True):
                pair = model.task.rows(each, examples.targets[part], model.link)
                logits.append(pair[0])
                targets.append(pair[1])
    return [(np.concatenate(logits), np.concatenate(targets)) for logits, targets in found]
