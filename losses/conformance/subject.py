"""What is checked: a loss, its link, a layout of the batch, and how to build it anew."""

import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter
from losslab.losses import LOSSES
from losslab.losses.base import Loss
from losslab.losses.conformance.outcomes import Failure
from losslab.losses.conformance.strangers import guesses

COLUMNS = 4
COUNTS = {1: [75, 25], COLUMNS: [60, 25, 10, 5]}
#: What a layout of the batch is called.
LAYOUTS = {
    "sigmoid": ("(N, K)", "(N,)"),
    "softmax": ("(N, C)", "(N, C, L)"),
    "identity": ("(N, 4)",),
}
# Some libraries take images only.
_IMAGES = {"sigmoid": ("(N, K, H, W)",), "softmax": ("(N, C, H, W)",)}


@dataclass(frozen=True)
class Subject:
    """One loss under one link with batches of one layout.

    `own`: a subclass of `Loss`, which promises more than any module does. `fixed`: what it is
    built with; `declared`: its continuous hyper-parameters; `guessed`: values to try of other
    people's constructor arguments; `dtype`: the most exact one that it computes in.
    """

    name: str
    kind: Callable[..., nn.Module]
    link: str
    layout: str
    own: bool
    fixed: Mapping[str, Any] = field(default_factory=dict)
    declared: Mapping[str, Hyperparameter] = field(default_factory=dict)
    guessed: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64

    @property
    def case(self) -> str:
        """Link and layout, for people."""
        return f"{self.link} {self.layout}"

    @property
    def says(self) -> type[Loss]:
        """The class, whose claims about itself count; `Loss`, which claims nothing, for others."""
        return self.kind if self.own else Loss  # type: ignore[return-value]

    def make(self, **values: Any) -> nn.Module:
        """A new loss in training mode, with `values` on top of what is fixed."""
        arguments = {**self.fixed, **values}
        if self.own:
            counts = COUNTS[1 if self.layout == "(N,)" else COLUMNS]
            arguments = {"link": self.link, "class_counts": counts, **arguments}
            return self.kind(**arguments)
        loss = self.kind(**arguments)
        return loss.to(self.dtype) if isinstance(loss, nn.Module) else loss

    def batch(self, seed: int = 0, dtype: torch.dtype | None = None, size: int = 7) -> tuple:
        """Logits and targets; two batches of one seed are the same."""
        dtype = self.dtype if dtype is None else dtype
        draw = torch.Generator().manual_seed(seed)
        if self.link == "identity":
            return _boxes(size, draw, dtype)
        inner = [2] * (self.layout.count(", ") - 1)
        shape = (3 * size,) if self.layout == "(N,)" else (size, COLUMNS, *inner)
        logits = (2 * torch.randn(shape, generator=draw, dtype=torch.float64)).to(dtype)
        if self.link == "softmax":
            odds = torch.tensor(COUNTS[COLUMNS], dtype=torch.float64)
            number = logits.numel() // COLUMNS
            targets = torch.multinomial(odds, number, replacement=True, generator=draw)
            targets = targets.reshape(shape[0], *shape[2:])
            targets.view(-1)[:2] = torch.tensor([0, 1])
            return logits, targets
        targets = (torch.rand(shape, generator=draw) < 0.3).to(logits.dtype)
        targets.view(-1)[:2] = torch.tensor([0, 1]).to(targets)  # both kinds, always
        return logits, targets

    def values(self) -> dict[str, tuple[float, ...]]:
        """Values to try of each hyper-parameter, one at a time."""
        declared = {name: tuple(values_of(entry)) for name, entry in self.declared.items()}
        return {**declared, **self.guessed}

    def spaces(self, draws: int = 6) -> list[dict[str, float]]:
        """Hyper-parameter values to try: the defaults, each end, and points between them."""
        points: list[dict[str, float]] = [{}]
        for name, values in self.values().items():
            points += [{name: value} for value in values]
        if self.own and len(self.declared) > 1:
            drawn = np.random.default_rng(0).random((draws, len(self.declared)))
            rows = [[0.0] * len(self.declared), [1.0] * len(self.declared), *drawn]
            points += [
                {
                    name: between(entry, fraction)
                    for (name, entry), fraction in zip(self.declared.items(), row, strict=True)
                }
                for row in rows
            ]
        return points


def between(entry: Hyperparameter, fraction: float) -> float:
    """The value at a fraction of a declared range, on its scale.

    >>> between(Hyperparameter(1.0, low=0.0, high=4.0, meaning=""), 0.25)
    1.0
    """
    if entry.scale == "log":
        return float(entry.low * (entry.high / entry.low) ** fraction)
    return float(entry.low + (entry.high - entry.low) * fraction)


