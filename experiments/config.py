"""From a study file to a study: every arm resolved, every mistake told at once.

>>> study = load_study({"study": "demo", "dataset": "clusters", "arms": ["ce", "focal"]})
>>> sorted(study.arms["focal"].spaces)
['loss.alpha', 'loss.gamma', 'training.learning_rate', 'training.weight_decay']
>>> study.arms["focal"].defaults["loss.gamma"]
2.0
"""

import copy
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from losslab.errors import BadInput
from losslab.experiments.consistency import (
    check_names,
    check_rungs,
    check_sampler,
    direction_told,
    slug,
)
from losslab.experiments.options import booleans_as_numbers, problems_of
from losslab.experiments.reading import apply_overrides, find_study, normalise, read_yaml
from losslab.experiments.resolving import Resolver
from losslab.experiments.schema import (
    ARM_SECTIONS,
    Confirm,
    Metrics,
    Search,
    StudyFile,
    megabytes_of,
)
from losslab.experiments.spaces import Space, Value, leaves, merged, set_path
from losslab.losses import LOSSES


@dataclass(frozen=True)
class Arm:
    """One thing that is compared: a complete configuration with search spaces at some places.

    `config` has the sections dataset, model, training and loss, with the default of each space at
    its place; `spaces` and `defaults` are keyed by dotted path, such as "training.learning_rate".
    """

    name: str
    config: dict[str, Any]
    spaces: dict[str, Space]
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
    def last_change(self) -> float:
        """The fraction of a training after which no trial's loss changes by schedule any more."""
        loss = LOSSES.get(self.config["loss"]["name"])
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
        config = copy.deepcopy({section: self.config[section] for section in ARM_SECTIONS})
        for path, value in params.items():
            set_path(config, path, value)
        return config


