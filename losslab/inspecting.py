"""Questions to a study folder: how far it is, its runs as a table, its UI."""

import errno
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from losslab.errors import BadInput
from losslab.experiments.folder import StudyFolder, home_folder, read_json
from losslab.experiments.plans import plans_from_json

if TYPE_CHECKING:
    from losslab.analysis.frames import StudyFrames


def study_folder(study: str, home: str | None) -> StudyFolder:
    """The folder of a study that has been started; `BadInput` if there is none."""
    from losslab.experiments.reading import find_study, read_yaml

    place = home_folder(home)
    folder = StudyFolder(place, study)
    if not study.endswith((".yaml", ".yml")) and folder.study_file.exists():
        return folder
    path = find_study(study)
    folder = StudyFolder(place, str(read_yaml(path).get("study") or path.stem))
    if not folder.study_file.exists():
        raise BadInput(
            f"study {folder.path.name!r} has not been started in {place}; run it with "
            f"`losslab run {study}`, or say where it is with --home"
        )
    return folder


def frames_of(study: str, home: str | None, tracking_uri: str | None) -> "StudyFrames":
    """A study's frames: from its folder, or from the MLflow store at `tracking_uri`.

    `study` is a name or a study file; `BadInput` where it, or the store, cannot be found.
    """
    from losslab.analysis.frames import frames_from_folder, frames_from_mlflow

    if tracking_uri == "none":
        raise BadInput("--tracking-uri: none has no runs; leave it out to read the study's folder")
    if tracking_uri is not None:
        if study.endswith((".yaml", ".yml")):
            from losslab.experiments.reading import find_study, read_yaml

            path = find_study(study)
            study = str(read_yaml(path).get("study") or path.stem)
        return frames_from_mlflow(tracking_uri, study)
    return frames_from_folder(study_folder(study, home).path)


def status(study: str, home: str | None) -> str:
    """How far each arm is, and whether somebody is working on it."""
    folder = study_folder(study, home)
    entry = read_json(folder.study_file)
    lines = [f"{entry['study']}: {entry['question'] or '(no question)'}", f"folder: {folder.path}"]
    lines.append("running: " + (folder.holder() or "no"))
    for note in entry["notes"]:
        lines.append(f"note: {note['text']}")
    variants = 2 if entry["resolved"]["confirm"]["defaults"] else 1
    plans = plans_from_json(entry.get("plans", {}))
    for arm, about in entry["arms"].items():
        place = folder.arm(about["slug"])
        records = [read_json(file) for file in sorted(place.rglob("trial-*.json"))]
        states = Counter(record["state"] for record in records)
        again = len(list(place.rglob("select-*.json")))
        tests = len(list(folder.confirmation(about["slug"]).rglob("*-*.json")))
        repeats = entry.get("repeats", 1)
        budget = about.get("budget", entry["budget"]) * repeats
        counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        lines.append(
            f"{arm}: {len(records) + again} of {budget} trainings ({counted or 'none'}, "
            f"{again} retrained), {tests} of {entry['seeds'] * variants * repeats} test runs"
        )
        if arm in plans:
            lines.append(f"  trains {plans[arm].describe()}")
        unstacked = Counter(e for r in records if (e := r.get("engine", "")).startswith("plain:"))
        lines += [f"  {count} trials trained {why}" for why, count in unstacked.items()]
        lines += [
            f"  {r['key']} diverged: {r['reason']}" for r in records if r["state"] == "diverged"
        ]
    return "\n".join(lines)


@contextmanager
def writing(option: str, place: str | Path) -> Iterator[None]:
    """Turn a place that cannot be written into `BadInput`; a full disk stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        reason = error.strerror or error
        raise BadInput(f"{option}: {place} cannot be written: {reason}; choose another") from error


def user_interface(home: str | None, port: int) -> tuple[list[str], dict[str, str], str]:
    """The command and environment of an MLflow UI on the local store, and its addresses."""
    from losslab.experiments.tracking import study_addresses

    place = home_folder(home)
    if not (place / "mlflow.db").exists():
        raise BadInput(f"{place} holds no runs yet; start with `losslab run quickstart`")
    free = next((p for p in range(port, port + 50) if _free(p)), None)
    if free is None:
        raise BadInput(f"--port: {port} to {port + 49} are all taken; choose another")
    command = [
        sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(free),
        "--backend-store-uri", f"sqlite:///{place / 'mlflow.db'}",
        "--default-artifact-root", (place / "artifacts").as_uri(), "--workers", "1",
    ]  # fmt: skip
    # The server's job execution quadruples its memory and serves nothing here.
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    base = f"http://127.0.0.1:{free}"
    lines = [f"MLflow UI: {base}  (Ctrl-C ends it)"]
    for study, views in study_addresses(place, base).items():
        lines += [f"{study}:", f"  test runs  {views['test']}", f"  search     {views['search']}"]
    return command, {**os.environ, **settings}, "\n".join(lines)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
