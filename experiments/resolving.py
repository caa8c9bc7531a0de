"""Resolving the sections of an arm: names looked up, options checked, search spaces cut out."""

import copy
import inspect
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from losslab.datasets import DATASETS
from losslab.errors import BadInput, LosslabError
from losslab.experiments.data import dataset_for
from losslab.experiments.models import MODELS
from losslab.experiments.options import checked, options_model, path_options, problems_of
from losslab.experiments.resolving_detection import box_loss_problems, detection_loss_problems
from losslab.experiments.schema import FIXED, Detector, Training
from losslab.experiments.spaces import (
    Choices,
    Range,
    Space,
    declared_range,
    leaves,
    looks_like_space,
    parse_space,
    set_path,
)
from losslab.experiments.tasks import TASKS, Detection, Task
from losslab.hyperparameters import Hyperparameter
from losslab.losses import LOSSES
from losslab.registry import nearest

# Searched in every arm unless the study fixes them. Wide, and the same for every arm.
SEARCHED_TRAINING = {
    "adamw": {
        "learning_rate": Range(low=1e-5, high=1e-1, scale="log", default=1e-3),
        "weight_decay": Range(low=1e-6, high=1e-1, scale="log", default=1e-4),
    },
    "sgd": {
        "learning_rate": Range(low=1e-4, high=1.0, scale="log", default=1e-2),
        "weight_decay": Range(low=1e-6, high=1e-2, scale="log", default=1e-4),
    },
}
LOSS_KEYS = ("name", "link", "reduction", "class_weights")
RUNNER_GIVES = ("study_seed", "input_shape", "outputs", "class_counts")


