"""Settings of any model: what is changed in it after it was built, whoever wrote it.

A setting is a function `apply(model, *, option=..., ...) -> nn.Module` that changes the model in
place, or wraps it, and gives it back. It may ask for `features`, those of the training split (a
function that has a default for them does without in tasks that do not give any), and for
`outputs`, the numbers wanted per element. A study writes settings beside the model's own
options, by their first option or by all that differ from their defaults:

    model: {name: cnn, activation: tanh, batch_norm: {mode: running, momentum: 0.01}}

They are applied in alphabetical order, those of `LAST` at the end, before a prior bias is set, and
draw from the same seeded generator as the model's initial weights. An option of the model itself
goes before a setting of the same name. What is registered under `losslab.model_settings` can be
searched, and can be what the arms of a study differ in, without a change anywhere else.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from losslab.errors import BadInput
from losslab.registry import Registry

SETTINGS = Registry(
    "model setting",
    "losslab.model_settings",
    {
        "activation": (
            "Another activation in the place of every one that a model has.",
            "losslab.experiments.models.activations:apply",
        ),
        "batch_norm": (
            "What batch norms normalise with and learn; puts them into a model that has none.",
            "losslab.experiments.models.batch_norm:apply",
        ),
        "dropout": (
            "Dropout behind every activation, or before the last layer only.",
            "losslab.experiments.models.dropout:apply",
        ),
        "initialization": (
            "Initial weights by one rule: Xavier, He, orthogonal, or of a given deviation.",
            "losslab.experiments.models.initialization:apply",
        ),
        "input_scaling": (
            "Inputs scaled as fitted on the training split: to [0, 1], standardised, or both.",
            "losslab.experiments.models.input_scaling:apply",
        ),
        "pretraining": (
            "Initial weights by greedy layer-wise autoencoders (chains of linear layers).",
            "losslab.experiments.models.pretraining:apply",
        ),
    },
)
#: What the runner gives a setting that asks for it.
GIVEN = ("model", "features", "outputs")
#: Settings that look at what all others have made of the model, and so are applied after them.
LAST = ("batch_norm",)


def settings_for(build: Callable[..., Any], given: Iterable[str] = ()) -> list[str]:
    """The settings that a model built by `build` can have: those without an option of its own.

    Besides the registered ones these are the paths (`my_module:apply`) among the keys `given`.
    """
    own = inspect.signature(build).parameters
    paths = [key for key in given if ":" in key]
    return [name for name in [*SETTINGS.names(), *paths] if name not in own]


def first_option(name: str) -> str:
    """The option of a setting that a value without a name stands for."""
    options = inspect.signature(SETTINGS.get(name)).parameters
    return next(option for option in options if option not in GIVEN)


def apply_settings(
    model: nn.Module,
    settings: Mapping[str, Mapping[str, Any]],
    features: Tensor | None,
    outputs: int,
) -> nn.Module:
    """The model with all settings applied; `BadInput` where one does not suit it."""
    for name in sorted(settings, key=lambda name: (name in LAST, name)):
        apply = SETTINGS.get(name)
        wanted = inspect.signature(apply).parameters
        needed = "features" in wanted and wanted["features"].default is inspect.Parameter.empty
        if needed and features is None:
            raise BadInput(f"{name}: needs the training examples, which this task does not give")
        given = {"features": features, "outputs": outputs}
        given = {key: value for key, value in given.items() if key in wanted}
        try:
            model = apply(model, **given, **settings[name])
        except BadInput as error:
            raise BadInput([f"{name}: {line}" for line in error.problems]) from error
    return model
