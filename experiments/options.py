"""Checking options against the signature of what they are for, with every mistake told at once."""

import inspect
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from losslab.registry import nearest


def options_model(function: Callable[..., Any], given: Iterable[str] = ()) -> type[BaseModel]:
    """A pydantic model of a callable's keyword options; `given` are those the runner fills in.

    Types come from the annotations; what cannot be read is left unchecked, since third-party code
    is annotated as it pleases.
    """
    try:
        hints = typing.get_type_hints(function)
    except Exception:
        hints = {}
    fields: dict[str, Any] = {}
    extra: typing.Literal["forbid", "allow"] = "forbid"
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self" or name in given:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            required = parameter.default is parameter.empty
            fields[name] = (hints.get(name, Any), ... if required else parameter.default)
    config = ConfigDict(extra=extra, arbitrary_types_allowed=True, allow_inf_nan=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an option called "schema" shadows nothing that we use
        return create_model("Options", __config__=config, **fields)


def checked(
    model: type[BaseModel], values: Mapping[str, Any], where: str, problems: list[str]
) -> dict[str, Any]:
    """`values` validated and with defaults filled in; mistakes are appended to `problems`."""
    try:
        return model.model_validate(dict(values)).model_dump()
    except ValidationError as error:
        problems.extend(problems_of(error, where, model))
        return dict(values)


def problems_of(error: ValidationError, where: str, model: type[BaseModel]) -> list[str]:
    """One line per mistake: the path inside the file, what is wrong, and the nearest key.

    >>> from losslab.experiments.schema import Training
    >>> problems = []
    >>> _ = checked(Training, {"epoch": 3, "momentum": 2}, "training", problems)
    >>> for problem in sorted(problems): print(problem)
    training.epoch: unknown key; did you mean 'epochs'?
    training.momentum: must be less than 1, got 2
    """
    lines = []
    for item in error.errors():
        location = [str(part) for part in item["loc"]]
        path = ".".join(([where] if where else []) + location) or "study file"
        if item["type"] == "extra_forbidden":
            fields = _model_at(model, item["loc"][:-1]).model_fields
            hint = nearest(location[-1], fields)
            hint = hint or f" (known keys: {', '.join(fields) or 'none'})"
            lines.append(f"{path}: unknown key{hint}")
        elif item["type"] == "missing":
            lines.append(f"{path}: is required and missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message.replace("Input should be ", "must be ")
            message = message.replace("a valid dictionary", "a mapping of keys")
            value = item.get("input")
            shown = f", got {value!r}" if not isinstance(value, dict | BaseModel) else ""
            lines.append(f"{path}: {message}{shown}")
    return lines


def _model_at(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel]:
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (inspect.isclass(annotation) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    return model
