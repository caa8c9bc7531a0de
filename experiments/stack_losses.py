"""The losses of a stack: each training's own, called together where that gives the same.

Losses of losslab's own, of one class and alike in everything that is not a tensor, are one
vectorised call: their contract allows it. Any other loss is called on its training's slice, since
under vmap a Python attribute would silently be the first one's, and an assignment be lost.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from losslab.experiments.building import ForeignLoss
from losslab.experiments.divergence import DIVERGENCES, of_the_machine
from losslab.experiments.global_random import GlobalRandom
from losslab.losses.base import Loss
from losslab.losses.rowwise import has_rows, rowwise

#: Where losses stand whose behaviour under vmap is tested (`losslab check`).
OWN = "losslab.losses."
#: What torch says of a loss that depends on nothing, when the plain loop goes backward.
NO_GRADIENT = "element 0 of tensors does not require grad and does not have a grad_fn"
#: What nn.Module keeps about itself; everything else in a module's `__dict__` is its author's.
_MODULE = frozenset(vars(nn.Module()))


class StackedLosses:
    """The losses of N trainings, applied to logits (N, ...) and targets (N, ...).

    Random numbers that a loss draws by itself come from a generator state of its training, so
    that a neighbour does not shift them.
    """

    def __init__(self, losses: Sequence[Loss | ForeignLoss], device: str):
        self.losses = list(losses)
        self.device = device
        self.alive = [True] * len(losses)
        self.groups = [_Group([self.losses[i] for i in rows], rows) for rows in _alike(losses)]
        self.random: dict[int, GlobalRandom] = {}
        self.reached: dict[int, bool] = {}

    def train(self) -> None:
        """As `nn.Module.train`, for all."""
        for loss in self.losses:
            loss.train()

    def set_progress(self, fraction: float) -> None:
        """Tell every loss how much of the training is done."""
        for group in self.groups:
            group.set_progress(fraction)

    def seed(self, row: int, seed: Callable[[], None]) -> None:
        """Begin an epoch of a training: `seed` seeds the generators for it."""
        if not _is_own(self.losses[row]):
            seed()
            self.random[row] = GlobalRandom.now(self.device)

    def __call__(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[int, Exception]]:
        """The reduced losses (N,), and what went wrong in which training.

        They are float64. A training that has left, or whose loss fails, counts 0 and has gradient
        0.
        """
        values: list[Tensor | None] = [None] * len(self.losses)
        failed: dict[int, Exception] = {}
        zero = logits.new_zeros((), dtype=torch.float64)
        self.reached = {}
        for group in self.groups:
            rows = [row for row in group.rows if self.alive[row]]
            if group.stacked and rows:
                found = group(logits[group.index], targets[group.index])
                for row, value in zip(group.rows, found.unbind(), strict=True):
                    values[row] = value if self.alive[row] else zero
                continue
            for row in rows:
                try:
                    values[row] = self._alone(row, logits[row], targets[row])
                except DIVERGENCES as error:
                    if of_the_machine(error):
                        raise
                    failed[row] = error
        return torch.stack([zero if value is None else value.to(zero) for value in values]), failed

    def out_of_reach(self) -> bool:
        """After the backward pass: whether a loss that was called did not depend on its logits."""
        return not all(self.reached.values())

    def state_dict(self, row: int) -> dict[str, Tensor]:
        """The state of one training's loss."""
        for group in self.groups:
            if row in group.rows:
                group.write_back(group.rows.index(row))
        return self.losses[row].state_dict()

    def leave(self, row: int) -> None:
        """Stop calling a training's loss."""
        self.alive[row] = False

    def _alone(self, row: int, logits: Tensor, targets: Tensor) -> Tensor:
        if row not in self.random:
            return self.losses[row](logits, targets)

        def reach(gradient: Tensor) -> None:
            self.reached[row] = True

        # Copies, since neighbours share the memory, and a loss may change what it is given.
        logits, targets = logits.clone(), targets.clone()
        logits.register_hook(reach)
        self.random[row].put()
        try:
            value: Tensor = self.losses[row](logits, targets)
        finally:
            self.random[row] = GlobalRandom.now(self.device)
        if not value.requires_grad:
            raise RuntimeError(NO_GRADIENT)
        self.reached[row] = False
        return value


class _Group:
    """Losses that are alike, called as one where there are several."""

    def __init__(self, losses: Sequence[Loss | ForeignLoss], rows: list[int]):
        self.losses = losses
        self.rows = rows
        whole = rows == list(range(rows[0], rows[-1] + 1))
        self.index: Any = slice(rows[0], rows[-1] + 1) if whole else rows
        self.stacked = len(rows) > 1
        if self.stacked:
            self.buffers = {
                name: torch.stack([dict(loss.named_buffers())[name] for loss in losses])
                for name, _ in losses[0].named_buffers()
            }
            self.vectorised = vmap(self._one)
            self.by_rows = isinstance(losses[0], Loss) and has_rows(losses[0])
            self.settings = {name: self.buffers[name] for name in getattr(losses[0], "_names", ())}

    def set_progress(self, fraction: float) -> None:
        if self.stacked:
            self.buffers["progress"].fill_(fraction)
        else:
            for loss in self.losses:
                loss.set_progress(fraction)

    def write_back(self, place: int) -> None:
        """Give a module the state that the stacked buffers have come to."""
        if self.stacked:
            for name, buffer in self.losses[place].named_buffers():
                buffer.copy_(self.buffers[name][place])

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.by_rows:
            assert isinstance(self.losses[0], Loss)
            return rowwise(self.losses[0], logits, targets, self.settings)
        return self.vectorised(self.buffers, logits, targets)

    def _one(self, buffers: dict[str, Tensor], logits: Tensor, targets: Tensor) -> Tensor:
        value: Tensor = functional_call(self.losses[0], buffers, (logits, targets))
        return value


def _alike(losses: Sequence[Loss | ForeignLoss]) -> Iterator[list[int]]:
    """The rows whose losses may be one call, in the order of the first of each."""
    groups: list[tuple[Any, list[int]]] = []
    for row, loss in enumerate(losses):
        about = _about(loss)
        for known, rows in groups:
            if about is not None and known == about:
                rows.append(row)
                break
        else:
            groups.append((about, [row]))
    yield from (rows for _, rows in groups)


def _is_own(loss: Loss | ForeignLoss) -> bool:
    return type(loss).__module__.startswith(OWN)


def _about(loss: Loss | ForeignLoss) -> Any:
    """Everything about a loss that is not the content of a tensor; None if it stays alone."""
    if not _is_own(loss) or list(loss.children()):
        return None
    plain = {name: value for name, value in vars(loss).items() if name not in _MODULE}
    buffers = {name: (b.shape, b.dtype) for name, b in loss.named_buffers()}
    return type(loss), plain, buffers
