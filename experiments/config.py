"""From a study file to a study: every arm resolved, every mistake told at once.

>>> study = load_study({"study": "demo", "dataset": "clusters", "arms": ["ce", "focal"]})
>>> sorted(study.arms["focal"].spaces)
['loss.alpha', 'loss.gamma', 'training.learning_rate', 'training.weight_decay']
>>> study.arms["focal"].defaults["loss.gamma"]
2.0
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from losslab.errors import BadInput
from losslab.experiments.arms import Arm, check_shared_sections, make_arm, standing_baseline
from losslab.experiments.consistency import (
    check_contrasts,
    check_names,
    check_rungs,
    check_sampler,
    direction_told,
    metrics_for,
)
from losslab.experiments.levels import at_level, check_levels, labelled, levelled_name
from losslab.experiments.options import booleans_as_numbers, problems_of
from losslab.experiments.reading import (
    apply_overrides,
    find_study,
    normalise,
    read_yaml,
    shipped_studies,
)
from losslab.experiments.resolving import Resolver
from losslab.experiments.schema import (
    Confirm,
    Contrast,
    Levels,
    Metrics,
    Search,
    StudyFile,
    megabytes_of,
)
from losslab.experiments.spaces import set_path
from losslab.experiments.tasks import TASKS, Task


@dataclass(frozen=True)
class Study:
    """A study, checked. `resolved` is the whole file with nothing left to defaults.

    `baseline` is the arm that others are compared with, `standing` that of plain cross-entropy,
    which is also judged with the class prior taken off its logits; mostly they are the same. Where
    there are levels, both are of the first one. `memory` is what a stack of trainings may take, in
    megabytes. `written` is a study file that makes the same study.
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
    contrasts: list[Contrast]
    levels: Levels | None
    resolved: dict[str, Any] = field(repr=False)
    written: dict[str, Any] = field(repr=False)

    @property
    def plain_arms(self) -> list[str]:
        """The arms of plain cross-entropy, one at each level."""
        of = self.arms[self.standing].of
        return [name for name, arm in self.arms.items() if arm.of == of]

    @property
    def task(self) -> type[Task]:
        """The task of all its arms."""
        return TASKS[self.arms[self.baseline].task]

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
    check_contrasts(file, problems)
    resolver = Resolver(file.seed, folder or Path.cwd(), problems)
    direction = direction_told(file, problems)
    parts = [_arms(file, resolver)] if file.levels is None else _levels(content, file, resolver)
    if problems:
        raise BadInput([_with_remedy(line, source) for line in dict.fromkeys(problems)])
    arms = {arm.name: arm for part in parts for arm in part[0].values()}
    metrics = metrics_for(file, arms)
    _, baseline, standing = parts[0]
    resolved = _resolved(
        file, name, baseline, {**metrics.model_dump(), "direction": direction}, arms
    )
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
        metrics=metrics,
        direction=direction,
        contrasts=file.contrasts,
        levels=file.levels,
        resolved=resolved,
        # Resolved arms have their level in them, and a file of them would no longer say so.
        written={**content, "study": name} if file.levels else resolved,
    )


def _with_remedy(problem: str, source: str | Path | Mapping[str, Any]) -> str:
    """A problem; where it is a missing option of a dataset, with what to do about it."""
    path = problem.partition(":")[0]
    if path.partition(".")[0] != "dataset" or not problem.endswith(": is required and missing"):
        return problem
    told = f"{problem}; write it in the study file or give --set {path}=VALUE"
    shipped = None if isinstance(source, Mapping) else shipped_studies().get(str(source))
    return f"{told} (the head of {shipped} says where to get the data)" if shipped else told


def _arms(file: StudyFile, resolver: Resolver) -> tuple[dict[str, Arm], str, str]:
    """The arms of a file, its baseline and its arm of plain cross-entropy."""
    problems = resolver.problems
    check_shared_sections(file, resolver)
    arms = {name: make_arm(name, over, file, resolver) for name, over in file.arms.items()}
    check_rungs(file, arms, problems)
    check_sampler(file, arms, problems)
    if file.baseline is not None and file.baseline not in arms:
        problems.append(f"baseline: no arm is called {file.baseline!r} (arms: {', '.join(arms)})")
    if problems:
        return arms, "", ""
    standing = standing_baseline(file, arms, resolver)
    return arms, file.baseline or standing, standing


def _levels(
    content: Mapping[str, Any], file: StudyFile, resolver: Resolver
) -> list[tuple[dict[str, Arm], str, str]]:
    """The same at every level, arms called after it."""
    assert file.levels
    problems = resolver.problems
    check_levels(file.levels, file.arms, problems)
    parts = []
    for level, value in labelled(file.levels).items() if not problems else ():
        there = _validated(at_level(content, file.levels.path, value), problems)
        arms, *known = _arms(there, resolver)
        arms = {
            name: replace(arm, name=levelled_name(arm.name, level), level=level)
            for name, arm in arms.items()
        }
        check_names(
            "levels",
            file.model_copy(update={"arms": {a.name: {} for a in arms.values()}}),
            problems,
        )
        baseline, standing = (levelled_name(arm, level) for arm in known)
        parts.append((arms, baseline, standing))
    return parts


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


def _resolved(
    file: StudyFile, name: str, baseline: str, metrics: dict[str, Any], arms: Mapping[str, Arm]
) -> dict[str, Any]:
    def written(arm: Arm) -> dict[str, Any]:
        config = arm.configure({})
        for path, space in arm.spaces.items():
            set_path(config, path, space.model_dump())
        own = {"search": {"trials": arm.search.trials}} if arm.search != file.search else {}
        return {**config, **own}

    # Left out where there are none, as in studies from before there were any.
    contrasts = {"contrasts": [each.model_dump() for each in file.contrasts]}
    return {
        "study": name,
        "question": file.question,
        **(contrasts if file.contrasts else {}),
        "seed": file.seed,
        "device": file.device,
        "engine": file.engine,
        "memory": file.memory,
        "baseline": baseline,
        "search": file.search.model_dump(),
        "confirm": file.confirm.model_dump(),
        "metrics": metrics,
        "arms": {arm.name: written(arm) for arm in arms.values()},
    }
