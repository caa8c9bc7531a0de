"""What a tuning budget buys: the expected best of k trials, or the best so far, in each search."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from losslab.analysis.figures.parts import (
    arm_panels,
    arm_words,
    columns_of,
    counted,
    label_outer,
    limit_to_lines,
    metric_bounds,
    minimizes,
)
from losslab.analysis.figures.search import search_trials
from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.statistics import expected_best
from losslab.analysis.style import print_style

INDEPENDENT = ("random",)  # samplers whose trials are independent draws of one space


@print_style()
def best_of_k_figure(frames: StudyFrames) -> Figure | None:
    """The objective on validation against the number of trials k, for every arm.

    For random search the expected best of k (Dodge et al. 2019) with its 95 % interval, which ends
    at half of the trials. Other samplers learn from their trials, so that estimate does not hold
    for them: the best complete trial so far is drawn, in the order of the trials, one line of one
    search. A trial without a value (diverged, or pruned before its first) counts at the worst value
    of the study, a pruned one at its last. None where no arm has two trials.
    """
    searches = _searches(frames)
    if not searches:
        return None
    independent = _independent(frames)
    curves = {arm: _curve(frames, values, independent) for arm, values in searches.items()}

    def draw(axis: Axes, arm: str, look: dict) -> None:
        curve = curves[arm]
        if independent:
            axis.plot(curve["k"], curve["expected"], **look)
            axis.fill_between(
                curve["k"], curve["low"], curve["high"], color=look["color"], alpha=0.15, lw=0
            )
        else:
            axis.step(curve["k"], curve["expected"], where="mid", **look)

    figure, axes = arm_panels(
        frames, list(searches), draw, lambda arm: arm_words(arm, f"(n = {len(searches[arm])})")
    )
    what = "expected best" if independent else "best so far"
    label = f"{what} {metric_words(frames.study['primary'])}\non validation"
    label_outer(axes, columns_of(axes), "trials k", label)
    every = np.concatenate([curve["expected"].to_numpy(float) for curve in curves.values()])
    limit_to_lines(axes, every, metric_bounds(frames.study["primary"]))
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    return figure


def best_of_k_caption(frames: StudyFrames) -> str:
    """What `best_of_k_figure` shows."""
    sizes = counted("trials", [len(values) for values in _searches(frames).values()])
    metric = metric_words(frames.study["primary"])
    if _independent(frames):
        return (
            f"Expected best {metric} on validation of k random trials (Dodge et al. 2019, with "
            f"replacement), {sizes} an arm; bands are 95 % jackknife intervals, of which there are "
            "none beyond half of the trials. Trials without a value count at the study's worst."
        )
    return (
        f"Best {metric} on validation of a complete trial among the first k trials of each arm's "
        f"search, {sizes} an arm. The sampler ({_sampler(frames)}) learns from its trials, so the "
        "expected best of k independent draws cannot be told from them: each line is one search, "
        "without an interval."
    )


def _searches(frames: StudyFrames) -> dict[str, np.ndarray]:
    """The objective of every trial in order; of the first search where a study repeats it.

    Trial 0 is the arm's defaults and no draw: it is left out of independent draws.
    """
    trials = search_trials(frames)
    trials = trials[trials["repeat"].fillna(0) == 0].sort_values("trial")
    first = 1 if _independent(frames) else 0
    known = trials.loc[np.isfinite(trials["value"]), "value"]
    if known.empty:
        return {}
    worst = known.max() if minimizes(frames) else known.min()
    if first == 0:  # what was stopped early cannot be selected, so it is no best so far
        trials = trials.assign(value=trials["value"].where(trials["state"] == "complete"))
    found = {}
    for arm in frames.arms:
        own = trials[(trials["arm"] == arm) & (trials["trial"] >= first)]
        if len(own) > 1:
            found[arm] = own["value"].where(np.isfinite(own["value"]), worst).to_numpy(float)
    return found


def _curve(frames: StudyFrames, values: np.ndarray, independent: bool) -> pd.DataFrame:
    if independent:
        return expected_best(values, higher_is_better=not minimizes(frames))
    best = (np.minimum if minimizes(frames) else np.maximum).accumulate(values)
    return pd.DataFrame({"k": np.arange(1, len(values) + 1), "expected": best})


def _sampler(frames: StudyFrames) -> str:
    search = frames.study.get("search") or frames.study.get("resolved", {}).get("search") or {}
    return str(search.get("sampler", "unknown")) if isinstance(search, dict) else "unknown"


def _independent(frames: StudyFrames) -> bool:
    return _sampler(frames) in INDEPENDENT
