"""What kind each column of a table is, and the preprocessing that follows from it."""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from losslab.errors import BadInput

MISSING_CATEGORY = "(missing)"
MOST_CATEGORIES = 256  # of a text column that nobody listed as categorical
LARGEST = 1e100  # beyond it, squares overflow and standardising gives NaN
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}")


def usable_columns(
    frame: pd.DataFrame, categorical: Sequence[str] | None
) -> tuple[pd.DataFrame, list[int], list[int]]:
    """The features with numbers as float64 and categories as text, and where each kind stands.

    `categorical` names the columns to treat as categories whatever they hold; None leaves the
    choice to the data: numbers and truth values are numeric, everything else is a category.
    Columns of the result are named by their position ("0", "1" ...). Raises `BadInput` with one
    line for each column that holds no values, dates, nested values, numbers that are not finite,
    or more categories than can be learnt from.
    """
    listed = set(categorical or ())
    problems: list[str] = []
    columns: dict[str, np.ndarray] = {}
    numeric: list[int] = []
    texts: list[int] = []
    for position, name in enumerate(frame.columns):
        try:
            values = _numeric(frame[name], name) if name not in listed else None
            if values is None:
                columns[str(position)] = _category(frame[name], name, name in listed)
                texts.append(position)
            else:
                columns[str(position)] = values
                numeric.append(position)
        except BadInput as error:
            problems += error.problems
    if problems:
        raise BadInput(_shortened(problems))
    return pd.DataFrame(columns, index=frame.index), numeric, texts


def preprocessor(numeric: list[int], categorical: list[int], standardise: bool) -> Any:
    """An unfitted scikit-learn transformer of what `usable_columns` returns, to a dense matrix.

    Numbers: the training median where missing, an indicator column for each column in which
    training values are missing, then zero mean and unit variance (if `standardise`). Categories:
    one column for each category of the training split; missing is a category of its own, and one
    that training has not seen gives zeros.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    fill = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float64)
    return ColumnTransformer(
        [
            ("numeric", make_pipeline(fill, StandardScaler()) if standardise else fill,
             [str(position) for position in numeric]),
            ("categorical", encode, [str(position) for position in categorical]),
        ],
        sparse_threshold=0.0,
    )  # fmt: skip


def row_hashes(frame: pd.DataFrame) -> np.ndarray:
    """A 64-bit hash of each row's values (uint64, n): equal rows, and only they, are equal."""
    plain = frame.copy()
    for name in plain.columns[plain.dtypes == np.float64]:
        plain[name] += 0.0  # -0.0 and 0.0 are the same number with different bits
    return pd.util.hash_pandas_object(plain, index=False).to_numpy(np.uint64)


def _numeric(values: "pd.Series[Any]", name: str) -> np.ndarray | None:
    """The column as float64 with NaN where missing, or None where it is not numeric."""
    if values.isna().all():
        raise BadInput(f"path: column {name!r} has no values; leave it out with `drop: [{name!r}]`")
    dtype = values.dtype
    if pd.api.types.is_datetime64_any_dtype(dtype) or pd.api.types.is_timedelta64_dtype(dtype):
        raise BadInput(_dates(name))
    if pd.api.types.is_complex_dtype(dtype):
        raise BadInput(
            f"path: column {name!r} holds complex numbers; split it, or list it in `drop`"
        )
    if isinstance(dtype, pd.CategoricalDtype):
        return None
    if not (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)):
        parsed = _numbers_in_texts(values, name)
        if parsed is None:
            return None
        values = parsed
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~(np.abs(numbers) < LARGEST) & ~values.isna().to_numpy()
    if bad.any():
        first = int(np.argmax(bad))
        raise BadInput(
            f"path: column {name!r} has {int(bad.sum())} values that are infinite or beyond "
            f"{LARGEST:g}, the first in row {first + 1}; correct them or leave them empty"
        )
    return numbers


def _numbers_in_texts(values: "pd.Series[Any]", name: str) -> "pd.Series[Any] | None":
    """Numbers written as quoted texts, decimals or truth values among missing ones; else None."""
    present = values.dropna()
    if present.map(lambda value: isinstance(value, bool | int | float | Decimal | np.number)).all():
        return values.map(lambda value: np.nan if pd.isna(value) else float(value))
    if present.map(lambda value: isinstance(value, list | dict | tuple | set | np.ndarray)).any():
        raise BadInput(f"path: column {name!r} holds lists or records; list it in `drop`")
    distinct = pd.Series(present.astype(str).unique(), dtype=object)
    if len(distinct) and distinct.map(lambda text: hasattr(text, "strip")).all():
        plain = pd.to_numeric(distinct.str.strip().str.strip("'\""), errors="coerce")
        if plain.notna().all():
            table = dict(zip(distinct, plain, strict=True))
            return values.map(lambda value: np.nan if pd.isna(value) else table[str(value)])
    return None


def _category(values: "pd.Series[Any]", name: str, listed: bool) -> np.ndarray:
    if values.isna().all():
        raise BadInput(f"path: column {name!r} has no values; leave it out with `drop: [{name!r}]`")
    missing = values.isna().to_numpy()
    texts = values.astype(object).map(_category_text)
    if not listed:
        distinct = texts[~missing].unique()
        present = int((~missing).sum())
        if sum(bool(_DATE.match(text)) for text in distinct[:50]) > 0.9 * len(distinct[:50]):
            raise BadInput(_dates(name))
        if len(distinct) > MOST_CATEGORIES or (len(distinct) > 20 and 2 * len(distinct) > present):
            raise BadInput(
                f"path: column {name!r} is text with {len(distinct)} different values in {present} "
                f"rows (such as {distinct[0]!r}), more than can be learnt from; leave it out with "
                f"`drop: [{name!r}]`, or list it in `categorical` to use it all the same"
            )
    return np.where(missing, MISSING_CATEGORY, texts.to_numpy(object))


def _category_text(value: Any) -> str:
    """Numbers that are categories read the same whether a missing value made them floats."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _dates(name: str) -> str:
    return (
        f"path: column {name!r} holds dates or durations; turn it into numbers (such as days "
        f"since a fixed day), or leave it out with `drop: [{name!r}]`"
    )


def _shortened(problems: list[str], shown: int = 20) -> list[str]:
    rest = len(problems) - shown
    return problems if rest <= 0 else [*problems[:shown], f"path: and {rest} more columns"]
