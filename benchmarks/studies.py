"""A tracked search by losslab against the script that a competent user would write, in one run.

Both train the same network with focal loss on the same arrays (14,000 x 20, 1 % positives), ten
epochs a trial, every epoch validated and logged to MLflow on SQLite. Contenders take turns, round
by round. One contender is a whole command to its end, with everything that it is for besides
training (a confirmation run of each arm, tables and figures), in which all trainings count. The
others are given their seconds and then interrupted by Ctrl-C, so every engine can be measured in
the same time; what counts are whole generations, all of which must be finished in MLflow at the
end. Everybody is given an MLflow database with its tables in it. Rates are given from the
beginning of the process, imports included, and from the beginning of the first trial on.

A long study with one arm then shows what a trial costs when few and when many have gone before,
and the bookkeeping is measured by itself: what Optuna and the mirror take of a core.
Run it with `make bench`; `python benchmarks/studies.py --help` shows how to measure a part of it.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from processes import Usage, watched

SCRIPT = Path(__file__).with_name("plain_script.py")
SCRIPT_TRIALS = {256: 12, 64: 8}
DATASET = {
    "name": "clusters", "classes": 2, "dimensions": 20, "imbalance_ratio": 99, "examples": 14000,
}  # fmt: skip
GENERATION = 32
LONG = 1024
WHOLE = 64  # trials of each of the two arms of a whole study


@dataclass(frozen=True)
class Turn:
    """What one contender did in one turn: trials that count, and all that were trained."""

    trials: int
    trained: int
    seconds: float
    training_seconds: float
    usage: Usage

    @property
    def a_minute(self) -> float:
        """Trials a minute from the beginning of the process on."""
        return 60 * self.trials / self.seconds

    @property
    def a_minute_of_training(self) -> float:
        """Trials a minute from the beginning of the first trial on."""
        return 60 * self.trials / self.training_seconds

    @property
    def cpu(self) -> float:
        """Milliseconds of one core that a trial took, all processes together."""
        return 1e3 * self.usage.cpu / self.trained


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--engine", help="plain, stacked or auto (default: the study file's)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 64])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=22, help="a turn of losslab takes")
    parser.add_argument("--long-seconds", type=float, default=110, help="most for the long study")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="losslab-bench-") as place:
        folder = Path(place)
        write_arrays(folder / "data.npz")
        create_store(folder)
        for batch_size in options.batch_sizes:
            compare(folder, batch_size, options)
        home = long_study(folder, options)
        bookkeeping(home, folder)


def write_arrays(path: Path) -> None:
    """The arrays that a search's trials of losslab see, for the script."""
    from losslab.experiments.data import run_data
    from losslab.randomness import seed_integer

    data = run_data(DATASET, 0, seed_integer(0, "search", 0), "cpu")
    np.savez(
        path,
        x_train=data.train.features.numpy(),
        y_train=data.train.targets.numpy(),
        x_validation=data.validation.features.numpy(),
        y_validation=data.validation.targets.numpy(),
    )


def create_store(folder: Path) -> None:
    """An empty MLflow database for everybody: its tables take seconds, once in a home's life."""
    from losslab.experiments.local_store import begin_creating

    process = begin_creating(folder)
    _, errors = process.communicate()
    if process.returncode != 0:
        raise SystemExit(errors.decode())


def compare(folder: Path, batch_size: int, options: argparse.Namespace) -> None:
    """Script, losslab and losslab without tracking, in turns; the medians and their ratios."""
    names = ("script", "losslab, to its end", "losslab", "losslab, no tracking")
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for number in range(options.rounds):
        place = folder / f"{batch_size}-{number}"
        place.mkdir()
        file = study_file(place, batch_size, options.engine)
        shutil.copy(folder / "mlflow.db", place)
        turns["script"].append(run_script(folder / "data.npz", place, batch_size))
        turns[names[1]].append(run_to_its_end(place, batch_size, options))
        for name in names[2:]:
            home = place / name.replace(", ", "-").replace(" ", "-")
            home.mkdir()
            shutil.copy(folder / "mlflow.db", home)
            tracked = name == "losslab"
            turns[name].append(
                run_losslab(file, home, options.seconds, options.workers, tracked=tracked)
            )
    print(f"\nbatch {batch_size}, {options.workers} workers, medians of {options.rounds} rounds")
    print(
        f"  {'':<22}{'trials':>7}{'a minute':>10}{'ratio':>7}{'after start':>13}{'ratio':>7}"
        f"{'CPU ms/trial':>14}{'peak MB':>9}"
    )
    base = turns["script"]
    for name, rows in turns.items():
        whole, training = middle(rows, "a_minute"), middle(rows, "a_minute_of_training")
        print(
            f"  {name:<22}{middle(rows, 'trials'):>7.0f}"
            f"{whole:>10.1f}{whole / middle(base, 'a_minute'):>7.2f}"
            f"{training:>13.1f}{training / middle(base, 'a_minute_of_training'):>7.2f}"
            f"{middle(rows, 'cpu'):>14.1f}{max(row.usage.megabytes for row in rows):>9.0f}",
            flush=True,
        )
    with_it, without = turns["losslab"], turns["losslab, no tracking"]
    wall = 60e3 / middle(with_it, "a_minute") - 60e3 / middle(without, "a_minute")
    print(
        f"  tracking adds {wall:+.1f} ms of wall time a trial "
        f"(ratio {middle(without, 'a_minute') / middle(with_it, 'a_minute'):.3f}) "
        f"and {middle(with_it, 'cpu') - middle(without, 'cpu'):+.1f} ms of CPU"
    )


