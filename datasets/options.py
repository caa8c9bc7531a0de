"""Checks of dataset options that tell every mistake at once."""

from collections.abc import Sequence
from typing import Any

from losslab.errors import BadInput
from losslab.registry import nearest


class OptionChecks:
    """Collects what is wrong with a dataset's options, then raises it in one `BadInput`.

    Every method adds at most one line that begins with the option's name and returns whether the
    value can be used, so that checks of several options together can be skipped.

    >>> checks = OptionChecks()
    >>> checks.number("overlap", 2.0, minimum=0.0, maximum=1.0)
    False
    >>> checks.integer("classes", 1, minimum=2)
    False
    >>> checks.done()
    Traceback (most recent call last):
    losslab.errors.BadInput: 2 mistakes:
      overlap: must be between 0.0 and 1.0, got 2.0
      classes: must be at least 2, got 1
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def add(self, option: str, problem: str) -> bool:
        """Note a mistake; returns False."""
        self.problems.append(f"{option}: {problem}")
        return False

    def done(self) -> None:
        """Raise `BadInput` with all mistakes, if there are any."""
        if self.problems:
            raise BadInput(self.problems)

    def integer(
        self, option: str, value: Any, minimum: int | None = None, maximum: int | None = None
    ) -> bool:
        """Whether `value` is a whole number (not a bool) within the inclusive bounds."""
        if isinstance(value, bool) or not isinstance(value, int):
            return self.add(option, f"must be a whole number, got {value!r}")
        return self._bounds(option, value, minimum, maximum)

    def number(
        self, option: str, value: Any, minimum: float | None = None, maximum: float | None = None
    ) -> bool:
        """Whether `value` is a finite number (not a bool) within the inclusive bounds."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self.add(option, f"must be a number, got {value!r}")
        if not abs(value) < 1e300:
            return self.add(option, f"must be finite, got {value}")
        return self._bounds(option, value, minimum, maximum)

    def fraction(self, option: str, value: Any) -> bool:
        """Whether `value` is a number strictly between 0 and 1."""
        usable = not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < 1
        return usable or self.add(option, f"must lie between 0 and 1 (exclusive), got {value!r}")

    def flag(self, option: str, value: Any) -> bool:
        """Whether `value` is true or false."""
        return isinstance(value, bool) or self.add(option, f"must be true or false, got {value!r}")

    def choice(self, option: str, value: Any, choices: Sequence[Any]) -> bool:
        """Whether `value` is one of `choices` (types count: 1 is not true)."""
        if any(type(value) is type(choice) and value == choice for choice in choices):
            return True
        known = ", ".join(str(choice) for choice in choices)
        hint = (
            nearest(value, [c for c in choices if isinstance(c, str)])
            if (isinstance(value, str))
            else ""
        )
        return self.add(option, f"must be one of {known}, got {value!r}{hint}")

    def _bounds(
        self, option: str, value: float, minimum: float | None, maximum: float | None
    ) -> bool:
        too_small = minimum is not None and value < minimum
        too_large = maximum is not None and value > maximum
        if not (too_small or too_large):
            return True
        if minimum is not None and maximum is not None:
            return self.add(option, f"must be between {minimum} and {maximum}, got {value}")
        bound = f"at least {minimum}" if too_small else f"at most {maximum}"
        return self.add(option, f"must be {bound}, got {value}")


def check_held_out_fractions(
    checks: OptionChecks, test_fraction: Any, validation_fraction: Any
) -> None:
    """Both fractions lie in (0, 1) and leave at least a tenth of the rows for training."""
    usable = [
        checks.fraction("test_fraction", test_fraction),
        checks.fraction("validation_fraction", validation_fraction),
    ]
    if all(usable) and test_fraction + validation_fraction > 0.9:
        checks.add(
            "validation_fraction",
            f"with test_fraction it must leave at least 0.1 of the rows for training, got "
            f"{validation_fraction} + {test_fraction}",
        )
