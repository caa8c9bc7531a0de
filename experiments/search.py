"""The search of one arm: Optuna, asked for a generation at a time and told in trial order.

Optuna holds no state between generations. Each one is asked for from an in-memory study that holds
the finished trials and nothing else, with a sampler seeded by (study seed, arm, generation), so a
resumed search asks the same questions as one that was never interrupted. Only the search modules
and `importances` know Optuna.
"""

import copy
import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from losslab.errors import BadInput
from losslab.experiments.schema import Search
from losslab.experiments.spaces import Choices, Space, Value
from losslab.randomness import seed_integer

# The share of trials that halving lets pass a rung is one in so many.
HALVING_FACTOR = 3

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    # A diverged trial is told as pruned, so that the sampler learns from it.
    "diverged": TrialState.PRUNED,
    "running": TrialState.RUNNING,
}


@dataclass(frozen=True)
class Asked:
    """One generation: the parameters of its trials and what the sampler needs to remember.

    It is written to disk before any of its trials begins; `as_json` and `from_json` go both ways.
    """

    number: int
    first_trial: int
    params: list[dict[str, Value]]
    trial_attributes: list[dict[str, Any]]
    study_attributes: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """As a mapping that JSON can hold."""
        return dict(self.__dict__)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Asked":
        """From what `as_json` gave."""
        return cls(**content)


@dataclass(frozen=True)
class Told:
    """What a finished trial tells the sampler; `reports` are the values at the rungs it reached."""

    params: Mapping[str, Value]
    state: str
    value: float | None
    reports: Mapping[int, float]
    attributes: Mapping[str, Any]


class ArmSearch:
    """Asking and pruning for one arm, in one repeat of its search.

    `spaces` are the arm's search spaces by path, `defaults` the values of trial 0.
    """

    def __init__(
        self,
        arm: str,
        spaces: Mapping[str, Space],
        defaults: Mapping[str, Value],
        search: Search,
        study_seed: int,
        maximize: bool,
        repeat: int = 0,
    ):
        # Further repeats have seeds and a study in the journal of their own.
        again = ("repeat", repeat) if repeat else ()
        self.seed = partial(seed_integer, study_seed, "sampler", arm, *again)
        self.name = f"{arm}/repeat-{repeat:03d}" if repeat else arm
        self.spaces = spaces
        self.defaults = defaults
        self.search = search
        self.direction: Literal["maximize", "minimize"] = "maximize" if maximize else "minimize"
        self.distributions = {path: _distribution(space) for path, space in spaces.items()}
        self._told: list[Told] = []
        self._finished: optuna.Study | None = None

    def ask(self, number: int, told: Sequence[Told], previous: Asked | None) -> Asked:
        """Ask for generation `number`, given everything told so far and the generation before.

        It may hold fewer trials than usual: at the end of the budget, and when a grid is
        exhausted; an empty one ends the search.
        """
        count = min(self.search.generation, self._budget() - len(told))
        sampler = self._sampler(number)
        study = self._copy(told, sampler)
        for key, value in (previous.study_attributes if previous else {}).items():
            study._storage.set_study_system_attr(study._study_id, key, value)
        if not told and count > 0:
            study.enqueue_trial(self._internal(self.defaults))
        params, attributes = [], []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(count):
                trial = study.ask()
                params.append(
                    {path: self._suggest(trial, path) for path in self.spaces},
                )
        for frozen in study.get_trials(deepcopy=False)[len(told) :]:
            attributes.append(dict(frozen.system_attrs))
        remembered = study._storage.get_study_system_attrs(study._study_id)
        return Asked(number, len(told), params, attributes[: len(params)], dict(remembered))

    def pruning(self, told: Sequence[Told], asked: Asked) -> "Pruning":
        """The pruner's view of a running generation."""
        study = self._copy(told, None)
        for params, attributes in zip(asked.params, asked.trial_attributes, strict=True):
            study.add_trial(self.frozen(Told(params, "running", None, {}, attributes)))
        trials = study.get_trials(deepcopy=False)[len(told) :]
        halving = self.search.pruner == "halving"
        return Pruning([Trial(study, trial._trial_id) for trial in trials], halving)

    def _copy(self, told: Sequence[Told], sampler: Any) -> optuna.Study:
        """A study of its own with the finished trials in it, for one generation.

        The trials themselves are shared by all copies: Optuna never changes a finished one, and
        building a thousand anew takes longer than asking.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if self._finished is None or self._told != list(told[: len(self._told)]):
            self._told = []
            self._finished = optuna.create_study(
                direction=self.direction, pruner=_pruner(self.search)
            )
        for trial in told[len(self._told) :]:
            self._finished.add_trial(self.frozen(trial))
            self._told.append(trial)
        shared = {id(trial): trial for trial in self._finished.get_trials(deepcopy=False)}
        study = copy.deepcopy(self._finished, shared)
        if sampler is not None:
            study.sampler = sampler
        return study

    def frozen(self, told: Told) -> FrozenTrial:
        """A finished trial as Optuna holds it."""
        _check_finite(*told.reports.values(), *([] if told.value is None else [told.value]))
        return create_trial(
            state=STATES[told.state],
            value=told.value if told.state == "complete" else None,
            params=self._internal(told.params),
            distributions=self.distributions,
            intermediate_values=dict(told.reports),
            system_attrs=dict(told.attributes),
            user_attrs={"state": told.state},
        )

    def _budget(self) -> int:
        """Trials in all; fewer than the study's if there is no more to try."""
        if not self.spaces:
            return 1
        if self.search.sampler != "grid":
            return self.search.search_trials
        # Optuna's own count of what is left starts a grid's last point once for each free worker.
        points = math.prod(len(values) for values in self._grid().values())
        return min(self.search.search_trials, 1 + points)

    def _internal(self, params: Mapping[str, Value]) -> dict[str, Any]:
        """Parameters as Optuna holds them: choices by index.

        Optuna compares choices by value, for which 1 and True are the same.
        """
        return {path: self.spaces[path].internal(params[path]) for path in self.spaces}

    def _suggest(self, trial: Trial, path: str) -> Value:
        space = self.spaces[path]
        if isinstance(space, Choices):
            return space.choices[trial.suggest_categorical(path, list(range(len(space.choices))))]
        log = space.scale == "log"
        if space.integer:
            return trial.suggest_int(path, int(space.low), int(space.high), log=log)
        return trial.suggest_float(path, space.low, space.high, log=log)

    def _sampler(self, generation: int) -> Any:
        name = self.search.sampler
        # qmc and grid: one sequence for the whole search, whose seed knows no generation
        own = () if name in ("qmc", "grid") else (generation,)
        seed = self.seed(*own)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name == "tpe":
                return optuna.samplers.TPESampler(seed=seed)
            if name == "random":
                return optuna.samplers.RandomSampler(seed=seed)
            if name == "qmc":
                return optuna.samplers.QMCSampler(seed=seed, scramble=True)
            if name == "cma-es":
                return optuna.samplers.CmaEsSampler(seed=seed)
            if name == "gp":
                return optuna.samplers.GPSampler(seed=seed)
            return optuna.samplers.GridSampler(self._grid(), seed=seed)

    def _grid(self) -> dict[str, list[Any]]:
        points = self.search.grid_points
        return {
            path: list(range(len(space.choices)))
            if isinstance(space, Choices)
            else space.grid(points)
            for path, space in self.spaces.items()
        }


