"""How to repeat a study: what its record says of code, data, seeds and versions."""

import datetime
from dataclasses import dataclass
from typing import Any

from losslab.analysis.frames import StudyFrames
from losslab.datasets.detection.problems import remarks

STUDY_FILE = "study.yaml"
_MANY = 24  # seeds that are listed one by one


@dataclass(frozen=True)
class Repeating:
    """The commands, the facts as pairs of words, the study file, and what may be said of it."""

    commands: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    study_file: str
    study_file_is: str


def repeating(frames: StudyFrames) -> Repeating:
    """How to repeat a study, from its `study.json`; older ones lack some facts, which are said.

    The study file that comes with it is the resolved one: no default, override or shipped file can
    change what it means. Only that over levels is as it was written, with the overrides in it.
    """
    study = frames.study
    commit = str(study.get("code") or study.get("git") or "")
    commands = []
    if commit:
        commands.append(f"git checkout {commit.rstrip('+')}")
    commands.append(f"losslab run {STUDY_FILE}")
    commands.append(f"losslab report {study['study']}")
    file_is = (
        "it has every override in it, and leaves the rest to the defaults of the code named here"
        if study.get("levels")
        else "it is the resolved one, with nothing left to defaults"
    )
    facts = tuple(_facts(study, frames))
    return Repeating(tuple(commands), facts, str(study.get("yaml") or ""), file_is)


def _facts(study: dict[str, Any], frames: StudyFrames) -> list[tuple[str, str]]:
    versions = study.get("versions") or {}
    facts = [
        ("losslab's code", _commit(study.get("code"), versions.get("losslab"))),
        ("folder the command ran in", _commit(study.get("git"), None)),
        ("versions", ", ".join(f"{name} {v}" for name, v in versions.items()) or "not recorded"),
        ("device", str(study.get("device") or "not recorded")),
        ("study seed", str(study.get("resolved", {}).get("seed", "not recorded"))),
        ("run seeds of the test runs", _seeds(frames)),
        ("data", _data(study)),
        *(("about the data", remark) for remark in remarks(study.get("dataset") or {})),
        ("first started", _when(study.get("created"))),
        ("study id", str(study.get("id") or "not recorded")),
    ]
    for note in study.get("notes") or []:
        facts.append((f"changed {_when(note.get('time'))}", str(note.get("text"))))
    return facts


def _commit(commit: Any, version: Any) -> str:
    release = f"version {version}, " if version else ""
    if not commit:
        return f"{release}no git commit known"
    dirty = ", with changes that are not in it" if str(commit).endswith("+") else ""
    return f"{release}git commit {str(commit).rstrip('+')}{dirty}"


def _seeds(frames: StudyFrames) -> str:
    seeds = sorted(int(seed) for seed in frames.confirmation["run_seed"].dropna().unique())
    if not seeds:
        return "none yet"
    if len(seeds) > _MANY:
        return f"{len(seeds)} seeds, drawn from the study seed"
    return ", ".join(map(str, seeds)) + " (the same for every arm, drawn from the study seed)"


def _data(study: dict[str, Any]) -> str:
    dataset = study.get("dataset") or {}
    hashes = sorted(set((study.get("content_hashes") or {}).values()))
    name = dataset.get("name", "not recorded")
    if not hashes:
        return f"{name}, content hash {dataset.get('content_hash', 'not recorded')}"
    return f"{name}, content hash{'es' * (len(hashes) > 1)} {', '.join(hashes)}"


def _when(seconds: Any) -> str:
    if not seconds:
        return "not recorded"
    moment = datetime.datetime.fromtimestamp(float(seconds), tz=datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M UTC")
