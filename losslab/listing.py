"""What there is: names and one line each, without importing torch; and one loss's page."""

import inspect
from typing import Any

from losslab.registry import Registry


def rows(kind: str) -> list[dict[str, str]]:
    """Name, summary and origin of everything of a kind.

    >>> [row["name"] for row in rows("losses")][:2]
    ['balanced_ce', 'ce']
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
    if kind == "datasets":
        from losslab.datasets import DATASETS

        return DATASETS
    if kind == "models":
        from losslab.experiments.models import MODELS

        return MODELS
    from losslab.experiments.metrics import METRICS

    return METRICS


def page(kind: str, name: str) -> str:
    """The page of a loss, a dataset or a model: its documentation, options and ranges."""
    if kind == "loss":
        return _loss_page(name)
    build = _registry(f"{kind}s").get(name)
    options = [
        f"  {parameter}"
        if parameter.default is not parameter.empty
        else f"  {parameter} (required)"
        for parameter in inspect.signature(build).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    listed = "Options:\n" + ("\n".join(options) or "  none")
    return f"{_title(name)}\n\n{inspect.getdoc(build) or '(no documentation)'}\n\n{listed}"


def _title(name: str) -> str:
    return f"{name}\n{'=' * len(name)}"


def _loss_page(name: str) -> str:
    """A loss's documentation and its hyper-parameters under each link."""
    from losslab.losses import LOSSES

    loss = LOSSES.get(name)
    parts = [_title(name), inspect.getdoc(loss) or "(no documentation)"]
    for link in getattr(loss, "links", ()):
        parts.append(f"Hyper-parameters, link {link}:\n{_declared(loss.declared(link))}")
    return "\n\n".join(parts)


def _declared(declared: dict[str, Any]) -> str:
    if not declared:
        return "  none"
    return "\n".join(
        f"  {name} = {entry.default:g}, searched {entry.low:g} to {entry.high:g} ({entry.scale}): "
        f"{entry.meaning}" + (f" [{entry.paper}]" if entry.paper else "")
        for name, entry in declared.items()
    )
