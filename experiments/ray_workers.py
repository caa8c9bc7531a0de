"""Work done on a Ray cluster: a task for every piece; nodes need no folder in common.

The bytes of the files that a piece reads travel with its task, the bytes of those that it writes
come back, and the driver alone writes in the study folder. Data travel once, through Ray's object
store. Needs `pip install 'losslab[ray]'`.
"""

import fcntl
import heapq
import importlib
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from losslab.datasets.base import content_hash
from losslab.errors import BadInput, LosslabError
from losslab.experiments import data
from losslab.experiments.attempts import Deaths, Outcome, Work, attempt
from losslab.experiments.data import Laid, Need, lay_out
from losslab.experiments.folder import write_atomically
from losslab.experiments.shared_data import needs_of_piece
from losslab.experiments.work import Piece, Progress, do

# How many laid out splits stay in the object store; Ray spills to disk what memory cannot hold.
KEPT = 8
BEGAN = "began"
# Seconds that a cluster has to answer at all.
PATIENCE = 6


@dataclass
class _Task:
    """A piece under way: its stream of two messages, and until when it may take."""

    stream: Any
    deadline: float | None = None


class RayCluster:
    """Pieces of work as Ray tasks of one core, and of `gpus_per_task` GPUs.

    Without an address (`host:port` of the cluster's head, or `auto`), Ray starts on this machine.
    At most `workers` pieces are under way, as many as the cluster takes if it is None. A piece
    whose worker or node dies is done again; one that overruns its time limit, counted from when
    its task began, is cancelled. Raises `BadInput` if Ray is not installed, or does not answer.
    """

    def __init__(
        self,
        address: str | None = None,
        gpus_per_task: float = 0.0,
        workers: int | None = None,
        work: Work = do,
    ):
        if gpus_per_task < 0:
            raise BadInput(f"--gpus-per-task: must be 0 or more, got {gpus_per_task:g}")
        self._ray = _ray()
        self._own = _connect(self._ray, address, workers)
        self._workers = workers
        self._work = f"{work.__module__}:{work.__qualname__}"
        # Tried again by us: Ray does not tell when a second try began, and tries for ever what
        # runs out of memory.
        self._serve = self._ray.remote(
            num_cpus=1, num_gpus=gpus_per_task, max_retries=0, num_returns="streaming"
        )(_serve)
        self._laid: OrderedDict[Need, Any] = OrderedDict()
        self._under_way: dict[int, _Task] = {}

    def run(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, list[Progress] | None]]:
        """Yield (index, progress of each member) as pieces are done; None for one out of time.

        Whatever the work raises is raised here; pieces that are then under way are cancelled.
        """
        waiting = list(range(len(pieces)))
        busy = self._under_way = {}
        deaths = Deaths()
        try:
            while waiting or busy:
                while waiting and (self._workers is None or len(busy) < self._workers):
                    index = heapq.heappop(waiting)
                    busy[index] = _Task(self._submit(pieces[index]))
                for index in self._heard_of(busy):
                    task = busy[index]
                    try:
                        message = self._ray.get(next(task.stream))
                    except self._ray.exceptions.RayTaskError as error:
                        raise LosslabError(f"Ray could not run a piece of work: {error}") from error
                    except (self._ray.exceptions.RayError, StopIteration) as error:
                        del busy[index]
                        deaths.count(index, f"{type(error).__name__}: {error}")
                        heapq.heappush(waiting, index)
                        continue
                    if message == BEGAN:
                        limit = pieces[index].time_limit
                        task.deadline = None if limit is None else time.monotonic() + limit
                        continue
                    del busy[index]
                    yield index, self._received(*pickle.loads(message))
                for index in [i for i, task in busy.items() if _is_late(task)]:
                    self._cancel(busy.pop(index))
                    yield index, None
        finally:
            self._cancel_all(busy)

    def close(self) -> None:
        """Cancel what is under way, and leave the cluster; a Ray that we started ends."""
        self._cancel_all(self._under_way)
        self._laid.clear()
        if self._own:
            self._ray.shutdown()
            self._own = False

    def _submit(self, piece: Piece) -> Any:
        needs = needs_of_piece(piece)
        for need in needs:
            if need not in self._laid:
                self._laid[need] = self._ray.put(lay_out(need))
            self._laid.move_to_end(need)
        laid = [self._laid[need] for need in needs]
        while len(self._laid) > max(KEPT, len(needs)):
            self._laid.popitem(last=False)
        files = {path: path.read_bytes() for path in piece.reads}
        return self._serve.remote(
            self._work, pickle.dumps(piece), files, _own_paths(), needs, *laid
        )

    def _heard_of(self, busy: dict[int, _Task]) -> list[int]:
        """The pieces whose tasks have a message; waits for one, or until a time limit passes."""
        deadlines = [task.deadline for task in busy.values() if task.deadline is not None]
        left = max(min(deadlines) - time.monotonic(), 0) if deadlines else None
        owners = {id(task.stream): index for index, task in busy.items()}
        ready, _ = self._ray.wait(
            [task.stream for task in busy.values()], timeout=left, fetch_local=False
        )
        return sorted(owners[id(stream)] for stream in ready)

    def _received(self, outcome: Outcome, files: dict[Path, bytes]) -> list[Progress]:
        for path, content in files.items():
            write_atomically(path, content)
        if outcome[0] == "failed":
            raise outcome[1]
        return outcome[1]

    def _cancel(self, task: _Task) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.cancel(task.stream, force=True)

    def _cancel_all(self, busy: dict[int, _Task]) -> None:
        while busy:
            self._cancel(busy.popitem()[1])


