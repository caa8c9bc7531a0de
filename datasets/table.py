"""Your own table: a CSV or Parquet file with one row per example and a column of classes.

How rows are split. Rows with identical features (as read, before preprocessing) form a group,
whatever their labels, and a group is never torn apart: what is tested has not been trained on.
Within that rule each class gives `test_fraction` of its rows to test (drawn from the study seed)
and `validation_fraction` to validation (drawn from the run seed). A group too large for the
held-out side stays in training: of mammography's 10,923 negative rows 3,322 are one and the same,
more than the 2,185 that a fifth would hold out. So the shares and the class distribution are as
asked for, but rows that repeat so often weigh less in what is measured than in the file.
"""

import json
from typing import Any, Literal

import numpy as np

from losslab.datasets.base import Dataset, Split, content_hash
from losslab.datasets.options import OptionChecks, check_held_out_fractions
from losslab.datasets.splitting import duplicate_groups, stratified_split
from losslab.datasets.table_columns import preprocessor, row_hashes, usable_columns
from losslab.datasets.table_reading import check_reading_options, find_column, read_table
from losslab.datasets.table_target import check_target, class_order, clean_labels
from losslab.errors import BadInput
from losslab.randomness import generator


def build(
    study_seed: int,
    *,
    path: str,
    target: str | int,
    header: bool | Literal["auto"] = "auto",
    positive: str | int | float | bool | None = None,
    categorical: list[str | int] | Literal["auto"] = "auto",
    drop: list[str | int] | None = None,
    separator: str = "auto",
    encoding: str = "utf-8",
    standardise: bool = True,
    drop_missing_target: bool = False,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.2,
) -> "Table":
    """Classification from a table in a file.

    - `path`: the file (.csv, .tsv, .tab, .txt, .data, each also .gz; .parquet, .pq), absolute or
      relative to the working directory.
    - `target`: the column of classes, by name or by index (0 is the first, -1 the last).
    - `header`: whether the first row holds names; `auto` looks. Without names, columns are called
      `column_0`, `column_1` ...
    - `positive`: which class is the positive one (index 1) of two; by default the rarer.
    - `categorical`: columns to treat as categories, besides those that are text; `auto`: only
      those.
    - `drop`: columns to leave out.
    - `separator`: `auto`, one character, or comma, semicolon, tab, pipe, whitespace.
    - `encoding`: of a text file; a byte order mark is recognised.
    - `standardise`: numeric features get zero mean and unit variance.
    - `drop_missing_target`: leave out rows without a class instead of refusing the file.
    - `test_fraction`, `validation_fraction`: shares of all rows, in (0, 1); the rest trains.

    Medians, scales and categories are fitted on a run's training split alone, so the number of
    features can differ between run seeds where rare categories exist. `ids` are rows of the file
    counted from 0, a header not counted. Raises `BadInput` with every mistake of the options, then
    with every mistake found in the file.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "mine.csv")
    >>> kinds = ["yes" if i % 4 == 0 else "no" for i in range(40)]
    >>> rows = ["size,kind"] + [f"{i},{kind}" for i, kind in enumerate(kinds)]
    >>> _ = file.write_text(chr(10).join(rows))
    >>> data = build(0, path=str(file), target="kind")
    >>> data.class_names, data.class_counts(data.test(0)).tolist()
    (['no', 'yes'], [6, 2])
    """
    options = {key: value for key, value in locals().items() if key != "study_seed"}
    options["path"] = str(path)
    _check(options)
    return Table(study_seed, options)


