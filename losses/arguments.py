"""Checking what a loss is built with; every function gathers its mistakes as text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losslab.errors import BadInput
from losslab.registry import nearest


def choice_problem(what: str, given: Any, known: Sequence[str]) -> str | None:
    """What is wrong with `given`, which must be one of `known`; None if nothing is.

    >>> choice_problem("link", "sigmod", ("sigmoid", "softmax"))
    "unknown link 'sigmod'; did you mean 'sigmoid'? (known: sigmoid, softmax)"
    """
    if given in known:
        return None
    hint = nearest(str(given), [str(each) for each in known])
    return f"unknown {what} {given!r}{hint} (known: {', '.join(map(str, known))})"


def check_choice(owner: str, what: str, given: Any, known: Sequence[str]) -> str:
    """`given`; raises `BadInput` if it is not one of `known`."""
    if problem := choice_problem(what, given, known):
        raise BadInput(f"{owner}: {problem}")
    return given


def check_whole(owner: str, what: str, given: Any, minimum: int = 1) -> int:
    """`given`; raises `BadInput` if it is not a whole number of at least `minimum`.

    >>> check_whole("GHMC", "bins", 30)
    30
    """
    if isinstance(given, bool) or not isinstance(given, int) or given < minimum:
        raise BadInput(f"{owner}: {what} must be a whole number >= {minimum}, got {given!r}")
    return given


def ignore_problems(link: str, ignore_index: Any) -> list[str]:
    """What is wrong with `ignore_index` under `link`."""
    if ignore_index is None:
        return []
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        return [f"ignore_index must be a whole number or None, got {ignore_index!r}"]
    if link == "sigmoid" and ignore_index in (0, 1):
        return [f"ignore_index={ignore_index} would ignore one of the two classes"]
    return []


def class_vector(name: str, given: Any, problems: list[str]) -> Tensor | None:
    """`class_counts` as int64 or `class_weights` as float64, (C,); None where it is not given."""
    if given is None:
        return None
    try:
        # float64 from the start: a list of floats would pass through float32. Copied, since the
        # caller's tensor may change later.
        exact = None if name == "class_counts" else torch.float64
        vector = torch.as_tensor(given, dtype=exact).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        problems.append(f"{name} must be a list of numbers, got {given!r}")
        return None
    if vector.ndim != 1 or vector.numel() == 0:
        problems.append(f"{name} must have shape (C,), got {tuple(vector.shape)}")
    elif name == "class_counts" and vector.numel() == 1:
        problems.append(f"class_counts needs two classes or more, got {given}")
    elif not (torch.isfinite(vector) & (vector >= 0)).all() or not (vector > 0).any():
        problems.append(f"{name} must be finite, >= 0 and not all 0, got {given}")
    elif name == "class_counts" and not torch.equal(vector.to(torch.int64).to(vector), vector):
        problems.append(f"class_counts must be whole numbers, got {given}")
    return vector.to(torch.int64 if name == "class_counts" else torch.float64)