def middle(turns: Sequence[Turn], what: str) -> float:
    """The median over turns."""
    return float(statistics.median(getattr(turn, what) for turn in turns))


def study_file(folder: Path, batch_size: int, engine: str | None, **changes: Any) -> Path:
    """A study that does the script's work."""
    study = {
        "study": "bench",
        "dataset": DATASET,
        "model": {"name": "mlp", "hidden": [64, 64]},
        "training": {
            "epochs": 10, "batch_size": batch_size, "schedule": "constant", "weight_decay": 0.01,
        },
        "arms": {"focal": "focal"},
        "search": {
            "trials": 4096, "generation": GENERATION, "pruner": "none",
            "select": {"best": 1, "seeds": 0},
        },
        "confirm": {"seeds": 1, "defaults": False},
        **({"engine": engine} if engine else {}),
        **changes,
    }  # fmt: skip
    file = folder / "bench.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


def run_script(data: Path, folder: Path, batch_size: int) -> Turn:
    """A turn of the script."""
    command = [
        sys.executable, str(SCRIPT), str(data), str(folder),
        "--trials", str(SCRIPT_TRIALS.get(batch_size, 8)), "--batch-size", str(batch_size),
    ]  # fmt: skip
    output, seconds, usage = watched(command)
    told = json.loads(output.strip().splitlines()[-1])
    return Turn(told["trials"], told["trials"], seconds, told["seconds"], usage)


def run_to_its_end(folder: Path, batch_size: int, options: argparse.Namespace) -> Turn:
    """A whole study of two arms (focal and the standing baseline), from start to report."""
    home = folder / "whole"
    home.mkdir()
    shutil.copy(folder / "mlflow.db", home)
    search = {
        "trials": WHOLE, "generation": GENERATION, "pruner": "none",
        "select": {"best": 1, "seeds": 0},
    }  # fmt: skip
    file = study_file(home, batch_size, options.engine, search=search)
    command = [
        sys.executable, "-m", "losslab", "run", str(file), "--home", str(home), "--quiet",
        "--workers", str(options.workers),
    ]  # fmt: skip
    _, seconds, usage = watched(command)
    trials = read_records(home)
    count = len(trials) + len(list(home.glob("bench/confirm/*/*.json")))
    if finished_in_mlflow(home) < len(trials):
        raise SystemExit("not every trial was mirrored to MLflow")
    first, last = (pick(r[key] for r in trials) for pick, key in ((min, "started"), (max, "ended")))
    return Turn(count, count, seconds, last - first, usage)


def run_losslab(file: Path, home: Path, limit: float, workers: int, *, tracked: bool) -> Turn:
    """A turn of losslab, ended by Ctrl-C after `limit` seconds."""
    command = [
        sys.executable, "-m", "losslab", "run", str(file), "--home", str(home), "--quiet",
        "--workers", str(workers), *([] if tracked else ["--tracking-uri", "none"]),
    ]  # fmt: skip
    began = time.time()
    _, _, usage = watched(command, limit, lambda: len(read_records(home)) > GENERATION)
    records = read_records(home)
    whole = whole_generations(records)
    if not whole:
        raise SystemExit("losslab has not finished a generation")
    if tracked and finished_in_mlflow(home) < len(whole) * GENERATION:
        raise SystemExit("not every trial was mirrored to MLflow")
    first = min(record["started"] for record in records)
    counted = len(whole) * GENERATION
    return Turn(counted, len(records), whole[-1] - began, whole[-1] - first, usage)


def read_records(home: Path) -> list[dict[str, Any]]:
    """The records of the trials of the study in a home folder, by arm and trial."""
    return [json.loads(file.read_text()) for file in sorted(home.glob("bench/arms/*/trial-*.json"))]


def whole_generations(records: Sequence[dict[str, Any]]) -> list[float]:
    """When each generation ended of which every trial is finished, in order."""
    ends: dict[tuple[str, int], list[float]] = {}
    for record in records:
        ends.setdefault((record["arm"], record["generation"]), []).append(record["ended"])
    return sorted(max(ended) for ended in ends.values() if len(ended) == GENERATION)


