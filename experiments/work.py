"""Pieces of work that any process can do: plain arguments in, files and small results out.

A piece of work is deterministic: done twice, it writes the same bytes. So a worker that dies is
replaced by doing its work again, and one that comes too late does no harm.
"""

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from losslab.experiments.confirmation import judge
from losslab.experiments.folder import write_atomically
from losslab.experiments.training import Job, State, advance, start


@dataclass(frozen=True)
class Piece:
    """Train `job` on to `until_epoch` from what `state_file` holds, and save it there.

    With `outputs` (a path without suffix), the finished training is then judged on the test split,
    and its weights and per-example outputs are written beside its record.
    """

    job: Job
    state_file: Path
    until_epoch: int
    outputs: Path | None = None
    decision: str = "balanced_accuracy"
    prior_corrected: bool = False


@dataclass(frozen=True)
class Progress:
    """What a piece of work tells the driver.

    `values` are the objective's values had the training ended after its first epoch, its second
    and so on, without the epoch in which it diverged: a state may be further on than asked for.
    """

    epoch: int
    value: float | None
    values: list[float]
    judged_epoch: int
    diverged: str
    seconds: float
    history: list[dict[str, float]]
    metrics: dict[str, float]
    pairing: dict[str, str]


def do(piece: Piece) -> Progress:
    """Do a piece of work."""
    state = load_state(piece.state_file, piece.job) or start(piece.job)
    state = advance(state, piece.until_epoch)
    save_state(piece.state_file, state)
    metrics: dict[str, float] = {}
    pairing = {"initial_weights": state.initial_weights}
    if piece.outputs is not None:
        verdict = judge(state, piece.decision, piece.prior_corrected)
        metrics, pairing = verdict.metrics, {**pairing, **verdict.pairing}
        arrays, weights = io.BytesIO(), io.BytesIO()
        np.savez_compressed(arrays, allow_pickle=False, **verdict.outputs)
        write_atomically(piece.outputs.with_name(piece.outputs.name + ".npz"), arrays.getvalue())
        torch.save(state.judged_model, weights)
        write_atomically(piece.outputs.with_name(piece.outputs.name + ".pt"), weights.getvalue())
    return Progress(
        epoch=state.epoch,
        value=state.value,
        values=list(state.values),
        judged_epoch=state.judged_epoch,
        diverged=state.diverged,
        seconds=state.seconds,
        history=[finite(row) for row in state.history],
        metrics=finite(metrics),
        pairing=pairing,
    )


def save_state(path: Path, state: State) -> None:
    """Write a state atomically, as plain containers and tensors."""
    content = {**state.__dict__, "job": asdict(state.job)}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load_state(path: Path, job: Job) -> State | None:
    """The state in a file; None if there is none, it is damaged or it belongs to another job."""
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True, map_location=job.device)
        if content["job"] != asdict(job):
            return None
        return State(**{**content, "job": job})
    except torch.OutOfMemoryError:
        raise
    except Exception:
        # Whatever a damaged file raises: the training begins again, to the same bits.
        return None


def finite(row: dict[str, float]) -> dict[str, float]:
    """A row of metrics without those that have no finite value (JSON and MLflow hold none).

    >>> finite({"a": 1.0, "b": float("nan")})
    {'a': 1.0}
    """
    return {name: value for name, value in row.items() if np.isfinite(value)}
