"""Selecting an arm's configuration: the best trials, judged again on further search seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from losslab.experiments.spaces import Range, Space


@dataclass(frozen=True)
class Candidate:
    """A trial that may be selected, with its value on every search seed it was trained on."""

    trial: int
    params: dict[str, Any]
    values: tuple[float | None, ...]

    @property
    def mean(self) -> float | None:
        """The mean over seeds; None as soon as one training diverged."""
        known = [value for value in self.values if value is not None]
        return sum(known) / len(known) if len(known) == len(self.values) else None


def best_trials(
    records: Sequence[Mapping[str, Any]], count: int, maximize: bool
) -> list[Mapping[str, Any]]:
    """The `count` best complete trials, best first; the earlier one where values are equal.

    >>> trials = [{"trial": n, "state": "complete", "value": v} for n, v in enumerate([1, 3, 3])]
    >>> [record["trial"] for record in best_trials(trials, 2, maximize=True)]
    [1, 2]
    """
    complete = [record for record in records if record["state"] == "complete"]
    sign = -1 if maximize else 1
    return sorted(complete, key=lambda r: (sign * r["value"], r["trial"]))[:count]


def select(
    candidates: Sequence[Candidate],
    spaces: Mapping[str, Space],
    defaults: Mapping[str, Any],
    maximize: bool,
) -> dict[str, Any]:
    """The selected configuration, with its candidates and what a reader should be warned of.

    The best mean over search seeds wins, the better trial of the search on ties. Where every
    trial diverged, the defaults are taken and flagged. A value in the outer 5 % of its range is
    flagged, since the range may have been too narrow.
    """
    sound = [candidate for candidate in candidates if candidate.mean is not None]
    sign = -1 if maximize else 1
    chosen = min(sound, key=lambda c: sign * c.mean) if sound else None  # type: ignore[operator]
    params = chosen.params if chosen else dict(defaults)
    flags = [] if chosen else ["every candidate diverged: the defaults are used"]
    for path, space in spaces.items():
        if isinstance(space, Range) and chosen and space.at_edge(float(params[path])):
            flags.append(
                f"{path} = {params[path]:.4g} is in the outer 5 % of its range "
                f"({space.low:g} to {space.high:g})"
            )
    return {
        "trial": chosen.trial if chosen else None,
        "params": params,
        "value": chosen.mean if chosen else None,
        "candidates": [
            {"trial": c.trial, "params": c.params, "values": list(c.values), "mean": c.mean}
            for c in candidates
        ],
        "flags": flags,
    }
