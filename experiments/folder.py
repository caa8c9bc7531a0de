"""The study folder: the only truth about a study, written so that nothing is ever half there.

runs/<study>/
  study.json            what the study is: resolved file, arms, dataset record, versions, notes
  lock                  held by the one driver; names its host and process
  journal.log           the finished trials as an Optuna journal (a copy)
  tracking.jsonl        which record is which MLflow run
  arms/<arm>/           generation-000.json, trial-00000.json, select-00003-1.json,
                        selected.json
  confirm/<arm>/        selected-0000.json and .npz and .pt; defaults-0000...
  .../repeat-001/       in both: the same of the search's further repeats
  states/               trainings under way, at their last rung
  report/               tables and figures
  data/                 the splits that workers share, while they work
"""

import errno
import fcntl
import glob
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from losslab.errors import BadInput, LosslabError
from losslab.randomness import stable_hash

DEFAULT_HOME = "runs"


def slug(arm: str) -> str:
    """An arm's name as a file name: unchanged if harmless, else shortened with a hash.

    >>> slug("gamma=0.5"), slug("../a b")
    ('gamma=0.5', 'a-b-1a792c2c')
    """
    harmless = re.sub(r"[^A-Za-z0-9_=.-]+", "-", arm).strip("-.")[:60]
    return harmless if harmless == arm else f"{harmless}-{stable_hash(arm) % 16**8:08x}".lstrip("-")


def home_folder(home: str | Path | None) -> Path:
    """The absolute folder where studies live: the argument, LOSSLAB_HOME, or `runs` here."""
    return Path(home or os.environ.get("LOSSLAB_HOME") or DEFAULT_HOME).expanduser().absolute()


def write_atomically(path: Path, content: bytes) -> None:
    """Write, sync, then rename: the file is either as it was or whole."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_parts(paths: Iterable[Path]) -> None:
    """Remove what a killed process has left half-written of these files."""
    for path in paths:
        for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; not-a-number and infinity are refused."""
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False).encode())


def read_json(path: Path) -> Any:
    """Read JSON; None if there is no such file. `LosslabError` if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LosslabError(
            f"{path} is damaged ({error}); move it away, and the next `losslab run` makes it anew"
        ) from error


def cut_torn_line(path: Path) -> None:
    """Cut what follows the last line of a JSON-lines file that is whole.

    Otherwise the next append would merge into what a kill has left.
    """
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    lines = content[:whole].splitlines(keepends=True)
    while lines:
        try:
            json.loads(lines[-1])
            break
        except ValueError:
            whole -= len(lines.pop())
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


class StudyFolder:
    """Paths, records and lock of one study."""

    def __init__(self, home: Path, study: str):
        self.home = home
        self.path = home / study
        self.study_file = self.path / "study.json"

    def arm(self, slug: str, repeat: int = 0) -> Path:
        """The folder of an arm's search, or of one of its further repeats."""
        return _repeated(self.path / "arms" / slug, repeat)

    def confirmation(self, slug: str, repeat: int = 0) -> Path:
        """The folder of the confirmation runs that belong to such a search."""
        return _repeated(self.path / "confirm" / slug, repeat)

    @property
    def states(self) -> Path:
        """Where trainings under way are kept."""
        return self.path / "states"

    def remove_states(self) -> None:
        """Every training has its record: what kills left of trainings under way goes."""
        for left in self.states.iterdir():
            shutil.rmtree(left)

    @property
    def data(self) -> Path:
        """Where the splits lie that workers share, while they work."""
        return self.path / "data"

    @property
    def report(self) -> Path:
        """Where tables and figures are written."""
        return self.path / "report"

    def create(self) -> None:
        """Make the folders; `BadInput` if the home cannot be written."""
        try:
            for folder in (self.path, self.states, self.report):
                folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / ".writable", b"")
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise BadInput(
                f"--home: {self.home} cannot be written: {error.strerror}; choose another folder "
                f"with --home or LOSSLAB_HOME"
            ) from error
        (self.path / ".writable").unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study; `BadInput` names the host and process that holds it already.

        The lock belongs to the open file, so it goes when its process goes, however it ends.
        """
        with (self.path / "lock").open("a+") as file:
            if not _lock(file):
                file.seek(0)
                raise self._being_run_by(file.read().strip())
            file.seek(0)
            file.truncate()
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    def holder(self) -> str:
        """Who works on the study right now: "process 12 on host", or nothing."""
        try:
            with (self.path / "lock").open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return file.read().strip() or "another process"
        except FileNotFoundError:
            pass
        return ""

    def set_aside(self) -> Path | None:
        """Move an existing study to `<study>.old-<time>`; nothing is deleted.

        The caller holds the lock, and the lock stays with the study.
        """
        if not self.study_file.exists():
            return None
        name = f"{self.path.name}.old-{time.strftime('%Y%m%d-%H%M%S')}"
        aside = self.path.with_name(name)
        number = 1
        while aside.exists():
            number += 1
            aside = self.path.with_name(f"{name}-{number}")
        # One rename: killed before or after it, the study is whole, here or there.
        self.path.rename(aside)
        self.path.mkdir(exist_ok=True)
        try:
            (self.path / "lock").hardlink_to(aside / "lock")
        except FileExistsError as error:
            raise self._being_run_by("") from error
        (aside / "lock").unlink()
        self.create()
        return aside

    def _being_run_by(self, holder: str) -> BadInput:
        return BadInput(
            f"study {self.path.name!r} is being run by {holder or 'another process'}; wait for it, "
            f"stop it, or choose another folder with --home"
        )

    def clean_leftovers(self) -> None:
        """Remove what writes that were cut short have left behind."""
        for part in self.path.rglob(".*.part"):
            part.unlink(missing_ok=True)
        shutil.rmtree(self.data, ignore_errors=True)


def _repeated(folder: Path, repeat: int) -> Path:
    return folder / f"repeat-{repeat:03d}" if repeat else folder


def _lock(file: IO[str]) -> bool:
    """Take the lock; `losslab status` may hold it for a moment."""
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
    return False
