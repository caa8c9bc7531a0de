"""What all kinds of workers share: how a piece's outcome travels, and when to give it up."""

import pickle
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Literal

from losslab.errors import LosslabError
from losslab.experiments.work import Piece, Progress

# A worker that dies is replaced; if the work itself kills workers, that must end some time.
ATTEMPTS = 3

Work = Callable[[Piece], list[Progress]]
Outcome = tuple[Literal["done"], list[Progress]] | tuple[Literal["failed"], Exception]


def attempt(work: Work, piece: Piece) -> Outcome:
    """Do a piece in a worker; what it raises becomes a value that the driver can raise again.

    The worker's traceback goes along as a note of the exception.
    """
    try:
        return "done", work(piece)
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        error.add_note(f"In the worker:\n{text}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            # Not every exception can travel; its text can.
            return "failed", LosslabError(f"{type(error).__name__}: {error}\n{text}")
        return "failed", error


class Deaths:
    """How often each piece's worker has died."""

    def __init__(self) -> None:
        self._of: Counter[int] = Counter()

    def count(self, index: int, cause: str) -> None:
        """The worker that had piece `index` is dead; `LosslabError` if that was too often."""
        self._of[index] += 1
        if self._of[index] >= ATTEMPTS:
            raise LosslabError(
                f"worker processes died {ATTEMPTS} times in a row over one piece of work (the last "
                f"one: {cause}; out of memory?); what is finished is kept; run again with fewer "
                f"--workers"
            )
