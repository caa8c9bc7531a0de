"""Pieces of work that any process can do: plain arguments in, files and small results out.

A piece of work is deterministic: done twice, it writes the same bytes. So a worker that dies is
replaced by doing its work again, and one that comes too late does no harm.
"""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from losslab.experiments.confirmation import Verdict, judge
from losslab.experiments.costs import training_costs
from losslab.experiments.divergence import DIVERGENCES, of_the_machine, reason_of
from losslab.experiments.folder import write_atomically
from losslab.experiments.plans import Engine
from losslab.experiments.states import Job, State, load_states, save_states
from losslab.experiments.training import advance, start


@dataclass(frozen=True)
class Member:
    """One training of a piece, and where it stands: in `source`, a state file and a place in it.

    Without a source it begins. With `outputs` (a path without suffix), the finished training is
    then judged on the test split, and its weights and per-example outputs are written there.
    """

    job: Job
    source: tuple[Path, int] | None = None
    outputs: Path | None = None
    decision: str = "balanced_accuracy"
    prior_corrected: bool = False


@dataclass(frozen=True)
class Piece:
    """Train the members on to `until_epoch`, as one stack or one by one; save them in `file`.

    `time_limit` is how many seconds the whole piece may take; whoever does the work watches it.
    """

    members: tuple[Member, ...]
    engine: Engine
    until_epoch: int
    file: Path
    time_limit: float | None = None

    @property
    def reads(self) -> list[Path]:
        """The files that must be at hand."""
        sources = dict.fromkeys(m.source[0] for m in self.members if m.source is not None)
        return [path for path in (*sources, self.file) if path.exists()]

    @property
    def writes(self) -> list[Path]:
        """The files that are there afterwards."""
        outputs = [member.outputs for member in self.members if member.outputs is not None]
        beside = [o.with_name(o.name + suffix) for o in outputs for suffix in (".npz", ".pt")]
        return [self.file, *beside]


@dataclass(frozen=True)
class Progress:
    """What a piece of work tells the driver about one training.

    `values` are the objective's values had the training ended after its first epoch, its second
    and so on, without the epoch in which it diverged. `engine` says how it was trained, with the
    reason where that is not what was asked for. `seconds` are this training's share of the work,
    `started` is the clock's time when the work began.
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
    engine: str = "plain"
    started: float = 0.0


def do(piece: Piece) -> list[Progress]:
    """Do a piece of work; the progress of each member."""
    jobs, began = [member.job for member in piece.members], time.time()
    done = load_states(piece.file, jobs[0].device)
    if done is None or [state.job for state in done[0]] != jobs:
        done = _advanced(piece, _beginnings(piece.members))
        save_states(piece.file, *done)
    states, engine = done
    return [
        _progress(member, state, engine, began)
        for member, state in zip(piece.members, states, strict=True)
    ]


def _beginnings(members: Sequence[Member]) -> list[State]:
    """Where each training stands; all begin anew if one's state is lost, to stay together."""
    files = {member.source[0] for member in members if member.source is not None}
    saved = {file: load_states(file, members[0].job.device) for file in files}
    states = []
    for member in members:
        if member.source is None:
            continue
        file, place = member.source
        found = saved[file]
        if found is not None and place < len(found[0]) and found[0][place].job == member.job:
            states.append(found[0][place])
    if len(states) == len(members):
        return states
    return [start(member.job) for member in members]


def _advanced(piece: Piece, states: list[State]) -> tuple[list[State], str]:
    """The states at the piece's last epoch, and how they were trained."""
    reason = ""
    if piece.engine == "stacked" and len(states) > 1:
        # Here, since a plain training has no use for it.
        from losslab.experiments.stacked import NotStackable, advance_stack

        try:
            return advance_stack(states, piece.until_epoch), f"stack of {len(states)}"
        except NotStackable as error:
            reason = f"plain: {error}"
    return [advance(state, piece.until_epoch) for state in states], reason or "plain"


def _progress(member: Member, state: State, engine: str, began: float) -> Progress:
    costs = _costs(member.job, state)
    metrics = costs
    pairing = {"initial_weights": state.initial_weights}
    if member.outputs is not None:
        state, verdict = _judged(member, state)
        metrics, pairing = {**verdict.metrics, **costs}, {**pairing, **verdict.pairing}
        arrays, weights = io.BytesIO(), io.BytesIO()
        np.savez_compressed(arrays, allow_pickle=False, **verdict.outputs)
        torch.save(state.judged_model, weights)
        for suffix, content in ((".npz", arrays), (".pt", weights)):
            path = member.outputs.with_name(member.outputs.name + suffix)
            write_atomically(path, content.getvalue())
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
        engine=engine,
        started=began,
    )


def _costs(job: Job, state: State) -> dict[str, float]:
    """What the training costs; nothing of one that diverged, whose model may fail or hang again."""
    if state.diverged:
        return {}
    try:
        return training_costs(job)
    except DIVERGENCES as error:
        if of_the_machine(error):
            raise
        return {}


def _judged(member: Member, state: State) -> tuple[State, Verdict]:
    """The verdict on a training; one whose model fails on the test split has diverged by that."""
    try:
        return state, judge(state, member.decision, member.prior_corrected)
    except DIVERGENCES as error:
        if of_the_machine(error) or state.diverged:
            raise
        state = replace(state, diverged=f"on the test split: {reason_of(error, state.epoch)}")
    return state, judge(state, member.decision, member.prior_corrected)


def finite(row: dict[str, float]) -> dict[str, float]:
    """A row of metrics without those that have no finite value (JSON and MLflow hold none).

    >>> finite({"a": 1.0, "b": float("nan")})
    {'a': 1.0}
    """
    return {name: value for name, value in row.items() if np.isfinite(value)}
