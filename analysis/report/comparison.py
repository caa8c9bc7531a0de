"""What several studies say together: ranks over datasets, or why there are none."""

from collections.abc import Iterator, Mapping

import pandas as pd

from losslab.analysis.answer import answer, in_short
from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import metric_words
from losslab.analysis.statistics import average_ranks, friedman, wilcoxon
from losslab.analysis.tables import direction, per_seed
from losslab.analysis.wording import listed, p_words
from losslab.errors import BadInput

_ENOUGH = 5  # datasets, below which a test over datasets has next to no power


def common_arms(studies: Mapping[str, StudyFrames]) -> list[str]:
    """The arms that every study has, in the order of the first."""
    first, *others = studies.values()
    return [arm for arm in first.arms if all(arm in other.arms for other in others)]


def scores(studies: Mapping[str, StudyFrames]) -> pd.DataFrame:
    """The mean of each study's primary metric on test, selected; rows studies, columns arms.

    Only arms that all have; a metric that is minimised enters with its sign changed, so that
    higher is better everywhere.
    """
    rows = {}
    for name, frames in studies.items():
        column = f"test/{frames.study['primary']}"
        sign = -1.0 if direction(frames, column) == "minimize" else 1.0
        rows[name] = {
            arm: sign * per_seed(frames, arm, "selected", column).mean()
            for arm in common_arms(studies)
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def obstacle(studies: Mapping[str, StudyFrames]) -> str:
    """Why the studies cannot be ranked over datasets; nothing where they can."""
    arms = common_arms(studies)
    if len(arms) < 2:
        return "No ranks over datasets and no critical-difference diagram: the studies have " + (
            "only one arm in common." if arms else "no arm in common."
        )
    used: dict[str, list[str]] = {}
    for name, frames in studies.items():
        used.setdefault(str(frames.study.get("dataset", {}).get("content_hash", name)), []).append(
            name
        )
    if twice := [names for names in used.values() if len(names) > 1]:
        return (
            f"No ranks over datasets and no critical-difference diagram: {listed(twice[0])} use "
            f"the same data, and a dataset that is counted twice is not a second replicate."
        )
    if (complete := scores(studies).dropna()).shape[0] < 2:
        return (
            f"No ranks over datasets and no critical-difference diagram: {len(complete)} of "
            f"{len(studies)} studies have test runs of all common arms, and ranks need two."
        )
    return ""


def sentences(studies: Mapping[str, StudyFrames]) -> list[str]:
    """The ranks with their test where there are any, then each study in short."""
    told = [] if obstacle(studies) else [_ranks(studies)]
    for name, frames in studies.items():
        told.append(f"{name}: {in_short(frames, answer(frames))}.")
    return told


def reasons(studies: Mapping[str, StudyFrames]) -> Iterator[str]:
    """What the comparison does not say."""
    if why := obstacle(studies):
        yield why
    metrics = {metric_words(frames.study["primary"]) for frames in studies.values()}
    if len(metrics) > 1:
        yield (
            f"The studies have different primary metrics ({listed(sorted(metrics))}): ranks can be "
            f"compared across them, values cannot."
        )
    first, *others = studies.values()
    for arm in common_arms(studies):
        losses = {f.study["arms"].get(arm, {}).get("summary") for f in (first, *others)}
        if len(losses) > 1:
            yield f"The arm {arm} is another loss in some study: its rank mixes them."
    if not obstacle(studies) and len(studies) < _ENOUGH:
        yield (
            f"The dataset is the replicate here, and there are {len(studies)}: a test over so few "
            f"finds large differences only."
        )


def _ranks(studies: Mapping[str, StudyFrames]) -> str:
    table = scores(studies)
    ranks = average_ranks(table)
    told = listed([f"{arm} {rank:.2f}" for arm, rank in ranks.items()])
    if len(ranks) > 2:
        result = friedman(table)
        p = result.p_f if pd.notna(result.p_f) else result.p
        test, n = f"Friedman's test p {p_words(p)}", result.datasets
    else:
        first, second = ranks.index
        try:
            found = wilcoxon(table[first], table[second])
        except BadInput as error:
            return f"Average ranks (1 is best): {told}; {error}."
        test, n = f"Wilcoxon's test p {p_words(found.p)}", found.n
        p = found.p
    verdict = "they can be told apart" if p <= 0.05 else "which does not tell them apart"
    return f"Average ranks over {n} datasets (1 is best): {told}; {test}, {verdict}."
