"""How long it takes to read a large study into frames: from MLflow, from its folder, by a server.

The store is made by losslab's own mirror from synthetic records: searches, re-trainings and test
runs with learning curves, as a real study leaves them. Then the frames are read three times: for
the first time, again (nothing has changed), and again after some runs were added. "CPU" is this
process's own time, which other work on the machine does not blur; the floor is the time for
reading the bytes of the cache. Run it with `python benchmarks/frames.py`; `--help` shows more.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

METRICS = ("average_precision", "balanced_accuracy", "accuracy", "brier", "ece", "log_loss",
           "macro_f1", "roc_auc", *(f"recall/{n}" for n in range(6)))  # fmt: skip
ARMS = 10
SEEDS = 20


def synthetic_study(runs: int) -> dict[str, Any]:
    """The content of study.json for so many trainings, a tenth of them on test."""
    space = {"low": 1e-5, "high": 1.0, "scale": "log", "default": 1e-3}
    arm = {
        "summary": "focal", "implicit": False, "config": {"loss": {"name": "focal"}},
        "space": {"training.learning_rate": space},
    }  # fmt: skip
    return {
        "id": "0123456789abcdef0123456789abcdef", "study": "large", "question": "How long?",
        "primary": "average_precision", "direction": "maximize", "baseline": "arm 0",
        "decision": "balanced_accuracy", "standing": "arm 0", "seeds": SEEDS, "repeats": 1,
        "budget": runs // ARMS, "metrics": list(METRICS), "git": "", "yaml": "study: large\n",
        "arms": {f"arm {n}": {"slug": f"arm-{n}", **arm} for n in range(ARMS)},
        "dataset": {"name": "none", "task": "classification", "options": {}, "content_hash": "0",
                    "splits": {}},
        "versions": {"losslab": "0.1.0"}, "resolved": {"confirm": {"defaults": True}},
    }  # fmt: skip


def synthetic_records(runs: int, epochs: int) -> Iterator[dict[str, Any]]:
    """Records of trainings as a study writes them; every number follows from its place."""
    names = ["train/loss", "learning_rate", *(f"val/{name}" for name in METRICS)]
    for number in range(runs):
        arm, index = f"arm {number % ARMS}", number // ARMS
        tested = index % 10 == 9
        values = np.random.default_rng(number).uniform(size=(epochs, len(names))).tolist()
        history = [
            {"epoch": epoch, **dict(zip(names, row, strict=True))}
            for epoch, row in enumerate(values, start=1)
        ]
        rate = float(10 ** -(1 + number % 4))
        variant, seed = ("selected", "defaults")[index // 10 % 2], index // 20
        yield {
            "key": f"{arm}/{variant}-{seed:04d}" if tested else f"{arm}/trial-{index:05d}",
            "arm": arm, "phase": "confirm" if tested else "search",
            "variant": variant if tested else None, "trial": None if tested else index,
            "repeat": 0, "generation": None if tested else index // 32,
            "seed_index": seed if tested else 0, "run_seed": number, "state": "complete",
            "reason": "", "params": {"training.learning_rate": rate}, "value": values[-1][2],
            "judged_epoch": epochs, "epochs": epochs, "seconds": 1.5,
            "started": 1763680000.0 + number, "ended": 1763680001.5 + number,
            "history": history,
            "metrics": {f"test/{n}": v for n, v in zip(METRICS, values[-1], strict=False)}
            if tested else {},
            "pairing": {"train": "a", "validation": "b"} if tested else {}, "outputs": None,
            "config": {"loss": {"name": "focal", "gamma": 2.0},
                       "training": {"learning_rate": rate, "epochs": epochs},
                       "model": {"name": "mlp"}, "dataset": {"name": "none"}},
            "attributes": {},
        }  # fmt: skip


def mirror(home: Path, runs: int, epochs: int, first: int = 0) -> float:
    """Mirror a study from its `first` training on; the seconds of CPU that it took."""
    from losslab.experiments.tracking import make_tracker

    (home / "large").mkdir(parents=True, exist_ok=True)
    tracker = make_tracker(None, home, synthetic_study(runs), home / "large" / "tracking.jsonl")
    tracker.open()
    batch, cpu = [], 0.0
    for number, record in enumerate(synthetic_records(runs, epochs)):
        batch += [record] if number >= first else []
        if len(batch) == 32 or number == runs - 1:
            began = time.process_time()
            tracker.mirror(batch)
            tracker._writer.submit(lambda: None).result()
            cpu += time.process_time() - began
            batch = []
    tracker.finish("FINISHED")
    if tracker.problem:
        raise SystemExit(f"the mirror failed: {tracker.problem}")
    return cpu


def write_folder(home: Path, runs: int, epochs: int) -> None:
    """The same study as a folder."""
    folder, study = home / "large", synthetic_study(runs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(study))
    for record in synthetic_records(runs, epochs):
        arm, name = record["key"].rsplit("/", 1)
        place = "confirm" if record["phase"] == "confirm" else "arms"
        file = folder / place / study["arms"][arm]["slug"] / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1))


@contextmanager
def served(home: Path) -> Iterator[str]:
    """An MLflow server on the store, on this machine; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}", "--workers", "1",
        "--artifacts-destination", (home / "served").as_uri(),
    ]  # fmt: skip
    settings = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def timed(what: str, read: Callable[[], Any]) -> Any:
    """Print what a reading takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    frames = read()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    rows = len(frames.trials) + len(frames.confirmation)
    print(f"  {what}: wall {wall:.2f} s, CPU {cpu:.2f} s; {rows:,} runs, "
          f"{len(frames.epochs):,} epochs", flush=True)  # fmt: skip
    return frames


def timed_report(what: str, read: Callable[[], Any], out: Path) -> None:
    """Print what reading and the report take together, by this process and the one beside it."""
    from losslab.analysis.report import write_report_files

    before, wall = os.times(), time.perf_counter()
    page = write_report_files(read(), out, workers=None)[0]
    after, wall = os.times(), time.perf_counter() - wall
    cpu = sum(after[:4]) - sum(before[:4])
    print(f"  {what}: wall {wall:.1f} s, CPU {cpu:.1f} s; page {page.stat().st_size / 1e6:.1f} MB",
          flush=True)  # fmt: skip


def floor(cache: Path) -> None:
    """Print what it takes to read the cache's bytes."""
    files = list(cache.rglob("*.parquet"))
    began = time.perf_counter()
    size = sum(len(file.read_bytes()) for file in files)
    print(f"  the cache: {size / 1e6:.1f} MB in {len(files)} files; "
          f"reading its bytes takes {time.perf_counter() - began:.2f} s", flush=True)  # fmt: skip


