"""From a study's records, on disk or in MLflow, to tidy pandas frames.

Both sources give the same frames: a study folder is the truth, MLflow its mirror. Only this file
knows MLflow, and imports it where it is needed.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from losslab.analysis.ledger import ledger_of
from losslab.errors import BadInput

_RUN_COLUMNS = {
    "key": "str",
    "arm": "str",
    "phase": "str",
    "variant": "str",
    "trial": "Int64",
    "repeat": "Int64",
    "generation": "Int64",
    "seed_index": "Int64",
    "run_seed": "Int64",
    "state": "str",
    "reason": "str",
    "value": "float64",
    "judged_epoch": "Int64",
    "epochs": "Int64",
    "seconds": "float64",
    "started": "datetime64[us, UTC]",
    "ended": "datetime64[us, UTC]",
}
_EPOCH_KEYS = ["key", "arm", "phase", "variant", "trial", "repeat", "seed_index", "epoch"]
_TIMES = ("started", "ended")


@dataclass(frozen=True)
class StudyFrames:
    """Everything that analysis knows about one study.

    `study` is the resolved study (`study.json`). The frames:

    - `trials`: one row per search trial and re-training. `key, arm, phase` (search | select),
      `trial, repeat, generation, seed_index, run_seed, state` (complete | pruned | diverged),
      `reason, value` (the objective on validation; NaN without one), `judged_epoch, epochs,
      seconds` (wall time), `started, ended` (UTC), and one `params.<path>` column per tuned value.
    - `epochs`: one row per epoch of every run, with `key, arm, phase, variant, trial, repeat,
      seed_index, epoch` and one column per recorded metric (`train/loss`, `val/...`).
    - `confirmation`: one row per confirmation run. The columns of `trials`, `variant` (selected |
      defaults), the metrics (`val/...` at the judged epoch, `test/...`, `test_tuned/...`, ...),
      `pairing.<what>` (digests of what the run shared with others) and `outputs` (file of
      per-example outputs).
    - `ledger`: one row per arm with what it spent; see `ledger.ledger_of`.
    - `selected`: one row per arm that has selected: `arm, trial, value, candidates` (how many were
      re-trained), `flags`, and `params.<path>` columns.

    `folder` is the study's folder, or None where the frames came from MLflow.
    """

    study: dict[str, Any]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    confirmation: pd.DataFrame
    ledger: pd.DataFrame
    selected: pd.DataFrame
    folder: Path | None = field(default=None, compare=False)

    @property
    def arms(self) -> list[str]:
        """The arms in the order of the study file, then those only records know."""
        return _arm_names(self.study, [*self.trials["arm"], *self.confirmation["arm"]])


def read_records(folder: str | Path) -> list[dict[str, Any]]:
    """All records of a study folder, sorted by key; `BadInput` names a file that is not JSON."""
    folder = Path(folder)
    files = [
        *folder.glob("arms/**/trial-*.json"),
        *folder.glob("arms/**/select-*.json"),
        *folder.glob("confirm/**/*.json"),
    ]
    records = [record for file in files if "phase" in (record := _read_json(file))]
    return sorted(records, key=lambda record: record["key"])


def frames_from_folder(folder: str | Path) -> StudyFrames:
    """The frames of the study in `runs/<study>/`, finished or not.

    Raises `BadInput` where the folder holds no `study.json`.
    """
    folder = Path(folder)
    if not (folder / "study.json").is_file():
        raise BadInput(f"{folder} is not a study folder: it holds no study.json")
    study = _read_json(folder / "study.json")
    selected = {}
    for arm, settings in study["arms"].items():
        file = folder / "arms" / settings["slug"] / "selected.json"
        if file.is_file():
            selected[arm] = _read_json(file)
    return frames_from_records(study, read_records(folder), selected, folder)


def frames_from_mlflow(
    tracking_uri: str, experiment_name: str, *, with_epochs: bool = True
) -> StudyFrames:
    """The same frames from the MLflow mirror of a study.

    Runs are rebuilt from their tag `losslab.record`; the study run and the arm runs carry
    `study.json` and `selected.json` as artifacts, or in the same tag. Where a record leaves its
    `metrics` out they come from MLflow. Where a study was begun anew, its newest run counts.
    `with_epochs=False` skips the metric histories (the slow part) and with them `val/...`.

    Raises `BadInput` where there is no such experiment, or no study run in it.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        raise BadInput(f"there is no experiment {experiment_name!r} at {tracking_uri}")
    runs = list(_all_runs(client, experiment.experiment_id))
    # the newest study run comes first; one begun anew leaves the runs of the old in place
    head = next((run for run in runs if run.data.tags.get("losslab.phase") == "study"), None)
    study = _tag_or_artifact(head, "study.json", tracking_uri) if head else {}
    mine = head.data.tags.get("losslab.study_id") if head else None
    selected: dict[str, Any] = {}
    records: dict[str, dict[str, Any]] = {}
    for run in runs:
        tags = run.data.tags
        if tags.get("losslab.study_id") != mine:
            continue
        if tags.get("losslab.phase") == "arm":
            if found := _tag_or_artifact(run, "selected.json", tracking_uri):
                selected.setdefault(tags["losslab.arm"], found)
        elif "losslab.record" in tags and tags.get("losslab.phase") != "study":
            record = _record_from_run(client, run, with_epochs)
            records.setdefault(record["key"], record)
    if not study:
        raise BadInput(f"the experiment {experiment_name!r} holds no losslab study run")
    selected = {arm: entry for arm, entry in selected.items() if "trial" in entry}
    ordered = [records[key] for key in sorted(records)]
    return frames_from_records(study, ordered, selected)


