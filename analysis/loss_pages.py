"""The page of a loss: formula, citation, conventions, hyper-parameters and curves, as text."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill, indent
from typing import Any

from torch import nn

from losslab.analysis.loss_conventions import conventions
from losslab.analysis.loss_curves import Curves, curves_of
from losslab.analysis.loss_tables import curve_tables
from losslab.errors import BadInput
from losslab.hyperparameters import Hyperparameter
from losslab.losses import LOSSES
from losslab.losses.arguments import choice_problem
from losslab.losses.base import Loss
from losslab.losses.conformance.subject import subjects
from losslab.losses.identity import Identity
from losslab.losses.sets import SetLoss

_WIDTH = 92


@dataclass(frozen=True)
class Page:
    """What is to be said of a loss; `curves` are what its figures are made of.

    `sections`: heading and text, which keeps its lines. `trouble`: why there are no curves.
    """

    name: str
    summary: str
    sections: tuple[tuple[str, str], ...]
    curves: tuple[Curves, ...]
    trouble: str = ""

    @property
    def figures(self) -> dict[str, Curves]:
        """The curves by the names of their files; those of the first link have the loss's name."""
        stem = file_stem(self.name)
        return {
            stem if place == 0 else f"{stem}_{each.link}": each
            for place, each in enumerate(self.curves)
        }

    def text(self) -> str:
        """For a terminal."""
        parts = [f"{self.name}\n{'=' * len(self.name)}", fill(self.summary, _WIDTH)]
        parts += [f"{heading}:\n{indent(body, '  ')}" for heading, body in self.sections]
        return "\n\n".join(part for part in parts if part)

    def markdown(self) -> str:
        """For a file that lies beside the figures."""
        parts = [f"# {self.name}", self.summary]
        parts += [f"![The curves of {self.name}, link {each.link}]({stem}.png)"
                  for stem, each in self.figures.items()]  # fmt: skip
        parts += [f"## {heading}\n\n```text\n{body}\n```" for heading, body in self.sections]
        return "\n\n".join(part for part in parts if part) + "\n"


def file_stem(name: str) -> str:
    """A loss's name, or a path to one, as a name of files.

    >>> file_stem("focal"), file_stem("kornia.losses:DiceLoss")
    ('focal', 'kornia.losses.DiceLoss')
    """
    return name.replace(":", ".").replace("/", "_")


def page_of(name: str, link: str | None = None, **fixed: Any) -> Page:
    """The page of a loss, by its name or by a path to it; `fixed` are constructor arguments.

    Raises `BadInput` where there is no such loss, or not under that link. A loss that cannot be
    evaluated has a page without curves, which says why.

    >>> print(page_of("ce", "softmax").text().splitlines()[6])
      L = -log p_t
    """
    kind = LOSSES.get(name)
    module = inspect.isclass(kind) and issubclass(kind, nn.Module)
    own = inspect.isclass(kind) and issubclass(kind, Loss)
    if own and link is not None and (problem := choice_problem("link", link, kind.links)):
        raise BadInput(f"{name}: {problem}")
    trouble, curves = "", []
    try:
        curves = curves_of(name, link, **fixed)
    except BadInput as refusal:
        if not module:
            raise
        trouble = str(refusal)
    sections = [*_said(kind, own), *(_declared_by(name, kind, link, fixed) if own else ())]
    if not own:
        sections += _guessed(kind, curves)
    sections += [(f"Curves, link {c.link}", f"{_told(c)}\n\n{curve_tables(c)}") for c in curves]
    if trouble:
        sections.append(("No curves", trouble))
    return Page(name, _summary(name, kind), tuple(sections), tuple(curves), trouble)


def _summary(name: str, kind: Any) -> str:
    registered = {entry.name: entry.summary for entry in LOSSES.entries()}
    first = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
    return registered.get(name) or re.split(r"(?<=\.) (?=[A-Z])", first)[0]