class Resolver:
    """Resolves arms of one study, collecting every mistake in `problems`."""

    def __init__(self, study_seed: int, folder: Path, problems: list[str]):
        self.study_seed = study_seed
        self.folder = folder
        self.problems = problems

    def arm(
        self, sections: Mapping[str, dict[str, Any]], where: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, Space]]:
        """One arm's complete configuration and its search spaces by dotted path."""
        config: dict[str, Any] = {}
        spaces: dict[str, Space] = {}
        for section in ("dataset", "model", "training"):
            config[section], found = self.section(section, sections[section], where[section])
            spaces.update({f"{section}.{path}": space for path, space in found.items()})
        task = self._task(config["dataset"], where["dataset"])
        if isinstance(task, Detection):
            config["detector"], found = self.section(
                "detector", sections["detector"], where["detector"]
            )
            spaces.update({f"detector.{path}": space for path, space in found.items()})
        elif task and sections["detector"]:
            self.problems.append(
                f"{where['detector']}: belongs to object detection; this dataset's task is "
                f"{task.kind}"
            )
        config["loss"], found = self._loss(sections["loss"], where["loss"], task)
        spaces.update({f"loss.{path}": space for path, space in found.items()})
        self._check_head(config, where)
        return config, dict(sorted(spaces.items()))

    def _check_head(self, config: Mapping[str, Any], where: Mapping[str, str]) -> None:
        """A loss of cosines needs a last layer that gives them."""
        try:
            wanted = getattr(LOSSES.get(config["loss"].get("name", "")), "head", "linear")
        except LosslabError:
            return  # told already
        model = config["model"]
        if wanted != "linear" and model.get("head", "linear") != wanted:
            self.problems.append(
                f"{where['loss']}.name: {config['loss']['name']} takes the cosines of a normalised "
                f"last layer; give this arm a model with `head: {wanted}` (mlp and cnn have it; "
                f"got {model.get('name')} with head {model.get('head', 'linear')})"
            )

    def section(
        self, section: str, given: Mapping[str, Any], where: str
    ) -> tuple[dict[str, Any], dict[str, Space]]:
        """One section with defaults filled in, and its search spaces."""
        values, spaces = self._cut_spaces(given, where)
        if section == "training":
            return self._training(values, spaces, where)
        if section == "detector":
            self.problems += box_loss_problems(values.get("box_loss"), where)
            return self._checked(Detector, values, spaces, where), spaces
        if section == "dataset":
            for path in spaces:
                self.problems.append(f"{where}.{path}: a dataset's options cannot be searched")
            return self._named(DATASETS, values, {}, where, ()), {}
        return self._named(MODELS, values, spaces, where, ("prior_init",)), spaces

    def _cut_spaces(
        self, given: Mapping[str, Any], where: str, usual: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Space]]:
        """The section with each space's default in its place, and the spaces."""
        values: dict[str, Any] = {}
        spaces: dict[str, Space] = {}
        for path, value in leaves(given):
            if looks_like_space(value):
                try:
                    spaces[path] = parse_space(value, (usual or {}).get(path))
                    value = spaces[path].start()
                except ValidationError as error:
                    kind = Choices if "choices" in value else Range
                    self.problems.extend(problems_of(error, f"{where}.{path}", kind))
                    continue
            set_path(values, path, value)
        return values, spaces

    def _training(
        self, values: dict[str, Any], spaces: dict[str, Space], where: str
    ) -> tuple[dict[str, Any], dict[str, Space]]:
        usual = SEARCHED_TRAINING.get(str(values.get("optimizer", "adamw")), {})
        for name, space in usual.items():
            if name not in values and not any(
                p.startswith(f"{where}.{name}") for p in self.problems
            ):
                spaces[name] = space
                values[name] = space.start()
        for name in FIXED:
            if spaces.pop(name, None):
                self.problems.append(
                    f"{where}.{name}: cannot be searched: budgets are equal in epochs, and one "
                    f"rule judges every run"
                )
        return self._checked(Training, values, spaces, where), spaces

    def _named(
        self,
        registry: Any,
        values: dict[str, Any],
        spaces: Mapping[str, Space],
        where: str,
        reserved: tuple[str, ...],
    ) -> dict[str, Any]:
        """A section that names a registered thing and gives its options."""
        name = values.get("name")
        if not isinstance(name, str):
            self._no_name(registry, values, where)
            return dict(values)
        try:
            build = registry.get(name)
        except LosslabError as error:
            self.problems.append(f"{where}.name: {error}")
            return dict(values)
        kept = {key: values[key] for key in reserved if key in values}
        if "prior_init" in kept:
            self._check_prior_init(kept["prior_init"], spaces.get("prior_init"), where)
        given = {key: value for key, value in values.items() if key not in ("name", *reserved)}
        self._locate(given, path_options(build))
        own = {path: space for path, space in spaces.items() if path not in ("name", *reserved)}
        if "name" in spaces:
            self.problems.append(f"{where}.name: cannot be searched; make an arm of each")
        options = self._checked(options_model(build, RUNNER_GIVES), given, own, where)
        return {"name": name, **dict.fromkeys(reserved, False), **kept, **options}

    def _no_name(self, registry: Any, values: Mapping[str, Any], where: str) -> None:
        if any(line.startswith(f"{where}: ") for line in self.problems):
            return  # the section itself is not a mapping
        given = values.get("name")
        wrong = "is required and missing" if given is None else f"must be a name, got {given!r}"
        self.problems.append(f"{where}.name: {wrong} (known: {', '.join(registry.names())})")

    def _check_prior_init(self, value: Any, space: Space | None, where: str) -> None:
        for prior in space.samples() if space else [value]:
            if isinstance(prior, bool) or (isinstance(prior, int | float) and 0 < prior < 1):
                continue
            self.problems.append(
                f"{where}.prior_init: must be on, off, or a probability between 0 and 1, "
                f"got {prior!r}"
            )

    def _locate(self, options: dict[str, Any], paths: Collection[str]) -> None:
        """A relative data path means one beside the study file, else one in the working folder."""
        for name in paths:
            if not isinstance(given := options.get(name), str):
                continue
            path = Path(given).expanduser()
            beside = self.folder / path
            options[name] = os.path.abspath(beside if beside.exists() else path)

    def _checked(
        self, model: Any, values: Mapping[str, Any], spaces: Mapping[str, Space], where: str
    ) -> dict[str, Any]:
        """Options checked; where one is searched, both ends of its range, or all its choices."""
        found: list[str] = []
        options = checked(model, values, where, found)
        searched = tuple(f"{where}.{path}" for path in spaces)
        self.problems.extend(line for line in found if not line.startswith(searched))
        for path, space in spaces.items():
            self._check_samples(model, values, path, space, where)
        return options

    def _check_samples(
        self, model: Any, values: Mapping[str, Any], path: str, space: Space, where: str
    ) -> None:
        samples = space.samples()
        fractional = isinstance(space, Range) and not space.integer
        if fractional:
            samples.append(_fraction_between(*samples))
        for sample in samples:
            trial = copy.deepcopy(dict(values))
            set_path(trial, path, sample)
            found: list[str] = []
            checked(model, trial, where, found)
            found = [line for line in found if line.startswith(f"{where}.{path}")]
            if found and fractional and "fraction" in found[0]:
                found = [f"{where}.{path}: takes whole numbers; add `integer: true` to its range"]
            if found:
                self.problems.extend(found)
                return

    def _task(self, dataset: Mapping[str, Any], where: str) -> Task | None:
        """The task of a dataset, which has to be built for it; None if it has mistakes."""
        if any(line.startswith((where, "dataset")) for line in self.problems):
            return None
        try:
            built = dataset_for(dataset, self.study_seed)
        except BadInput as error:
            self.problems.extend(f"{where}.{problem}" for problem in error.problems)
            return None
        return TASKS[built.task](built.num_classes)

    def _loss(
        self, given: Mapping[str, Any], where: str, task: Task | None
    ) -> tuple[dict[str, Any], dict[str, Space]]:
        name = given.get("name")
        if not isinstance(name, str):
            self._no_name(LOSSES, given, where)
            return dict(given), {}
        try:
            loss = LOSSES.get(name)
        except LosslabError as error:
            self.problems.append(f"{where}.name: {error}")
            return dict(given), {}
        default_link = _usual_link(loss, task.default_link if task else "sigmoid")
        link = given.get("link", default_link)
        if link == "identity" and "link" not in given:
            self.problems.append(
                f"{where}.name: {name} compares predictions with numbers (boxes, regression); "
                f"a study's arms need a loss of classes"
            )
            return dict(given), {}
        if link not in ("sigmoid", "softmax"):
            self.problems.append(f"{where}.link: must be sigmoid or softmax, got {link!r}")
            return dict(given), {}
        if not hasattr(loss, "declared"):
            return self._foreign_loss(loss, {**given, "link": link}, where)
        if link not in loss.links:
            # Only a link that the user can see is worth a message: without a task it is a guess.
            if task or "link" in given:
                self.problems.append(f"{where}.link: {name} exists for {' and '.join(loss.links)}")
            return dict(given), {}
        declared: dict[str, Hyperparameter] = loss.declared(link)
        if task is None and "link" not in given:
            declared = {n: h for known in loss.links for n, h in loss.declared(known).items()}
        if isinstance(task, Detection):
            self.problems += detection_loss_problems(given, link, where)
        structural = _structural(loss, declared)
        usual = {key: entry.default for key, entry in declared.items()}
        values, spaces = self._cut_spaces(given, where, usual)
        config = {"name": name, "link": link, "reduction": values.get("reduction", "default")}
        for key, value in values.items():
            if key in declared:
                samples: list[Any] = spaces[key].samples() if key in spaces else [value]
                for sample in samples:
                    if wrong := declared[key].problem(sample):
                        self.problems.append(f"{where}.{key}: {wrong}")
            elif key not in LOSS_KEYS and key not in structural:
                self._unknown_key(where, key, link, declared, structural)
            config[key] = value
        for key in declared:
            if key not in values:
                spaces[key] = declared_range(declared[key])
                config[key] = spaces[key].start()
        return config, spaces

    def _unknown_key(
        self, where: str, key: str, link: str, declared: Mapping[str, Any], structural: list[str]
    ) -> None:
        known = [*declared, *structural, *LOSS_KEYS]
        hint = nearest(key, known) or f" (known keys under {link}: {', '.join(known)})"
        self.problems.append(f"{where}.{key}: unknown key{hint}")

    def _foreign_loss(
        self, loss: Any, given: Mapping[str, Any], where: str
    ) -> tuple[dict[str, Any], dict[str, Space]]:
        """Any importable nn.Module: what the study gives it is checked against its signature."""
        values, spaces = self._cut_spaces(given, where)
        options = {key: value for key, value in values.items() if key not in ("name", "link")}
        if not inspect.isclass(loss) and not options:
            self.problems.append(
                f"{where}.name: {given['name']} is a {type(loss).__name__}, not a class; name a "
                f"subclass of torch.nn.Module"
            )
            return values, spaces
        model = options_model(loss if inspect.isfunction(loss) else loss.__init__, RUNNER_GIVES)
        self._checked(model, options, spaces, where)
        return values, spaces


def _fraction_between(low: Any, high: Any) -> float:
    """A number of a range that is not whole, such as a search may draw."""
    middle = low + (high - low) * 0.381966
    return middle if middle != int(middle) else low + (high - low) * 0.618034


def _usual_link(loss: Any, by_task: str) -> str:
    """The task's link where the loss has it, else the loss's own first one."""
    links = getattr(loss, "links", (by_task,))
    return by_task if by_task in links else links[0]


def _structural(loss: Any, declared: Mapping[str, Any]) -> list[str]:
    """Constructor arguments that are neither hyper-parameters nor filled in by the runner."""
    skipped = {"self", "ignore_index", *RUNNER_GIVES, *LOSS_KEYS, *declared}
    return [
        name
        for name, parameter in inspect.signature(loss.__init__).parameters.items()
        if name not in skipped and parameter.kind is not parameter.VAR_KEYWORD
    ]