class Table(Dataset):
    """The data set that `build` returns."""

    name = "table"
    task = "classification"

    def __init__(self, study_seed: int, options: dict[str, Any]):
        self.options = options
        self._seed = study_seed
        frame, labels, ids = _read(options)
        self._ids = ids
        self.class_names = class_order(labels, options["positive"])
        index = {name: i for i, name in enumerate(self.class_names)}
        self._targets = np.array([index[label] for label in labels], dtype=np.int64)
        self.feature_names, self._frame, self._numeric, self._categorical = frame
        hashes = row_hashes(self._frame)
        self._groups = duplicate_groups(hashes)
        held = stratified_split(
            self._targets, self._groups, options["test_fraction"],
            generator(study_seed, "test split"), (2, 1), self.class_names,
        )  # fmt: skip
        self._pool, self._test_rows = np.flatnonzero(~held), np.flatnonzero(held)
        self._split_rows(0)  # a class that cannot be split is told now, not in the first trial
        # The path is left out: the same file in another folder is the same data.
        settings = {key: value for key, value in options.items() if key != "path"}
        self.content_hash = content_hash(
            json.dumps([study_seed, settings, self.class_names, self.feature_names], default=str),
            hashes, self._targets, self._ids, self._test_rows,
        )  # fmt: skip

    def split(self, run_seed: int) -> tuple[Split, Split]:
        """Train and validation rows, preprocessed as fitted on the training rows."""
        train, validation = self._split_rows(run_seed)
        fitted = self._fit(train)
        return self._take(train, fitted), self._take(validation, fitted)

    def test(self, run_seed: int) -> Split:
        """The test rows, preprocessed as fitted on the training rows of `run_seed`."""
        return self._take(self._test_rows, self._fit(self._split_rows(run_seed)[0]))

    def _split_rows(self, run_seed: int) -> tuple[np.ndarray, np.ndarray]:
        share = self.options["validation_fraction"] / (1 - self.options["test_fraction"])
        groups = np.unique(self._groups[self._pool], return_inverse=True)[1]
        held = stratified_split(
            self._targets[self._pool], groups, share,
            generator(self._seed, "split", run_seed), (1, 1), self.class_names,
        )  # fmt: skip
        return self._pool[~held], self._pool[held]

    def _fit(self, rows: np.ndarray) -> Any:
        fitted = preprocessor(self._numeric, self._categorical, self.options["standardise"])
        return fitted.fit(self._frame.iloc[rows])

    def _take(self, rows: np.ndarray, fitted: Any) -> Split:
        features = np.asarray(fitted.transform(self._frame.iloc[rows]), dtype=np.float32)
        return Split(features, self._targets[rows], self._ids[rows])


def _check(options: dict[str, Any]) -> None:
    checks = OptionChecks()
    check_reading_options(checks, options)
    for name, otherwise in (("categorical", "auto"), ("drop", None)):
        value = options[name]
        if value != otherwise and not (
            isinstance(value, list | tuple)
            and all(isinstance(item, str | int) and not isinstance(item, bool) for item in value)
        ):
            checks.add(name, f"must be a list of column names or indices, got {value!r}")
    checks.flag("standardise", options["standardise"])
    checks.flag("drop_missing_target", options["drop_missing_target"])
    check_held_out_fractions(checks, options["test_fraction"], options["validation_fraction"])
    checks.done()


def _read(options: dict[str, Any]) -> tuple[tuple, np.ndarray, np.ndarray]:
    """(feature names, features, numeric and categorical positions), labels, rows in the file."""
    frame, target = read_table(
        options["path"], options["target"], header=options["header"],
        separator=options["separator"], encoding=options["encoding"],
    )  # fmt: skip
    problems: list[str] = []
    names = list(frame.columns)
    chosen = {
        option: _columns(option, options[option], names, target, problems)
        for option in ("drop", "categorical")
    }
    labels = clean_labels(frame[target])
    missing = np.flatnonzero(labels == "")
    if len(missing) and not options["drop_missing_target"]:
        rows = ", ".join(str(row + 1) for row in missing[:5])
        more = " ..." if len(missing) > 5 else ""
        problems.append(
            f"target: {len(missing)} of {len(labels)} rows have no value in {target!r} (rows "
            f"{rows}{more}, counted from 1 without a header); correct them, or set "
            f"`drop_missing_target: true` to leave them out"
        )
    features = [name for name in names if name != target and name not in chosen["drop"]]
    if not features:
        problems.append("drop: no feature column is left")
    present = np.flatnonzero(labels != "")
    if not len(present):
        problems.append(f"target: column {target!r} has no values")
    else:
        _collect(problems, check_target, labels[present])
    parts = None
    if features:
        kept = frame[features].iloc[present].reset_index(drop=True)
        parts = _collect(problems, usable_columns, kept, chosen["categorical"])
    if problems:
        raise BadInput(problems)
    table, numeric, categorical = parts  # type: ignore[misc]
    return (features, table, numeric, categorical), labels[present], present.astype(np.int64)


def _collect(problems: list[str], function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except BadInput as error:
        problems.extend(error.problems)
        return None


def _columns(
    option: str, asked: Any, names: list[str], target: str, problems: list[str]
) -> list[str]:
    found = []
    for column in asked if isinstance(asked, list | tuple) else []:
        name = _collect(problems, find_column, option, column, names)
        if name == target:
            problems.append(f"{option}: {target!r} is the target column")
        elif name is not None:
            found.append(name)
    return found
