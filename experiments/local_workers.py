"""Worker processes on this machine: each does one piece at a time, and is replaced when it dies.

Processes and pipes of our own rather than pools: a pool does not tell when a piece began, cannot
stop one, and loses all that is under way when one worker dies.
"""

import contextlib
import heapq
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from losslab.errors import LosslabError
from losslab.experiments import data
from losslab.experiments.attempts import Deaths, Outcome, Work, attempt
from losslab.experiments.folder import remove_parts
from losslab.experiments.forking import start_server
from losslab.experiments.shared_data import SharedData, mapped_from
from losslab.experiments.work import Piece, Progress, do

# What the server that workers are forked from has loaded already; an optimiser's first step
# imports torch._dynamo, which takes a second.
PRELOADED = ["losslab.experiments.work", "losslab.experiments.stacked", "torch._dynamo"]
# Seconds that a killed process may take to be gone; longer, and the machine is in trouble.
PATIENCE = 10.0
# Seconds between the tries to start a worker.
PAUSES = (0.02, 0.1, 0.5, 1.0)
# The exit code that multiprocessing gives to all workers, dead or not, when the server is dead.
SERVER_DIED = 255


class LocalProcesses:
    """Several worker processes with one torch thread each.

    A worker gets a piece when it is idle, so it is known when each piece began. A worker that dies
    is replaced, and its piece alone is done again; one that overruns its piece's time limit is
    killed. Workers are forked from a server that has torch loaded, and exit when their parent
    does. With `shared`, this process prepares the data and the workers map it.
    """

    def __init__(self, workers: int, work: Work = do, shared: SharedData | None = None):
        self.workers = workers
        self.work = work
        self.shared = shared
        self._alive: set[_Worker] = set()
        start_server()  # it loads while the driver prepares

    def run(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, list[Progress] | None]]:
        """Yield (index, progress of each member) as pieces are done; None for one out of time.

        Whatever the work raises is raised here; pieces that are then under way are stopped.
        """
        waiting = list(range(len(pieces)))
        busy: dict[int, _Worker] = {}
        deaths = Deaths()
        try:
            while waiting or busy:
                self._hand_out(pieces, waiting, busy, deaths)
                done: list[tuple[int, list[Progress] | None]] = []
                failure: Exception | None = None
                for index in _heard_of(busy):
                    news = busy[index].news()
                    if news is None:
                        continue
                    worker = busy.pop(index)
                    if news == "late":
                        self._end(worker, pieces[index])
                        done.append((index, None))
                    elif news == "died":
                        deaths.count(index, self._end(worker, pieces[index]))
                        heapq.heappush(waiting, index)
                    elif news[0] == "done":
                        done.append((index, news[1]))
                    else:
                        failure = news[1]
                # Nobody idles while the driver writes records.
                if failure is None:
                    self._hand_out(pieces, waiting, busy, deaths)
                yield from done
                if failure is not None:
                    raise failure
        finally:
            for index, worker in busy.items():
                self._end(worker, pieces[index])

    def close(self) -> None:
        """Stop the workers at once: nothing that a finished piece has written can be harmed."""
        with _uninterrupted():
            for worker in list(self._alive):
                self._end(worker)
            if self.shared is not None:
                self.shared.close()

    def _hand_out(
        self,
        pieces: Sequence[Piece],
        waiting: list[int],
        busy: dict[int, "_Worker"],
        deaths: Deaths,
    ) -> None:
        """Give the first pieces that wait to idle workers, starting them if need be."""
        while waiting and len(busy) < self.workers:
            index = heapq.heappop(waiting)
            if self.shared is not None:
                self.shared.provide(pieces[index])
            with _uninterrupted():  # so that every worker that was started is known, and is ended
                worker = self._idle(busy)
                try:
                    worker.give(pieces[index])
                    busy[index] = worker
                except OSError:  # it died before it had the piece
                    deaths.count(index, self._end(worker))
                    heapq.heappush(waiting, index)

    def _idle(self, busy: dict[int, "_Worker"]) -> "_Worker":
        """A living worker without work."""
        for worker in self._alive - set(busy.values()):
            if not wait(worker.signs, timeout=0):
                return worker
            self._end(worker)
        worker = _started(self.work, self.shared.folder if self.shared else None)
        self._alive.add(worker)
        return worker

    def _end(self, worker: "_Worker", piece: Piece | None = None) -> str:
        """Kill a worker and wipe away the half-written files of its piece; how it had ended."""
        self._alive.discard(worker)
        how = worker.end()
        if piece is not None:
            remove_parts(piece.writes)
        return how


