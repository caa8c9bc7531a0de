"""What a check says: passed, failed with numbers, or skipped with the reason."""

from dataclasses import dataclass

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Failure(Exception):
    """A loss broke a rule; the message says how, with numbers."""


class Skip(Exception):
    """A check does not apply; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """One check of one loss: its name, `status` (passed, failed or skipped), and details."""

    check: str
    status: str
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """All checks of one loss under one link and one layout of the batch."""

    loss: str
    case: str
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> list[Outcome]:
        """The checks that failed."""
        return [outcome for outcome in self.outcomes if outcome.status == FAILED]

    def counted(self) -> str:
        """How many checks passed, failed and were skipped.

        >>> Report("ce", "sigmoid", (Outcome("empty batch", "passed"),)).counted()
        '1 passed, 0 failed, 0 skipped'
        """
        told = [outcome.status for outcome in self.outcomes]
        return ", ".join(f"{told.count(status)} {status}" for status in (PASSED, FAILED, SKIPPED))

    def table(self) -> str:
        """One line a check, and a line that counts."""
        width = max((len(outcome.check) for outcome in self.outcomes), default=0)
        lines = [f"{self.loss}, {self.case}"]
        lines += [
            f"  {outcome.status:<7}  {outcome.check:<{width}}  {outcome.detail}".rstrip()
            for outcome in self.outcomes
        ]
        return "\n".join([*lines, f"  {self.counted()}"])
