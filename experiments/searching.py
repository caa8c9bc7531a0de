"""The search of one arm: generations advanced from rung to rung, then selection."""

import time
from collections.abc import Sequence
from typing import Any

from losslab.experiments.config import Arm
from losslab.experiments.context import Context, Record, Training
from losslab.experiments.folder import read_json, write_json
from losslab.experiments.search import ArmSearch, Asked, Journal, Pruning, Told
from losslab.experiments.selection import Candidate, best_trials, select
from losslab.experiments.work import Piece, Progress


def search_arm(context: Context, arm: Arm, journal: Journal) -> dict[str, Any]:
    """Search an arm and select its configuration; what is on disk is not done again.

    A generation's parameters are on disk before its first trial begins, so a search that is
    interrupted anywhere goes on with the same trials.
    """
    study = context.study
    place = context.folder.arm(arm.slug)
    place.mkdir(parents=True, exist_ok=True)
    search = ArmSearch(
        arm.name, arm.spaces, arm.defaults, study.search, study.seed, context.maximize
    )
    told: list[Told] = []
    records: list[Record] = []
    previous: Asked | None = None
    while True:
        number = previous.number + 1 if previous else 0
        file = place / f"generation-{number:03d}.json"
        written = read_json(file)
        asked = Asked.from_json(written) if written else search.ask(number, told, previous)
        if not asked.params:
            break
        if not written:
            write_json(file, asked.as_json())
        finished = Generation(context, arm, asked, search.pruning(told, asked)).run()
        records += finished
        told += [_told(record) for record in finished]
        journal.append(search, told)
        context.tracker.mirror(finished)
        previous = asked
    return _select(context, arm, records)


class Generation:
    """The trials of one generation, advanced together so that pruning sees whole rungs."""

    def __init__(self, context: Context, arm: Arm, asked: Asked, pruning: Pruning):
        self.context = context
        self.arm = arm
        self.asked = asked
        self.pruning = pruning
        self.began = time.time()
        place = context.folder.arm(arm.slug)
        numbers = range(asked.first_trial, asked.first_trial + len(asked.params))
        self.trials = [
            Training(
                arm=arm,
                phase="search",
                params=params,
                seed_index=0,
                file=place / f"trial-{trial:05d}.json",
                trial=trial,
                generation=asked.number,
            )
            for trial, params in zip(numbers, asked.params, strict=True)
        ]
        self.records = [context.found(trial) for trial in self.trials]
        self.latest: dict[int, Progress] = {}
        self.reports: dict[int, dict[int, float]] = {i: {} for i in range(len(self.trials))}

    def run(self) -> list[Record]:
        """Advance every trial to its end; the records in trial order."""
        if not all(self.records):
            self._run()
        return [record for record in self.records if record is not None]

    def _run(self) -> None:
        epochs = self.arm.config["training"]["epochs"]
        alive = list(range(len(self.trials)))
        for rung in self.context.study.rungs_of(self.arm):
            self._advance(alive, rung)
            alive = [i for i in alive if self._value_at(i, rung) is not None]
            # All values of a rung are reported before any decision, in trial order.
            for i in alive:
                value = self._value_at(i, rung)
                assert value is not None
                self.reports[i][rung] = value
                self.pruning.report(i, rung, value)
            pruned = [i for i in alive if self.pruning.should_prune(i)]
            for i in pruned:
                self._store(i, pruned=True)
            alive = [i for i in alive if i not in pruned]
        self._advance(alive, epochs)

    def _advance(self, alive: Sequence[int], until_epoch: int) -> None:
        """Train what is not finished; store what ends on the way."""
        waiting = [i for i in alive if self.records[i] is None]
        pieces = [
            Piece(
                self.context.job(self.trials[i]),
                self.context.state_file(self.trials[i]),
                until_epoch,
            )
            for i in waiting
        ]
        last = until_epoch == self.arm.config["training"]["epochs"]
        for position, progress in self.context.executor.run(pieces):
            i = waiting[position]
            self.latest[i] = progress
            if last or len(progress.values) < until_epoch:
                self._store(i)
            else:
                self.context.observer.advanced(self.arm.name, self.asked.first_trial + i, progress)

    def _value_at(self, i: int, rung: int) -> float | None:
        """A trial's value at a rung, from this run or from its record; None if it diverged."""
        record = self.records[i]
        if record is not None:
            value: float | None = record["reports"].get(str(rung))
            return value
        # Not its latest value: after a kill, its state may be further on than this rung.
        return self.latest[i].values[rung - 1]

    def _store(self, i: int, pruned: bool = False) -> None:
        if self.records[i] is None:
            self.records[i] = self.context.store(
                self.trials[i],
                self.latest[i],
                self.began,
                pruned=pruned,
                reports=self.reports[i],
                attributes={**self.asked.trial_attributes[i], **self.pruning.attributes(i)},
            )


def _select(context: Context, arm: Arm, records: Sequence[Record]) -> dict[str, Any]:
    """Retrain the best trials on further search seeds, and take the best mean."""
    settings = context.study.search.select
    place = context.folder.arm(arm.slug)
    best = best_trials(records, settings.best, context.maximize)
    again = {
        (record["trial"], seed): Training(
            arm=arm,
            phase="select",
            params=record["params"],
            seed_index=seed,
            file=place / f"select-{record['trial']:05d}-{seed}.json",
            trial=record["trial"],
        )
        for record in best
        for seed in range(1, settings.seeds + 1)
    }
    retrained = train_all(context, list(again.values()))
    values = {key: record["value"] for key, record in zip(again, retrained, strict=True)}
    candidates = [
        Candidate(
            record["trial"],
            record["params"],
            (record["value"], *(values[record["trial"], s + 1] for s in range(settings.seeds))),
        )
        for record in best
    ]
    chosen = select(candidates, arm.spaces, arm.defaults, context.maximize)
    write_json(place / "selected.json", chosen)
    context.observer.selected(arm.name, chosen)
    return chosen


def train_all(
    context: Context, trainings: Sequence[Training], judged: dict[str, Any] | None = None
) -> list[Record]:
    """Train to the end what is not on disk yet; the records of all, in order, mirrored to MLflow.

    With `judged`, each is judged on the test split; it holds, by key, further fields of `Piece`.
    """
    records = [context.found(training) for training in trainings]
    waiting = [index for index, record in enumerate(records) if record is None]
    began = time.time()
    pieces = []
    for index in waiting:
        training = trainings[index]
        further = {} if judged is None else judged[training.key]
        pieces.append(
            Piece(context.job(training), context.state_file(training), training.epochs, **further)
        )
    for position, progress in context.executor.run(pieces):
        index = waiting[position]
        records[index] = context.store(trainings[index], progress, began)
    finished = [record for record in records if record is not None]
    context.tracker.mirror(finished)
    return finished


def _told(record: Record) -> Told:
    reports = {int(epoch): value for epoch, value in record["reports"].items()}
    return Told(record["params"], record["state"], record["value"], reports, record["attributes"])