def main() -> None:
    """Measure and print."""
    options = parser().parse_args()
    from losslab.analysis.frames import frames_from_folder, frames_from_mlflow

    with tempfile.TemporaryDirectory(prefix="losslab-") as temporary:
        home, cache = Path(options.home or temporary).absolute() / "home", Path(temporary) / "cache"
        home.mkdir(parents=True, exist_ok=True)
        runs, epochs = options.runs, options.epochs
        cpu = mirror(home, runs, epochs)
        size = (home / "mlflow.db").stat().st_size / 1e6
        print(f"{runs:,} runs of {epochs} epochs x {len(METRICS) + 2} metrics; mirrored at "
              f"{1e3 * cpu / runs:.2f} ms of CPU a run; mlflow.db {size:.0f} MB")  # fmt: skip
        uri = f"sqlite:///{home / 'mlflow.db'}"
        print("local store")
        timed("first", lambda: frames_from_mlflow(uri, "large", cache=cache / "local"))
        timed("again", lambda: frames_from_mlflow(uri, "large", cache=cache / "local"))
        mirror(home, runs + 100, epochs, runs)
        timed("100 more", lambda: frames_from_mlflow(uri, "large", cache=cache / "local"))
        timed("without a cache", lambda: frames_from_mlflow(uri, "large", cache=False))
        floor(cache / "local")
        print("server", flush=True)
        import mlflow  # noqa: F401  (its second and a half is not the reading's)

        with served(home) as address:
            timed("first", lambda: frames_from_mlflow(address, "large", cache=cache / "server"))
            timed("again", lambda: frames_from_mlflow(address, "large", cache=cache / "server"))
        print("folder", flush=True)
        write_folder(home, runs, epochs)
        time.sleep(3)
        folder = home / "large"
        timed("first", lambda: frames_from_folder(folder, cache=cache / "folder"))
        timed("again", lambda: frames_from_folder(folder, cache=cache / "folder"))
        if options.report:
            print("report", flush=True)
            out = home / "reports"
            timed_report(
                "from the folder", partial(frames_from_folder, folder, cache=False), out / "folder"
            )
            local = partial(frames_from_mlflow, uri, "large", cache=cache / "local")
            timed_report("from the local store", local, out / "store")
        if not options.no_parts:
            return
        print("local store without parts, as older versions wrote it", flush=True)
        shutil.rmtree(home / "artifacts" / "large" / _study_run(home) / "artifacts" / "parts")
        timed("first", lambda: frames_from_mlflow(uri, "large", cache=cache / "old"))


def _study_run(home: Path) -> str:
    ledger = (home / "large" / "tracking.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in ledger]
    return str(next(e["run_id"] for e in entries if e["key"] == "study" and e["run_id"]))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=10_000, help="(default: %(default)s)")
    options.add_argument("--epochs", type=int, default=10, help="(default: %(default)s)")
    options.add_argument("--home", help="where to make the study (default: a temporary folder)")
    options.add_argument(
        "--no-parts", action="store_true", help="also as if an older version had mirrored it"
    )
    options.add_argument("--report", action="store_true", help="also the report of the study")
    return options


if __name__ == "__main__":
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true")
    main()
