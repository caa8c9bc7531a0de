"""Parts: the trainings of a study by the hundred in one file, for those who read all of them.

MLflow hands out metric histories run by run and name by name, and thousands of runs that way take
many minutes. So the mirror attaches the same numbers to the study run once more, as arrays in
`parts/00001.npz` and so on; `analysis.frames` reads these. The runs of one part carry its number
as a tag, so those of a part without a file, which a kill has left, are found all the same.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np

# How many trainings are filed together, at least.
PART_SIZE = 200
# On a training's run: its part. On the study run: the part that is written to now.
PART_TAG = "losslab.part"
# What a record holds that nobody who reads many of them needs.
LEFT_OUT = ("history", "config", "attributes")


@dataclass(frozen=True)
class History:
    """What was recorded epoch by epoch: a row an epoch, a column a name; the first is "epoch"."""

    columns: tuple[str, ...]
    values: np.ndarray


def history_of(lines: Sequence[Mapping[str, Any]]) -> History:
    """The history of a record as an array; NaN where a line lacks a name.

    >>> history_of([{"epoch": 1, "a": 3.0}, {"epoch": 2}]).values.tolist()
    [[1.0, 3.0], [2.0, nan]]
    """
    columns = tuple(dict.fromkeys(["epoch", *(lines[0] if lines else ())]))
    if any(tuple(line) != columns for line in lines):
        columns = tuple(dict.fromkeys(["epoch", *(name for line in lines for name in line)]))
        rows = [[line.get(name) for name in columns] for line in lines]
    else:
        rows = [list(line.values()) for line in lines]
    return History(columns, np.array(rows, dtype=float).reshape(len(rows), len(columns)))


def part_file(number: int) -> str:
    """The name of a part's file among the study run's artifacts."""
    return f"parts/{number:05d}.npz"


@dataclass(frozen=True)
class FiledRun:
    """A training as a part holds it: its run, its record without `LEFT_OUT`, its history."""

    run_id: str
    record: dict[str, Any]
    history: History

    @classmethod
    def of(cls, run_id: str, record: Mapping[str, Any]) -> "FiledRun":
        """What is filed of a record."""
        small = {name: value for name, value in record.items() if name not in LEFT_OUT}
        return cls(run_id, small, history_of(record["history"]))


def pack(runs: Iterable[FiledRun]) -> bytes:
    """The content of a part's file; `unpack` reads it."""
    runs = list(runs)
    about = [
        {"run_id": r.run_id, "record": r.record, "columns": r.history.columns,
         "epochs": len(r.history.values)}
        for r in runs
    ]  # fmt: skip
    numbers = [run.history.values.ravel() for run in runs]
    file = io.BytesIO()
    np.savez(
        file,
        runs=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
        values=np.concatenate(numbers) if numbers else np.empty(0),
    )
    return file.getvalue()


def unpack(content: bytes) -> list[FiledRun]:
    """The trainings of a part; ValueError if the file is damaged."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            about, values = json.loads(arrays["runs"].tobytes()), arrays["values"]
    except (OSError, EOFError, KeyError, BadZipFile) as error:
        raise ValueError(f"not a part of a study: {error}") from error
    runs, begin = [], 0
    for entry in about:
        columns = tuple(entry["columns"])
        end = begin + entry["epochs"] * len(columns)
        rows = values[begin:end].reshape(entry["epochs"], len(columns))
        runs.append(FiledRun(entry["run_id"], entry["record"], History(columns, rows)))
        begin = end
    return runs
