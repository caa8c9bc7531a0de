"""What is broken in a folder of images and annotations: told by file name, all at once."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from losslab.errors import BadInput

OnError = Literal["stop", "skip"]
SHOWN = 20  # lines of a message; a folder that is broken throughout would fill the screen
KEPT = 1000  # entries of the record in the study folder


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its kind, the file (and place in it), and what is the matter."""

    kind: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Problems:
    """Collects what is wrong with the files of a dataset.

    >>> problems = Problems()
    >>> problems.add("truncated image", "a.jpg", "image file is truncated")
    >>> problems.settle("skip")
    >>> problems.record()["counts"]
    {'truncated image': 1}
    >>> problems.settle("stop")
    Traceback (most recent call last):
    losslab.errors.BadInput: 1 problem in the data (truncated image: 1):
      a.jpg: image file is truncated
    Repair the files, or leave out what is broken with on_error: skip.
    """

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, kind: str, place: str, text: str) -> None:
        """Note a problem; what it concerns (an image or a box) is then left out by the caller."""
        self.found.append(Problem(kind, place, text))

    def settle(self, on_error: OnError) -> None:
        """Under `stop` raise `BadInput` with the first problems and a count, if there are any."""
        if not self.found or on_error == "skip":
            return
        lines = [str(problem) for problem in self.found[:SHOWN]]
        if hidden := len(self.found) - len(lines):
            lines.append(f"and {hidden} more")
        kinds = ", ".join(f"{kind}: {n}" for kind, n in self.counts().items())
        word = "problem" if len(self.found) == 1 else "problems"
        shown = "\n  ".join([f"{len(self.found)} {word} in the data ({kinds}):", *lines])
        raise BadInput(
            f"{shown}\nRepair the files, or leave out what is broken with on_error: skip."
        )

    def counts(self) -> dict[str, int]:
        """How many problems of each kind there are, the most frequent kind first."""
        return dict(Counter(problem.kind for problem in self.found).most_common())

    def record(self) -> dict[str, Any]:
        """What was left out, for the dataset record: counts by kind and a list of at most 1,000."""
        return {
            "counts": self.counts(),
            "listed": [f"{problem.kind}: {problem}" for problem in self.found[:KEPT]],
        }