def finished_in_mlflow(home: Path) -> int:
    """How many trainings stand in the MLflow store as finished."""
    import sqlite3

    with sqlite3.connect(home / "mlflow.db") as store:
        (count,) = store.execute(
            "SELECT count(*) FROM runs JOIN tags USING (run_uuid) "
            "WHERE tags.key = 'losslab.phase' AND tags.value = 'search' AND status = 'FINISHED'"
        ).fetchone()
    return int(count)


def long_study(folder: Path, options: argparse.Namespace) -> Path:
    """One arm with many trials: what the last ones cost against the first ones."""
    place = folder / "long"
    place.mkdir()
    shutil.copy(folder / "mlflow.db", place)
    searched = {
        "epochs": 10, "batch_size": 256, "schedule": "constant",
        "warmup_epochs": {"low": 0, "high": 3},
    }  # fmt: skip
    search = {
        "trials": LONG, "generation": GENERATION, "pruner": "none",
        "select": {"best": 1, "seeds": 0},
    }  # fmt: skip
    file = study_file(
        place, 256, options.engine, training=searched, arms={"ce": "ce"}, search=search
    )
    turn = run_losslab(file, place, options.long_seconds, options.workers, tracked=True)
    times = whole_generations(read_records(place))
    costs = [1e3 * (b - a) / GENERATION for a, b in pairwise(times)]
    print(f"\none arm (ce, 3 searched settings), generations of {GENERATION}: ms a trial")
    if len(costs) < 6:
        print(f"  only {turn.trials} trials in {turn.seconds:.0f} s; give it more --long-seconds")
        return place
    first, last = statistics.median(costs[:3]), statistics.median(costs[-3:])
    print(f"  after {GENERATION} to {4 * GENERATION} trials: {first:.1f}")
    print(
        f"  after {GENERATION * (len(times) - 3)} to {GENERATION * len(times)} trials: {last:.1f}"
    )
    print(f"  ratio {last / first:.2f}; peak {turn.usage.megabytes:.0f} MB", flush=True)
    return place


def bookkeeping(home: Path, folder: Path) -> None:
    """What the search and the mirror take of a core, by themselves."""
    from losslab.experiments.folder import read_json
    from losslab.experiments.tracking import make_tracker

    records, entry = read_records(home), read_json(home / "bench" / "study.json")
    new = folder / "mirror"
    new.mkdir()
    shutil.copy(folder / "mlflow.db", new)
    cpu, wall = time.process_time(), time.perf_counter()
    tracker = make_tracker(None, new, entry, new / "tracking.jsonl")
    tracker.open()
    for begin in range(0, len(records), GENERATION):
        tracker.mirror(records[begin : begin + GENERATION])
    tracker.finish("FINISHED")
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if tracker.problem:
        raise SystemExit(f"the mirror failed: {tracker.problem}")
    print(f"\nbookkeeping, ms a trial ({len(records)} runs mirrored)")
    print(f"  mirror to MLflow on SQLite: CPU {1e3 * cpu / len(records):.2f}, "
          f"wall {1e3 * wall / len(records):.2f}")  # fmt: skip
    for past in (10, 100, 1000):
        asking, telling = search_costs(past, folder)
        print(
            f"  search after {past} trials: ask {asking:.2f}, prune and tell {telling:.2f} (CPU); "
            f"with the mirror {asking + telling + 1e3 * cpu / len(records):.2f}"
        )


def search_costs(past: int, folder: Path) -> tuple[float, float]:
    """Milliseconds of CPU a trial for asking, and for reporting, pruning and telling."""
    from losslab.experiments.config import load_study
    from losslab.experiments.search import ArmSearch, Told
    from losslab.experiments.search_journal import Journal

    study = load_study(study_file(folder, 256, None))
    arm, random = study.arms["focal"], np.random.default_rng(0)
    settings = study.search.model_copy(update={"pruner": "median"})
    search = ArmSearch("focal", arm.spaces, arm.defaults, settings, 0, True)
    journal = Journal(folder / f"journal-{past}.log")

    def told(params: Any) -> Told:
        value = float(random.random())
        return Told(params, "complete", value, {3: value, 5: value}, {})

    def drawn() -> dict[str, float]:
        return {
            path: float(np.exp(random.uniform(np.log(space.low), np.log(space.high))))
            if space.scale == "log"
            else float(random.uniform(space.low, space.high))
            for path, space in arm.spaces.items()
        }

    before = [told(drawn()) for _ in range(past)]
    search.ask(1, before, None)
    journal.append(search, before)
    began = time.process_time()
    asked = search.ask(2, before, None)
    asking = time.process_time() - began
    began = time.process_time()
    pruning = search.pruning(before, asked)
    for rung in (3, 5):
        for index in range(GENERATION):
            pruning.report(index, rung, float(random.random()))
        for index in range(GENERATION):
            pruning.should_prune(index)
    journal.append(search, [*before, *(told(params) for params in asked.params)])
    telling = time.process_time() - began
    return 1e3 * asking / GENERATION, 1e3 * telling / GENERATION


if __name__ == "__main__":
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", KINETO_LOG_LEVEL="5")
    main()
