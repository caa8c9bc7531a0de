"""How often a study errs: intervals and verdicts of simulated studies beside the truth.

The studies are those of `experiments.simulation`, the intervals those of a study's table.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from losslab.analysis.frames import StudyFrames, frames_from_folder
from losslab.analysis.statistics import power_of_paired_t
from losslab.analysis.tables import compared_arms, per_seed
from losslab.experiments.responses import Response
from losslab.experiments.simulation import SimulatedStudy, simulate_study

LEVEL = 0.05
_MEMORY = Path("/dev/shm")  # a folder in memory, where the system has one

Design = tuple[int, int]  # repeats of search plus confirmation, and run seeds in each


def simulated_differences(
    source: Mapping[str, Any],
    response: Response,
    studies: int,
    designs: Sequence[Design],
    first_seed: int = 0,
) -> pd.DataFrame:
    """What `studies` simulated studies conclude, one line per study, design and arm.

    `source` is a study file with all the repeats and seeds that any of `designs` (repeats, seeds)
    asks for; smaller designs read the first repeats and seeds of the same study, which are what
    they would have run. Study seeds count from `first_seed`, and the same seeds give the same
    frame.

    Columns: `study` (its seed), `repeats, seeds, arm`; `difference, low, high, half_width, p,
    p_holm` to the baseline, as in the study's table; and the truth on the study's test split:
    `of_configurations`, the difference of what the searches selected, and `of_losses`, that of the
    losses (their `advantage` and what the split adds to each); `of_losses_elsewhere` without the
    split. `level_error` is the arm's mean test value less the true one of its selected
    configurations.

    >>> aa = {"dataset": "clusters", "arms": {"a": "ce", "b": "ce"}, "baseline": "a"}
    >>> simulated_differences(aa, DIGITS, 200, [(1, 10)])    # doctest: +SKIP
    """
    lines = []
    for seed in range(first_seed, first_seed + studies):
        with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as home:
            study = simulate_study({**source, "seed": seed}, response, home)
            frames = frames_from_folder(study.folder)
        for repeats, seeds in designs:
            lines += _concluded(study, _first(frames, repeats, seeds), response, repeats, seeds)
    return pd.DataFrame(lines)


def error_rates(differences: pd.DataFrame) -> pd.DataFrame:
    """Rates over the studies of `simulated_differences`: one row per design (repeats, seeds).

    `covers_configurations, covers_losses, covers_losses_elsewhere`: how often the interval holds
    that true difference. `decided`: how often it does not hold zero; `decided_holm`: how often
    p_holm ≤ .05. Both are false wins where the losses are the same, and power where they differ.
    `error` is the mean of difference − of_losses, `error_se` its standard error, `sd` the standard
    deviation of the difference, `half_width` the interval's mean.
    """
    lines = {}
    for design, group in differences.groupby(["repeats", "seeds"]):
        error = group["difference"] - group["of_losses"]
        lines[design] = {
            "studies": len(group),
            "covers_configurations": _holds(group, group["of_configurations"]).mean(),
            "covers_losses": _holds(group, group["of_losses"]).mean(),
            "covers_losses_elsewhere": _holds(group, group["of_losses_elsewhere"]).mean(),
            "decided": 1 - _holds(group, 0.0).mean(),
            "decided_holm": (group["p_holm"] <= LEVEL).mean(),
            "error": error.mean(),
            "error_se": error.std(ddof=1) / math.sqrt(len(group)),
            "sd": group["difference"].std(ddof=1),
            "half_width": group["half_width"].mean(),
        }
    table = pd.DataFrame.from_dict(lines, orient="index")
    table.index = pd.MultiIndex.from_tuples(list(lines), names=["repeats", "seeds"])
    return table


def expected_power(differences: pd.DataFrame, response: Response) -> pd.DataFrame:
    """The power that Student's t-test should have, by the formula, one row per design.

    `sd` is the true standard deviation of a replicate's difference: √(search² + seed²/seeds), with
    search² the variance of the true difference between what two searches select, and seed² =
    2 (training² + test²), what remains of a run's noise once it is paired. `power` is the mean over
    the studies of `power_of_paired_t` for their true difference of the losses. For several repeats
    the replicate is the repeat; for one it would be the run seed, whose test asks about
    configurations, so there is no row. For responses without `breakdown`.

    >>> expected_power(simulated_differences(ab, DIGITS, 200, [(10, 2)]), DIGITS)  # doctest: +SKIP
    """
    lines = {}
    for (repeats, seeds), group in differences[differences["repeats"] > 1].groupby(
        ["repeats", "seeds"]
    ):
        search = repeats * (group["of_configurations"] - group["of_losses"]).var(ddof=1)
        sd = math.sqrt(search + 2 * (response.training**2 + response.test**2) / seeds)
        powers = [power_of_paired_t(value, sd, repeats) for value in group["of_losses"]]
        lines[repeats, seeds] = {"search_sd": math.sqrt(search), "sd": sd, "power": np.mean(powers)}
    table = pd.DataFrame.from_dict(lines, orient="index")
    table.index = pd.MultiIndex.from_tuples(list(lines), names=["repeats", "seeds"])
    return table


def _holds(group: pd.DataFrame, truth: "pd.Series | float") -> pd.Series:
    """Whether each interval holds the truth; one of no width holds its own value."""
    slack = 1e-12  # rounding of means over seeds
    return (group["low"] - slack <= truth) & (truth <= group["high"] + slack)


def _first(frames: StudyFrames, repeats: int, seeds: int) -> StudyFrames:
    """The study as it would have been with fewer repeats and seeds."""
    runs = frames.confirmation
    kept = runs[(runs["repeat"] < repeats) & (runs["seed_index"] < seeds)]
    study = {**frames.study, "repeats": repeats, "seeds": seeds}
    return replace(frames, study=study, confirmation=kept)


def _concluded(
    study: SimulatedStudy, frames: StudyFrames, response: Response, repeats: int, seeds: int
) -> list[dict[str, Any]]:
    seed, baseline = study.study.seed, study.study.baseline
    column = f"test/{frames.study['primary']}"
    true = {arm: _true_mean(study, arm, response, repeats) for arm in study.study.arms}
    lines = []
    for arm, found in compared_arms(frames).iterrows():
        names = [study.study.arms[name].config["loss"]["name"] for name in (arm, baseline)]
        gain, split = (
            first - second
            for first, second in (
                [response.advantage.get(name, 0.0) for name in names],
                [response.loss_on_split(name, seed) for name in names],
            )
        )
        level = per_seed(frames, str(arm), "selected", column).mean()
        lines.append(
            {
                "study": seed,
                "repeats": repeats,
                "seeds": seeds,
                "arm": arm,
                **found[["difference", "low", "high", "half_width", "p", "p_holm"]],
                "of_configurations": true[str(arm)] - true[baseline],
                "of_losses": gain + split,
                "of_losses_elsewhere": gain,
                "level_error": level - true[str(arm)],
            }
        )
    return lines


def _true_mean(study: SimulatedStudy, arm: str, response: Response, repeats: int) -> float:
    """The true value of what an arm's searches selected, on the study's test split."""
    configs = [study.selected_config(arm, repeat) for repeat in range(repeats)]
    return float(np.mean([response.truth(config, study.study.seed) for config in configs]))
