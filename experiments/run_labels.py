"""What a training is called in MLflow: its run's name, parameters, tags and metrics."""

import json
import math
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from losslab.experiments.run_parts import PART_TAG
from losslab.experiments.views import logarithmic_paths
from losslab.randomness import stable_hash

PARAM_LIMIT = 500  # characters; longer texts are cut, since the UI shows them in a column
TAG_LIMIT = 8000  # characters; no store takes more
TAG_PIECE = 5000  # characters; older servers take no more, so longer records are several tags
# A run's tag with its record, and those with the digests of the JSON files attached to a run.
RECORD_TAG = "losslab.record"
DIGEST_TAG = "losslab.digest"
# The file of a confirmation run with what the model said of every example.
OUTPUTS_FILE = "outputs.npz"
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "diverged": "FAILED"}


@dataclass(frozen=True)
class RunEntry:
    """Everything that MLflow is to hold of one run; times are milliseconds since 1970.

    `metrics` are (name, value, step), `dataset` the fields of an MLflow dataset. A run without
    `ended` goes on.
    """

    key: str
    name: str
    tags: Mapping[str, str]
    started: int
    ended: int | None = None
    status: str = "RUNNING"
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[tuple[str, float, int]] = ()
    dataset: Mapping[str, str] | None = None

    @property
    def stored_tags(self) -> dict[str, str]:
        """The tags as a store can hold them."""
        return {name: value[:TAG_LIMIT] for name, value in self.tags.items()}


def training_entry(
    record: Mapping[str, Any],
    study: Mapping[str, Any],
    parent: str,
    dataset: Mapping[str, str],
    part: int,
) -> RunEntry:
    """The run of a finished training, under the run of its arm.

    `study` is study.json's content, `part` the number of the part that it is filed in.
    """
    tags = {PART_TAG: str(part), **run_tags(record), **study_tags(study, record["key"], parent)}
    return RunEntry(
        key=record["key"],
        name=run_name(record),
        tags=tags,
        started=int(record["started"] * 1000),
        ended=int(record["ended"] * 1000),
        status=STATUS[record["state"]],
        params={
            **_place(record, study),
            **run_params(record, logarithmic_paths(study, record["arm"])),
        },
        metrics=metrics_at_steps(record),
        dataset=dataset,
    )


def _place(record: Mapping[str, Any], study: Mapping[str, Any]) -> dict[str, str]:
    """Which repeat and which level a run belongs to, in studies that have several."""
    place = {"repeat": str(record["repeat"])} if study.get("repeats", 1) > 1 else {}
    arm = study["arms"].get(record["arm"], {})
    if arm.get("level") is not None:
        place |= {"level": arm["level"][:PARAM_LIMIT], "arm": arm["of"]}
    return place


def study_tags(study: Mapping[str, Any], key: str, parent: str | None = None) -> dict[str, str]:
    """What every run of a study carries: its own key, whose it is, and the run it belongs to."""
    tags = {
        "losslab.key": key,
        "losslab.study_id": study["id"],
        "losslab.study": study["study"],
        "mlflow.source.name": "losslab",
        "mlflow.source.type": "LOCAL",
    }
    if study["git"]:
        tags["mlflow.source.git.commit"] = study["git"]
    if parent is not None:
        tags["mlflow.parentRunId"] = parent
    return tags


def study_dataset(study: Mapping[str, Any]) -> dict[str, str]:
    """A study's dataset in the fields of an MLflow dataset."""
    record = study["dataset"]
    return {
        "name": record["name"],
        "digest": record["content_hash"],
        "source_type": "code",
        "source": json.dumps({"name": record["name"], **record["options"]}),
        "profile": json.dumps({"splits": record["splits"]}),
    }


def run_name(record: Mapping[str, Any]) -> str:
    """A readable name, unique in its study: "focal · trial 3", "focal · test, seed 0" ..."""
    arm, seed = record["arm"], record["seed_index"]
    if record["repeat"]:
        arm += f" · repeat {record['repeat']}"
    if record["phase"] == "search":
        return f"{arm} · trial {record['trial']}"
    if record["phase"] == "select":
        return f"{arm} · trial {record['trial']} again, seed {seed}"
    what = "test" if record["variant"] == "selected" else "test at defaults"
    return f"{arm} · {what}, seed {seed}"


