"""From a study file to a study: every arm resolved, every mistake told at once.

>>> study = load_study({"study": "demo", "dataset": "clusters", "arms": ["ce", "focal"]})
>>> sorted(study.arms["focal"].spaces)
['loss.alpha', 'loss.gamma', 'training.learning_rate', 'training.weight_decay']
>>> study.arms["focal"].defaults["loss.gamma"]
2.0
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from losslab.errors import BadInput
from losslab.experiments.decisions import check_decision_metric
from losslab.experiments.metrics import direction_of, metric
from losslab.experiments.options import problems_of
from losslab.experiments.reading import apply_overrides, find_study, normalise, read_yaml
from losslab.experiments.resolving import Resolver
from losslab.experiments.schema import ARM_SECTIONS, Confirm, Metrics, Search, StudyFile
from losslab.experiments.spaces import Space, Value, leaves, merged, set_path
from losslab.randomness import stable_hash


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
        slug = re.sub(r"[^A-Za-z0-9_=.-]+", "-", self.name).strip("-.")[:60]
        return slug if slug == self.name else f"{slug}-{stable_hash(self.name) % 16**8:08x}"

    @property
    def defaults(self) -> dict[str, Value]:
        """The untuned value of everything that is searched."""
        return {path: space.start() for path, space in self.spaces.items()}

    def configure(self, params: Mapping[str, Value]) -> dict[str, Any]:
        """The configuration with searched values in place."""
        config = {section: dict(self.config[section]) for section in ARM_SECTIONS}
        for path, value in params.items():
            set_path(config, path, value)
        return config


@dataclass(frozen=True)
class Study:
    """A study, checked. `resolved` is the whole file with nothing left to defaults."""

    name: str
    question: str
    seed: int
    device: str
    baseline: str
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
    apply_overrides(content, overrides)
    content = normalise(content)
    problems: list[str] = []
    file = _validated(content, problems)
    resolver = Resolver(file.seed, folder or Path.cwd(), problems)
    _check_shared_sections(file, resolver)
    arms = {name: _arm(name, over, file, resolver) for name, over in file.arms.items()}
    direction = _direction(file, problems)
    _check_rungs(file, arms, problems)
    if file.baseline is not None and file.baseline not in arms:
        problems.append(f"baseline: no arm is called {file.baseline!r} (arms: {', '.join(arms)})")
    if problems:
        raise BadInput(list(dict.fromkeys(problems)))
    baseline = file.baseline or _find_baseline(file) or _add_baseline(file, arms, resolver)
    name = file.study or stem
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise BadInput(f"study: {name!r} names a folder; use letters, digits, '_', '.' and '-'")
    return Study(
        name=name,
        question=file.question,
        seed=file.seed,
        device=file.device,
        baseline=baseline,
        arms=arms,
        search=file.search,
        confirm=file.confirm,
        metrics=file.metrics,
        direction=direction,
        resolved=_resolved(file, name, baseline, direction, arms),
    )


def _validated(content: dict[str, Any], problems: list[str]) -> StudyFile:
    """The file's sections; one with mistakes is replaced by defaults so that checking goes on."""
    try:
        return StudyFile.model_validate(content)
    except ValidationError as error:
        problems.extend(problems_of(error, "", StudyFile))
        broken = {item["loc"][0] for item in error.errors() if item["loc"]}
        rest = {key: value for key, value in content.items() if key not in broken}
        arms = content.get("arms")
        if "arms" in broken and isinstance(arms, dict):
            rest["arms"] = {name: arm for name, arm in arms.items() if isinstance(arm, dict)}
        missing: dict[str, Any] = {"dataset": {}, "arms": {}}
        try:
            return StudyFile.model_validate({**missing, **rest})
        except ValidationError:
            rest["arms"] = {"ce": {}}
            return StudyFile.model_validate({**missing, **rest})


def _check_shared_sections(file: StudyFile, resolver: Resolver) -> None:
    """Check the file's own sections even where every arm replaces them."""
    base = {section: getattr(file, section) for section in ARM_SECTIONS}
    for section in ("dataset", "training"):
        resolver.section(section, base[section], section)


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


def _find_baseline(file: StudyFile) -> str | None:
    """The first arm that is plain cross-entropy and otherwise as the file says."""
    for name, over in file.arms.items():
        loss = merged({"loss": file.loss}, over)["loss"]
        if set(over) <= {"loss"} and loss == {"name": "ce"}:
            return name
    return None


def _add_baseline(file: StudyFile, arms: dict[str, Arm], resolver: Resolver) -> str:
    """The standing baseline as an arm of its own, with the same budget as the others."""
    name = "ce" if "ce" not in arms else "ce (baseline)"
    arm = _arm(name, {"loss": {"name": "ce"}}, file, resolver)
    if resolver.problems:
        raise BadInput(list(dict.fromkeys(resolver.problems)))
    arms[name] = Arm(arm.name, arm.config, arm.spaces, implicit=True)
    return name


def _direction(file: StudyFile, problems: list[str]) -> str:
    metrics = file.metrics
    for name in metrics.extra:
        try:
            metric(name)
        except BadInput as error:
            problems.append(f"metrics.extra: {error}")
    try:
        check_decision_metric(metrics.decision)
    except BadInput as error:
        problems.append(f"metrics.decision: {error}")
    try:
        known = direction_of(metrics.primary)
    except BadInput as error:
        problems.append(f"metrics.primary: {error}")
        return "maximize"
    if known is None and metrics.direction is None:
        problems.append(
            f"metrics.direction: say maximize or minimize for the metric {metrics.primary!r}"
        )
    return metrics.direction or known or "maximize"


def _check_rungs(file: StudyFile, arms: Mapping[str, Arm], problems: list[str]) -> None:
    rungs = file.search.rungs
    if rungs is not None and (rungs != sorted(set(rungs)) or any(rung < 1 for rung in rungs)):
        problems.append(f"search.rungs: must be ascending epochs from 1 on, got {rungs}")
    epochs = {arm.config["training"].get("epochs") for arm in arms.values()}
    if rungs and any(isinstance(e, int) and rungs[-1] >= e for e in epochs):
        problems.append(
            f"search.rungs: must all lie before the last epoch ({min(epochs)}), got {rungs}"
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
    before, after = dict(leaves(old)), dict(leaves(new))
    added_arms = set(new.get("arms", {})) - set(old.get("arms", {}))
    lines = []
    for path in dict.fromkeys([*before, *after]):
        was, now = before.get(path), after.get(path)
        grown = path in ("search.trials", "confirm.seeds") and now is not None and now >= was
        added = any(path.startswith(f"arms.{arm}.") for arm in added_arms)
        # A table may lie elsewhere than when the study began: its content hash is compared.
        moved = path.endswith("dataset.path")
        if was != now and not (grown or added or moved or path == "question"):
            lines.append(f"{path}: {_shown(was)} -> {_shown(now)}")
    return lines


def _shown(value: Any) -> str:
    return "(absent)" if value is None else str(value)
