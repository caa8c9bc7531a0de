"""Declarations of hyper-parameters: default, valid values, search range, meaning, paper."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from losslab.errors import BadInput
from losslab.registry import nearest


@dataclass(frozen=True)
class Hyperparameter:
    """One continuous hyper-parameter.

    `low`, `high` and `scale` declare the range that a study searches by default; `minimum` and
    `maximum` (inclusive; None for unbounded) are the values that make sense at all.

    >>> gamma = Hyperparameter(2.0, low=0.0, high=5.0, meaning="focusing", paper="Lin 2017, eq. 4",
    ...                        minimum=0.0)
    >>> gamma.problem(-1)
    'must be at least 0.0, got -1'
    """

    default: float
    low: float
    high: float
    meaning: str
    paper: str = ""
    scale: Literal["linear", "log"] = "linear"
    minimum: float | None = None
    maximum: float | None = None

    def problem(self, value: float) -> str | None:
        """What is wrong with `value`, or None."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"must be a number, got {value!r}"
        if not (-1e308 < value < 1e308):
            return f"must be finite, got {value}"
        if self.minimum is not None and value < self.minimum:
            return f"must be at least {self.minimum}, got {value}"
        if self.maximum is not None and value > self.maximum:
            return f"must be at most {self.maximum}, got {value}"
        return None


def check_values(
    owner: str, declared: Mapping[str, Hyperparameter], given: Mapping[str, Any]
) -> dict[str, float]:
    """Defaults overlaid with `given`; raises `BadInput` that lists every mistake at once."""
    problems = []
    for name, value in given.items():
        if name not in declared:
            hint = nearest(name, declared)
            known = ", ".join(declared) or "none"
            problems.append(f"{owner} has no hyper-parameter {name!r}{hint} (it has: {known})")
        elif wrong := declared[name].problem(value):
            problems.append(f"{owner}: {name} {wrong}")
    if problems:
        raise BadInput(problems)
    return {name: float(given.get(name, entry.default)) for name, entry in declared.items()}
