"""Frames from a study folder, which is the truth about a study."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from losslab.analysis.frames.building import Replicate, build_frames
from losslab.analysis.frames.cache import Cache, open_cache
from losslab.analysis.frames.runs import Run
from losslab.analysis.frames.study_frames import StudyFrames, Tracking
from losslab.errors import BadInput
from losslab.experiments.run_ledger import RunLedger
from losslab.experiments.run_parts import history_of

# A cache costs more than it saves where there are fewer records.
CACHED_FROM = 1000
# A file changed within so many seconds of being read may change again without looking changed.
SETTLED = 3.0


def frames_from_folder(folder: str | Path, *, cache: bool | str | Path = True) -> StudyFrames:
    """The frames of the study in `runs/<study>/`, finished or not.

    `cache` keeps what was read of a study of many records: True in the user's cache folder (see
    docs/frames.md), a path there, False not at all. The frames are the same.

    Raises `BadInput` where the folder holds no `study.json`, or a file that is not JSON.
    """
    folder = Path(folder)
    if not (folder / "study.json").is_file():
        raise BadInput(f"{folder} is not a study folder: it holds no study.json")
    study = _read_json(folder / "study.json")
    tracking, run_ids = _tracking(folder, str(study.get("study", "")))
    runs = _read_runs(folder, cache)
    for run in runs:
        run.record["run_id"] = run_ids.get(run.record["key"], "")

    def open_outputs(row: Mapping[str, Any]) -> Path | None:
        file = folder / row["outputs"]
        return file if file.is_file() else None

    return build_frames(
        study, runs, _selected(folder, study),
        folder=folder, tracking=tracking, open_outputs=open_outputs,
    )  # fmt: skip


def read_records(folder: str | Path) -> list[dict[str, Any]]:
    """All records of a study folder, sorted by key; `BadInput` names a file that is not JSON."""
    records = [_read_json(Path(entry.path)) for entry in _record_files(Path(folder))]
    return sorted((r for r in records if "phase" in r), key=lambda record: record["key"])


def _read_runs(folder: Path, cache: bool | str | Path) -> list[Run]:
    files = list(_record_files(folder))
    kept = open_cache(cache, "folder", str(folder.absolute())) if len(files) >= CACHED_FROM else (
        Cache(None)
    )  # fmt: skip
    runs, settled = [], time.time() - SETTLED
    for file in files:
        state = file.stat()
        name = os.path.relpath(file.path, folder)
        stamp = f"{state.st_mtime_ns}:{state.st_size}:{state.st_ino}"
        if (run := kept.find(name, stamp)) is None:
            record = _read_json(Path(file.path))
            if "phase" not in record:
                continue
            run = Run(name, stamp, record, history_of(record.pop("history", None) or []))
            record.pop("config", None)
            record.pop("attributes", None)
            if state.st_mtime < settled:
                kept.add(run)
        runs.append(run)
    kept.save()
    return runs


def _record_files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The files of trainings, whatever their arms are called and however often repeated."""
    waiting = [folder / "arms", folder / "confirm"]
    while waiting:
        place = waiting.pop()
        if not place.is_dir():
            continue
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            if entry.is_dir():
                waiting.append(Path(entry.path))
            elif entry.name.endswith(".json") and not entry.name.startswith(
                (".", "generation-", "selected.json")
            ):
                yield entry


def _selected(folder: Path, study: Mapping[str, Any]) -> dict[Replicate, dict[str, Any]]:
    selected = {}
    for arm, settings in study["arms"].items():
        place = folder / "arms" / settings["slug"]
        for file in [place / "selected.json", *sorted(place.glob("repeat-*/selected.json"))]:
            if file.is_file():
                entry = _read_json(file)
                repeat = file.parent.name.removeprefix("repeat-") if file.parent != place else "0"
                selected[arm, int(repeat)] = entry
    return selected


def _tracking(folder: Path, name: str) -> tuple[Tracking | None, dict[str, str]]:
    """Where the study was mirrored last, and which run is which record there."""
    try:
        lines = (folder / "tracking.jsonl").read_bytes().splitlines()
        store = str(next(entry for line in reversed(lines) if (entry := _line(line)))["store"])
    except (OSError, StopIteration, KeyError):
        return None, {}
    ledger = RunLedger(folder / "tracking.jsonl", store)
    home = folder.absolute().parent
    uri = f"sqlite:///{home / 'mlflow.db'}" if store == "local" else store
    return Tracking(uri, ledger.ids.get("experiment", "")), ledger.ids


def _line(line: bytes) -> dict[str, Any] | None:
    try:
        return dict(json.loads(line))
    except ValueError:
        return None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise BadInput(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{file} cannot be read: it holds no JSON object")
    return content
