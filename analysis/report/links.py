"""The addresses of a study's runs in the MLflow UI."""

from dataclasses import dataclass
from urllib.parse import quote

import pandas as pd

from losslab.analysis.frames import StudyFrames

LOCAL_UI = "http://127.0.0.1:5000"  # where `losslab ui` serves, if nothing else is there


@dataclass(frozen=True)
class Links:
    """`experiment` is the address of all runs; `rows` are arm, variant and (label, address)s.

    `local`: the addresses work while `losslab ui` runs.
    """

    experiment: str
    local: bool
    rows: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]
    unknown: int


def links(frames: StudyFrames) -> Links | None:
    """Where the runs are in MLflow; None where the study is not mirrored, or nobody knows."""
    tracking = getattr(frames, "tracking", None)
    if tracking is None or not tracking.experiment_id:
        return None
    local = not str(tracking.uri).startswith(("http://", "https://"))
    base = LOCAL_UI if local else str(tracking.uri).rstrip("/")
    experiment = f"{base}/#/experiments/{quote(str(tracking.experiment_id))}"
    runs = frames.confirmation
    if "run_id" not in runs:
        return Links(experiment, local, (), len(runs))
    known = runs[runs["run_id"].fillna("") != ""]
    rows = [
        (str(arm), str(variant), tuple(_run(line, experiment) for _, line in own.iterrows()))
        for (arm, variant), own in known.groupby(["arm", "variant"], sort=False)
    ]
    return Links(experiment, local, tuple(rows), len(runs) - len(known))


def _run(line: pd.Series, experiment: str) -> tuple[str, str]:
    repeat = f"{int(line['repeat'])}/" if line["repeat"] else ""
    state = "" if line["state"] == "complete" else f" ({line['state']})"
    return f"{repeat}{int(line['seed_index'])}{state}", f"{experiment}/runs/{quote(line['run_id'])}"
