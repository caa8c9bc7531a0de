"""What autograd keeps for a backward pass: bytes of saved tensors and nodes of the graph."""

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor


class _Kept:
    """A saved tensor, and a thing that dies with its place in the graph."""

    def __init__(self, tensor: Tensor):
        # Detached: a graph that held its own output would keep itself alive.
        self.tensor = tensor.detach()


class SavedTensors:
    """Counts the bytes that graphs built inside the block keep for their backward pass.

    `bytes` is what they keep now, also after the block, and `peak` the most so far. A storage that
    several nodes keep counts once; those of `without` (parameters, batches), which exist anyway, do
    not count. Under these hooks torch no longer notices that a saved tensor was changed in place.

    >>> x = torch.ones(10, requires_grad=True)
    >>> with SavedTensors() as saved:
    ...     loss = (x * 2).exp().sum()
    >>> saved.bytes, saved.peak  # the ten results of exp, in float32
    (40, 40)
    >>> loss.backward(); saved.bytes
    0
    """

    def __init__(self, without: Iterable[Tensor] = ()):
        self._left_out = {_place(tensor) for tensor in without}
        self._users: dict[int, int] = {}
        self._hooks: Any = None
        self.bytes = 0
        self.peak = 0

    def __enter__(self) -> "SavedTensors":
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _pack(self, tensor: Tensor) -> _Kept:
        kept, place = _Kept(tensor), _place(tensor)
        if place not in self._left_out:
            size = tensor.untyped_storage().nbytes()
            self.bytes += 0 if self._users.get(place) else size
            self.peak = max(self.peak, self.bytes)
            self._users[place] = self._users.get(place, 0) + 1
            weakref.finalize(kept, self._free, place, size)
        return kept

    def _unpack(self, kept: _Kept) -> Tensor:
        return kept.tensor

    def _free(self, place: int, size: int) -> None:
        self._users[place] -= 1
        self.bytes -= 0 if self._users[place] else size


def graph_nodes(tensor: Tensor) -> int:
    """How many nodes the graph of `tensor` has, those that add to leaves' gradients included.

    >>> x = torch.ones(3, requires_grad=True)
    >>> graph_nodes((x * 2).sum())  # sum, product, x
    3
    >>> graph_nodes((x * 2).detach())
    0
    """
    seen: set[Any] = set()
    waiting = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return len(seen)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
