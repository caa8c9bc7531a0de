"""The search of all arms: generations advanced from rung to rung, then selection."""

from collections.abc import Mapping, Sequence
from typing import Any

from losslab.experiments.arms import Arm
from losslab.experiments.context import Context, Record, Training
from losslab.experiments.folder import read_json, write_json
from losslab.experiments.search import ArmSearch, Asked, Pruning, Told
from losslab.experiments.search_journal import Journal
from losslab.experiments.selection import Candidate, best_trials, select
from losslab.experiments.waves import Wave, train_all
from losslab.experiments.work import Progress

# An arm, and which of its independent searches.
Replicate = tuple[str, int]


def search_arms(context: Context, journal: Journal) -> dict[Replicate, dict[str, Any]]:
    """Search all arms, generation by generation, and select the configuration of every search.

    What is on disk is not done again. A generation's parameters are on disk before its first trial
    begins, so a search that is interrupted anywhere goes on with the same trials. The arms'
    generations of one number run together, as do the repeats: none waits for another, and they may
    share a stack.
    """
    searches = [
        Searching(context, arm, repeat)
        for repeat in range(context.study.search.repeats)
        for arm in context.study.arms.values()
    ]
    while going := [search for search in searches if search.ask()]:
        run_generations(context, [search.generation for search in going])
        for search in going:
            search.tell(journal)
    return _select(context, {(search.arm.name, search.repeat): search for search in searches})


class Searching:
    """One search of an arm, between generations."""

    def __init__(self, context: Context, arm: Arm, repeat: int):
        self.context = context
        self.arm = arm
        self.repeat = repeat
        seed = context.study.seed
        self.place = context.folder.arm(arm.slug, repeat)
        self.place.mkdir(parents=True, exist_ok=True)
        self.search = ArmSearch(
            arm.name, arm.spaces, arm.defaults, arm.search, seed, context.maximize, repeat
        )
        self.told: list[Told] = []
        self.records: list[Record] = []
        self.previous: Asked | None = None

    def ask(self) -> bool:
        """Make the next `generation`, on disk already or asked for now; False at the end."""
        number = self.previous.number + 1 if self.previous else 0
        file = self.place / f"generation-{number:03d}.json"
        written = read_json(file)
        asked = (
            Asked.from_json(written)
            if written
            else self.search.ask(number, self.told, self.previous)
        )
        if not asked.params:
            return False
        if not written:
            write_json(file, asked.as_json())
        pruning = self.search.pruning(self.told, asked)
        self.generation = Generation(self, asked, pruning)
        return True

    def tell(self, journal: Journal) -> None:
        """The generation has ended: what it found is told, in trial order."""
        finished = [record for record in self.generation.records if record is not None]
        self.records += finished
        self.told += [_told(record) for record in finished]
        journal.append(self.search, self.told)
        self.context.tracker.mirror(finished)
        self.previous = self.generation.asked


