"""Registries of losses, datasets, models and metrics.

A name is looked up, in this order, among what was registered by decorator, the built-ins of a
static catalogue, the entry points that installed packages declare, and, where it holds a colon or
a dot, as a path to anything importable (`package.module:Name`). The catalogue holds texts only, so
that listing imports neither torch nor mlflow. A name that two claim cannot be used; the others can.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, TypeVar

from losslab.errors import BadInput, DuplicateName, PluginError, UnknownName

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One registered thing: its one-line summary, where it comes from, and how to get it."""

    name: str
    summary: str
    origin: str
    path: str | None = None
    target: Any = None


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the closest known name, or nothing.

    >>> nearest("focl", ["focal", "ce"])
    "; did you mean 'focal'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


class Registry:
    """A registry of one kind of thing.

    >>> metrics = Registry("metric", "losslab.metrics", {"pi": ("A constant.", "math:pi")})
    >>> @metrics.register("double", "Twice its argument.")
    ... def double(x): return 2 * x
    >>> metrics.create("double", x=4)
    8
    >>> metrics.get("math:tau") == 2 * metrics.get("pi")
    True
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, tuple[str, str]]):
        self.kind = kind
        self.group = group
        self._entries: dict[str, Entry] = {
            name: Entry(name, summary, "losslab", path=path)
            for name, (summary, path) in builtin.items()
        }
        self._found: dict[str, list[Entry]] | None = None

    def register(self, name: str, summary: str = "") -> Callable[[T], T]:
        """Register the decorated class or function under `name`.

        Raises `DuplicateName`, which names both places, if the name is taken.
        """

        def decorate(target: T) -> T:
            line = summary or (inspect.getdoc(target) or "").split("\n")[0]
            entry = Entry(name, line, _place(target), target=target)
            if taken := self._claims().get(name):
                raise DuplicateName(self._twice([*taken, entry]))
            self._entries[name] = entry
            return target

        return decorate

    def unregister(self, name: str) -> None:
        """Forget a name that was registered by decorator (a notebook cell run twice)."""
        if name in self._entries and self._entries[name].target is not None:
            del self._entries[name]

    def names(self) -> list[str]:
        """All names that can be used without a dotted path, sorted."""
        return sorted(self._claims())

    def entries(self) -> list[Entry]:
        """Name, summary and origin of everything registered; imports nothing.

        The summary of a name that cannot be used because two claim it says so.
        """
        return [
            entries[0] if len(entries) == 1 else replace(entries[0], summary=self._twice(entries))
            for _, entries in sorted(self._claims().items())
        ]

    def get(self, name: str) -> Any:
        """The registered thing itself.

        Raises `UnknownName` with the known names and the nearest one, `PluginError` with the
        package's name where a plugin fails to import, and `DuplicateName` where two claim the name.
        """
        claims = self._claims().get(name, [])
        if len(claims) > 1:
            raise DuplicateName(self._twice(claims))
        if not claims:
            if ":" in name or "." in name:
                return self._load_path(name)
            known = ", ".join(self.names())
            raise UnknownName(
                f"unknown {self.kind} {name!r}{nearest(name, self.names())} (known: {known}; "
                f"or a path such as 'package.module:Name')"
            )
        (entry,) = claims
        if entry.target is None:
            assert entry.path is not None
            try:
                return load(entry.path)
            except Exception as error:
                if entry.origin == "losslab":
                    raise
                raise PluginError(
                    f"{self.kind} {name!r} comes from the package {entry.origin!r}, which cannot "
                    f"be imported: {type(error).__name__}: {error}"
                ) from error
        return entry.target

    def create(self, name: str, /, **arguments: Any) -> Any:
        """Call the registered thing with `arguments`."""
        return self.get(name)(**arguments)

    def _claims(self) -> dict[str, list[Entry]]:
        """Everything that claims a name: one entry, or more where that is a mistake."""
        claims = {name: [entry] for name, entry in self._entries.items()}
        for name, entries in self._plugins().items():
            claims[name] = [*claims.get(name, []), *entries]
        return claims

    def _plugins(self) -> dict[str, list[Entry]]:
        # Packages do not change while a process runs, and looking for them takes 20 ms.
        if self._found is None:
            self._found = self._find_plugins()
        return self._found

    def _find_plugins(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for point in metadata.entry_points(group=self.group):
            package = point.dist.name if point.dist is not None else point.value
            entry = Entry(point.name, f"from {package}", package, path=point.value)
            # The same package is found twice where two folders of sys.path hold it.
            if entry not in found.setdefault(point.name, []):
                found[point.name].append(entry)
        return found

    def _twice(self, claims: Sequence[Entry]) -> str:
        places = [
            entry.origin if entry.path is None else f"{entry.origin} ({entry.path})"
            for entry in claims
        ]
        return f"{self.kind} {claims[0].name!r} is registered twice: by {' and by '.join(places)}"

    def _load_path(self, name: str) -> Any:
        try:
            return load(name)
        except Exception as error:
            raise UnknownName(
                f"{self.kind} {name!r} cannot be imported: {type(error).__name__}: {error} "
                f"(a path is written 'package.module:Name'; known names: {', '.join(self.names())})"
            ) from error


def load(path: str) -> Any:
    """Import `package.module:Name` (or `package.module.Name`).

    >>> load("math:pi") == load("math.pi")
    True
    """
    module_name, colon, attribute = path.partition(":")
    if not colon:
        module_name, _, attribute = path.rpartition(".")
    if not module_name or not attribute:
        raise BadInput(f"{path!r} is not a path; write 'package.module:Name'")
    target: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        target = getattr(target, part)
    return target


def _place(target: Any) -> str:
    try:
        file, line = inspect.getsourcefile(target), inspect.getsourcelines(target)[1]
        return f"{file}:{line}"
    except (TypeError, OSError):
        return f"{getattr(target, '__module__', '?')}:{getattr(target, '__qualname__', target)}"
