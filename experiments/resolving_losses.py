"""Resolving the section of the loss: its link, its hyper-parameters, whose module it is."""

import inspect
from collections.abc import Mapping
from typing import Any

from losslab.errors import LosslabError
from losslab.experiments.options import options_model
from losslab.experiments.resolving_detection import detection_loss_problems
from losslab.experiments.resolving_sections import RUNNER_GIVES, Sections
from losslab.experiments.spaces import (
    Space,
    declared_range,
)
from losslab.experiments.tasks import Detection, Task
from losslab.hyperparameters import Hyperparameter
from losslab.losses import LOSSES
from losslab.registry import Registry, nearest

LOSS_KEYS = ("name", "link", "reduction", "class_weights")


class Losses(Sections):
    """Resolves the sections `loss` of a study file."""

    def _loss(
        self, given: Mapping[str, Any], where: str, task: Task | None
    ) -> tuple[dict[str, Any], dict[str, Space]]:
        if not given or where != "loss":  # a section that says something also names its loss
            given = {"name": task.plain_loss if task else "ce", **given}
        losses, name = task.losses if task else LOSSES, given.get("name")
        if not isinstance(name, str):
            self._no_name(losses, given, where)
            return dict(given), {}
        if losses is not LOSSES:
            return self._loss_of_its_own(losses, given, where)
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

    def _loss_of_its_own(
        self, losses: Registry, given: Mapping[str, Any], where: str
    ) -> tuple[dict[str, Any], dict[str, Space]]:
        """A loss of a task whose losses compare no predictions with classes: it has no link."""
        values, spaces = self._cut_spaces(given, where)
        if values.pop("link", "identity") != "identity":
            self.problems.append(f"{where}.link: the losses of this task have none; leave it out")
        return {**self._named(losses, values, spaces, where, ()), "link": "identity"}, spaces

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