def _is_late(task: _Task) -> bool:
    return task.deadline is not None and time.monotonic() >= task.deadline


def _serve(
    work: str,
    pickled: bytes,
    files: dict[Path, bytes],
    paths: list[str],
    needs: list[Need],
    *laid: Laid,
) -> Iterator[str | bytes]:
    """What a task does: say that it begins, do the piece in a folder of its own, send the files."""
    yield BEGAN
    sys.path.extend(path for path in paths if path not in sys.path)
    module, _, name = work.partition(":")
    function = getattr(importlib.import_module(module), name)
    piece: Piece = pickle.loads(pickled)  # only now can it be imported
    data.take_from(dict(zip(needs, laid, strict=True)).get)
    with _workplace() as folder:

        def place(path: Path) -> Path:
            return folder / content_hash(str(path.parent)) / path.name

        for path in [*files, *piece.writes]:
            place(path).parent.mkdir(exist_ok=True)
        for path, content in files.items():
            place(path).write_bytes(content)
        outcome = attempt(function, _moved(piece, place))
        written = {path: place(path) for path in piece.writes}
        back = {path: file.read_bytes() for path, file in written.items() if file.exists()}
    yield pickle.dumps((outcome, back))


def _moved(piece: Piece, place: Callable[[Path], Path]) -> Piece:
    """The same piece with its files elsewhere."""
    members = tuple(
        replace(
            member,
            source=None if member.source is None else (place(member.source[0]), member.source[1]),
            outputs=None if member.outputs is None else place(member.outputs),
        )
        for member in piece.members
    )
    return replace(piece, members=members, file=place(piece.file))


@contextmanager
def _workplace() -> Iterator[Path]:
    """A temporary folder; those that killed tasks have left are removed.

    Who uses one holds a lock on it, which goes when its process goes.
    """
    for left in Path(tempfile.gettempdir()).glob("losslab-task-*"):
        if (lock := _lock(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    lock = None
    while lock is None:  # else somebody took it for one that was left
        folder = Path(tempfile.mkdtemp(prefix="losslab-task-"))
        lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds a folder; None if somebody else does, or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pass
    else:
        if folder.exists():
            return descriptor
    os.close(descriptor)
    return None


def _own_paths() -> list[str]:
    """Folders that this process imports from and that are not Python's, such as the study's."""
    python = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    folders = [os.path.abspath(path) for path in sys.path]
    return [path for path in folders if os.path.isdir(path) and not path.startswith(python)]


def _ray() -> Any:
    # Ray reads these when it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise BadInput(
            "--executor: ray is not installed; pip install 'losslab[ray]', or use --executor local"
        ) from error
    return ray


def _connect(ray: Any, address: str | None, workers: int | None) -> bool:
    """Connect to a cluster, or start Ray here; whether it is ours to leave."""
    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        ray.init("local", num_cpus=workers, include_dashboard=False, **quiet)
        return True
    if address != "auto":
        _check_that_it_answers(address)
    try:
        ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BadInput(f"--address: cannot use {address}: {error}") from error
    return True


def _check_that_it_answers(address: str) -> None:
    """`BadInput` within seconds; Ray itself would wait for more than a minute, then exit."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise BadInput(
            f"--address: {address!r} must be host:port, that of the cluster's head (as `ray start` "
            f"says), or auto; run losslab on a machine of the cluster"
        )
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
        subprocess.run(
            [*command, "--address", address], timeout=PATIENCE, check=True, capture_output=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) else "what answers is not Ray"
        raise BadInput(
            f"--address: no Ray cluster answers at {address} ({reason or error}); start one with "
            f"`ray start --head`, or leave --address out to start Ray on this machine"
        ) from error
