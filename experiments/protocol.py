"""The protocol of a study: search, select, confirm; every finished training is on disk at once.

Validation picks, test judges. Every arm has the same budget, and a run seed gives every arm the
same splits, initial weights and batches.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losslab.experiments.config import Study, load_study
from losslab.experiments.confirming import confirm
from losslab.experiments.context import Context
from losslab.experiments.executors import Kind, make_executor
from losslab.experiments.folder import StudyFolder, home_folder
from losslab.experiments.observing import Observer
from losslab.experiments.opening import open_study, resolve_device
from losslab.experiments.plans import plans_from_json
from losslab.experiments.preflight import plan_study, preflight
from losslab.experiments.search import check_sampler_packages
from losslab.experiments.search_journal import Journal
from losslab.experiments.searching import search_arms
from losslab.experiments.tracking import make_tracker

if TYPE_CHECKING:
    from losslab.analysis.frames import StudyFrames


# How long the report waits for MLflow, in seconds; what is not there by then is not linked.
SETTLING = 3.0


def run_study(
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    home: str | Path | None = None,
    tracking_uri: str | None = None,
    workers: int | None = 1,
    executor: Kind = "local",
    address: str | None = None,
    gpus_per_task: float = 0.0,
    fresh: bool = False,
    observer: Observer | None = None,
) -> "StudyFrames":
    """Run a study, or go on with it, and return its results as tidy frames.

    `source` is a shipped study's name, a path, or a mapping in the form of a study file;
    `overrides` are `path=value` texts; `home` is where studies live (LOSSLAB_HOME, else `runs`);
    `tracking_uri` an MLflow server instead of the local store, or "none"; `fresh` sets an existing
    study aside and starts anew. `workers` is how many pieces of work may be under way, None for all
    cores; `executor` is who does them: local processes, or "ray" at `address` (see
    docs/scaling.md). Both change the time, never the results. Raises `BadInput` with every mistake,
    before any training.

    >>> frames = run_study("quickstart", overrides=["search.trials=4"])    # doctest: +SKIP
    """
    observer = observer or Observer()
    study = load_study(source, overrides)
    check_sampler_packages(study.search)
    device = resolve_device(study.device)
    preflight(study, device)
    folder = StudyFolder(home_folder(home), study.name)
    folder.create()
    limited = any(arm.config["training"].get("time_limit") for arm in study.arms.values())
    workforce = make_executor(
        workers,
        executor,
        address=address,
        gpus_per_task=gpus_per_task,
        time_limited=limited,
        data_folder=folder.data,
    )
    with closing(workforce), folder.locked(), ThreadPoolExecutor(1, "report") as beside:
        plans = plan_study(study, device)
        entry = open_study(study, folder, device, plans, fresh, observer)
        plans = plans_from_json(entry["plans"])
        tracker = make_tracker(tracking_uri, folder.home, entry, folder.path / "tracking.jsonl")
        tracker.open()
        context = Context(study, folder, workforce, tracker, observer, device, plans)
        status = "FAILED"
        try:
            losses = [arm.config["loss"]["name"] for arm in study.arms.values()]
            begun = beside.submit(_begin_report, losses, folder.report)
            _work(context)
            tracker.settle(SETTLING)  # the report links the runs
            frames = _reported(folder, begun.result())
            tracker.attach(folder.report, "report")
            tracker.attach_outputs(_outputs(frames))
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            context.executor.close()
            tracker.finish(status)
            if tracker.problem:
                observer.note(
                    f"MLflow at {tracker.uri} could not take everything ({tracker.problem}); all "
                    f"results are in {folder.path}, and the same command mirrors what is missing"
                )
    return frames


def _begin_report(losses: Sequence[str], folder: Path) -> list[Path]:
    """Called beside the training, so that it is not waited for at the end."""
    # Here and below, since analysis stands above experiments and takes a second to import.
    from losslab.analysis.report import begin_report

    return begin_report(losses, folder)


def _reported(folder: StudyFolder, begun: list[Path]) -> "StudyFrames":
    """The results as frames, with tables and figures written."""
    from losslab.analysis.frames import frames_from_folder
    from losslab.analysis.report import write_report_files

    frames = frames_from_folder(folder.path)
    write_report_files(frames, folder.report, begun, None)
    return frames


def _outputs(frames: "StudyFrames") -> dict[str, Path]:
    """The per-example outputs of a study by key, those that a reader wants first at the front."""
    assert frames.folder is not None
    runs = frames.confirmation.dropna(subset="outputs")
    order = runs.sort_values(
        ["variant", "repeat", "seed_index"], ascending=[False, True, True], kind="stable"
    )
    return {
        key: frames.folder / file for key, file in zip(order["key"], order["outputs"], strict=True)
    }


def _work(context: Context) -> None:
    """Everything that trains: every arm's search, then confirmation."""
    study, folder = context.study, context.folder
    context.observer.started(study, folder, planned_trainings(study))
    journal = Journal(folder.path / "journal.log")
    selected = search_arms(context, journal)
    context.tracker.mirror_selected(selected)
    confirm(context, selected)
    folder.remove_states()


def planned_trainings(study: Study) -> int:
    """How many trainings a study has at most: searches, selection and confirmation."""
    confirmations = study.confirm.seeds * (2 if study.confirm.defaults else 1)
    each = [arm.tuning + confirmations for arm in study.arms.values()]
    return study.search.repeats * sum(each)