def run_params(record: Mapping[str, Any], logarithmic: Container[str] = ()) -> dict[str, str]:
    """A run's parameters under short stable names: `gamma`, `learning_rate`, `seed`, `loss` ...

    The last part of a configuration path names it; `name` is replaced by its section, and where
    two paths end alike the later one keeps its section (`dataset.path`). The paths in
    `logarithmic` are given as `log10_learning_rate` too: the UI's charts have linear axes only.
    """
    params = {"seed": str(record["seed_index"])}
    if record["trial"] is not None:
        params["trial"] = str(record["trial"])
    for section in ("loss", "training", "model", "dataset"):
        for key, value in record["config"][section].items():
            name = section if key == "name" else key
            if name in ("trial", *params):
                name = f"{section}.{key}"
            params[safe_name(name)] = str(value)[:PARAM_LIMIT]
            if f"{section}.{key}" in logarithmic:
                params[safe_name(f"log10_{name}")] = f"{math.log10(value):.6g}"
    return params


def run_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """A run's tags; `losslab.record` is the record without what MLflow holds elsewhere.

    A record that is too long for one tag goes on in `losslab.record.1` and so on. Where metrics
    are called otherwise in MLflow, the record's `names` say how they are called in truth.
    """
    small = {
        key: value
        for key, value in record.items()
        if key not in ("history", "metrics", "config", "attributes")
    }
    metrics = [name for row in (*record["history"][:1], record["metrics"]) for name in row]
    if names := {safe: name for name in metrics if (safe := safe_name(name)) != name}:
        small["names"] = names
    text = json.dumps(small)
    pieces = [text[begin : begin + TAG_PIECE] for begin in range(0, len(text), TAG_PIECE)]
    return {
        "losslab.arm": record["arm"],
        "losslab.phase": record["phase"],
        "losslab.variant": record["variant"] or "",
        "losslab.state": record["state"],
        "losslab.reason": record["reason"],
        RECORD_TAG: pieces[0],
        **{f"{RECORD_TAG}.{n}": piece for n, piece in enumerate(pieces[1:], start=1)},
    }


def metrics_at_steps(record: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """All (name, value, step) of a training: its history by epoch, then what it is judged by."""
    found = [
        (safe_name(name), float(value), int(row["epoch"]))
        for row in record["history"]
        for name, value in row.items()
        if name != "epoch"
    ]
    final = {**record["metrics"], "epochs": record["epochs"], "seconds": record["seconds"]}
    final |= step_time(record)
    if record["value"] is not None:
        final["objective"] = record["value"]
    step = int(record["judged_epoch"])
    return found + [(safe_name(name), float(value), step) for name, value in final.items()]


def step_time(record: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds that a step took on average, as `cost/step_milliseconds`, if that is known.

    It is the training's time over its steps, validation included; in a stack, its share.
    """
    steps = record["metrics"].get("cost/steps", 0) * record["epochs"]
    return {"cost/step_milliseconds": 1000 * record["seconds"] / steps} if steps else {}


@lru_cache(maxsize=4096)
def safe_name(name: str) -> str:
    """A name with nothing in it that MLflow refuses; a changed one carries a hash of the original.

    Class names come from the user's table, and MLflow reads a metric's name as a path.

    >>> safe_name("val/recall/class 1"), safe_name("val/recall/<5 %")
    ('val/recall/class 1', 'val/recall/_5 _-d0538e')
    """
    safe = re.sub(r"[^\w.:/ -]", "_", name, flags=re.ASCII)
    parts = [part if part.strip(".") else "_" * max(len(part), 1) for part in safe.split("/")]
    safe = "/".join(parts)[:240]
    return safe if safe == name else f"{safe}-{stable_hash(name) % 16**6:06x}"
