"""A study's figures, drawn in this process, or some of them in a second one beside it.

The second process is a command of its own that gets frames and file names through its input and
gives back what it drew: a caller's script needs no guard for it, and its threads do not matter.
"""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from losslab.analysis.frames import StudyFrames
from losslab.analysis.report.collecting import Drawn, draw

# The share of the figures that go to the second process, while the tables are made in this one.
_SHARE = 0.75


class Drawing:
    """The figures of a study into `folder`: begun when made, all there when `finish` returns."""

    def __init__(self, frames: StudyFrames, folder: Path, *, two_processes: bool = False):
        from losslab.analysis.figures.catalogue import STUDY_FIGURES

        self._frames, self._folder = frames, folder
        self._order = [figure.name for figure in STUDY_FIGURES]
        here = len(self._order) - int(_SHARE * len(self._order) * two_processes)
        self._here, self._there = self._order[:here], self._order[here:]
        self._given: IO[bytes] | None = None
        if self._there:
            self._given, self._process = _begin(frames, folder, self._there)

    def finish(self) -> list[Drawn]:
        """Draw what falls to this process, wait for the rest, and give all in the usual order."""
        drawn = {figure.name: figure for figure in _draw(self._frames, self._folder, self._here)}
        if self._given is not None:
            told, _ = self._process.communicate()
            self._given.close()
            beside = pickle.loads(told) if self._process.returncode == 0 else []
            # what went wrong there may go well here, where the caller's own losses are registered
            drawn |= {figure.name: figure for figure in beside if not figure.trouble}
            if self._process.returncode or any(figure.trouble for figure in beside):
                again = [name for name in self._there if name not in drawn]
                drawn |= {f.name: f for f in _draw(self._frames, self._folder, again)}
        return [drawn[name] for name in self._order if name in drawn]


def _draw(frames: StudyFrames, folder: Path, names: Sequence[str]) -> list[Drawn]:
    from losslab.analysis.figures.catalogue import STUDY_FIGURES

    return list(draw((figure for figure in STUDY_FIGURES if figure.name in names), frames, folder))


def _begin(
    frames: StudyFrames, folder: Path, names: Sequence[str]
) -> tuple[IO[bytes], "subprocess.Popen[bytes]"]:
    given = tempfile.TemporaryFile()  # noqa: SIM115, it is closed by `finish`
    # how outputs are opened cannot be sent; see `_reopened`
    pickle.dump((replace(frames, open_outputs=None), folder, list(names)), given)
    given.seek(0)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "losslab.analysis.report.drawing"]
    process = subprocess.Popen(
        command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    return given, process


def _reopened(frames: StudyFrames) -> StudyFrames:
    """The frames with their outputs in the study folder again."""
    folder = frames.folder
    if folder is None:
        return frames

    def open_outputs(row: Mapping[str, Any]) -> Path | None:
        file = folder / str(row["outputs"])
        return file if file.is_file() else None

    return replace(frames, open_outputs=open_outputs)


def _main() -> None:
    frames, folder, names = pickle.load(sys.stdin.buffer)
    result, sys.stdout = sys.stdout.buffer, sys.stderr  # nobody else may write into the answer
    result.write(pickle.dumps(_draw(_reopened(frames), folder, names)))


if __name__ == "__main__":
    _main()
