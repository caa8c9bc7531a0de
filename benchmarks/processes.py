"""Running a command in a session of its own, and what all its processes use (on Linux)."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

INTERRUPTED = 130
TICK = os.sysconf("SC_CLK_TCK")
PAUSE = 0.2  # seconds between two looks


@dataclass
class Usage:
    """Seconds of CPU, and the most memory at a time (proportional set size), of a session."""

    megabytes: float = 0.0
    _cpu: dict[int, float] = field(default_factory=dict)

    @property
    def cpu(self) -> float:
        """Seconds of CPU of all processes together, up to the last look at each."""
        return sum(self._cpu.values())

    def look(self, session: int) -> None:
        """Take down what the processes of a session use now."""
        memory = 0.0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                # The name before them may hold spaces and brackets.
                fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[3]) != session:
                    continue
                self._cpu[int(process.name)] = (int(fields[11]) + int(fields[12])) / TICK
                rollup = (process / "smaps_rollup").read_text()
                memory += int(rollup.split("\nPss:")[1].split()[0]) / 1e3
            except (OSError, IndexError):
                continue  # it has just ended
        self.megabytes = max(self.megabytes, memory)


def watched(
    command: list[str], limit: float | None = None, enough: Callable[[], bool] = lambda: True
) -> tuple[str, float, Usage]:
    """Run a command; its output, wall seconds and usage.

    After `limit` seconds, and as soon as `enough` is true, it gets Ctrl-C.
    """
    usage, began, interrupted = Usage(), time.perf_counter(), False
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, start_new_session=True)
        while process.poll() is None:
            usage.look(process.pid)
            elapsed = time.perf_counter() - began
            if limit is not None and elapsed > limit and not interrupted and enough():
                process.send_signal(signal.SIGINT)
                interrupted = True
            time.sleep(PAUSE)
        seconds = time.perf_counter() - began
        output.seek(0)
        errors.seek(0)
        if process.returncode not in ((INTERRUPTED,) if interrupted else (0,)):
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read()[-2000:]}")
        return output.read(), seconds, usage