@dataclass(frozen=True)
class Study:
    """A study, checked. `resolved` is the whole file with nothing left to defaults.

    `baseline` is the arm that others are compared with, `standing` that of plain cross-entropy,
    which is also judged with the class prior taken off its logits; mostly they are the same.
    `memory` is what a stack of trainings may take, in megabytes.
    """

    name: str
    question: str
    seed: int
    device: str
    engine: str
    memory: float
    baseline: str
    standing: str
    arms: dict[str, Arm]
    search: Search
    confirm: Confirm
    metrics: Metrics
    direction: str
    resolved: dict[str, Any] = field(repr=False)

    @property
    def rungs(self) -> list[int]:
        """The epochs at which trials may be pruned, ascending, all below the last epoch."""
        epochs = min(arm.config["training"]["epochs"] for arm in self.arms.values())
        if self.search.pruner == "none":
            return []
        rungs = self.search.rungs
        if rungs is None:
            rungs = sorted({epochs // 4, epochs // 2} - {0})
        return [rung for rung in rungs if rung < epochs]

    def rungs_of(self, arm: Arm) -> list[int]:
        """The rungs of one arm: none lies before its loss's last scheduled change.

        Before it, a trial is not yet trained with the loss that it will be judged by.
        """
        epochs = arm.config["training"]["epochs"]
        return [rung for rung in self.rungs if arm.last_change * epochs <= rung < epochs]


def load_study(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    folder: Path | None = None,
) -> Study:
    """Read and check a study: a shipped name, a path, or a mapping in the file's form.

    `overrides` are `path=value` texts. Relative data paths are looked up beside the study file
    (`folder` for a mapping), then in the working directory. Raises `BadInput` listing every
    mistake with its path inside the file.
    """
    if isinstance(source, Mapping):
        content, stem = normalise(source), "study"
    else:
        path = find_study(source)
        content, stem, folder = normalise(read_yaml(path)), path.stem, path.resolve().parent
    _make_importable(folder or Path.cwd(), Path.cwd())
    apply_overrides(content, overrides)
    content = normalise(content)
    problems: list[str] = []
    file = _validated(content, problems)
    name = file.study or stem
    check_names(name, file, problems)
    resolver = Resolver(file.seed, folder or Path.cwd(), problems)
    _check_shared_sections(file, resolver)
    arms = {name: _arm(name, over, file, resolver) for name, over in file.arms.items()}
    direction = direction_told(file, problems)
    check_rungs(file, arms, problems)
    check_sampler(file, arms, problems)
    if file.baseline is not None and file.baseline not in arms:
        problems.append(f"baseline: no arm is called {file.baseline!r} (arms: {', '.join(arms)})")
    if problems:
        raise BadInput(list(dict.fromkeys(problems)))
    standing = _standing_baseline(file, arms, resolver)
    baseline = file.baseline or standing
    return Study(
        name=name,
        question=file.question,
        seed=file.seed,
        device=file.device,
        engine=file.engine,
        memory=megabytes_of(file.memory),
        baseline=baseline,
        standing=standing,
        arms=arms,
        search=file.search,
        confirm=file.confirm,
        metrics=file.metrics,
        direction=direction,
        resolved=_resolved(file, name, baseline, direction, arms),
    )


def _make_importable(*folders: Path) -> None:
    """Let a study name a loss in a module beside its file, or in the working folder.

    They come last, so that a file called `datasets.py` there hides no installed package.
    """
    sys.path.extend(str(folder) for folder in folders if str(folder) not in sys.path)


def _validated(content: dict[str, Any], problems: list[str]) -> StudyFile:
    """The file's sections; one with mistakes is replaced by defaults so that checking goes on."""
    try:
        file = StudyFile.model_validate(content)
        problems.extend(booleans_as_numbers(content, file.model_dump(), ""))
        return file
    except ValidationError as error:
        problems.extend(problems_of(error, "", StudyFile))
        broken = {item["loc"][0] for item in error.errors() if item["loc"]}
        rest = {key: value for key, value in content.items() if key not in broken}
        arms = content.get("arms")
        if "arms" in broken and isinstance(arms, dict) and arms:
            rest["arms"] = {name: arm for name, arm in arms.items() if isinstance(arm, dict)}
        missing: dict[str, Any] = {"dataset": {}, "arms": {}}
        try:
            return StudyFile.model_validate({**missing, **rest})
        except ValidationError:
            rest["arms"] = {"ce": {}}
            return StudyFile.model_validate({**missing, **rest})


def _check_shared_sections(file: StudyFile, resolver: Resolver) -> None:
    """Check the file's own sections even where every arm replaces them."""
    if not file.dataset and file.arms and all("dataset" in over for over in file.arms.values()):
        return
    base = {section: getattr(file, section) for section in ARM_SECTIONS}
    resolver.arm(base, {section: section for section in ARM_SECTIONS})


def _arm(name: str, over: Mapping[str, Any], file: StudyFile, resolver: Resolver) -> Arm:
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
    config, spaces = resolver.arm(sections, where)
    return Arm(name, config, spaces)


def _standing_baseline(file: StudyFile, arms: dict[str, Arm], resolver: Resolver) -> str:
    """The arm that is plain cross-entropy and otherwise as the file says; added if there is none.

    An added arm has a search and a budget of its own, like the others.
    """
    if not file.dataset:
        return _plain_arm(arms)
    taken = {arm.casefold() for arm in arms}
    names = ("ce", *(f"ce (baseline{number})" for number in ("", *range(2, len(arms) + 2))))
    name = next(name for name in names if name not in taken)
    plain = _arm(name, {"loss": {"name": "ce"}}, file, resolver)
    if resolver.problems:
        raise BadInput(list(dict.fromkeys(resolver.problems)))
    for arm in arms.values():
        if (arm.config, arm.spaces) == (plain.config, plain.spaces):
            return arm.name
    arms[name] = Arm(plain.name, plain.config, plain.spaces, implicit=True)
    return name


def _plain_arm(arms: Mapping[str, Arm]) -> str:
    """The first arm of plain cross-entropy, where every arm brings its own dataset."""
    for arm in arms.values():
        if arm.config["loss"]["name"] == "ce":
            return arm.name
    raise BadInput(
        "arms: plain cross-entropy is the standing baseline of every study; add an arm `ce`, or a "
        "`dataset` at the top of the file, with which one is added"
    )


def _resolved(
    file: StudyFile, name: str, baseline: str, direction: str, arms: Mapping[str, Arm]
) -> dict[str, Any]:
    def written(arm: Arm) -> dict[str, Any]:
        config = arm.configure({})
        for path, space in arm.spaces.items():
            set_path(config, path, space.model_dump())
        return config

    return {
        "study": name,
        "question": file.question,
        "seed": file.seed,
        "device": file.device,
        "engine": file.engine,
        "memory": file.memory,
        "baseline": baseline,
        "search": file.search.model_dump(),
        "confirm": file.confirm.model_dump(),
        "metrics": {**file.metrics.model_dump(), "direction": direction},
        "arms": {arm.name: written(arm) for arm in arms.values()},
    }


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What a study file changes that a started study cannot follow, one line a key.

    Adding arms, trials or confirmation seeds continues a study, and so does rewording its
    question; everything else would mix runs that do not belong together.

    >>> changed_keys({"seed": 0, "search": {"trials": 8}}, {"seed": 1, "search": {"trials": 16}})
    ['seed: 0 -> 1']
    """
    old_arms, new_arms = old.get("arms", {}), new.get("arms", {})
    lines = [f"arms.{arm}: was removed" for arm in old_arms if arm not in new_arms]
    both = [arm for arm in old_arms if arm in new_arms]
    before, after = _flat(old, both), _flat(new, both)
    for path in dict.fromkeys([*before, *after]):
        was, now = before.get(path), after.get(path)
        grown = path in ("search.trials", "confirm.seeds") and now is not None and now >= was
        # A table may lie elsewhere than when the study began: its content hash is compared.
        moved = path.endswith("dataset.path")
        # How much memory a stack may take changes what is stacked from now on, and no result.
        if was != now and not (grown or moved or path in ("question", "memory")):
            lines.append(f"{path}: {_shown(was)} -> {_shown(now)}")
    return lines


def _flat(resolved: Mapping[str, Any], arms: Sequence[str]) -> dict[str, Any]:
    flat = dict(leaves({key: value for key, value in resolved.items() if key != "arms"}))
    for arm in arms:
        flat |= leaves(resolved["arms"][arm], f"arms.{arm}.")
    return flat


def _shown(value: Any) -> str:
    return "(absent)" if value is None else str(value)
