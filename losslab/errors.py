"""The errors that losslab raises on purpose; everything else is a defect."""

from collections.abc import Sequence


class LosslabError(Exception):
    """Base of every error raised on purpose."""


class BadInput(LosslabError):
    """What the user gave cannot be used; the command line prints it and exits with 2.

    `problems` holds one line per mistake, each saying where it is and what to write instead, so
    that all mistakes are told at once.

    >>> print(BadInput(["arms.ce.loss: unknown loss 'cee'", "seed: not a number"]))
    2 mistakes:
      arms.ce.loss: unknown loss 'cee'
      seed: not a number
    """

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        if len(self.problems) == 1:
            message = self.problems[0]
        else:
            lines = "".join(f"\n  {problem}" for problem in self.problems)
            message = f"{len(self.problems)} mistakes:{lines}"
        super().__init__(message)


class UnknownName(BadInput):
    """A name that no registry entry, entry point or importable path answers to."""


class PluginError(BadInput):
    """A plugin was found but cannot be imported; the message names its package and the reason."""


class DuplicateName(LosslabError):
    """Two places register the same name; the message names both."""
