"""Resolving what a model section says beside the model's own options: settings of any model."""

from collections.abc import Callable, Mapping
from typing import Any

from losslab.experiments.models.settings import first_option, settings_for
from losslab.experiments.spaces import Space


def cut_settings(
    build: Callable[..., Any], values: dict[str, Any], spaces: dict[str, Space]
) -> dict[str, dict[str, Any]]:
    """Take the settings out of a model section's `values`, each as a mapping of its options.

    A value that is no mapping is that of the setting's first option; its space in `spaces`, which
    is by path, gets the option's name too.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in settings_for(build, values):
        if name not in values:
            continue
        value = values.pop(name)
        if not isinstance(value, Mapping):
            option = first_option(name)
            value = {option: value}
            if name in spaces:
                spaces[f"{name}.{option}"] = spaces.pop(name)
        found[name] = dict(value)
    return found


def spaces_of(name: str, spaces: Mapping[str, Space]) -> dict[str, Space]:
    """The spaces below a setting, by path inside it."""
    return {
        path.removeprefix(f"{name}."): space
        for path, space in spaces.items()
        if path.startswith(f"{name}.")
    }
