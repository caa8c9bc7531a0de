"""Who does the work: this process, several local ones, or a cluster. The results are the same."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

from losslab.errors import BadInput
from losslab.experiments.local_workers import LocalProcesses
from losslab.experiments.shared_data import SharedData
from losslab.experiments.work import Piece, Progress, do

Kind = Literal["local", "ray"]


class Executor(Protocol):
    """Does pieces of work and tells each one's progress, in whatever order they are done."""

    def run(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, list[Progress] | None]]:
        """Yield (index, progress of each member); None for a piece that overran its time limit."""

    def close(self) -> None:
        """Let go of what the executor holds."""


class InProcess:
    """One piece after the other in this process; a time limit is not kept here."""

    def run(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, list[Progress] | None]]:
        """Yield (index, progress of each member) in the order given."""
        for index, piece in enumerate(pieces):
            yield index, do(piece)

    def close(self) -> None:
        """Nothing to let go of."""


def make_executor(
    workers: int | None = 1,
    kind: Kind = "local",
    *,
    address: str | None = None,
    gpus_per_task: float = 0.0,
    time_limited: bool = False,
    data_folder: Path | None = None,
) -> Executor:
    """This process for one worker, local processes for more, or a Ray cluster.

    With `time_limited`, one worker is a process too, since a process cannot stop itself. Local
    processes share the data in `data_folder` while they work. `address` and `gpus_per_task` are
    the cluster's; without an address, Ray starts on this machine. `workers` is how many pieces may
    be under way; None means every core of this machine, or of the cluster. Raises `BadInput` if
    Ray is not installed or does not answer.
    """
    if workers is not None and workers < 1:
        raise BadInput(f"--workers: must be at least 1, got {workers}")
    if kind == "ray":
        # Here, since it is an extra.
        from losslab.experiments.ray_workers import RayCluster

        return RayCluster(address, gpus_per_task, workers)
    if address is not None or gpus_per_task:
        option = "--gpus-per-task" if address is None else "--address"
        raise BadInput(f"{option}: is for --executor ray only")
    workers = workers or usable_cores()
    if workers == 1 and not time_limited:
        return InProcess()
    return LocalProcesses(workers, shared=SharedData(data_folder) if data_folder else None)


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
