"""What there is: names and one line each, without importing torch; and a page of one."""

import inspect

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
    if kind == "datasets":
        from losslab.datasets import DATASETS

        return DATASETS
    if kind == "models":
        from losslab.experiments.models import MODELS

        return MODELS
    from losslab.experiments.metrics import METRICS

    return METRICS


def page(kind: str, name: str) -> str:
    """The page of a dataset or a model: its documentation and options.

    That of a loss is `losslab.analysis.loss_pages.page_of`.
    """
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
