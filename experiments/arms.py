"""The arms of a study: complete configurations, made out of a study file's sections."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from losslab.errors import BadInput
from losslab.experiments.folder import slug
from losslab.experiments.resolving import Resolver
from losslab.experiments.schema import ARM_SECTIONS, Search, StudyFile
from losslab.experiments.spaces import Space, Value, merged, set_path
from losslab.experiments.tasks import TASKS


@dataclass(frozen=True)
class Arm:
    """One thing that is compared: a complete configuration with search spaces at some places.

    `config` has the sections dataset, model, training, loss and, in detection, detector, with the
    default of each space at its place; `spaces` and `defaults` are keyed by dotted path, such as
    "training.learning_rate".
    `search` is what it may spend on tuning. Where a study has levels, an arm of its file stands
    once at each: `of` is its name there, `level` that of the level; `name` has both. `task` is the
    kind of its dataset's task. `implicit` arms are not in the file.
    """

    name: str
    config: dict[str, Any]
    spaces: dict[str, Space]
    search: Search
    of: str
    task: str
    level: str | None = None
    implicit: bool = False

    @property
    def slug(self) -> str:
        """The arm's name as a file name: unchanged if harmless, else shortened with a hash."""
        return slug(self.name)

    @property
    def defaults(self) -> dict[str, Value]:
        """The untuned value of everything that is searched."""
        return {path: space.start() for path, space in self.spaces.items()}

    @property
    def tuning(self) -> int:
        """How many trainings one search takes at most, the re-trainings of selection included."""
        return self.search.trials if self.spaces else 1 + self.search.select.seeds

    @property
    def last_change(self) -> float:
        """The fraction of a training after which no trial's loss changes by schedule any more."""
        loss = TASKS[self.task].losses.get(self.config["loss"]["name"])
        told = getattr(loss, "last_change", None)
        if told is None:
            return 0.0
        ends = {
            path.removeprefix("loss."): space.samples()
            for path, space in self.spaces.items()
            if path.startswith("loss.")
        }
        fixed = {key: value for key, value in self.config["loss"].items() if key not in ends}
        corners = itertools.islice(itertools.product(*ends.values()), 1024)
        return max(told({**fixed, **dict(zip(ends, values, strict=True))}) for values in corners)

    def configure(self, params: Mapping[str, Value]) -> dict[str, Any]:
        """The configuration with searched values in place."""
        # Deep: a searched path may lead into a nested option, which arms must not share.
        config = copy.deepcopy({section: self.config[section] for section in self.config})
        for path, value in params.items():
            set_path(config, path, value)
        return config


def check_shared_sections(file: StudyFile, resolver: Resolver) -> None:
    """Check the file's own sections even where every arm replaces them."""
    if not file.dataset and file.arms and all("dataset" in over for over in file.arms.values()):
        return
    base = {section: getattr(file, section) for section in ARM_SECTIONS}
    resolver.arm(base, {section: section for section in ARM_SECTIONS})


def make_arm(name: str, over: Mapping[str, Any], file: StudyFile, resolver: Resolver) -> Arm:
    """One arm of a file: what it says laid over the file's own sections, resolved and checked."""
    base = {section: getattr(file, section) for section in ARM_SECTIONS}
    problems = resolver.problems
    for key in sorted(set(over) - set(ARM_SECTIONS)):
        problems.append(
            f"arms.{name}.{key}: an arm can change {', '.join(ARM_SECTIONS)}; {key!r} is either "
            f"unknown or shared by all arms"
        )
    for section in ARM_SECTIONS:
        if section in over and not isinstance(over[section], Mapping):
            problems.append(f"arms.{name}.{section}: must be a mapping, got {over[section]!r}")
            over = {key: value for key, value in over.items() if key != section}
    sections = merged(base, {key: over[key] for key in ARM_SECTIONS if key in over})
    where = {
        section: f"arms.{name}.{section}" if section in over else section
        for section in ARM_SECTIONS
    }
    config, spaces, task = resolver.arm(sections, where)
    return Arm(name, config, spaces, file.search, of=name, task=task)


def standing_baseline(file: StudyFile, arms: dict[str, Arm], resolver: Resolver) -> str:
    """The arm of the task's plain loss and otherwise as the file says; added if there is none.

    An added arm has a search and a budget of its own, like the others.
    """
    if not file.dataset:
        return _plain_arm(arms)
    loss = next((TASKS[arm.task].plain_loss for arm in arms.values() if arm.task in TASKS), "ce")
    taken = {arm.casefold() for arm in arms}
    names = (loss, *(f"{loss} (baseline{number})" for number in ("", *range(2, len(arms) + 2))))
    name = next(name for name in names if name not in taken)
    plain = make_arm(name, {"loss": {"name": loss}}, file, resolver)
    if resolver.problems:
        raise BadInput(list(dict.fromkeys(resolver.problems)))
    for arm in arms.values():
        if (arm.config, arm.spaces) == (plain.config, plain.spaces):
            return arm.name
    arms[name] = replace(plain, implicit=True)
    return name


def _plain_arm(arms: Mapping[str, Arm]) -> str:
    """The first arm of plain cross-entropy, where every arm brings its own dataset."""
    for arm in arms.values():
        if arm.config["loss"]["name"] == TASKS[arm.task].plain_loss:
            return arm.name
    raise BadInput(
        "arms: plain cross-entropy is the standing baseline of every study; add an arm `ce`, or a "
        "`dataset` at the top of the file, with which one is added"
    )
