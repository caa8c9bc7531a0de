"""Opening a study folder: a new study is written down, an old one is checked for changes."""

import platform
import subprocess
import time
import uuid
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from losslab.datasets.base import SplitDataset
from losslab.datasets.detection.problems import remarks
from losslab.errors import BadInput
from losslab.experiments.changes import changed_keys
from losslab.experiments.config import Study
from losslab.experiments.data import dataset_for
from losslab.experiments.folder import StudyFolder, read_json, write_json
from losslab.experiments.levels import labelled, levelled_name
from losslab.experiments.observing import Observer
from losslab.experiments.plans import Plan, plans_as_json

PACKAGES = ("losslab", "torch", "optuna", "mlflow", "numpy", "scikit-learn", "scipy", "pandas")


def open_study(
    study: Study,
    folder: StudyFolder,
    device: str,
    plans: Mapping[str, Plan],
    fresh: bool,
    observer: Observer,
) -> dict[str, Any]:
    """Write `study.json`, or check that a started study is still the same; return its content.

    The plans of a started study stay, unless its memory was changed.

    Raises `BadInput` with the changed keys, unless `fresh` sets the old study aside.
    """
    if fresh and (aside := folder.set_aside()):
        observer.note(f"the earlier study was moved to {aside}")
    new = {**_entry(study, device), "plans": plans_as_json(plans)}
    old = read_json(folder.study_file)
    begun = any(folder.path.glob("arms/*/generation-*.json"))
    if old is not None:
        new["id"], new["created"], new["notes"] = old["id"], old["created"], old["notes"]
    if old is not None and begun:
        changes = changed_keys(old["resolved"], new["resolved"])
        changes += [
            f"dataset of arm {arm}: its content has changed (hash {before} -> {after})"
            for arm, before in old["content_hashes"].items()
            if (after := new["content_hashes"].get(arm)) not in (before, None)
        ]
        if changes:
            listed = "".join(f"\n  {change}" for change in changes)
            raise BadInput(
                f"study {study.name!r} was started with other settings; these keys have "
                f"changed:{listed}\nSet them back, give the study another name, or start anew "
                f"with --fresh (the old runs are kept)"
            )
        if new["resolved"]["memory"] == old["resolved"].get("memory"):
            new["plans"] |= old["plans"]
        _note_growth(old, new)
    for remark in remarks(new["dataset"]):
        observer.note(remark)
    write_json(folder.study_file, new)
    folder.clean_leftovers()
    return new


def resolve_device(device: str) -> str:
    """`auto` is a GPU if there is one; asking for one that is not there is `BadInput`."""
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise BadInput("device: cuda was asked for, and torch sees no GPU; use auto or cpu")
    return "cuda" if available and device != "cpu" else "cpu"


def _entry(study: Study, device: str) -> dict[str, Any]:
    datasets = {
        name: dataset_for(arm.config["dataset"], study.seed) for name, arm in study.arms.items()
    }
    return {
        "id": uuid.uuid4().hex,
        "study": study.name,
        "question": study.question,
        "primary": study.metrics.primary,
        "direction": study.direction,
        "decision": study.metrics.decision,
        "baseline": study.baseline,
        "standing": study.standing,
        "arms": {
            name: {
                "slug": arm.slug,
                "summary": arm.config["loss"]["name"],
                "implicit": arm.implicit,
                "of": arm.of,
                "level": arm.level,
                "budget": arm.search.trials,
                "config": arm.config,
                "space": {path: space.model_dump() for path, space in arm.spaces.items()},
            }
            for name, arm in study.arms.items()
        },
        "seeds": study.confirm.seeds,
        "repeats": study.search.repeats,
        "budget": study.search.trials,
        "metrics": [study.metrics.primary, *study.metrics.extra],
        "dataset": datasets[study.baseline].describe(),
        "contrasts": [contrast.model_dump() for contrast in study.contrasts],
        "levels": _levels(study, datasets) if study.levels else None,
        "content_hashes": {name: dataset.content_hash for name, dataset in datasets.items()},
        "device": device,
        "versions": versions(),
        "git": git_commit(),
        "code": code_commit(),
        "created": time.time(),
        "notes": [],
        "resolved": study.resolved,
        "yaml": yaml.safe_dump(study.written, sort_keys=False, allow_unicode=True),
    }


def _levels(study: Study, datasets: Mapping[str, SplitDataset[Any]]) -> dict[str, Any]:
    """What the levels are, with the baseline's name and dataset at each."""
    assert study.levels
    values = labelled(study.levels)
    baseline = study.arms[study.baseline].of
    return {
        "path": study.levels.path,
        "label": study.levels.label or study.levels.path.rsplit(".", 1)[-1].replace("_", " "),
        "values": values,
        "baseline": baseline,
        "standing": study.arms[study.standing].of,
        "datasets": {
            level: datasets[levelled_name(baseline, level)].describe() for level in values
        },
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit(folder: str | Path = ".") -> str:
    """The commit of the repository at `folder`, with "+" if it has changes; "" without one.

    By default that of the repository that the command runs in.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
        return commit + ("+" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def code_commit() -> str:
    """The commit of losslab's own code, where it runs from a repository; "" where installed."""
    place = Path(__file__).parent
    try:
        # an installed package may lie in somebody's repository without being part of it
        _git(place, "ls-files", "--error-unmatch", Path(__file__).name)
    except (OSError, subprocess.SubprocessError):
        return ""
    return git_commit(place)


def _git(folder: str | Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True, text=True, timeout=10, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def _note_growth(old: dict[str, Any], new: dict[str, Any]) -> None:
    """What was added to a study that had begun; the ledger shows it."""
    grown = []
    if added := sorted(set(new["arms"]) - set(old["arms"])):
        grown.append(f"arms added: {', '.join(added)}")
    counts = {"budget": "trials", "repeats": "repeats", "seeds": "confirmation seeds"}
    for key, name in counts.items():
        if new[key] > old.get(key, 1):
            grown.append(f"{name}: {old.get(key, 1)} -> {new[key]}")
    was, now = old["resolved"].get("memory"), new["resolved"]["memory"]
    if was != now:
        grown.append(f"memory: {was} -> {now}")
    if changed := [p for p, v in new["versions"].items() if old["versions"].get(p) != v]:
        told = ", ".join(f"{p} {old['versions'].get(p)} -> {new['versions'][p]}" for p in changed)
        grown.append(f"versions changed: {told}")
    if grown:
        new["notes"] = [*old["notes"], {"time": time.time(), "text": "; ".join(grown)}]