def _said(kind: Any, own: bool) -> Iterator[tuple[str, str]]:
    if own and kind.formula:
        yield "Formula", kind.formula
    if own and kind.citation:
        yield "Citation", fill(kind.citation, _WIDTH)
    yield "Description", inspect.getdoc(kind) or "(no documentation)"
    if own:
        yield from _shared(kind)


def _shared(kind: type[Loss]) -> Iterator[tuple[str, str]]:
    """What the family says that a loss belongs to, without its examples."""
    for base in kind.__mro__[1:]:
        if base in (Loss, SetLoss):
            return
        text = inspect.cleandoc(base.__doc__ or "").split("\n>>>")[0].strip()
        if "\n" in text and not base.__name__.startswith("_"):
            yield f"What it shares, {base.__name__}", text


def _declared_by(
    name: str, kind: type[Loss], link: str | None, fixed: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """What a losslab loss declares; its options are read off it, built under each link."""
    links = [link] if link else list(kind.links)
    built: dict[str, Loss] = {}
    try:
        for subject in subjects(name, link, **fixed):
            built.setdefault(subject.link, subject.make())  # type: ignore[arg-type]
    except BadInput:
        if fixed:
            raise  # what was given is wrong; without it, arguments are missing
    yield "Conventions", _listed(conventions(kind, links, built))
    for each in links:
        yield f"Hyper-parameters, link {each}", _hyperparameters(kind.declared(each))
    if kind.structural and built:
        yield "Structural options", "\n".join(_option(name, built) for name in kind.structural)
    if kind.identities:
        yield "Identities", "\n".join(_identity(each) for each in kind.identities)


def _option(name: str, built: Mapping[str, Loss]) -> str:
    """A structural option with its default, which may depend on the link."""
    usual = {link: repr(getattr(loss, name)) for link, loss in built.items()}
    if len(set(usual.values())) == 1:
        return f"{name} = {next(iter(usual.values()))}"
    return f"{name} = {', '.join(f'{value} ({link})' for link, value in usual.items())}"


def _guessed(kind: Any, curves: Sequence[Curves]) -> Iterator[tuple[str, str]]:
    """What can be known of a loss that declares nothing."""
    try:
        parameters = inspect.signature(kind).parameters.values()
        told = "\n".join(str(each) for each in parameters if each.name != "self") or "none"
    except (TypeError, ValueError):  # some written in C have no signature
        told = "(unknown)"
    yield "Constructor", told
    found = {name: entry for each in curves for name, entry in each.declared.items()}
    if found:
        ranges = [
            f"{n} = {e.default:g}, drawn from {e.low:g} to {e.high:g}" for n, e in found.items()
        ]
        yield "Numbers of the constructor (ranges are guesses)", "\n".join(ranges)


def _hyperparameters(declared: Mapping[str, Hyperparameter]) -> str:
    lines = [
        f"{name} = {entry.default:g}, searched {entry.low:g} to {entry.high:g} ({entry.scale}): "
        f"{entry.meaning}" + (f" [{entry.paper}]" if entry.paper else "")
        for name, entry in declared.items()
    ]
    return "\n".join(lines) or "none"


def _identity(identity: Identity) -> str:
    factor = "" if identity.factor == 1 else f"{identity.factor:g} times "
    with_values = _values(identity.other_values)
    where = f", link {' and '.join(identity.links)}" if identity.links else ""
    classes = ", two classes against one logit" if identity.two_class else ""
    return (
        f"{identity.text}: at {_values(identity.values) or 'any values'} it is {factor}"
        f"{identity.other}{f'({with_values})' if with_values else ''}{where}{classes}"
    )


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    width = max(len(topic) for topic, _ in pairs) + 2
    return "\n".join(
        fill(
            text,
            _WIDTH,
            initial_indent=f"{topic:<{width}}",
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )
        for topic, text in pairs
    )


def _told(curves: Curves) -> str:
    still = [name for name in curves.declared if name not in curves.moving]
    end = f" No visible effect here: {', '.join(still)}." if still else ""
    return fill(curves.told + end, _WIDTH)
