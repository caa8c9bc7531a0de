"""What a study tells while it works. The command line shows it; nothing else prints."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from losslab.experiments.config import Study
    from losslab.experiments.folder import StudyFolder
    from losslab.experiments.work import Progress


class Observer:
    """Hears of everything and does nothing; subclass it to show progress."""

    def started(self, study: "Study", folder: "StudyFolder", trainings: int) -> None:
        """The study begins or goes on; at most so many trainings are in it, those done included."""

    def advanced(self, arm: str, trial: int, progress: "Progress") -> None:
        """A trial has reached a rung."""

    def finished(self, record: Mapping[str, Any]) -> None:
        """A training has ended and its record is on disk."""

    def already(self, record: Mapping[str, Any]) -> None:
        """A training was found finished on disk."""

    def selected(self, arm: str, chosen: Mapping[str, Any]) -> None:
        """An arm's configuration has been selected."""

    def note(self, text: str) -> None:
        """Something worth a line."""
