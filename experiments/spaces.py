"""Search spaces: the places of a study file where a number may be a range instead.

Anywhere in `loss`, `model` and `training`, `{low: 1e-4, high: 1e-1, scale: log}` or
`{choices: [32, 64]}` stands for "search this". A leaf is cut out of its section before the section
is validated; the section is then validated with the leaf's default and with both of its ends, so a
range is as strictly checked as a number.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from losslab.hyperparameters import Hyperparameter

# Lists are values of choices alone: the widths of a network's layers, say.
Value = float | int | str | bool | None | list[Any]


class Range(BaseModel):
    """A range of numbers: `low` to `high`, both included, on a linear or logarithmic scale.

    `default` is what trial 0 and the untuned runs use; without one it is the middle of the range
    on its scale. `integer: true` keeps to whole numbers.

    >>> Range(low=1e-4, high=1e-2, scale="log").default
    0.001
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(strict=True, description="smallest value, included")
    high: float = Field(strict=True, description="largest value, included")
    scale: Literal["linear", "log"] = "linear"
    default: float | None = Field(
        None, strict=True, description="value of trial 0; the middle if not given"
    )
    integer: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "Range":
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError("low and high must be finite")
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got low {self.low:g} and high {self.high:g}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"a log scale needs low above 0, got {self.low:g}")
        if self.default is None:
            object.__setattr__(self, "default", self._middle())
        if not self.low <= self.default <= self.high:  # type: ignore[operator]
            raise ValueError(f"default {self.default:g} lies outside {self.low:g} to {self.high:g}")
        if self.integer and any(v != int(v) for v in (self.low, self.high, self.default or 0)):
            raise ValueError("low, high and default of an integer range must be whole numbers")
        return self

    def _middle(self) -> float:
        if self.scale == "log":
            middle = 10 ** ((math.log10(self.low) + math.log10(self.high)) / 2)
            middle = min(max(float(f"{middle:.12g}"), self.low), self.high)
        else:
            middle = self.low / 2 + self.high / 2
        return float(round(middle)) if self.integer else middle

    def typed(self, value: float) -> Value:
        """`value` as the integer or float that the configuration expects."""
        return int(value) if self.integer else float(value)

    def start(self) -> Value:
        """The default, typed."""
        assert self.default is not None
        return self.typed(self.default)

    def samples(self) -> list[Value]:
        """The values that stand for the whole range when it is validated."""
        return [self.typed(self.low), self.typed(self.high)]

    def internal(self, value: Value) -> Value:
        """`value` as the sampler holds it: itself."""
        return value

    def grid(self, points: int) -> list[float]:
        """Evenly spaced values on the range's scale, both ends included.

        >>> Range(low=1, high=100, scale="log").grid(3)
        [1.0, 10.0, 100.0]
        """
        steps = [step / (points - 1) for step in range(points)]
        if self.scale == "log":
            low, high = math.log10(self.low), math.log10(self.high)
            values = [10 ** (low * (1 - step) + high * step) for step in steps]
        else:
            values = [self.low * (1 - step) + self.high * step for step in steps]
        values = [min(max(float(f"{value:.12g}"), self.low), self.high) for value in values]
        values[0], values[-1] = self.low, self.high
        return sorted({round(value) for value in values}) if self.integer else values

    def at_edge(self, value: float, share: float = 0.05) -> bool:
        """Whether `value` lies in the outer `share` of the range at either end.

        >>> Range(low=0, high=5).at_edge(0.1), Range(low=0, high=5).at_edge(2)
        (True, False)
        """
        low, high = self.low, self.high
        if self.scale == "log":
            low, high, value = math.log(low), math.log(high), math.log(value)
        # At most, so that an end is an edge of a range too narrow for a share of it.
        return min(value - low, high - value) <= share * (high - low)


class Choices(BaseModel):
    """A list of values to choose from; `default` is the first unless given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: list[Value] = Field(min_length=2)
    default: Value = Field(None, description="value of trial 0; the first choice if not given")

    @model_validator(mode="after")
    def _consistent(self) -> "Choices":
        if "default" not in self.model_fields_set:
            object.__setattr__(self, "default", self.choices[0])
        if self.default not in self.choices:
            raise ValueError(f"default {self.default!r} is not among the choices {self.choices}")
        return self

    def start(self) -> Value:
        """The default."""
        return self.default

    def internal(self, value: Value) -> int:
        """`value` as the sampler holds it: its index, told apart from equal values of a type.

        >>> Choices(choices=[1, True]).internal(True)
        1
        """
        alike = [type(choice) is type(value) and choice == value for choice in self.choices]
        return alike.index(True) if True in alike else self.choices.index(value)

    def samples(self) -> list[Value]:
        """All choices."""
        return list(self.choices)


Space = Range | Choices


def declared_range(declaration: Hyperparameter) -> Range:
    """The range that a loss declares for one of its hyper-parameters."""
    return Range(
        low=declaration.low,
        high=declaration.high,
        scale=declaration.scale,
        default=declaration.default,
    )


def looks_like_space(value: Any) -> bool:
    """Whether a part of a study file is meant as a range or as choices."""
    return isinstance(value, Mapping) and bool({"low", "high", "choices"} & set(value))


def parse_space(value: Mapping[str, Any], default: Any = None) -> Space:
    """A range or choices from a study file; `default` is used if it has none and it fits.

    Raises pydantic's ValidationError.
    """
    if "choices" in value:
        return Choices.model_validate(value)
    if "default" not in value and isinstance(default, int | float):
        try:
            return Range.model_validate({**value, "default": default})
        except ValueError:
            pass  # the usual default lies outside this range: its middle is used instead
    return Range.model_validate(value)


def leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All (dotted path, value) of a nested mapping; spaces and lists count as values.

    >>> list(leaves({"a": {"b": 1, "c": {"low": 0, "high": 1}}}))
    [('a.b', 1), ('a.c', {'low': 0, 'high': 1})]
    """
    for key, value in section.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and not looks_like_space(value):
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


def set_path(section: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path in a nested dictionary, making what is missing on the way.

    >>> s = {}; set_path(s, "a.b", 1); s
    {'a': {'b': 1}}
    """
    *parents, last = path.split(".")
    for key in parents:
        child = section.get(key)
        if not isinstance(child, dict):
            child = section[key] = {} if child is None else {"name": child}
        section = child
    section[last] = value


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`, mapping by mapping; spaces and lists are replaced whole.

    A section that names another thing (`loss: {name: focal}` over `loss: {name: ce}`) replaces the
    section, since the options of one thing mean nothing to another.

    >>> merged({"m": {"name": "mlp", "hidden": [8]}}, {"m": {"name": "cnn"}})
    {'m': {'name': 'cnn'}}
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        sections = isinstance(old, Mapping) and isinstance(value, Mapping)
        if sections and not looks_like_space(old) and not looks_like_space(value):
            assert isinstance(old, Mapping)
            other = "name" in value and value["name"] != old.get("name")
            result[key] = dict(value) if other else merged(old, value)
        else:
            result[key] = value
    return result
