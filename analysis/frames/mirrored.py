"""A run in MLflow, and how it becomes a training's record again."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from losslab.analysis.frames.runs import Run
from losslab.errors import BadInput
from losslab.experiments.run_labels import RECORD_TAG
from losslab.experiments.run_parts import PART_TAG, FiledRun, history_of

_OPEN = ("RUNNING", "SCHEDULED")
# What a training logs once, at its end; all else is a curve.
_FINAL = ("epochs", "seconds", "objective")
# One value of a metric: its name, step, time stamp and value.
Point = tuple[str, int, int, float]


@dataclass(frozen=True)
class Mirrored:
    """A run of MLflow: its id, status, times (ms since 1970), tags, and where its files are.

    `metrics` are the last values of what was logged, where the source tells them.
    """

    id: str
    status: str
    started: int
    ended: int | None
    place: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether more may be written to it."""
        return self.status in _OPEN

    @property
    def is_training(self) -> bool:
        """Whether it is the run of a training, and not of a study or an arm."""
        return RECORD_TAG in self.tags and self.tags.get("losslab.phase") not in ("study", "arm")

    @property
    def part(self) -> int | None:
        """The part that it is filed in; None for runs of older versions."""
        number = self.tags.get(PART_TAG, "")
        return int(number) if number.isdecimal() else None

    @property
    def text(self) -> str:
        """The record that it carries, as JSON; long ones are in several tags."""
        text, number = self.tags[RECORD_TAG], 1
        while (more := self.tags.get(f"{RECORD_TAG}.{number}")) is not None:
            text, number = text + more, number + 1
        return text

    @property
    def record(self) -> dict[str, Any]:
        """The record that it carries; `BadInput` where the store has cut it."""
        try:
            return dict(json.loads(self.text))
        except ValueError as error:
            raise BadInput(
                f"run {self.id} in MLflow: its record was cut by the store; read the study's "
                f"folder instead, or run the study into a new store"
            ) from error

    @property
    def stamp(self) -> str:
        """Changes with what the run holds."""
        content = f"{self.status}|{self.ended}|{self.text}".encode()
        return hashlib.blake2b(content, digest_size=12).hexdigest()

    def filed(self, run: FiledRun) -> Run | None:
        """The training as a part has it; None if that is not what this run says of itself."""
        said = {name: value for name, value in self.record.items() if name != "names"}
        if said != {name: value for name, value in run.record.items() if name != "metrics"}:
            return None
        return Run(self.id, self.stamp, run.record, run.history)

    def training(self, points: Iterable[Point]) -> Run:
        """The training from the run's tags and the points of its metrics.

        What an epoch logs comes first, and what the training is judged by once more at its end.
        """
        record = self.record
        record.setdefault("key", self.tags.get("losslab.key"))
        names = record.pop("names", {})
        lines, finals = _curves(record, points, names)
        if "history" in record:
            lines = record.pop("history")
        record.setdefault("metrics", finals)
        return Run(self.id, self.stamp, record, history_of(lines))


def is_curve(metric: str) -> bool:
    """Whether a metric is recorded every epoch; its name says so."""
    return not metric.startswith(("test", "cost/")) and metric not in _FINAL


def _curves(
    record: Mapping[str, Any], points: Iterable[Point], names: Mapping[str, str]
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """A line per epoch, and the values at the end; names are those before MLflow changed them."""
    by_name: dict[str, list[Point]] = {}
    for point in points:
        if not np.isnan(point[3]):
            by_name.setdefault(point[0], []).append(point)
    lines: dict[int, dict[str, float]] = {}
    finals = {}
    for metric in sorted(by_name):
        name, own = names.get(metric, metric), sorted(by_name[metric], key=lambda p: p[1:3])
        if not is_curve(metric):
            if metric not in _FINAL:
                finals[name] = own[-1][3]
            continue
        judged = [value for _, step, _, value in own if step == record.get("judged_epoch")]
        if judged and metric.startswith("val/") and record["phase"] == "confirm":
            finals[name] = judged[-1]
        if len(own) == len(judged) == 1 and (record.get("epochs") or 0) > 1:
            continue  # a final value, not a curve
        for _, step, _, value in own:
            if step >= 1:
                lines.setdefault(step, {"epoch": step}).setdefault(name, value)
    return [lines[step] for step in sorted(lines)], finals
