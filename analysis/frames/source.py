"""Frames from a study's mirror in MLflow."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from losslab.analysis.frames.building import Replicate, build_frames
from losslab.analysis.frames.cache import Cache, open_cache
from losslab.analysis.frames.client import ClientSource
from losslab.analysis.frames.local import LocalSource, has_known_tables, store_file
from losslab.analysis.frames.mirrored import Mirrored
from losslab.analysis.frames.runs import Run
from losslab.analysis.frames.study_frames import StudyFrames, Tracking
from losslab.errors import BadInput
from losslab.experiments.run_labels import DIGEST_TAG, OUTPUTS_FILE, RECORD_TAG


def frames_from_mlflow(
    tracking_uri: str, experiment_name: str, *, cache: bool | str | Path = True
) -> StudyFrames:
    """The frames of a study from MLflow: any store, also somebody else's server.

    `experiment_name` is the study's name. They equal those of the study's folder, but for the file
    names in `confirmation["outputs"]`, which mean nothing here (`StudyFrames.outputs` works). Where
    a study was begun anew, its newest run counts; runs in MLflow's bin do not.

    What was read is kept, and only runs that are new or have changed are read again. `cache` is
    where: True in the user's cache folder (see docs/frames.md), a path there, False nowhere.

    Raises `BadInput` where the store cannot be read, or holds no such experiment or study.

    >>> frames = frames_from_mlflow("https://host", "quickstart")          # doctest: +SKIP
    """
    file = store_file(tracking_uri)
    source: LocalSource | ClientSource
    if file is not None and has_known_tables(file):
        source = LocalSource(file, experiment_name)
    else:
        source = ClientSource(tracking_uri, experiment_name)
    about = (str(file or tracking_uri), source.experiment_id, experiment_name)
    kept = open_cache(cache, *about)
    parents, runs = source.read(kept)
    study = _document(source, parents[0], "study.json", kept) if parents else None
    if not study:
        raise BadInput(f"the experiment {experiment_name!r} holds no losslab study run")
    selected = _selected(source, parents[1:], int(study.get("repeats") or 1), kept)
    kept.save()

    def open_outputs(row: Mapping[str, Any]) -> Path | None:
        return source.outputs(row["run_id"], OUTPUTS_FILE, kept)

    return build_frames(
        study, _newest(runs), selected,
        tracking=Tracking(tracking_uri, source.experiment_id), open_outputs=open_outputs,
    )  # fmt: skip


def _newest(runs: Iterable[Run]) -> list[Run]:
    """One run for each key: the one that began last."""
    newest: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (-float(run.record.get("started") or 0), run.id)):
        run.record["run_id"] = run.id
        newest.setdefault(run.record["key"], run)
    return list(newest.values())


def _selected(
    source: LocalSource | ClientSource, parents: Iterable[Mirrored], repeats: int, kept: Cache
) -> dict[Replicate, dict[str, Any]]:
    selected: dict[Replicate, dict[str, Any]] = {}
    for entry in parents:
        for repeat in range(repeats):
            name = f"selected-{repeat:03d}.json" if repeat else "selected.json"
            key = (entry.tags["losslab.arm"], repeat)
            if key not in selected and (found := _document(source, entry, name, kept)):
                selected[key] = found
    return {key: entry for key, entry in selected.items() if "trial" in entry}


def _document(
    source: LocalSource | ClientSource, entry: Mirrored, name: str, kept: Cache
) -> dict[str, Any] | None:
    """A JSON file of a run; runs of others may have it as a tag."""
    if RECORD_TAG in entry.tags:
        return entry.record
    digest = entry.tags.get(f"{DIGEST_TAG}.{name}")
    if digest and (known := kept.find(f"{entry.id}/{name}", digest)):
        return known.record
    if digest is None and DIGEST_TAG in entry.tags:
        return None  # not attached yet
    content = source.artifact(entry, name)
    try:
        found = None if content is None else dict(json.loads(content))
    except ValueError:
        return None
    if digest and found is not None and isinstance(source, ClientSource):
        kept.add(Run(f"{entry.id}/{name}", digest, found))
    return found
