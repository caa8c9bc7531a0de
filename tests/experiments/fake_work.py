"""Pieces that misbehave as they are told, and what does them in a worker."""

import errno
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from losslab.errors import BadInput


@dataclass(frozen=True)
class Fake:
    """A piece: `what` it does, its file, and a diary where it writes a line when it begins."""

    what: str
    file: Path
    time_limit: float | None = None
    members: tuple = ()
    diary: Path | None = None

    @property
    def reads(self):
        return []

    @property
    def writes(self):
        return [self.file]

    @property
    def begun(self):
        """The processes that began it, in order."""
        diary = self.diary or self.file
        return [int(line) for line in diary.read_text().split()] if diary.exists() else []


class NotPicklable(Exception):
    def __init__(self, first, second):
        super().__init__(first)
        self.second = second


def work(piece):
    with (piece.diary or piece.file).open("a") as file:
        file.write(f"{os.getpid()}\n")
    with piece.file.with_name("order").open("a") as file:
        file.write(f"{piece.file.name}\n")
    return [globals()[f"_{piece.what}"](piece)]


def _name(piece):
    return piece.file.name


def _nap(piece):
    time.sleep(0.05)
    return piece.file.name


def _wait_for_the_third(piece):
    while not piece.file.with_name("2").exists():
        time.sleep(0.01)
    return piece.file.name


def _exit_once(piece):
    if len(piece.begun) == 1:
        os._exit(1)
    return piece.file.name


def _killed_once(piece):
    if len(piece.begun) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece.file.name


def _always_exit(piece):
    os._exit(7)


def _hang(piece):
    piece.file.with_name(f".{piece.file.name}.01234567.part").write_text("half")
    time.sleep(120)


def _die_when_idle(piece):
    threading.Timer(0.02, os._exit, [1]).start()
    return piece.file.name


def _large(piece):
    return "x" * 10_000_000


def _modules(piece):
    return sorted(sys.modules)


def _bad_input(piece):
    raise BadInput(["one", "two"])


def _full_disk(piece):
    raise OSError(errno.ENOSPC, "No space left on device")


def _not_picklable(piece):
    raise NotPicklable("broken", 2)


def load(piece):
    """Another way to work: load a real piece's data; say what they are and what it took."""
    from losslab.experiments import data
    from losslab.experiments.training import prepare

    loaded = prepare(piece.members[0].job).data
    mapped = data._laid.__globals__["_source"] is not None
    total = float(loaded.train.features.sum()), float(loaded.validation.features.sum())
    return [(total, mapped, "sklearn.datasets" in sys.modules)]
