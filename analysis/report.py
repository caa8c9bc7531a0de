"""Writes a study's tables and figures into a folder; nothing else here touches files."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.layouts import Layout, ledger_layout, results_layout, sweep_layout
from losslab.analysis.sweeps import sweep_table, sweep_values, swept_parameters
from losslab.analysis.tables import results_table
from losslab.analysis.typeset import to_csv, to_latex, to_markdown

FOCAL = {"focal", "focal_star"}


def begin_report(losses: Iterable[str], folder: str | Path) -> list[Path]:
    """Do what of a report needs no results, while a study trains; the paths of what was written.

    `losses` are the names of its arms' losses. The drawing libraries are loaded, and the focal
    paper's curves drawn where an arm uses that loss: together more than half of the time.
    """
    from losslab.analysis import figures  # noqa: F401

    return write_paper_figures(folder) if FOCAL & set(losses) else []


def write_report_files(
    frames: StudyFrames, folder: str | Path, begun: Sequence[Path] | None = None
) -> list[Path]:
    """Write a study's report into `folder` (made if missing) and give the paths.

    `begun` is what `begin_report` gave; without it, that is done too.

    `results`, `ledger` and, for a study of alpha or gamma, `sweep_<parameter>` as CSV, Markdown and
    LaTeX; the figures `seeds`, `differences`, `learning_curves`, `search` and, for dense studies
    read from a folder, `figure_4_cumulative_loss` with its two tables, as PDF and PNG; the focal
    paper's curves where an arm uses that loss. What an unfinished study has no data for is left
    out.
    """
    from losslab.analysis import figures
    from losslab.analysis.style import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = results_table(frames)
    written = _write_table(folder, "results", results, results_layout(results))
    written += _write_table(folder, "ledger", frames.ledger, ledger_layout(frames))
    for parameter in swept_parameters(frames):
        sweep = sweep_table(frames, parameter)
        written += _write_table(folder, f"sweep_{parameter}", sweep, sweep_layout(sweep))
    drawn = {
        "seeds": figures.seeds_figure,
        "differences": figures.differences_figure,
        "learning_curves": figures.learning_curves_figure,
        "search": figures.search_figure,
    }
    for name, draw in drawn.items():
        if name == "seeds" and frames.confirmation.empty:
            continue
        if (figure := draw(frames)) is not None:
            written += save(figure, folder, name)
    written += _write_figure_4(frames, folder)
    if begun is None:
        losses = [str(about.get("summary")) for about in frames.study["arms"].values()]
        begun = begin_report(losses, folder)
    return [*written, *begun]


def write_paper_figures(folder: str | Path) -> list[Path]:
    """Write the focal paper's Figures 1, 5 and 6 into `folder`, as PDF and PNG."""
    from losslab.analysis import curves
    from losslab.analysis.style import save

    drawn = {
        "figure_1_focal_loss": curves.figure_1,
        "figure_5_loss_variants": curves.figure_5,
        "figure_6_gradients": curves.figure_6,
    }
    return [path for name, draw in drawn.items() for path in save(draw(), folder, name)]


def cumulative_source(frames: StudyFrames) -> tuple[str, Path] | None:
    """The arm and the outputs file that Figure 4 is drawn from, or None.

    As in the paper, one model: the complete confirmation run of the lowest seed index, of the arm
    whose gamma (fixed or selected) is nearest 2, or of the baseline where no arm has a gamma.
    """
    task = frames.study.get("dataset", {}).get("task")
    if frames.folder is None or task != "dense":
        return None
    runs = frames.confirmation
    runs = runs[(runs["variant"] == "selected") & (runs["state"] == "complete")]
    gammas = dict(_gammas(frames))
    order = sorted(frames.arms, key=lambda arm: abs(gammas.get(arm, np.inf) - 2))
    if not gammas and frames.study["baseline"] in order:
        order.insert(0, frames.study["baseline"])
    for arm in order:
        own = runs[(runs["arm"] == arm) & runs["outputs"].notna()].sort_values("seed_index")
        for outputs in own["outputs"]:
            if (file := frames.folder / outputs).is_file():
                return arm, file
    return None


def _gammas(frames: StudyFrames) -> Iterator[tuple[str, float]]:
    yield from sweep_values(frames, "gamma").items()
    for _, row in frames.selected.iterrows():
        for column, value in row.items():
            if str(column).endswith(".gamma") and pd.notna(value):
                yield row["arm"], float(value)


def _write_figure_4(frames: StudyFrames, folder: Path) -> list[Path]:
    from losslab.analysis.curves import cumulative_loss, figure_4
    from losslab.analysis.style import save

    source = cumulative_source(frames)
    if source is None:
        return []
    arm, file = source
    with np.load(file) as outputs:
        if outputs["test_logits"].ndim == 2 and outputs["test_logits"].shape[1] > 2:
            return []
        curves, claims = cumulative_loss(outputs["test_logits"], outputs["test_targets"])
    claims.insert(0, "arm", arm)
    claims.insert(1, "outputs", str(file.relative_to(frames.folder or folder)))
    written = [folder / "figure_4_curves.csv", folder / "figure_4_claims.csv"]
    for path, table in zip(written, (curves, claims), strict=True):
        path.write_text(to_csv(table), encoding="utf-8")
    return [
        *written,
        *save(figure_4(curves, claims, f"model: {arm}"), folder, "figure_4_cumulative_loss"),
    ]


def _write_table(folder: Path, name: str, table: pd.DataFrame, layout: Layout) -> list[Path]:
    texts = {"csv": to_csv(table), "md": to_markdown(layout), "tex": to_latex(layout)}
    paths = [folder / f"{name}.{extension}" for extension in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths
