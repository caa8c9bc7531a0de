"""From a CSV or Parquet file to a DataFrame with named columns and a target column of texts."""

import csv
import difflib
import gzip
import re
import warnings
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from losslab.datasets.options import OptionChecks
from losslab.errors import BadInput
from losslab.registry import nearest

TEXT_FORMATS = (".csv", ".tsv", ".tab", ".txt", ".data")
PARQUET_FORMATS = (".parquet", ".pq")
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "whitespace": r"\s+"}
# What stands for "no value". In the target, texts such as "None" or "?" may be labels.
MISSING = [
    "",
    "?",
    "NA",
    "N/A",
    "n/a",
    "NaN",
    "nan",
    "NULL",
    "null",
    "<NA>",
    "#N/A",
    "None",
    "-nan",
]
MISSING_TARGET = {"", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "<NA>", "#N/A"}
SNIFFED_LINES = 200

Column = str | int


def read_table(
    path: str | Path,
    target: Column,
    *,
    header: bool | Literal["auto"] = "auto",
    separator: str = "auto",
    encoding: str = "utf-8",
) -> tuple[pd.DataFrame, str]:
    """The file's rows with text column names, and the name of its target column.

    Formats by extension: .csv, .tsv, .tab, .txt, .data (also .gz of these), .parquet, .pq.
    Without a header, columns are called `column_0`, `column_1` ... The target column holds
    stripped texts, "" where it is missing. Raises `BadInput` where the file is missing, empty or
    unreadable, or has no such column.
    """
    path = Path(path)
    kind = _check_file(path)
    if kind == "parquet":
        frame = _read_parquet(path)
        name = find_column("target", target, list(frame.columns))
        values = frame[name]
        frame[name] = pd.Series(
            ["" if missing else str(value).strip()
             for value, missing in zip(values, values.isna(), strict=True)],
            index=frame.index, dtype=object,
        )  # fmt: skip
    else:
        frame, name = _read_text(path, target, header, separator, encoding)
    if len(frame) == 0:
        raise BadInput(f"path: {path} has no rows")
    frame[name] = frame[name].where(~frame[name].isin(MISSING_TARGET), "")
    return frame, name


def find_column(option: str, column: Column, names: list[str]) -> str:
    """The name of the column that `column` (a name, or an index from either end) stands for."""
    if isinstance(column, str) and column in names:
        return column
    text = str(column).strip()
    if text in names:
        return text
    if re.fullmatch(r"-?\d+", text):
        index = int(text)
        if -len(names) <= index < len(names):
            return names[index]
        raise BadInput(
            f"{option}: column {index} is not there; the table has {len(names)} columns "
            f"(0 to {len(names) - 1}, or -1 for the last)"
        )
    raise BadInput(f"{option}: no column {column!r}{nearest(text, names)} ({_listed(names)})")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:20])
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"the {len(names)} columns are: {shown}{more}"


def _check_file(path: Path) -> Literal["text", "parquet"]:
    if path.is_dir():
        raise BadInput(f"path: {path} is a folder, not a file")
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, beside, n=1)
        where = "" if path.parent.is_dir() else f" (there is no folder {path.parent} either)"
        hint = f"; did you mean {close[0]!r}?" if close else where
        raise BadInput(f"path: no file {path}{hint}")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    last = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else (suffixes or [""])[-1]
    if last in PARQUET_FORMATS:
        kind: Literal["text", "parquet"] = "parquet"
    elif last in TEXT_FORMATS:
        kind = "text"
    else:
        known = ", ".join((*TEXT_FORMATS, ".csv.gz", *PARQUET_FORMATS))
        raise BadInput(f"path: {path.name} has an unknown format; known extensions: {known}")
    if path.stat().st_size == 0:
        raise BadInput(f"path: {path} is empty")
    return kind


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds, none of them a public promise
        line = str(error).split("\n")[0]
        raise BadInput(f"path: {path} cannot be read as Parquet: {line}") from error
    keep_index = any(name is not None for name in frame.index.names)
    frame = frame.reset_index(drop=not keep_index)
    frame.columns = _unique_names([str(name) for name in frame.columns])
    return frame


def _read_text(
    path: Path, target: Column, header: bool | str, separator: str, encoding: str
) -> tuple[pd.DataFrame, str]:
    codec = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        lines = _first_lines(path, codec)
        if not lines:
            raise BadInput(f"path: {path} is empty")
        delimiter = _delimiter(path, lines, separator)
        rows = _parse(lines, delimiter)
        has_header = _has_header(rows, target) if header == "auto" else bool(header)
        first = [cell.strip() for cell in rows[0]]
        names = _unique_names(first if has_header else [f"column_{i}" for i in range(len(first))])
        name = _find_target(target, names, has_header, header)
        frame = _load(path, names, name, has_header, delimiter, codec)
    except UnicodeError as error:
        raise BadInput(
            f"encoding: {path} is not {encoding} text; save it as UTF-8 or name its encoding, "
            f"such as latin-1"
        ) from error
    except pd.errors.EmptyDataError as error:
        raise BadInput(f"path: {path} has no rows") from error
    except LookupError as error:
        raise BadInput(f"encoding: {error}") from error
    except (OSError, EOFError) as error:
        raise BadInput(f"path: {path} cannot be read: {error}") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning, csv.Error) as error:
        detail = " ".join(str(error).split())
        raise BadInput(
            f"path: {path} cannot be read with separator {delimiter!r}: {detail}; do all rows have "
            f"as many fields as the first ({len(names)})?"
        ) from error
    frame[name] = frame[name].astype(object).fillna("").map(str.strip)
    return frame, name


def _load(
    path: Path, names: list[str], target: str, has_header: bool, delimiter: str, codec: str
) -> pd.DataFrame:
    with warnings.catch_warnings():
        # Rows longer than the header would be cut without an error.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            path,
            sep=delimiter,
            header=0 if has_header else None,
            names=names,
            index_col=False,
            encoding=codec,
            compression="gzip" if path.suffix.lower() == ".gz" else None,
            skipinitialspace=True,
            keep_default_na=False,
            na_values={name: MISSING for name in names if name != target},
            # The target stays as it stands in the file: '-1', 01 and None are labels.
            dtype={target: str},
            low_memory=False,
        )


def _first_lines(path: Path, codec: str) -> list[str]:
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding=codec, newline="") as file:
        return [line for _, line in zip(range(SNIFFED_LINES), file, strict=False) if line.strip()]


def _parse(lines: list[str], delimiter: str) -> list[list[str]]:
    if delimiter == SEPARATORS["whitespace"]:
        return [line.split() for line in lines]
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    return [row for row in rows if row]


def _delimiter(path: Path, lines: list[str], separator: str) -> str:
    """The given separator, the extension's, or the one that cuts all lines into most fields."""
    if separator != "auto":
        return SEPARATORS.get(separator, separator)
    stem = path.name.lower().removesuffix(".gz")
    if stem.endswith((".tsv", ".tab")):
        return "\t"
    best, best_fields = ",", 1
    for candidate in (",", ";", "\t", "|", SEPARATORS["whitespace"]):
        widths = {len(row) for row in _parse(lines[:-1] or lines, candidate)}
        if len(widths) == 1 and (fields := widths.pop()) > best_fields:
            # White space inside texts only counts where nothing else separates.
            if candidate == SEPARATORS["whitespace"] and best_fields > 1:
                continue
            best, best_fields = candidate, fields
    return best


def _has_header(rows: list[list[str]], target: Column) -> bool:
    """Whether the first row holds names: the target's, or texts above what is not text.

    Where every column is text, it is a header unless one of its cells recurs in its own column.
    """
    first, below = [cell.strip() for cell in rows[0]], rows[1:]
    if isinstance(target, str) and target.strip() in first and not _is_number(target):
        return True
    if not below or any(_is_number(cell) or cell in MISSING for cell in first):
        return False
    columns = list(zip(*[row for row in below if len(row) == len(first)], strict=True))
    if any(_is_number(cell) for column in columns for cell in column):
        return True
    recurs = any(
        cell in [other.strip() for other in column]
        for cell, column in zip(first, columns, strict=False)
    )
    return not recurs


def _is_number(text: str) -> bool:
    try:
        float(text.strip().strip("'\""))
    except ValueError:
        return False
    return True


def _find_target(target: Column, names: list[str], has_header: bool, header: bool | str) -> str:
    try:
        return find_column("target", target, names)
    except BadInput as error:
        if has_header or header is False:
            raise
        note = "; the first row was not taken for a header, `header: true` says it is one"
        raise BadInput(str(error) + note) from error


def _unique_names(names: list[str]) -> list[str]:
    """Names stripped of white space; empty ones numbered, repeated ones given a suffix."""
    seen: dict[str, int] = {}
    result = []
    for index, name in enumerate(names):
        name = name.strip() or f"column_{index}"
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}.{seen[name] - 1}")
    return result


def check_reading_options(checks: OptionChecks, options: dict[str, Any]) -> None:
    """Checks of the options that need no file."""
    if not isinstance(options["path"], str | Path) or not str(options["path"]).strip():
        checks.add("path", f"must name a file, got {options['path']!r}")
    if isinstance(options["target"], bool) or not isinstance(options["target"], str | int):
        checks.add("target", f"must be a column's name or index, got {options['target']!r}")
    checks.choice("header", options["header"], [True, False, "auto"])
    separator = options["separator"]
    if (
        separator != "auto"
        and separator not in SEPARATORS
        and (not isinstance(separator, str) or len(separator) != 1)
    ):
        known = ", ".join(SEPARATORS)
        checks.add("separator", f"must be auto, one character, or {known}, got {separator!r}")
    if not isinstance(options["encoding"], str):
        checks.add("encoding", f"must be a text such as utf-8, got {options['encoding']!r}")