class Pruning:
    """Pruning decisions of one generation: all values of a rung are reported before any decision.

    Trials are addressed by their index in the generation.
    """

    def __init__(self, trials: list[Trial], halving: bool):
        self._trials = trials
        self._halving = halving
        self._reached = [0] * len(trials)

    def report(self, index: int, epoch: int, value: float) -> None:
        """Report the value that a trial reached at a rung."""
        _check_finite(value)
        # Optuna's halving counts a report as one for every power of its factor below it: only as
        # such a power does each rung of ours stand for one of its.
        step = HALVING_FACTOR ** self._reached[index] if self._halving else epoch
        self._reached[index] += 1
        self._trials[index].report(value, step)

    def should_prune(self, index: int) -> bool:
        """Whether a trial should stop at the rung reported last."""
        return self._trials[index].should_prune()

    def attributes(self, index: int) -> dict[str, Any]:
        """What the pruner noted about a trial; it belongs to what is told."""
        trial = self._trials[index]
        return dict(trial.storage.get_trial(trial._trial_id).system_attrs)


def check_sampler_packages(search: Search) -> None:
    """Raise `BadInput` if the sampler lacks a package; Optuna would fail in mid-study."""
    needed = {"cma-es": ["cmaes"], "gp": ["torch", "scipy"]}.get(search.sampler, [])
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        raise BadInput(
            f"search.sampler: {search.sampler} needs the package {' and '.join(missing)}; "
            f"run 'pip install {' '.join(missing)}' or choose tpe"
        )


def _check_finite(*values: float) -> None:
    """Optuna would store an infinite value as that of a complete trial."""
    if not all(map(math.isfinite, values)):
        raise ValueError(f"a trial's values must be finite, got {values}")


def _distribution(space: Space) -> BaseDistribution:
    if isinstance(space, Choices):
        return CategoricalDistribution(list(range(len(space.choices))))
    log = space.scale == "log"
    if space.integer:
        return IntDistribution(int(space.low), int(space.high), log=log)
    return FloatDistribution(space.low, space.high, log=log)


def _pruner(search: Search) -> optuna.pruners.BasePruner:
    if search.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=search.generation)
    if search.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=1, reduction_factor=HALVING_FACTOR
        )
    return optuna.pruners.NopPruner()