def frames_from_records(
    study: Mapping[str, Any],
    records: Iterable[Mapping[str, Any]],
    selected: Mapping[str, Mapping[str, Any]],
    folder: Path | None = None,
) -> StudyFrames:
    """The frames of records that were already read; `selected` maps an arm to its choice."""
    study, records = dict(study), list(records)
    arms = _arm_names(study, [record["arm"] for record in records])
    order = {arm: position for position, arm in enumerate(arms)}
    records.sort(key=lambda record: (order[record["arm"]], record["key"]))
    searched = [record for record in records if record["phase"] != "confirm"]
    confirmed = [_with_validation(record) for record in records if record["phase"] == "confirm"]
    trials = _run_frame(searched, ["params"]).drop(columns="variant")
    confirmation = _run_frame(confirmed, ["params", "metrics", "pairing", "outputs"])
    confirmation = confirmation.drop(columns=["phase", "trial", "generation"])
    return StudyFrames(
        study=study,
        trials=trials,
        epochs=_epoch_frame(records),
        confirmation=confirmation,
        ledger=ledger_of(study, arms, trials, confirmation, selected),
        selected=_selected_frame(arms, selected),
        folder=folder,
    )


def _arm_names(study: Mapping[str, Any], recorded: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*study.get("arms", {}), *sorted(set(recorded))]))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadInput(f"{file} cannot be read: {error}") from error


def _with_validation(record: Mapping[str, Any]) -> dict[str, Any]:
    """A confirmation record whose metrics include validation at its judged epoch."""
    lines = record.get("history") or []
    judged: dict[str, Any] = next(
        (x for x in lines if x["epoch"] == record.get("judged_epoch")), {}
    )
    validation = {name: value for name, value in judged.items() if name.startswith("val/")}
    return {**record, "metrics": {**validation, **(record.get("metrics") or {})}}


def _run_frame(records: Sequence[Mapping[str, Any]], extras: list[str]) -> pd.DataFrame:
    """One row per record: the fixed columns, then those that `extras` spread out, sorted."""
    rows, spread = [], set()
    for record in records:
        row = {name: record.get(name) for name in _RUN_COLUMNS}
        for extra in extras:
            if extra == "outputs":
                row[extra] = record.get(extra)
                continue
            prefix = "" if extra == "metrics" else f"{extra}."
            for name, value in (record.get(extra) or {}).items():
                row[prefix + name] = value
                spread.add(prefix + name)
        rows.append(row)
    columns = [*_RUN_COLUMNS, *sorted(spread), *(["outputs"] if "outputs" in extras else [])]
    frame = pd.DataFrame(rows, columns=columns)
    for name in _TIMES:
        seconds = pd.to_numeric(frame[name])
        frame[name] = pd.to_datetime(seconds, unit="s", utc=True)
    for name in spread:
        if not name.startswith("pairing.") and (frame[name].isna() | _numbers(frame[name])).all():
            frame[name] = pd.to_numeric(frame[name]).astype("float64")
    types = dict(_RUN_COLUMNS)
    if "outputs" in columns:
        types["outputs"] = "str"
    return frame.astype(types)


