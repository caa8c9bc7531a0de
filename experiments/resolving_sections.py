"""Resolving one section: search spaces cut out, what it names looked up, options checked."""

import copy
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from losslab.errors import LosslabError
from losslab.experiments.models import MODELS
from losslab.experiments.models.settings import GIVEN, SETTINGS, settings_for
from losslab.experiments.options import checked, options_model, path_options, problems_of
from losslab.experiments.resolving_settings import cut_settings, spaces_of
from losslab.experiments.spaces import (
    Choices,
    Range,
    Space,
    leaves,
    looks_like_space,
    parse_space,
    set_path,
)
from losslab.registry import nearest

RUNNER_GIVES = ("study_seed", "input_shape", "outputs", "class_counts")


class Sections:
    """Resolves sections of a study file, collecting every mistake in `problems`.

    `folder` is where relative data paths are looked up first.
    """

    def __init__(self, folder: Path, problems: list[str]):
        self.folder = folder
        self.problems = problems

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

    def _named(
        self,
        registry: Any,
        values: dict[str, Any],
        spaces: dict[str, Space],
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
        settings: dict[str, Any] = {}
        if registry is MODELS:
            settings = self._settings(build, values, spaces, where)
            self._strange_keys(build, values, reserved, where)
        if "prior_init" in kept:
            self._check_prior_init(kept["prior_init"], spaces.get("prior_init"), where)
        given = {key: value for key, value in values.items() if key not in ("name", *reserved)}
        self._locate(given, path_options(build))
        foreign = ("name", *reserved, *settings)
        own = {path: space for path, space in spaces.items() if path.split(".")[0] not in foreign}
        if "name" in spaces:
            self.problems.append(f"{where}.name: cannot be searched; make an arm of each")
        options = self._checked(options_model(build, RUNNER_GIVES), given, own, where)
        return {"name": name, **dict.fromkeys(reserved, False), **kept, **options, **settings}

    def _strange_keys(
        self, build: Any, values: dict[str, Any], reserved: tuple[str, ...], where: str
    ) -> None:
        """Take keys out of a model section that are neither the model's nor a setting's."""
        fields = options_model(build, RUNNER_GIVES)
        if fields.model_config.get("extra") == "allow":
            return
        known = [*fields.model_fields, *reserved, *settings_for(build)]
        for key in [key for key in values if key not in (*known, "name")]:
            hint = nearest(key, known) or (
                f" (known keys: {', '.join(fields.model_fields) or 'none'}; of any model: "
                f"{', '.join([*reserved, *settings_for(build)])})"
            )
            self.problems.append(f"{where}.{key}: unknown key{hint}")
            del values[key]

    def _settings(
        self, build: Any, values: dict[str, Any], spaces: dict[str, Space], where: str
    ) -> dict[str, Any]:
        """The settings of a model section, which are taken out of `values`, checked."""
        return {
            name: self._checked(
                options_model(SETTINGS.get(name), GIVEN),
                options,
                spaces_of(name, spaces),
                f"{where}.{name}",
            )
            for name, options in cut_settings(build, values, spaces).items()
        }

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


def _fraction_between(low: Any, high: Any) -> float:
    """A number of a range that is not whole, such as a search may draw."""
    middle = low + (high - low) * 0.381966
    return middle if middle != int(middle) else low + (high - low) * 0.618034
