"""Waves: trainings that run together, cut into pieces of work.

A wave is written down before it begins, and its pieces are a function of its members and the
plan, never of the number of workers or of what was finished before a kill. So a study that goes
on makes the same stacks again, and gets the same bits. States live in the wave's folder, a file
for every piece, until every member has its record.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from losslab.errors import LosslabError
from losslab.experiments.context import Context, Record, Training
from losslab.experiments.folder import read_json, write_json
from losslab.experiments.stacking import pieces_of
from losslab.experiments.states import load_states, save_states
from losslab.experiments.training import start
from losslab.experiments.work import Member, Piece, Progress
from losslab.randomness import stable_hash

MEMBERS = "members.json"


class Wave:
    """Trainings of one phase, advanced together.

    `records` holds what is finished already, else None; `judged`, by key, further fields of
    `Member` for trainings that end on the test split.
    """

    def __init__(
        self,
        context: Context,
        trainings: Sequence[Training],
        records: Sequence[Record | None],
        judged: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        self.context = context
        self.trainings = trainings
        self.finished = [record is not None for record in records]
        self.jobs = [context.job(training) for training in trainings]
        further = judged or {}
        self.members = [
            Member(job, **further.get(training.key, {}))
            for job, training in zip(self.jobs, trainings, strict=True)
        ]
        self.folders = self._folders()
        self.started: dict[int, float] = {}

    def advance(self, until: Mapping[int, int]) -> Iterator[tuple[int, Progress]]:
        """Train members (by index) on to an epoch each; what is finished is not done again."""
        pieces: list[Piece] = []
        owners: list[list[int]] = []
        for folder, indices in self.folders.items():
            for rows, piece in self._pieces(folder, [i for i in indices if i in until], until):
                if not all(self.finished[i] for i in rows):
                    pieces.append(piece)
                    owners.append(rows)
        yield from self._run(pieces, owners)

    def close(self) -> None:
        """Every member has its record: the states may go."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(
        self, pieces: Sequence[Piece], owners: Sequence[list[int]]
    ) -> Iterator[tuple[int, Progress]]:
        late: list[int] = []
        for number, found in self.context.executor.run(pieces):
            if found is None:
                late.append(number)
                continue
            for i, progress in zip(owners[number], found, strict=True):
                if not self.finished[i]:
                    yield i, self._since_its_start(i, progress)
        for number in late:
            piece, rows = pieces[number], owners[number]
            if len(rows) > 1:
                # Which of them hangs is found out one by one; the others lose nothing.
                alone = [
                    replace(piece, members=(member,), engine="plain", file=_own(piece.file, place),
                            time_limit=piece.time_limit and piece.time_limit / len(rows))
                    for place, member in enumerate(piece.members)
                ]  # fmt: skip
                for i, single in zip(rows, alone, strict=True):
                    self.members[i] = replace(self.members[i], source=(single.file, 0))
                yield from self._run(alone, [[i] for i in rows])
            else:
                yield rows[0], self._since_its_start(rows[0], self._given_up(piece))

    def _since_its_start(self, i: int, progress: Progress) -> Progress:
        """The progress of a training that began with its first piece."""
        return replace(progress, started=self.started.setdefault(i, progress.started))

    def _given_up(self, piece: Piece) -> Progress:
        """A training that overran its limit is one that diverged, and is judged as such."""
        member = piece.members[0]
        before = load_states(member.source[0], member.job.device) if member.source else None
        state = before[0][member.source[1]] if before and member.source else start(member.job)
        reason = f"not at epoch {piece.until_epoch} within its time limit"
        limit = member.job.config["training"]["time_limit"]
        save_states(piece.file, [replace(state, diverged=f"{reason} of {limit:g} s")], "plain")
        for _, found in self.context.executor.run([replace(piece, time_limit=None)]):
            if found is not None:
                return found[0]
        raise LosslabError(f"{piece.file} could not be judged after its time limit had passed")

    def _pieces(
        self, folder: Path, indices: Sequence[int], until: Mapping[int, int]
    ) -> Iterator[tuple[list[int], Piece]]:
        """The pieces of one composition; its members' next sources are these pieces' files."""
        plans = [self.context.plans[self.trainings[i].arm.name] for i in indices]
        cuts = pieces_of([self.jobs[i] for i in indices], plans, [until[i] for i in indices])
        for number, (engine, places) in enumerate(cuts):
            rows = [indices[place] for place in places]
            epoch = until[rows[0]]
            limit = self.jobs[rows[0]].config["training"].get("time_limit")
            piece = Piece(
                members=tuple(self.members[i] for i in rows),
                engine=engine,
                until_epoch=epoch,
                file=folder / f"epoch-{epoch:04d}-piece-{number:03d}.pt",
                time_limit=None if limit is None else limit * len(rows),
            )
            for place, i in enumerate(rows):
                self.members[i] = replace(self.members[i], source=(piece.file, place))
            yield rows, piece

    def _folders(self) -> dict[Path, list[int]]:
        """Who runs with whom: as written down before, or all that are new together."""
        places = {training.key: i for i, training in enumerate(self.trainings)}
        found: dict[Path, list[int]] = {}
        taken: set[int] = set()
        for file in sorted(self.context.folder.states.glob(f"*/{MEMBERS}")):
            keys = read_json(file)["members"]
            if not set(keys) & set(places):
                continue
            rows = [places[key] for key in keys if key in places]
            if len(rows) < len(keys) or all(self.finished[i] for i in rows):
                # Finished, or of trainings that the study does not want any more.
                shutil.rmtree(file.parent)
                continue
            found[file.parent] = rows
            taken.update(rows)
        new = [i for i in range(len(places)) if not self.finished[i] and i not in taken]
        if new:
            keys = [self.trainings[i].key for i in new]
            folder = self.context.folder.states / f"{stable_hash(' '.join(keys)):016x}"
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / MEMBERS, {"members": keys})
            found[folder] = new
        return found


def train_all(
    context: Context,
    trainings: Sequence[Training],
    judged: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Record]:
    """Train to the end what is not on disk yet; the records of all, in order, mirrored to MLflow.

    With `judged`, each is judged on the test split; see `Wave`.
    """
    records = [context.found(training) for training in trainings]
    wave = Wave(context, trainings, records, judged)
    ends = {i: training.epochs for i, training in enumerate(trainings)}
    for i, progress in wave.advance(ends):
        records[i] = context.store(trainings[i], progress)
    wave.close()
    finished = [record for record in records if record is not None]
    context.tracker.mirror(finished)
    return finished


def _own(file: Path, place: int) -> Path:
    return file.with_name(f"{file.stem}-member-{place:03d}.pt")