class _Worker:
    """One worker process, and the driver's end of the pipe to it."""

    def __init__(self, work: Work, data_folder: Path | None):
        context = multiprocessing.get_context("forkserver")
        start_server()
        self.deadline: float | None = None
        self.connection, theirs = context.Pipe()
        # A daemon, so that the interpreter's end never waits for it.
        self.process = context.Process(
            target=_serve, args=(theirs, work, data_folder), daemon=True, name="losslab worker"
        )
        try:
            with _without_main():
                self.process.start()
            assert self.process.pid is not None
            self.pid = self.process.pid
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()

    @property
    def signs(self) -> list[Connection | int]:
        """What becomes ready when there is news: an answer, or its death."""
        return [self.connection, self.process.sentinel]

    def give(self, piece: Piece) -> None:
        """Send it a piece; from here its time counts."""
        self.connection.send(piece)
        self.deadline = None if piece.time_limit is None else time.monotonic() + piece.time_limit

    def news(self) -> Outcome | Literal["died", "late"] | None:
        """What it answers, or what has become of it; None if it is at work."""
        # Looked at first: an answer that it gave before it died is whole, and counts.
        dead = bool(wait([self.process.sentinel], timeout=0))
        try:
            if self.connection.poll():
                answer: Outcome = self.connection.recv()
                return answer
        except (EOFError, OSError):
            dead = True
        if dead:
            return "died"
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return "late" if late else None

    def end(self) -> str:
        """Kill it, wait until it is gone, and say how it had ended."""
        self.process.join(0)
        if self.process.exitcode in (None, SERVER_DIED):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.process.join(PATIENCE)
        self.connection.close()
        code = self.process.exitcode
        if code is None:
            return "it cannot be killed"
        self.process.close()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _started(work: Work, data_folder: Path | None) -> _Worker:
    """A new worker; when the server has just died, it takes a moment until that is known."""
    for pause in PAUSES:
        try:
            return _Worker(work, data_folder)
        except (OSError, EOFError):
            time.sleep(pause)
    try:
        return _Worker(work, data_folder)
    except (OSError, EOFError) as error:
        raise LosslabError(
            f"worker processes cannot be started ({error}); what is finished is kept; run again "
            f"with fewer --workers"
        ) from error


def _heard_of(busy: dict[int, _Worker]) -> list[int]:
    """The pieces whose workers answered, died or are late; waits until there is one."""
    if not busy:
        return []
    owners: dict[Any, int] = {
        sign: index for index, worker in busy.items() for sign in worker.signs
    }
    deadlines = {i: worker.deadline for i, worker in busy.items() if worker.deadline is not None}
    left = min(deadlines.values()) - time.monotonic() if deadlines else None
    ready = {owners[sign] for sign in wait(list(owners), left if left is None else max(left, 0))}
    now = time.monotonic()
    return sorted(ready | {index for index, deadline in deadlines.items() if deadline <= now})


def _serve(connection: Connection, work: Work, data_folder: Path | None) -> None:
    """What a worker does: piece after piece, until the driver hangs up."""
    # Ctrl-C is the driver's, and the end is as soon as the driver is gone, even by kill -9.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
    if data_folder is not None:
        data.take_from(mapped_from(data_folder))
    while True:
        try:
            piece = connection.recv()
        except EOFError:
            return
        connection.send(attempt(work, piece))


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if waiting:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep a worker from importing the user's script, which would run it once more."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
