"""Who does the work: this process, or several local ones. The results are the same bits."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from typing import Protocol

from losslab.errors import LosslabError
from losslab.experiments.work import Piece, Progress, do

# A worker that dies is replaced; if the work itself kills workers, that must end some time.
ATTEMPTS = 3


class Executor(Protocol):
    """Does pieces of work and tells each one's progress, in whatever order they are done."""

    def run(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, Progress]]:
        """Yield (index, progress) of every piece."""

    def close(self) -> None:
        """Let go of what the executor holds."""


class InProcess:
    """One piece after the other in this process."""

    def run(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, Progress]]:
        """Yield (index, progress) in the order given."""
        for index, piece in enumerate(pieces):
            yield index, do(piece)

    def close(self) -> None:
        """Nothing to let go of."""


class LocalProcesses:
    """Several worker processes with one torch thread each.

    They are forked from a server that has torch loaded, exit when their parent does, and are
    replaced when they die; the work they had not finished is done again.
    """

    def __init__(self, workers: int, work: Callable[[Piece], Progress] = do):
        self.workers = workers
        self.work = work
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["losslab.experiments.work"])
        _start_server()
        self._pool: ProcessPoolExecutor | None = None

    def run(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, Progress]]:
        """Yield (index, progress) as pieces are done."""
        left = dict(enumerate(pieces))
        failures = 0
        while failures < ATTEMPTS:
            try:
                for index, progress in self._attempt(dict(left)):
                    failures = 0
                    del left[index]
                    yield index, progress
                return
            except BrokenProcessPool:
                failures += 1
                self.close()
        raise LosslabError(
            f"worker processes died {ATTEMPTS} times in a row (out of memory?); what is finished "
            f"is kept; run again with fewer --workers"
        )

    def _attempt(self, left: dict[int, Piece]) -> Iterator[tuple[int, Progress]]:
        with _uninterrupted():  # so that every worker that was started is known, and is ended
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    self.workers, mp_context=self._context, initializer=_begin_worker
                )
            futures: dict[Future[Progress], int] = {
                self._pool.submit(self.work, piece): index for index, piece in left.items()
            }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Stop the workers at once: nothing that a finished piece has written can be harmed."""
        if self._pool is not None:
            # First, since a worker that is just starting complains of a pool that is gone.
            for worker in list((self._pool._processes or {}).values()):
                worker.kill()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def make_executor(workers: int) -> Executor:
    """This process for one worker, local processes for more."""
    return InProcess() if workers == 1 else LocalProcesses(workers)


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _start_server() -> None:
    """Start the server that workers are forked from, deaf to Ctrl-C, which is the driver's."""
    resource_tracker.ensure_running()  # first: starting it unblocks the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _begin_worker() -> None:
    """Leave Ctrl-C to the driver, and end as soon as it is gone, even by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