class Generation:
    """The trials of one generation, advanced together so that pruning sees whole rungs."""

    def __init__(self, search: Searching, asked: Asked, pruning: Pruning):
        self.context = context = search.context
        self.arm = arm = search.arm
        self.asked = asked
        self.pruning = pruning
        numbers = range(asked.first_trial, asked.first_trial + len(asked.params))
        self.trials = [
            Training(
                arm=arm,
                phase="search",
                params=params,
                seed_index=0,
                file=search.place / f"trial-{trial:05d}.json",
                trial=trial,
                generation=asked.number,
                repeat=search.repeat,
            )
            for trial, params in zip(numbers, asked.params, strict=True)
        ]
        self.records = [context.found(trial) for trial in self.trials]
        self.latest: dict[int, Progress] = {}
        self.reports: dict[int, dict[int, float]] = {i: {} for i in range(len(self.trials))}
        self.epochs = int(arm.config["training"]["epochs"])
        self.stops = [*context.study.rungs_of(arm), self.epochs]
        self.alive = list(range(len(self.trials)))

    def until(self) -> dict[int, int]:
        """How far the trials that are alive go next, by index; nothing when all have ended."""
        return dict.fromkeys(self.alive, self.stops[0]) if self.stops else {}

    def heard(self, i: int, progress: Progress) -> None:
        """A trial has come to the next stop, or has diverged on the way."""
        self.latest[i] = progress
        if self.stops[0] == self.epochs or len(progress.values) < self.stops[0]:
            self._store(i)
        else:
            self.context.observer.advanced(self.arm.name, self.asked.first_trial + i, progress)

    def stopped(self) -> None:
        """All trials have come to the stop: report its values, then prune."""
        rung = self.stops.pop(0)
        if not self.stops:
            return
        self.alive = [i for i in self.alive if self._value_at(i, rung) is not None]
        # All values of a rung are reported before any decision, in trial order.
        for i in self.alive:
            value = self._value_at(i, rung)
            assert value is not None
            self.reports[i][rung] = value
            self.pruning.report(i, rung, value)
        pruned = [i for i in self.alive if self.pruning.should_prune(i)]
        for i in pruned:
            self._store(i, pruned=True)
        self.alive = [i for i in self.alive if i not in pruned]

    def _value_at(self, i: int, rung: int) -> float | None:
        """A trial's value at a rung, from this run or from its record; None if it diverged."""
        record = self.records[i]
        if record is not None:
            value: float | None = record["reports"].get(str(rung))
            return value
        return self.latest[i].values[rung - 1]

    def _store(self, i: int, pruned: bool = False) -> None:
        if self.records[i] is None:
            self.records[i] = self.context.store(
                self.trials[i],
                self.latest[i],
                pruned=pruned,
                reports=self.reports[i],
                attributes={**self.asked.trial_attributes[i], **self.pruning.attributes(i)},
            )


def run_generations(context: Context, generations: Sequence[Generation]) -> None:
    """Advance the arms' generations from stop to stop until every trial has its record."""
    if all(record for generation in generations for record in generation.records):
        return
    places = [(generation, i) for generation in generations for i in range(len(generation.trials))]
    wave = Wave(
        context,
        [generation.trials[i] for generation, i in places],
        [generation.records[i] for generation, i in places],
    )
    index = {(id(generation), i): n for n, (generation, i) in enumerate(places)}
    while any(generation.stops for generation in generations):
        going = [generation for generation in generations if generation.stops]
        until = {
            index[id(generation), i]: epoch
            for generation in going
            for i, epoch in generation.until().items()
        }
        for n, progress in wave.advance(until):
            generation, i = places[n]
            generation.heard(i, progress)
        for generation in going:
            generation.stopped()
    wave.close()


def _select(
    context: Context, searches: Mapping[Replicate, Searching]
) -> dict[Replicate, dict[str, Any]]:
    """Retrain the best trials of every search on further search seeds, and take the best mean."""
    best = {
        key: best_trials(search.records, search.arm.search.select.best, context.maximize)
        for key, search in searches.items()
    }
    again = {
        (key, record["trial"], seed): Training(
            arm=search.arm,
            phase="select",
            params=record["params"],
            seed_index=seed,
            file=search.place / f"select-{record['trial']:05d}-{seed}.json",
            trial=record["trial"],
            repeat=search.repeat,
        )
        for key, search in searches.items()
        for record in best[key]
        for seed in _further_seeds(search.arm)
    }
    retrained = train_all(context, list(again.values()))
    values = {key: record["value"] for key, record in zip(again, retrained, strict=True)}
    selected = {}
    for key, search in searches.items():
        arm = search.arm
        candidates = [
            Candidate(
                trial := record["trial"],
                record["params"],
                (record["value"], *(values[key, trial, seed] for seed in _further_seeds(arm))),
            )
            for record in best[key]
        ]
        chosen = select(candidates, arm.spaces, arm.defaults, context.maximize)
        selected[key] = {**chosen, "repeat": search.repeat}
        write_json(search.place / "selected.json", selected[key])
        context.observer.selected(arm.name, selected[key])
    return selected


def _further_seeds(arm: Arm) -> range:
    """The search seeds after the first, which the search itself has used."""
    return range(1, arm.search.select.seeds + 1)


def _told(record: Record) -> Told:
    reports = {int(epoch): value for epoch, value in record["reports"].items()}
    return Told(record["params"], record["state"], record["value"], reports, record["attributes"])