def _numbers(column: pd.Series) -> pd.Series:
    return column.map(lambda value: isinstance(value, int | float) and not isinstance(value, bool))


def _epoch_frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    rows = []
    for record in records:
        owner = {name: record.get(name) for name in _EPOCH_KEYS[:-1]}
        rows += [{**owner, **line} for line in record.get("history") or []]
    metrics = sorted({name for row in rows for name in row} - set(_EPOCH_KEYS))
    frame = pd.DataFrame(rows, columns=[*_EPOCH_KEYS, *metrics])
    types = {name: _RUN_COLUMNS.get(name, "Int64") for name in _EPOCH_KEYS}
    return frame.astype({**types, **dict.fromkeys(metrics, "float64")})


def _selected_frame(arms: list[str], selected: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    paths = sorted({path for entry in selected.values() for path in entry.get("params", {})})
    rows = [
        {
            "arm": arm,
            "trial": selected[arm]["trial"],
            "value": selected[arm].get("value"),
            "candidates": len(selected[arm].get("candidates", [])),
            "flags": "; ".join(selected[arm].get("flags", [])),
            **{f"params.{path}": selected[arm].get("params", {}).get(path) for path in paths},
        }
        for arm in arms
        if arm in selected
    ]
    fixed = {"arm": "str", "trial": "Int64", "value": "float64", "candidates": "Int64"}
    columns = [*fixed, "flags", *(f"params.{path}" for path in paths)]
    return pd.DataFrame(rows, columns=columns).astype({**fixed, "flags": "str"})


def _all_runs(client: Any, experiment_id: str) -> Iterable[Any]:
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _tag_or_artifact(run: Any, name: str, tracking_uri: str) -> dict[str, Any]:
    # MLflow cuts tags at 8,000 characters; a cut text is not JSON any more
    try:
        return json.loads(run.data.tags["losslab.record"])
    except (KeyError, ValueError):
        pass
    import mlflow

    try:
        path = mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, artifact_path=name, tracking_uri=tracking_uri
        )
    except (mlflow.exceptions.MlflowException, OSError):
        return {}
    return _read_json(Path(path))


def _record_from_run(client: Any, run: Any, with_epochs: bool) -> dict[str, Any]:
    record = json.loads(run.data.tags["losslab.record"])
    record.setdefault("key", run.data.tags.get("losslab.key"))
    finals = {name: v for name, v in run.data.metrics.items() if name.startswith("test")}
    if with_epochs and "history" not in record:
        record["history"], validation = _history(client, run, record)
        finals |= validation
    record.setdefault("metrics", finals)
    return record


def _history(
    client: Any, run: Any, record: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """One line per epoch, and the validation metrics of the judged epoch."""
    lines: dict[int, dict[str, Any]] = {}
    finals = {}
    for name in run.data.metrics:
        if name.startswith("test") or name in ("epochs", "seconds", "objective"):
            continue
        points = client.get_metric_history(run.info.run_id, name)
        points = sorted(points, key=lambda point: (point.step, point.timestamp))
        judged = [point.value for point in points if point.step == record.get("judged_epoch")]
        if judged and name.startswith("val/") and record["phase"] == "confirm":
            finals[name] = judged[-1]
        if len(points) == 1 and (record.get("epochs") or 0) > 1:
            continue  # a final value, not a curve
        for point in points:
            if point.step >= 1:
                line = lines.setdefault(point.step, {"epoch": point.step})
                line.setdefault(name, point.value)
    return [lines[step] for step in sorted(lines)], finals
