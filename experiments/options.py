"""Checking options against the signature of what they are for, with every mistake told at once."""

import inspect
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from losslab.registry import nearest


def options_model(function: Callable[..., Any], given: Iterable[str] = ()) -> type[BaseModel]:
    """A pydantic model of a callable's keyword options; `given` are those the runner fills in.

    Types come from the annotations; what cannot be read is left unchecked, since third-party code
    is annotated as it pleases.
    """
    hints = _hints(function)
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


def path_options(function: Callable[..., Any]) -> set[str]:
    """The options of a callable that name files or folders: `path`, and what may be a `Path`.

    >>> def build(study_seed: int, *, images: str | Path, masks: Path | None, size: int): ...
    >>> sorted(path_options(build))
    ['images', 'masks', 'path']
    """
    hints = _hints(function)
    return {"path", *(n for n, hint in hints.items() if Path in (hint, *typing.get_args(hint)))}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(
            function.__init__ if inspect.isclass(function) else function,
            include_extras=True,  # such as bounds: Annotated[float, Field(gt=0)]
        )
    except Exception:
        return {}


def checked(
    model: type[BaseModel], values: Mapping[str, Any], where: str, problems: list[str]
) -> dict[str, Any]:
    """`values` validated and with defaults filled in; mistakes are appended to `problems`."""
    try:
        found = model.model_validate(dict(values)).model_dump()
    except ValidationError as error:
        problems.extend(problems_of(error, where, model))
        return dict(values)
    problems.extend(booleans_as_numbers(values, found, where))
    return found


def booleans_as_numbers(given: Any, found: Any, where: str) -> list[str]:
    """One line for every true or false that was `given` and `found` to be a number.

    >>> booleans_as_numbers({"epochs": True, "shuffle": True}, {"epochs": 1, "shuffle": True}, "")
    ['epochs: must be a number, got true']
    """
    if isinstance(given, bool) and isinstance(found, int | float) and not isinstance(found, bool):
        return [f"{where}: must be a number, got {str(given).lower()}"]
    pairs: list[tuple[Any, Any, Any]] = []
    if isinstance(given, Mapping) and isinstance(found, Mapping):
        pairs = [(key, given[key], found[key]) for key in given if key in found]
    elif isinstance(given, list) and isinstance(found, list):
        pairs = [(number, *both) for number, both in enumerate(zip(given, found, strict=False))]
    return [
        line
        for key, value, result in pairs
        for line in booleans_as_numbers(value, result, f"{where}.{key}".lstrip("."))
    ]


def problems_of(error: ValidationError, where: str, model: type[BaseModel]) -> list[str]:
    """One line per mistake: the path inside the file, what is wrong, and the nearest key.

    >>> from losslab.experiments.schema import Training
    >>> problems = []
    >>> _ = checked(Training, {"epoch": 3, "momentum": 2}, "training", problems)
    >>> for problem in sorted(problems): print(problem)
    training.epoch: unknown key; did you mean 'epochs'?
    training.momentum: must be less than 1, got 2
    """
    lines: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    for item in error.errors():
        location = _without_branches(model, item["loc"])
        path = ".".join(([where] if where else []) + location) or "study file"
        if item["type"] == "extra_forbidden":
            fields = _model_at(model, item["loc"][:-1]).model_fields
            hint = nearest(location[-1], fields)
            message = f"unknown key{hint or f' (known keys: {_listed(fields)})'}"
        elif item["type"] == "missing":
            message = "is required and missing"
        else:
            message = item["msg"].removeprefix("Value error, ").split(" or instance of ")[0]
            message = message.replace("Input should be ", "must be ")
            message = message.replace("a valid dictionary", "a mapping of keys")
            value = item.get("input")
            if not isinstance(value, dict | BaseModel):
                shown[path] = f", got {_short(value)}"
        lines.setdefault(path, []).append(message)
    return [
        f"{path}: {' or '.join([first, *(line.removeprefix('must be ') for line in rest)])}"
        f"{shown.get(path, '')}"
        for path, (first, *rest) in lines.items()
    ]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _without_branches(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The path without what pydantic adds where a value may be one of several types."""
    annotation: Any = model
    path = []
    for part in location:
        if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:
            arguments = [a for a in typing.get_args(annotation) if a is not type(None)]
            if typing.get_origin(annotation) in (typing.Union, types.UnionType):
                if len(arguments) > 1:
                    break
                arguments = list(typing.get_args(arguments[0]))
            annotation = arguments[-1] if arguments else None
        path.append(str(part))
    return path


def _model_at(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel]:
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (inspect.isclass(annotation) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    return model
