"""Remembers what was computed from a study's frames, for as long as the frames live."""

import functools
import weakref
from collections.abc import Callable
from typing import TypeVar

from losslab.analysis.frames import StudyFrames

Result = TypeVar("Result")


def once(function: Callable[[StudyFrames], Result]) -> Callable[[StudyFrames], Result]:
    """Compute `function(frames)` once for each `frames`, which several figures are drawn from.

    Frames hold tables, so they have no hash: they are told apart by identity, and what is
    remembered goes with them.
    """
    known: dict[int, Result] = {}

    @functools.wraps(function)
    def remembered(frames: StudyFrames) -> Result:
        key = id(frames)
        if key not in known:
            known[key] = function(frames)
            weakref.finalize(frames, known.pop, key, None)
        return known[key]

    return remembered
