"""How an arm's trainings run, written down in the study: one by one, or so many as one program."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from losslab.experiments.states import Job

Engine = Literal["plain", "stacked"]


@dataclass(frozen=True)
class Plan:
    """How an arm's trainings run: at most `stack` at once, or plain, and for what reason.

    A stack takes `megabytes` for each training and `data` megabytes for each run seed in it, of
    `memory` in all.
    """

    engine: Engine
    stack: int
    reason: str
    megabytes: float
    data: float
    memory: float

    def as_json(self) -> dict[str, Any]:
        """As a mapping that JSON can hold."""
        return asdict(self)

    def describe(self) -> str:
        """In a few words: "stacks of up to 32 trainings", or "one by one (why)"."""
        if self.engine == "plain":
            return f"one by one ({self.reason})"
        return f"stacks of up to {self.stack} trainings"

    def holds(self, jobs: "Sequence[Job]") -> bool:
        """Whether these jobs may be one stack."""
        seeds = len({job.run_seed for job in jobs})
        needed = len(jobs) * self.megabytes + seeds * self.data
        return len(jobs) <= self.stack and (needed <= self.memory or len(jobs) == 1)


def plans_as_json(plans: Mapping[str, Plan]) -> dict[str, dict[str, Any]]:
    """Plans by arm, as the resolved study holds them."""
    return {arm: plan.as_json() for arm, plan in plans.items()}


def plans_from_json(content: Mapping[str, Mapping[str, Any]]) -> dict[str, Plan]:
    """From what `plans_as_json` gave."""
    return {arm: Plan(**plan) for arm, plan in content.items()}
