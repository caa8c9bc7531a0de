"""Freezing what a loss detaches, so that finite differences see the same constants as autograd.

A loss with detached weights, or a state that it updates, has a gradient on purpose different from
the slope of its value. On a recording run every result of `detach()`, of `.data` and of whatever
happens without grad mode is kept; on later runs these results are played back, whatever the logits.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

_DATA: Any = torch.Tensor.data  # a property of C, which the stubs take for a tensor
_DETACHING = (torch.Tensor.detach, _DATA.__get__, torch.detach)
# Entering and leaving `no_grad` come by as operations too, and have to happen.
_MODES = ("_set_grad_enabled", "set_grad_enabled")


class Tape(TorchFunctionMode):
    """Records constants on its first use as a context, plays them back on every later one.

    >>> x = torch.tensor(3.0)
    >>> tape = Tape()
    >>> with tape: first = x.detach() * x
    >>> with tape: second = (x + 1).detach() * (x + 1)
    >>> first, second
    (tensor(9.), tensor(12.))
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Any] = []
        self._next: int | None = None
        self._inside_function = 0
        self._recorded = False
        #: Whether an operation on the recording run gave float32: finite differences are coarse.
        self.saw_float32 = False

    def __enter__(self) -> "Tape":
        self._next = 0 if self._recorded else None
        self._unpatch = _watch_functions(self)
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._unpatch()
        self._recorded = True

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Called by torch for every operation."""
        kwargs = kwargs or {}
        constant = function in _DETACHING or not torch.is_grad_enabled()
        constant = constant and getattr(function, "__name__", "") not in _MODES
        # The forward pass of an autograd.Function runs without grad mode too, and is no constant.
        constant = constant and not self._inside_function
        if constant and self._next is not None and self._next < len(self._kept):
            self._next += 1
            return self._kept[self._next - 1]
        result = function(*args, **kwargs)
        if self._next is None:
            if constant:
                self._kept.append(result)
            coarse = isinstance(result, torch.Tensor) and result.dtype == torch.float32
            self.saw_float32 = self.saw_float32 or (coarse and result.requires_grad)
        return result

    def playing(self) -> AbstractContextManager:
        """This tape, or nothing where no constant was recorded: a tape slows every operation."""
        return nullcontext() if self._recorded and not self._kept else self

    @contextmanager
    def inside_function(self) -> Iterator[None]:
        """While the forward pass of an `autograd.Function` runs."""
        self._inside_function += 1
        try:
            yield
        finally:
            self._inside_function -= 1


def _watch_functions(tape: Tape) -> Callable[[], None]:
    """Let the tape know of every `autograd.Function`; gives what undoes it."""
    original = Function.__dict__["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        with tape.inside_function():
            return original.__get__(None, cls)(*args, **kwargs)

    Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]

    def undo() -> None:
        Function.apply = original  # type: ignore[method-assign]

    return undo
