"""Labels of a table's target column: clean texts, their order, and which class is positive."""

from typing import Any

import numpy as np
import pandas as pd

from losslab.errors import BadInput
from losslab.registry import nearest


def clean_labels(values: "pd.Series[Any]") -> np.ndarray:
    """Labels as people write them: quotes stripped, 1.0 and 1 the same, True as `True`.

    >>> clean_labels(pd.Series(["'-1'", "'1'", ""])).tolist()
    ['-1', '1', '']
    >>> clean_labels(pd.Series(["1.0", "2", "1"])).tolist()
    ['1', '2', '1']
    """
    distinct = {value: _unquote(value) for value in pd.unique(values)}
    present = [text for text in distinct.values() if text]
    if present and all(_number(text) is not None for text in present):
        distinct = {value: _plain_number(text) for value, text in distinct.items()}
    return np.array([distinct[value] for value in values], dtype=object)


def check_target(labels: np.ndarray) -> None:
    """Raise `BadInput` where labels (texts, none missing) are one class only or no classes."""
    distinct = np.unique(labels.astype(str))
    if len(distinct) == 1:
        raise BadInput(
            f"target: all {len(labels)} rows have the one class {str(distinct[0])!r}; at least two "
            f"classes are needed"
        )
    fractional = all(_number(text) is not None for text in distinct) and any(
        not float(text).is_integer() for text in distinct
    )
    if (fractional and len(distinct) > 20) or len(distinct) > max(20, len(labels) / 10):
        kind = "a continuous target?" if fractional else "a continuous target or an identifier?"
        raise BadInput(
            f"target: {len(distinct)} different values in {len(labels)} rows ({kind}); losslab "
            f"compares losses for classification, so name a column of classes"
        )


def class_order(labels: np.ndarray, positive: Any) -> list[str]:
    """Class names in index order: by number or text, and for two classes the positive one last.

    `positive` names that class (None: the rarer one; the later one on a tie).

    >>> class_order(np.array(["a", "b", "b"], dtype=object), None)
    ['b', 'a']
    >>> class_order(np.array(["10", "9", "2"], dtype=object), None)
    ['2', '9', '10']
    """
    distinct, counts = np.unique(labels.astype(str), return_counts=True)
    names = [str(name) for name in distinct]
    size = dict(zip(names, counts, strict=True))
    if all(_number(name) is not None for name in names):
        names.sort(key=float)
    if positive is None:
        return sorted(names, key=lambda name: -size[name]) if len(names) == 2 else names
    if len(names) != 2:
        raise BadInput(
            f"positive: only a target of two classes has a positive one; this has {len(names)}"
        )
    asked = _same_label(str(positive), names)
    if asked is None and isinstance(positive, bool):  # YAML reads a bare yes or no as a bool
        words = ("yes", "y", "on", "t", "1") if positive else ("no", "n", "off", "f", "0")
        asked = next((name for name in names if name.casefold() in words), None)
    if asked is None:
        raise BadInput(
            f"positive: no class {positive!r}{nearest(str(positive), names)} "
            f"(the classes are {', '.join(map(repr, names))})"
        )
    return [name for name in names if name != asked] + [asked]


def _unquote(text: str) -> str:
    text = str(text).strip()
    while len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text


def _plain_number(text: str) -> str:
    if not text:
        return text
    try:
        return str(int(text))  # first, since a float would round identifiers of 17 digits
    except ValueError:
        number = float(text)
    return str(int(number)) if number.is_integer() else repr(number)


def _same_label(asked: str, names: list[str]) -> str | None:
    stripped = asked.strip().strip("'\"")
    number = _number(stripped)
    for name in names:
        if name == stripped or (number is not None and number == _number(name)):
            return name
    folded = [name for name in names if name.casefold() == stripped.casefold()]
    return folded[0] if len(folded) == 1 else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
