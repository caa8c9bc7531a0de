"""What is broken in a folder of images and annotations: told by file name, all at once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from losslab.errors import BadInput

OnError = Literal["stop", "skip"]
SHOWN = 100  # lines of a message; a folder that is broken throughout would have thousands
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
    """Collects what is wrong with the files of a dataset; `option` names the option they came by.

    >>> problems = Problems("path")
    >>> problems.add("truncated image", "a.jpg", "image file is truncated")
    >>> problems.settle("skip")
    >>> problems.record()["counts"]
    {'truncated image': 1}
    >>> problems.settle("stop")
    Traceback (most recent call last):
    losslab.errors.BadInput: path: 1 problem in the data (truncated image: 1):
      a.jpg: image file is truncated
    Repair the files, or leave out what is broken with on_error: skip.
    """

    def __init__(self, option: str) -> None:
        self.option = option
        self.found: list[Problem] = []

    def add(self, kind: str, place: str, text: str) -> None:
        """Note a problem; what it concerns (an image or a box) is then left out by the caller."""
        self.found.append(Problem(kind, place, text))

    def settle(self, on_error: OnError) -> None:
        """Under `stop` raise `BadInput` with all problems (of very many the first), if any."""
        if not self.found or on_error == "skip":
            return
        lines = [str(problem) for problem in self._shown()]
        if hidden := len(self.found) - len(lines):
            lines.append(f"and {hidden} more")
        word = "problem" if len(self.found) == 1 else "problems"
        head = f"{self.option}: {len(self.found)} {word} in the data ({self._kinds()}):"
        shown = "\n  ".join([head, *lines])
        raise BadInput(
            f"{shown}\nRepair the files, or leave out what is broken with on_error: skip."
        )

    def nothing_left(self) -> NoReturn:
        """Raise `BadInput` since no image can be used, saying of what kind the problems are."""
        raise BadInput(
            f"{self.option}: no image is left of the data: all are broken ({self._kinds()}); "
            f"on_error: stop tells them by file name"
        )

    def _shown(self) -> list[Problem]:
        """The problems that a message has room for: of every kind its first ones."""
        seen: Counter[str] = Counter()
        ranks = []
        for problem in self.found:
            ranks.append(seen[problem.kind])
            seen[problem.kind] += 1
        first = sorted(range(len(ranks)), key=ranks.__getitem__)[:SHOWN]
        return [self.found[place] for place in sorted(first)]

    def counts(self) -> dict[str, int]:
        """How many problems of each kind there are, the most frequent kind first."""
        return dict(Counter(problem.kind for problem in self.found).most_common())

    def _kinds(self) -> str:
        return ", ".join(f"{kind}: {n}" for kind, n in self.counts().items())

    def record(self) -> dict[str, Any]:
        """What was left out, for the dataset record: counts by kind and a list of at most 1,000."""
        return {
            "counts": self.counts(),
            "listed": [f"{problem.kind}: {problem}" for problem in self.found[:KEPT]],
        }


def remarks(record: Mapping[str, Any]) -> list[str]:
    """What a person should hear of a dataset record before trusting results on it, one line each.

    Records of datasets that are made of no files have nothing to tell.

    >>> remarks({"left_out": {"counts": {"box without area": 2}}, "images_in_several_splits": 0})
    ['left out of the data as broken: 2 (box without area: 2), listed in study.json']
    """
    lines = []
    if counts := record.get("left_out", {}).get("counts"):
        kinds = ", ".join(f"{kind}: {n}" for kind, n in counts.items())
        total = sum(counts.values())
        lines.append(f"left out of the data as broken: {total} ({kinds}), listed in study.json")
    for name, part in record.get("splits", {}).items():
        counts = part.get("class_counts", [])
        none = [c for c, n in zip(record.get("class_names", []), counts, strict=False) if not n]
        if none and "images" in part:
            lines.append(f"no object of {', '.join(map(str, none))} in the {name} images")
    if shared := record.get("images_in_several_splits"):
        lines.append(f"the given splits share {shared} image(s): results look better than they are")
    if not_named := record.get("files_not_named"):
        lines.append(f"{not_named} image file(s) of the folder are not in the annotations")
    return lines
