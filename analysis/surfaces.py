"""A study's loss surfaces: planes through its trained networks, and profiles away from them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from losslab.analysis.detections import study_seed
from losslab.analysis.frames import StudyFrames
from losslab.analysis.loss_surface import Surroundings, TrainedRun, trained_runs
from losslab.errors import BadInput

POINTS, SPAN = 25, 1.0  # of a plane's side, and how far it reaches
DISTANCES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)  # shares of the span, of a profile
DIRECTIONS = 3  # of the profile of each run
LOSSES = ("loss", "cross_entropy")


@dataclass(frozen=True)
class Task:
    """Losses at some points: `steps` along direction `direction`, and `y` along the next one.

    With `y` None there is no other direction: a line of a profile.
    """

    run: TrainedRun
    study_seed: int
    direction: int
    steps: tuple[float, ...]
    y: float | None = None


@dataclass(frozen=True)
class Surfaces:
    """What was measured; every row is a point.

    `plane`: `arm, seed_index, x, y, loss, cross_entropy` of the first run of each arm, x and y in
    norms of the weights. `profile`: `arm, seed_index, direction, distance, loss, cross_entropy` of
    all runs; a negative distance is the other way along the direction. `loss` is the run's own;
    what is not finite is NaN.
    """

    plane: pd.DataFrame
    profile: pd.DataFrame


def surface_tasks(
    frames: StudyFrames, arms: Sequence[str] = (), *, points: int = POINTS, span: float = SPAN
) -> list[Task]:
    """What there is to measure around the trained networks of a study.

    A plane of `points` × `points` through the first run of each of `arms` (default: those that the
    study file names), from -span to span, and a profile of every run. Raises `BadInput` for
    settings out of range, and as `trained_runs` does.
    """
    if points < 3 or points % 2 == 0:
        raise BadInput(f"--points: must be odd and at least 3, so that 0 is one, got {points}")
    if not 0 < span <= 10:
        raise BadInput(f"--span: must be above 0 and at most 10, got {span:g}")
    runs, seed = trained_runs(frames, arms), study_seed(frames)
    first: dict[str, TrainedRun] = {}
    for run in runs:
        first.setdefault(run.arm, run)
    side = tuple(np.linspace(-span, span, points).tolist())
    line = tuple(sorted({sign * span * share for share in DISTANCES for sign in (-1, 1)}))
    planes = [Task(run, seed, 0, side, y) for run in first.values() for y in side]
    return planes + [Task(run, seed, d, line) for run in runs for d in range(DIRECTIONS)]


def measure_surfaces(
    tasks: Sequence[Task],
    workers: int | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Surfaces:
    """The losses of `surface_tasks`, from the weights that the runs stored.

    Tasks are shared out to `workers` processes (None: all cores); `tell(done, total)` is called
    after each. The same numbers whatever the number of workers. Raises as `Surroundings` does.
    """
    rows: dict[int, np.ndarray] = {}
    for done, (place, losses) in enumerate(_measured(tasks, workers), start=1):
        rows[place] = losses
        tell(done, len(tasks))
    plane, profile = [], []
    for place, task in enumerate(tasks):
        if task.y is None:
            profile.append(_rows(task, rows[place], "distance"))
        else:
            plane.append(_rows(task, rows[place], "x"))
    return Surfaces(
        pd.concat(plane, ignore_index=True)[["arm", "seed_index", "x", "y", *LOSSES]],
        pd.concat(profile, ignore_index=True)[
            ["arm", "seed_index", "direction", "distance", *LOSSES]
        ],
    )


def _rows(task: Task, losses: np.ndarray, name: str) -> pd.DataFrame:
    known = np.where(np.isfinite(losses), losses, np.nan)
    return pd.DataFrame({name: task.steps, **dict(zip(LOSSES, known.T, strict=True))}).assign(
        arm=task.run.arm, seed_index=task.run.seed_index, direction=task.direction, y=task.y
    )


def _measured(tasks: Sequence[Task], workers: int | None) -> Iterator[tuple[int, np.ndarray]]:
    """Place and losses of each task, in whatever order they are done."""
    if workers == 1:
        yield from map(_measure, enumerate(tasks))
        return
    from joblib import Parallel, delayed

    pool = Parallel(n_jobs=workers or -1, return_as="generator_unordered", batch_size=1)
    yield from pool(delayed(_measure)(each) for each in enumerate(tasks))


def _measure(placed: tuple[int, Task]) -> tuple[int, np.ndarray]:
    place, task = placed
    around = _surroundings(task.run, task.study_seed)
    directions = [around.direction(task.direction)]
    beside: list[float] = []
    if task.y is not None:
        directions.append(around.direction(task.direction + 1))
        beside = [task.y]
    return place, np.array([around.losses_at(directions, [s, *beside]) for s in task.steps])


@lru_cache(maxsize=1)
def _surroundings(run: TrainedRun, seed: int) -> Surroundings:
    """Kept for the next line of points, which most often is of the same run."""
    return Surroundings(run, seed)
