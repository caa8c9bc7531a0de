"""What was read before, kept in Parquet files so that only what is new or changed is read again.

A cache is a folder of files, each named by the digest of its content. A run is looked up by its id
and its stamp, so an entry that is out of date is simply not found, and files never contradict each
other. A file that is damaged, half-written or of another format does not have its name's digest or
columns, and is removed. Nothing is locked: readers at the same time write files of their own, and
the worst that one can do to another is to make it read something again.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from losslab.analysis.frames.runs import Run
from losslab.experiments.run_parts import History

# Part of the folder's name: a change of the files' format begins a new cache.
FORMAT = 1
# As many files are merged into one, leaving out what is not used any more.
FILES = 8


def cache_root() -> Path:
    """Where caches live: LOSSLAB_CACHE, else `losslab` in the user's cache folder."""
    if own := os.environ.get("LOSSLAB_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "losslab"


def open_cache(cache: bool | str | Path, *source: str) -> "Cache":
    """The cache of a source: below `cache` where that is a folder, none where it is False."""
    if cache is False:
        return Cache(None)
    root = cache_root() if cache is True else Path(cache).expanduser().absolute()
    digest = hashlib.blake2b("\0".join(source).encode(), digest_size=8).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9]+", "-", source[-1]).strip("-")[-40:]
    return Cache(root / f"frames-{FORMAT}" / f"{readable}-{digest}")


class Cache:
    """The runs that were read from one source before; with `place` None it stays empty."""

    def __init__(self, place: Path | None):
        self.place = place
        self._files: list[Path] = []
        self._known: dict[tuple[str, str], Run] = {}
        self._used: dict[tuple[str, str], Run] = {}
        self._new: dict[tuple[str, str], Run] = {}
        for file in sorted(place.glob("*.parquet")) if place else ():
            if (runs := _read(file)) is not None:
                self._files.append(file)
                self._known |= {(run.id, run.stamp): run for run in runs}

    def find(self, run_id: str, stamp: str) -> Run | None:
        """The run with this id and content, if it was kept."""
        run = self._known.get((run_id, stamp)) or self._new.get((run_id, stamp))
        if run is not None:
            self._used[run_id, stamp] = run
        return run

    def add(self, run: Run) -> None:
        """Have a run kept; `save` writes."""
        self._new[run.id, run.stamp] = run

    def save(self) -> None:
        """Write what is new. A cache that cannot be written is done without."""
        if self.place is None:
            return
        many = len(self._files) + bool(self._new) > FILES
        if not self._new and not many:
            return
        kept = {**self._used, **self._new} if many else self._new
        with contextlib.suppress(OSError):
            self.place.mkdir(parents=True, exist_ok=True)
            written = _write(self.place, kept.values())
            if many:
                for file in self._files:
                    if file != written:
                        file.unlink(missing_ok=True)

    def file(self, name: str) -> Path | None:
        """Where a file of the source may be kept beside the runs; None without a cache."""
        return None if self.place is None else self.place / name


def write_file(path: Path, content: bytes) -> None:
    """Write, then rename: nobody sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _write(place: Path, runs: Iterable[Run]) -> Path:
    """One table: first a row a run, then their epochs, in the same order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    runs = list(runs)
    lengths = [len(run.history.values) if run.history else 0 for run in runs]
    heads, rows = len(runs), sum(lengths)
    columns = sorted({name for run in runs if run.history for name in run.history.columns})
    place_of = {name: index for index, name in enumerate(columns)}
    numbers, begin = np.full((len(columns), rows), np.nan), 0
    for run, length in zip(runs, lengths, strict=True):
        if run.history and length:
            own = [place_of[name] for name in run.history.columns]
            numbers[own, begin : begin + length] = run.history.values.T
        begin += length

    def head(values: list[str] | list[int], kind: pa.DataType) -> pa.Array:
        return pa.concat_arrays([pa.array(values, kind), pa.nulls(rows, kind)])

    table = {
        "id": head([run.id for run in runs], pa.string()),
        "stamp": head([run.stamp for run in runs], pa.string()),
        "record": head([json.dumps(run.record) for run in runs], pa.string()),
        "epochs": head(lengths, pa.int64()),
    }
    missing = pa.nulls(heads, pa.float64())
    for name, values in zip(columns, numbers, strict=True):
        table[f"m:{name}"] = pa.concat_arrays([missing, pa.array(values)])
    buffer = io.BytesIO()
    pq.write_table(
        pa.table(table).replace_schema_metadata({"runs": str(heads)}),
        buffer, compression="lz4", use_dictionary=False, write_statistics=False,
    )  # fmt: skip
    content = buffer.getvalue()
    file = place / f"{_digest(content)}.parquet"
    write_file(file, content)
    return file


def _read(file: Path) -> list[Run] | None:
    """The runs of a file; None if it is gone, or damaged, and then it is removed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = file.read_bytes()
    except OSError:
        return None
    try:
        if _digest(content) != file.stem:
            raise ValueError("damaged")
        table = pq.read_table(io.BytesIO(content))
        heads = int(table.schema.metadata[b"runs"])
        about, epochs = table.slice(0, heads), table.slice(heads)
        names = [name for name in table.column_names if name.startswith("m:")]
        numbers = np.empty((len(epochs), len(names)))
        for index, name in enumerate(names):
            numbers[:, index] = epochs.column(name).to_numpy()
        # "epoch" comes first wherever a history is
        order = sorted(range(len(names)), key=lambda index: names[index] != "m:epoch")
        columns = tuple(names[index][2:] for index in order)
        numbers, runs, begin = numbers[:, order], [], 0
        kept = (about.column(name).to_pylist() for name in ("id", "stamp", "record", "epochs"))
        for run_id, stamp, record, length in zip(*kept, strict=True):
            history = History(columns, numbers[begin : begin + length]) if length else None
            runs.append(Run(run_id, stamp, json.loads(record), history))
            begin += length
        return runs
    except (ValueError, KeyError, TypeError, pa.ArrowException):
        with contextlib.suppress(OSError):
            file.unlink()
        return None
