"""What generators made: confirmation runs read, with the modes that their samples belong to."""

from dataclasses import dataclass

import numpy as np

from losslab.analysis.frames import StudyFrames
from losslab.analysis.remembering import once
from losslab.errors import BadInput
from losslab.experiments.adversarial.metrics import RealModes

MOST_RUNS = 100  # of one study; a report must not take minutes
_NEEDED = {"test_generated", "test_samples", "test_modes"}


@dataclass(frozen=True)
class GeneratorRun:
    """One confirmation run of a generator.

    `samples` (n, d) that it made, `real` (m, d) the test samples, `modes` those of the test split,
    and `counts` (K + 1,) how many of `samples` belong to each, and to none.
    """

    arm: str
    seed_index: int
    repeat: int
    samples: np.ndarray
    real: np.ndarray
    modes: RealModes
    counts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """What each mode got of the samples that it should have got, (K,); 1 is its part."""
        expected = self.modes.counts[:-1] / self.modes.counts.sum() * self.counts.sum()
        return self.counts[:-1] / expected


@once
def generator_runs(frames: StudyFrames) -> dict[str, list[GeneratorRun]]:
    """The selected configurations' complete runs that have outputs, by arm, lowest seeds first.

    At most 100 runs a study, as many of each arm. Arms without are left out. Computed once for
    each `frames`; empty where the study generates nothing.
    """
    if frames.study.get("dataset", {}).get("task") != "adversarial":
        return {}
    runs = frames.confirmation
    runs = runs[(runs["variant"] == "selected") & (runs["state"] == "complete")]
    runs = runs[runs["outputs"].notna() & (runs["outputs"] != "")]
    arms = [arm for arm in frames.arms if (runs["arm"] == arm).any()]
    found: dict[str, list[GeneratorRun]] = {}
    for arm in arms:
        own = runs[runs["arm"] == arm].sort_values(["repeat", "seed_index"])
        for run in own.head(max(MOST_RUNS // len(arms), 1)).itertuples():
            try:
                outputs = frames.outputs(str(run.key))
            except BadInput:  # a damaged file: figures say how many runs they show
                continue
            if outputs is None or not set(outputs) >= _NEEDED:
                continue
            real, samples = outputs["test_samples"], outputs["test_generated"]
            modes = RealModes.of(real, outputs["test_modes"])
            found.setdefault(arm, []).append(
                GeneratorRun(
                    arm, int(run.seed_index), int(run.repeat),
                    samples, real, modes, modes.count(samples),
                )
            )  # fmt: skip
    return found