def values_of(entry: Hyperparameter) -> list[float]:
    """Values of one hyper-parameter over its range: ends, points between, and round numbers.

    >>> values_of(Hyperparameter(1.0, low=0.0, high=1.0, meaning=""))
    [0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 1.0]
    """
    found = {between(entry, fraction) for fraction in (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 1.0)}
    found |= {value for value in (0.0, 0.5, 1.0, 2.0) if entry.low <= value <= entry.high}
    return sorted(found)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Torch's, NumPy's and Python's generators seeded, and afterwards as they were."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed does it too, in 3 ms
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def value_and_gradient(
    loss: nn.Module, logits: Tensor, targets: Tensor, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The loss of a batch (summed if it is not reduced) and its gradient; the draws are fixed."""
    x = logits.detach().clone().requires_grad_()
    if not isinstance(loss, Loss):
        loss.to(logits.dtype)  # class weights of other people's losses go by their own dtype
    with seeded(seed):
        value = loss(x, targets)
        if not value.requires_grad:
            raise Failure("the value carries no gradient")
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def subjects(name: str, link: str | None = None, **fixed: Any) -> list[Subject]:
    """The cases under which the loss `name` (or a path to one) is checked.

    `link` picks one; `fixed` are constructor arguments. Raises `BadInput` where the loss cannot be
    built, or takes no batch of any kind.
    """
    kind = LOSSES.get(name)
    own = inspect.isclass(kind) and issubclass(kind, Loss)
    if not (inspect.isclass(kind) and issubclass(kind, nn.Module)) and not _builds(kind):
        raise BadInput(
            f"{name} is a {type(kind).__name__}; name a subclass of torch.nn.Module (wrap a "
            f"function of logits and targets in one)"
        )
    links = kind.links if own else ("sigmoid", "softmax", "identity")
    if isinstance(links, str) or not set(links) <= set(LAYOUTS) or not links:
        raise BadInput(f"{name}: links must be a tuple out of {tuple(LAYOUTS)}, got {links!r}")
    if link is not None and link not in links:
        raise BadInput(f"--link: {name} exists for {' and '.join(links)}, got {link!r}")
    wanted = (link,) if link else links if own else ("sigmoid", "softmax")
    found: list[Subject] = []
    refusals: list[str] = []
    taken_somewhere = False
    for each in wanted:
        layouts = LAYOUTS[each] if own else LAYOUTS[each] + _IMAGES.get(each, ())
        cases = [Subject(name, kind, each, layout, own, fixed) for layout in layouts]
        told = [_refusal(case) for case in cases]
        taken = [case for case, refusal in zip(cases, told, strict=True) if not refusal]
        # A link that a loss of our kind claims is always checked, to say what is wrong with it.
        # Other people's losses promise nothing about layouts: the first that works will do.
        found += (taken or cases[:1]) if own else taken[:1]
        refusals += [f"{c.case}: {r}" for c, r in zip(cases, told, strict=True) if r]
        taken_somewhere = taken_somewhere or bool(taken)
    if not taken_somewhere:
        raise BadInput(
            f"{name} cannot be checked; it takes no batch of any layout "
            f"(give constructor arguments with --set NAME=VALUE):\n  " + "\n  ".join(refusals)
        )
    return [_completed(case) for case in found]


def _completed(case: Subject) -> Subject:
    """The case with what can be varied, and in the dtype that it can be checked in."""
    if case.own:
        declared = case.says.declared(case.link)
        kept = {name: entry for name, entry in declared.items() if name not in case.fixed}
        return replace(case, declared=kept)
    if _raises(case, {}) and not _raises(replace(case, dtype=torch.float32), {}):
        case = replace(case, dtype=torch.float32)
    guessed = guesses(case.kind, case.fixed, lambda values: not _raises(case, values))
    given = inspect.signature(case.kind).parameters
    defaults = {name: case.fixed.get(name, given[name].default) for name in guessed}
    declared = {
        name: Hyperparameter(float(defaults[name]), min(values), max(values), "")
        for name, values in guessed.items()
    }
    return replace(case, declared=declared, guessed=guessed)


def _raises(case: Subject, values: Mapping[str, float]) -> bool:
    try:
        case.make(**values)(*case.batch())
    except Exception:
        return True
    return False


def _builds(kind: Any) -> bool:
    """Whether something that is no class can be called to get a module: nothing is required."""
    if inspect.isclass(kind) or not callable(kind) or isinstance(kind, nn.Module):
        return False
    given = inspect.signature(kind).parameters.values()
    required = [p for p in given if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return len(required) < 2  # logits and targets are two


def _refusal(subject: Subject) -> str:
    """Why a loss takes no batch of this layout, or nothing.

    Only `BadInput` is a refusal by a loss of our kind; anything else it raises is a finding.
    """
    logits, targets = subject.batch(dtype=torch.float32)
    try:
        loss = replace(subject, dtype=torch.float32).make()
        if not isinstance(loss, nn.Module):
            return f"gives a {type(loss).__name__}, not a torch.nn.Module"
        value = loss(logits.requires_grad_(), targets)
    except Exception as error:
        if subject.own and not isinstance(error, BadInput | TypeError):
            return ""
        if subject.own and "elementwise returned" in str(error):
            return ""
        return f"{type(error).__name__}: {error}"
    return "" if isinstance(value, Tensor) else f"gives a {type(value).__name__}, not a tensor"


def _boxes(size: int, draw: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Predicted and true boxes (size, 4) as x1, y1, x2, y2; most of them overlap."""

    def boxes() -> Tensor:
        corner = torch.rand(size, 2, generator=draw, dtype=torch.float64)
        extent = 0.5 + torch.rand(size, 2, generator=draw, dtype=torch.float64)
        return torch.cat([corner, corner + extent], dim=1).to(dtype)

    return boxes(), boxes()


def clone(loss: nn.Module) -> nn.Module:
    """A copy that shares nothing."""
    return copy.deepcopy(loss)
