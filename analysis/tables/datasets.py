"""Arms over several datasets, or over the levels of one study: scores, differences and ranks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.statistics import (
    Friedman,
    RankComparison,
    friedman,
    nemenyi,
    pairwise_wilcoxon,
    ranks_against_control,
)
from losslab.analysis.tables.comparisons import compared_arms
from losslab.analysis.tables.results import estimates
from losslab.analysis.tables.runs import Confirmed, primary_column
from losslab.errors import BadInput

_DIFFERENCE = ["difference", "difference_low", "difference_high", "p", "p_holm"]
_DIFFERENCE += ["pairs", "verdict"]


def datasets_table(several: Mapping[str, StudyFrames]) -> pd.DataFrame:
    """Every arm's selected configuration on every dataset, on each one's primary test metric, tidy.

    `several` maps the name of a dataset or level to its frames: several studies, or
    `levels.by_level(frames)`. The columns of `results.estimates`, bold decided within a dataset,
    and in front `dataset`; then, but for the baseline, the `difference` to the dataset's baseline
    with `difference_low, difference_high, p, p_holm` (Holm over the arms of that dataset), `pairs`,
    `verdict`. An arm that a dataset's study lacks has a row there that says so.
    """
    check_several(several)
    arms = list(dict.fromkeys(arm for frames in several.values() for arm in frames.arms))
    parts = []
    for dataset, frames in several.items():
        keys = [(arm, "selected", "") for arm in arms]
        part = estimates(frames, Confirmed.of(frames), keys, [primary_column(frames)])
        absent = ~part["arm"].isin(frames.arms)
        part.loc[absent, "missing"] = "not an arm of this study"
        compared = compared_arms(frames).rename(
            columns={"low": "difference_low", "high": "difference_high", "n": "pairs"}
        )
        names = [
            "difference",
            "difference_low",
            "difference_high",
            "p",
            "p_holm",
            "pairs",
            "verdict",
        ]
        part = part.merge(compared[names], left_on="arm", right_index=True, how="left")
        part["difference_missing"] = part["arm"].map(compared["reason"]).fillna("")
        part.insert(0, "dataset", dataset)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    return table.astype({"pairs": "Int64"})


@dataclass(frozen=True)
class Ranking:
    """How arms rank over datasets: the arms that all datasets have, and what was left out.

    `scores` has one row per dataset and one column per arm, higher is better (mirrored where the
    metric is better low). The tests are None where `reason` says why.
    """

    scores: pd.DataFrame
    ranks: pd.Series
    friedman: Friedman | None
    nemenyi: RankComparison | None
    wilcoxon: RankComparison | None
    against_control: pd.DataFrame | None
    control: str
    left_out: list[str]
    dropped: list[str]
    dependent: bool
    reason: str


def ranking(several: Mapping[str, StudyFrames]) -> Ranking:
    """Average ranks, Friedman, Nemenyi, pairwise Wilcoxon and Holm against the baseline.

    Over the arms that every dataset has; datasets where one of them has no mean are left out
    (`dropped`). The control is the baseline that all studies share, else none. `dependent` says
    that the "datasets" are levels of one dataset: then they are no independent replicates, the
    tests take them for such, and no more than a description can be read from them.
    """
    table = datasets_table(several)
    table["score"] = np.where(table["direction"] == "minimize", -table["mean"], table["mean"])
    wide = table.pivot_table(
        index="dataset", columns="arm", values="score", dropna=False, sort=False
    )
    common = [a for a in dict.fromkeys(table["arm"]) if all(a in f.arms for f in several.values())]
    left_out = [arm for arm in wide.columns if arm not in common]
    scores = wide[common].dropna()
    dropped = [name for name in wide.index if name not in scores.index]
    baselines = {frames.study["baseline"] for frames in several.values()}
    control = baselines.pop() if len(baselines) == 1 else ""
    data = [f.study.get("dataset", {}).get("name") for f in several.values()]
    dependent = all(f.study.get("level") for f in several.values()) and len(set(data)) == 1
    reason = ""
    if len(common) < 2:
        reason = "fewer than two arms are in every dataset"
    elif len(scores) < 2:
        reason = "fewer than two datasets have a mean of every arm"
    about = (control, left_out, dropped, dependent)
    if reason:
        return Ranking(scores, pd.Series(dtype=float), None, None, None, None, *about, reason)
    pairs = nemenyi(scores)
    return Ranking(
        scores,
        pairs.ranks,
        friedman(scores) if len(common) > 2 else None,
        pairs if len(common) > 2 else None,
        pairwise_wilcoxon(scores),
        ranks_against_control(scores, control) if control in common else None,
        *about,
        "" if len(common) > 2 else "two arms: Wilcoxon's test alone",
    )


def ranks_table(several: Mapping[str, StudyFrames]) -> pd.DataFrame:
    """Average ranks over the datasets, one row per arm, the best first.

    `arm, average_rank, datasets` (complete ones), `z, p, p_holm` against the control (the baseline;
    Demšar 2006), `groups` (letters: arms that share one are not told apart by Nemenyi's test at
    .05), `wilcoxon_p` (pairwise Wilcoxon against the control, Holm-corrected over all pairs),
    `is_control`. Empty where nothing can be ranked.
    """
    found = ranking(several)
    if found.ranks.empty:
        return pd.DataFrame()
    table = found.ranks.rename_axis("arm").reset_index()
    table["datasets"] = len(found.scores)
    against = found.against_control if found.against_control is not None else pd.DataFrame()
    tests = against.reindex(index=table["arm"], columns=["z", "p", "p_holm"])
    table[["z", "p", "p_holm"]] = tests.to_numpy()
    groups = found.nemenyi.groups if found.nemenyi else []
    table["groups"] = [
        "".join(_letter(i) for i, group in enumerate(groups) if arm in group)
        for arm in table["arm"]
    ]
    table["is_control"] = table["arm"] == found.control
    table["wilcoxon_p"] = np.nan
    if found.wilcoxon is not None and found.control in found.ranks.index:
        p = table["arm"].map(found.wilcoxon.p[found.control])
        table["wilcoxon_p"] = p.where(~table["is_control"])
    return table


def check_several(several: Mapping[str, StudyFrames]) -> None:
    """`BadInput` unless there are two datasets at least, each with its baseline among its arms."""
    if len(several) < 2:
        raise BadInput(f"a table over datasets needs two studies or levels, got {len(several)}")
    for name, frames in several.items():
        if frames.study["baseline"] not in frames.arms:
            raise BadInput(f"{name}: its baseline {frames.study['baseline']!r} is not an arm")


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"({number + 1})"
