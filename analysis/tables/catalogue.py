"""Every table of a study, or of several: its data, its layout, the runs behind each cell."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import Layout, ledger_layout, results_layout, sweep_layout
from losslab.analysis.layouts.comparisons import contrasts_layout, pairwise_layout, power_layout
from losslab.analysis.layouts.datasets import (
    datasets_layout,
    differences_layout,
    examples_layout,
    ranks_layout,
)
from losslab.analysis.layouts.detection import detection_layout
from losslab.analysis.layouts.searches import (
    SHOWN_RUNS,
    divergences_layout,
    search_layout,
    shrinkage_layout,
)
from losslab.analysis.layouts.segmentation import segmentation_layout
from losslab.analysis.layouts.views import (
    calibration_layout,
    published_layout,
    recall_layout,
    thresholds_layout,
)
from losslab.analysis.levels import by_level
from losslab.analysis.sweeps import sweep_table, swept_parameters
from losslab.analysis.tables.comparisons import contrasts_table, pairwise_table, power_table
from losslab.analysis.tables.datasets import datasets_table, ranking, ranks_table
from losslab.analysis.tables.detection import detection_table
from losslab.analysis.tables.examples import examples_table
from losslab.analysis.tables.published import published_table
from losslab.analysis.tables.results import results_table, row_keys
from losslab.analysis.tables.runs import Confirmed, Key
from losslab.analysis.tables.searches import divergences_table, search_table, shrinkage_table
from losslab.analysis.tables.segmentation import segmentation_table
from losslab.analysis.tables.sources import cell_sources
from losslab.analysis.tables.views import calibration_table, recall_table, thresholds_table


@dataclass(frozen=True)
class StudyTable:
    """One table: `name` is its file's name, `data` has every digit, `layout` is what one reads.

    `sources` says which runs are behind each printed cell; see `sources.cell_sources`.
    """

    name: str
    data: pd.DataFrame
    layout: Layout
    sources: pd.DataFrame


def study_tables(frames: StudyFrames, *, ledger: bool = False) -> list[StudyTable]:
    """All tables that a study has data for, finished or not; docs/tables.md tells each.

    With `ledger`, the results table shows what each arm spent. A study over levels gives the tables
    of `several_tables` over its levels instead of those that compare arms.
    """
    levels = by_level(frames)
    compared = several_tables(levels) if len(levels) > 1 else list(_compared(frames, ledger))
    return [*_claimed(frames), *compared, *_spent(frames)]


def several_tables(several: Mapping[str, StudyFrames]) -> list[StudyTable]:
    """The tables over several datasets, or over the levels of one study.

    `datasets` (arms × datasets with average ranks), `dataset_differences` (to the baseline) and,
    where there is something to rank, `ranks`. `BadInput` with fewer than two.
    """
    names = {name: _dataset_name(name, frames) for name, frames in several.items()}
    table, found = datasets_table(several), ranking(several)
    runs = {name: Confirmed.of(frames) for name, frames in several.items()}
    order = list(several)

    def own(layout: Layout, i: int, j: int) -> list[pd.DataFrame]:
        arm = layout.rows[i][0].text
        places = order if j > len(order) else [order[j - 1]]
        return [runs[name].behind(arm, "selected") for name in places]

    def both(layout: Layout, i: int, j: int) -> list[pd.DataFrame]:
        baseline = several[order[j - 1]].study["baseline"]
        same = layout.rows[i][0].text == baseline
        reference = [] if same else [runs[order[j - 1]].behind(baseline, "selected")]
        return [*own(layout, i, j), *reference]

    wide, to = datasets_layout(table, found, names), differences_layout(table, names)
    tables = [
        StudyTable("datasets", table, wide, cell_sources(wide, lambda i, j: own(wide, i, j))),
        StudyTable("dataset_differences", table, to, cell_sources(to, lambda i, j: both(to, i, j))),
    ]
    ranks = ranks_table(several)
    if not ranks.empty:
        layout = ranks_layout(ranks, found)
        sources = cell_sources(layout, lambda i, j: own(layout, i, len(order) + 1))
        tables.append(StudyTable("ranks", ranks, layout, sources))
    return tables


def _dataset_name(name: str, frames: StudyFrames) -> str:
    level = frames.study.get("level")
    return f"{level['label']} {name}" if level else name


def _claimed(frames: StudyFrames) -> Iterator[StudyTable]:
    """The claims of the study file and their answers."""
    table = contrasts_table(frames)
    if table.empty or not table["n"].max() > 0:
        return
    layout = contrasts_layout(table, frames.study["study"])
    parts = by_level(frames) or {"": frames}
    runs = {level: Confirmed.of(part) for level, part in parts.items()}
    behind = [
        [runs[level].behind(arm, "selected") for arm in (better, than)]
        for level, better, than in table[["level", "better", "than"]].to_numpy()
    ]
    yield StudyTable("contrasts", table, layout, cell_sources(layout, lambda i, j: behind[i]))


def _compared(frames: StudyFrames, ledger: bool) -> Iterator[StudyTable]:
    """The tables that compare arms."""
    if not frames.arms:
        return
    runs = Confirmed.of(frames)
    baseline = frames.study["baseline"]
    results = results_table(frames)
    layout = results_layout(results, ledger=frames.ledger if ledger else None)
    yield StudyTable("results", results, layout, _results_sources(layout, runs, frames))
    for parameter in swept_parameters(frames):
        sweep = sweep_table(frames, parameter)
        arms = list(sweep["arm"])
        yield _by_row(f"sweep_{parameter}", sweep, sweep_layout(sweep), runs, arms, baseline)
    if runs.runs.empty:
        return
    pairs = pairwise_table(frames)
    if not pairs.empty and pairs["n"].max() > 0:
        layout = pairwise_layout(pairs, frames.study["study"])
        sides = [
            [runs.behind(a, "selected"), runs.behind(b, "selected")]
            for a, b in pairs[["a", "b"]].to_numpy()
        ]
        yield StudyTable("pairwise", pairs, layout, cell_sources(layout, lambda i, j: sides[i]))
        power = power_table(frames)
        if not power.empty:
            arms = list(power["arm"])
            yield _by_row("power", power, power_layout(power), runs, arms, baseline)
    examples = examples_table(frames)
    if examples["estimate"].notna().any():
        arms = list(examples["arm"])
        yield _by_row("examples", examples, examples_layout(examples), runs, arms, None)
    views: dict[str, tuple[Callable, Callable]] = {
        "detection": (detection_table, detection_layout),
        "segmentation": (segmentation_table, segmentation_layout),
        "thresholds": (thresholds_table, thresholds_layout),
        "calibration": (calibration_table, calibration_layout),
        "published": (published_table, published_layout),
    }
    for name, (make, lay) in views.items():
        table = make(frames)
        if not table.empty and table["n"].max() > 0:
            layout = lay(table)
            yield _by_row(name, table, layout, runs, [row[0].text for row in layout.rows], None)
    recall = recall_table(frames)
    if not recall.empty and recall["n"].max() > 0:
        layout = recall_layout(recall)
        arms = list(dict.fromkeys(recall["arm"]))
        by_class = layout.header[0] == "class"
        yield StudyTable(
            _class_table_name(recall["metric"].iloc[0]),
            recall,
            layout,
            cell_sources(
                layout,
                lambda i, j: (
                    []
                    if by_class and j < 3
                    else [runs.behind(arms[j - 3] if by_class else arms[i], "selected")]
                ),
            ),
        )


def _class_table_name(metric: str) -> str:
    kind = metric.partition("/")[0]
    return "recall" if kind == "recall" else f"class_{kind}"


def _spent(frames: StudyFrames) -> Iterator[StudyTable]:
    """The tables of the search and of what the arms spent."""
    search = search_table(frames)
    trials = dict(list(frames.trials.groupby("arm")))
    none = frames.trials.iloc[:0]
    if search["selected"].notna().any():
        layout = search_layout(search, frames.study["primary"])
        chosen = {
            arm: own[own["trial"].isin(search.loc[search["arm"] == arm, "trial"].dropna())]
            for arm, own in trials.items()
        }
        sources = cell_sources(layout, lambda i, j: [chosen.get(layout.rows[i][0].text, none)])
        yield StudyTable("search", search, layout, sources)
    runs = Confirmed.of(frames)
    shrunk = shrinkage_table(frames)
    if not shrunk.empty:
        layout = shrinkage_layout(shrunk)
        arms = [row[0].text for row in layout.rows]
        yield _by_row("shrinkage", shrunk, layout, runs, arms, None)
    diverged = divergences_table(frames)
    if not diverged.empty:
        layout = divergences_layout(diverged)
        lines = diverged.head(SHOWN_RUNS).assign(state="diverged")
        sources = cell_sources(layout, lambda i, j: [lines.iloc[[i]]])
        yield StudyTable("divergences", diverged, layout, sources)
    if frames.ledger.empty:
        return
    layout = ledger_layout(frames)
    confirmed = dict(list(frames.confirmation.groupby("arm")))

    def spent(i: int, j: int) -> list[pd.DataFrame]:
        arm = layout.rows[i][0].text
        own = trials.get(arm, none)
        by_column = {
            1: [own[own["phase"] == "search"]],
            2: [own[own["phase"] == "select"]],
            3: [confirmed.get(arm, none)],
        }
        return by_column.get(j, [own, confirmed.get(arm, none)] if j in (4, 5) else [])

    yield StudyTable("ledger", frames.ledger, layout, cell_sources(layout, spent))


def _results_sources(layout: Layout, runs: Confirmed, frames: StudyFrames) -> pd.DataFrame:
    keys: list[Key] = row_keys(frames)
    reference = runs.behind(frames.study["baseline"], "selected")
    compared = {j for j, text in enumerate(layout.header) if text.startswith("Δ to ")}
    compared |= {j + 1 for j in compared}

    def behind(i: int, j: int) -> list[pd.DataFrame]:
        own = runs.behind(*keys[i][:2])
        return [own, reference] if j in compared else [own]

    return cell_sources(layout, behind)


def _by_row(
    name: str,
    table: pd.DataFrame,
    layout: Layout,
    runs: Confirmed,
    arms: list[str],
    baseline: str | None,
) -> StudyTable:
    """A table each of whose rows is one arm, compared with the baseline where one is given."""
    reference = [] if baseline is None else [runs.behind(baseline, "selected")]
    own = [runs.behind(arm, "selected") for arm in arms]

    def behind(i: int, j: int) -> list[pd.DataFrame]:
        differs = "Δ" in layout.header[j] or name == "power"
        return [own[i], *reference] if differs else [own[i]]

    return StudyTable(name, table, layout, cell_sources(layout, behind))
