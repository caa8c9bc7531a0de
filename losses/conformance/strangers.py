"""Other people's losses: which of their constructor arguments to vary, and over what."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

# Whole numbers under these names are continuous all the same: gamma=2.
_CONTINUOUS = re.compile(
    r"gamma|alpha|beta|tau|margin|scale|temp|delta|weight|smooth|lambda|power|expon|focus|eps"
)
_SMALLEST = 1e-3  # a smaller default only keeps something from being 0


def guesses(
    kind: Callable[..., nn.Module],
    fixed: Mapping[str, Any],
    works: Callable[[dict[str, float]], bool],
) -> dict[str, tuple[float, ...]]:
    """Values to try for each number among a constructor's arguments, the default among them.

    A default between 0 and 1 stays there; a larger one is tried at 0, round numbers and up to its
    double. What `works` refuses is left out.

    >>> class Loss:
    ...     def __init__(self, gamma=2.0, alpha=0.25, eps=1e-8, ignore_index=-100): ...
    >>> guesses(Loss, {"alpha": 0.5}, lambda values: True)
    {'gamma': (0.0, 0.5, 1.0, 2.0, 4.0), 'alpha': (0.1, 0.25, 0.5, 0.75)}
    """
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        default = fixed.get(name, parameter.default)
        if not _varies(name, parameter, default):
            continue
        values = tuple(v for v in _candidates(float(default)) if works({name: v}))
        if len(values) > 1:
            found[name] = values
    return found


def _varies(name: str, parameter: inspect.Parameter, default: Any) -> bool:
    if isinstance(default, bool) or not isinstance(default, int | float):
        return False
    if default and abs(default) < _SMALLEST:
        return False
    annotated = parameter.annotation in (float, "float")
    return isinstance(default, float) or annotated or bool(_CONTINUOUS.search(name.lower()))


def _candidates(default: float) -> list[float]:
    if default == 0:
        return [0.0, 0.25, 0.5]
    if default < 0:
        return [2 * default, default, default / 2]
    if default < 1:
        inside = {default, default / 2 if default <= 0.2 else 0.1, 0.25, 0.5, (1 + default) / 2}
        return sorted(inside)
    return sorted({0.0, 0.5, 1.0, 2.0, default, 2 * default})
