"""Resolving the arms of a study: complete configurations and search spaces, section by section."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from losslab.datasets import DATASETS
from losslab.errors import BadInput, LosslabError
from losslab.experiments.data import dataset_for
from losslab.experiments.detection.balance import BALANCES
from losslab.experiments.models import MODELS
from losslab.experiments.recorders import RECORDERS
from losslab.experiments.resolving_detection import box_loss_problems
from losslab.experiments.resolving_losses import Losses
from losslab.experiments.resolving_settings import spaces_of
from losslab.experiments.schema import FIXED, Detector, Training
from losslab.experiments.spaces import (
    Range,
    Space,
)
from losslab.experiments.tasks import TASKS, Detection, Task
from losslab.losses import LOSSES

# Searched in every arm unless the study fixes them. Wide, and the same for every arm.
SEARCHED_TRAINING = {
    "adamw": {
        "learning_rate": Range(low=1e-5, high=1e-1, scale="log", default=1e-3),
        "weight_decay": Range(low=1e-6, high=1e-1, scale="log", default=1e-4),
    },
    "adam": {
        "learning_rate": Range(low=1e-5, high=1e-1, scale="log", default=1e-3),
        "weight_decay": Range(low=1e-6, high=1e-1, scale="log", default=1e-4),
    },
    "sgd": {
        "learning_rate": Range(low=1e-4, high=1.0, scale="log", default=1e-2),
        "weight_decay": Range(low=1e-6, high=1e-2, scale="log", default=1e-4),
    },
}


class Resolver(Losses):
    """Resolves arms of one study, collecting every mistake in `problems`."""

    def __init__(self, study_seed: int, folder: Path, problems: list[str]):
        super().__init__(folder, problems)
        self.study_seed = study_seed

    def arm(
        self, sections: Mapping[str, dict[str, Any]], where: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, Space], str]:
        """One arm's complete configuration, its search spaces by dotted path, and its task."""
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
        return config, dict(sorted(spaces.items())), task.kind if task else ""

    def _check_head(self, config: Mapping[str, Any], where: Mapping[str, str]) -> None:
        """A loss of cosines needs a last layer that gives them."""
        try:
            wanted = getattr(LOSSES.get(config["loss"].get("name", "")), "head", "linear")
        except LosslabError:
            return  # told already, or a loss of another registry
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
            balance = self._balance(values.pop("balance", None), spaces, where)
            own = {path: s for path, s in spaces.items() if path.split(".")[0] != "balance"}
            config = self._checked(Detector, values, own, where)
            config.pop("balance", None)  # left out without one: studies older than it go on
            return {**config, **balance}, spaces
        if section == "dataset":
            for path in spaces:
                self.problems.append(f"{where}.{path}: a dataset's options cannot be searched")
            return self._named(DATASETS, values, {}, where, ()), {}
        return self._named(MODELS, values, spaces, where, ("prior_init",)), spaces

    def _balance(self, given: Any, spaces: Mapping[str, Space], where: str) -> dict[str, Any]:
        """The `balance` of a detector, if there is one: a name alone, or with options."""
        if given is None:
            return {}
        values = {"name": given} if isinstance(given, str) else given
        if not isinstance(values, Mapping):
            self.problems.append(f"{where}.balance: give the name of a balance, such as gradnorm")
            return {}
        found = spaces_of("balance", spaces)
        return {"balance": self._named(BALANCES, dict(values), found, f"{where}.balance", ())}

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
        if isinstance(values.get("record"), str):
            values["record"] = [values["record"]]
        recorders = values.get("record")
        for number, name in enumerate(recorders if isinstance(recorders, list) else ()):
            try:
                RECORDERS.get(str(name))
            except LosslabError as error:
                self.problems.append(f"{where}.record.{number}: {error}")
        config = self._checked(Training, values, spaces, where)
        for name in ("record", "generator_learning_rate", "l1"):  # studies older than these go on
            if not config.get(name):
                config.pop(name, None)
        return config, spaces

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
