"""What there is: names and one line each, without importing torch; and a page of one."""

import inspect
import types
import typing

from losslab.registry import Registry


def rows(kind: str) -> list[dict[str, str]]:
    """Name, summary and origin of everything of a kind.

    >>> [row["name"] for row in rows("datasets")][:2]
    ['anchors', 'clusters']
    """
    if kind == "studies":
        from losslab.experiments.reading import shipped_studies, summary_of

        return [
            {"name": name, "summary": summary_of(path), "origin": "losslab"}
            for name, path in shipped_studies().items()
        ]
    return [
        {"name": entry.name, "summary": entry.summary, "origin": entry.origin}
        for entry in _registry(kind).entries()
    ]


def _registry(kind: str) -> Registry:
    if kind == "losses":
        from losslab.losses import LOSSES

        return LOSSES
    if kind == "adversarial":
        from losslab.losses import ADVERSARIAL

        return ADVERSARIAL
    if kind == "datasets":
        from losslab.datasets import DATASETS

        return DATASETS
    if kind == "models":
        from losslab.experiments.models import MODELS

        return MODELS
    if kind == "settings":
        from losslab.experiments.models.settings import SETTINGS

        return SETTINGS
    if kind == "recorders":
        from losslab.experiments.recorders import RECORDERS

        return RECORDERS
    from losslab.experiments.metrics import METRICS

    return METRICS


#: What the runner gives, and no study file.
GIVEN = ("features", "outputs")


def page(kind: str, name: str) -> str:
    """The page of a dataset, a model or a setting of models: its documentation and options.

    That of a loss is `losslab.analysis.loss_pages.page_of`.
    """
    build = _registry(f"{kind}s").get(name)
    options = [
        f"  {_plain(parameter)}{' (required)' * (parameter.default is parameter.empty)}"
        for parameter in inspect.signature(build).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in GIVEN
    ]
    listed = "Options:\n" + ("\n".join(options) or "  none")
    return f"{_title(name)}\n\n{inspect.getdoc(build) or '(no documentation)'}\n\n{listed}"


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter whose bounds, which its documentation tells, are not in its annotation."""
    if isinstance(parameter.annotation, str) or typing.get_origin(parameter.annotation) is None:
        return parameter
    bare = typing.get_type_hints(types.SimpleNamespace(__annotations__={"x": parameter.annotation}))
    return parameter.replace(annotation=bare["x"])


def _title(name: str) -> str:
    return f"{name}\n{'=' * len(name)}"
