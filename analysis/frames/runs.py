"""A training as every source of frames gives it."""

from dataclasses import dataclass
from typing import Any

from losslab.experiments.run_parts import History


@dataclass(frozen=True)
class Run:
    """One training, or another thing that was read and is worth keeping.

    `id` names it in its source (a run's id, a file), `stamp` changes with its content, `record` is
    a study's record without its history.
    """

    id: str
    stamp: str
    record: dict[str, Any]
    history: History | None = None
