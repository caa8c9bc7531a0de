"""What a person sees while a study works, and at its end."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, JustifyMethod
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from losslab.datasets.detection.problems import remarks
from losslab.experiments.config import Study, load_study
from losslab.experiments.data import dataset_for
from losslab.experiments.executors import Kind, usable_cores
from losslab.experiments.folder import StudyFolder, home_folder
from losslab.experiments.observing import Observer
from losslab.experiments.opening import resolve_device
from losslab.experiments.preflight import estimate, preflight
from losslab.experiments.protocol import run_study
from losslab.experiments.search import check_sampler_packages

if TYPE_CHECKING:
    from losslab.analysis.layouts import Layout


class ShowProgress(Observer):
    """A bar over all trainings: arm and trial, best value so far, time left.

    On a terminal it moves; elsewhere only notes are printed.
    """

    def __init__(self, console: Console):
        self.console = console
        self.best: dict[str, float] = {}
        self.maximize = True
        self.primary = ""
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[best]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("starting", total=None, best="")

    def started(self, study: Study, folder: StudyFolder, trainings: int) -> None:
        self.maximize = study.direction == "maximize"
        self.primary = study.metrics.primary
        self.total = trainings
        self.bar.update(self.task, total=trainings, description=study.name)
        self.bar.start()

    def advanced(self, arm: str, trial: int, progress: Any) -> None:
        self._say(f"{arm}, trial {trial}, epoch {progress.epoch}")

    def finished(self, record: Mapping[str, Any]) -> None:
        self._count(record)
        if record["state"] == "diverged":
            self.note(f"{record['key']} diverged: {record['reason']}")

    def already(self, record: Mapping[str, Any]) -> None:
        self._count(record)

    def selected(self, arm: str, chosen: Mapping[str, Any]) -> None:
        for flag in chosen["flags"]:
            self.note(f"{arm}: {flag}")

    def note(self, text: str) -> None:
        self.console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)

    def _count(self, record: Mapping[str, Any]) -> None:
        arm, value = record["arm"], record["value"]
        if record["phase"] == "confirm":
            what = f"{arm}, test run, seed {record['seed_index']}"
        else:
            what = f"{arm}, trial {record['trial']}"
            if value is not None and record["state"] == "complete":
                pick = max if self.maximize else min
                self.best[arm] = pick(value, self.best.get(arm, value))
        best = self.best.get(arm)
        shown = "" if best is None else f"best {self.primary} of {arm}: {best:.4f}"
        self.bar.update(self.task, advance=1, description=what, best=shown)

    def _say(self, text: str) -> None:
        self.bar.update(self.task, description=text)


def run_with_progress(
    source: str,
    *,
    overrides: Sequence[str],
    home: str | None,
    tracking_uri: str | None,
    workers: int | None,
    executor: Kind,
    address: str | None,
    gpus_per_task: float,
    fresh: bool,
    quiet: bool,
) -> None:
    """Run a study, show its progress, and print its results and where they are."""
    console = Console(stderr=True)
    observer = Observer() if quiet else ShowProgress(console)
    try:
        frames = run_study(
            source,
            overrides=overrides,
            home=home,
            tracking_uri=tracking_uri,
            workers=workers,
            executor=executor,
            address=address,
            gpus_per_task=gpus_per_task,
            fresh=fresh,
            observer=observer,
        )
    finally:
        if isinstance(observer, ShowProgress):
            observer.bar.stop()
    if quiet:
        return
    from losslab.analysis.answer import answer
    from losslab.reporting import key_table, where

    assert frames.folder is not None
    folder = frames.folder
    out = Console(width=None if sys.stdout.isatty() else 160)
    layout = key_table(frames)
    out.print(terminal_table(layout, frames.study["question"] or frames.study["study"]))
    out.print(layout.caption, style="dim", markup=False, highlight=False)
    found = answer(frames)
    for text in filter(None, [found.sentence, found.caution]):
        out.print(text, markup=False, highlight=False)
    for line in where(folder / "report" / "report.html"):
        out.print(line, soft_wrap=True, markup=False, highlight=False)
    if tracking_uri != "none":
        store = tracking_uri or f"losslab ui --home {folder.parent}"
        out.print(f"every run, in MLflow: {store}", soft_wrap=True, markup=False, highlight=False)


def terminal_table(layout: "Layout", title: str) -> Table:
    """A table as a terminal shows it."""
    # as Text, since rich would read the brackets of a plain string as markup
    table = Table(title=Text(title))
    rows = layout.frame()
    for column in rows.columns:
        justify: JustifyMethod = "left" if column == rows.columns[0] else "right"
        table.add_column(Text(str(column)), justify=justify)
    for row in rows.itertuples(index=False):
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def dry_run(source: str, overrides: Sequence[str], home: str | None, workers: int | None) -> str:
    """What a study would do: arms, trials, runs, time and disk; one epoch of each arm is timed."""
    study = load_study(source, overrides)
    check_sampler_packages(study.search)
    device = resolve_device(study.device)
    preflight(study, device)
    workers = workers or usable_cores()
    guess = estimate(study, device, workers)
    lines = [
        f"study {study.name}: {study.question}",
        f"folder: {home_folder(home) / study.name}",
        f"arms: {', '.join(study.arms)} (baseline: {study.baseline})",
    ]
    for arm in study.arms.values():
        searched = ", ".join(path.removeprefix("training.") for path in arm.spaces) or "nothing"
        how = guess.plans[arm.name].describe()
        lines.append(f"  {arm.name}: searches {searched}; trains {how}")
    lines += [
        *_images(study),
        *_searches(study),
        f"confirmation: {study.confirm.seeds} seeds, selected"
        + (" and defaults" if study.confirm.defaults else ""),
        f"trainings: {guess.trainings} at most ({guess.searches} to tune, {guess.confirmations} to "
        f"confirm)",
        f"time: about {_duration(guess.seconds)} on {workers} worker(s), device {device}, without "
        f"pruning and stacking (one epoch of each arm was timed)",
        f"disk: about {guess.megabytes:.0f} MB",
        "nothing was trained or written",
    ]
    return "\n".join(lines)


def _images(study: Study) -> list[str]:
    """What a detection study looks at, and what is the matter with it."""
    if study.task.kind != "detection":
        return []
    record = dataset_for(study.arms[study.baseline].config["dataset"], study.seed).describe()
    parts = record["splits"]
    images = ", ".join(f"{part['images']} {name}" for name, part in parts.items())
    pairs = zip(record["class_names"], parts["train"]["class_counts"], strict=True)
    objects = ", ".join(f"{name}: {count}" for name, count in pairs)
    _, height, width = record["image_shape"]
    return [
        f"images: {images}, each stored as {width} x {height} pixels",
        f"objects to train on: {objects}",
        *remarks(record),
    ]


def _searches(study: Study) -> list[str]:
    """What a search of each budget does."""
    search, select = study.search, study.search.select
    budgets = {arm.search.trials: arm.search.search_trials for arm in study.arms.values()}
    lines = [
        f"search: {trials} trainings an arm: {searched} {search.sampler} trials in generations of "
        f"{search.generation}, then the best {select.best} again on {select.seeds} further "
        f"seed(s); pruning: {search.pruner} at epochs {study.rungs}"
        for trials, searched in budgets.items()
    ]
    if search.repeats > 1:
        lines.append(f"repeats: {search.repeats} of search, selection and confirmation")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
