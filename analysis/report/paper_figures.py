"""The focal loss paper's figures: those that need no runs, and Figure 4 from a study's runs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from losslab.analysis.frames import StudyFrames
from losslab.analysis.report.collecting import Drawn
from losslab.analysis.sweeps import sweep_values
from losslab.analysis.typeset import to_csv
from losslab.errors import LosslabError

FIGURE_4 = "figure_4_cumulative_loss"


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
    if frames.folder is None or _task(frames) not in ("dense", "detection"):
        return None
    # a detector's anchors are not stored: its weights are taken instead
    suffix = ".pt" if _task(frames) == "detection" else ".npz"
    runs = frames.confirmation
    runs = runs[(runs["variant"] == "selected") & (runs["state"] == "complete")]
    gammas = dict(_gammas(frames))
    order = sorted(frames.arms, key=lambda arm: abs(gammas.get(arm, np.inf) - 2))
    if not gammas and frames.study["baseline"] in order:
        order.insert(0, frames.study["baseline"])
    for arm in order:
        own = runs[(runs["arm"] == arm) & runs["outputs"].notna()].sort_values("seed_index")
        for outputs in own["outputs"]:
            if (file := frames.folder / outputs).with_suffix(suffix).is_file():
                return arm, file
    return None


def draw_figure_4(
    frames: StudyFrames, folder: str | Path, tables: str | Path, images: int | None = None
) -> tuple[list[Path], list[Drawn]]:
    """Figure 4 into `folder`, its curves and claims as CSV into `tables`; nothing without data.

    Of a dense study's stored test examples, or of a detector's anchors in its test images, each
    with each class being one example: `images` of them, see `anchor_scores.anchor_scores`.
    """
    from losslab.analysis.curves import cumulative_loss, figure_4
    from losslab.analysis.style import save

    folder, tables = Path(folder), Path(tables)
    source = cumulative_source(frames)
    examples = source and _examples(frames, source[1], images)
    if source is None or examples is None:
        return [], []
    arm, file = source
    logits, targets, what = examples
    curves, claims = cumulative_loss(logits, targets)
    claims.insert(0, "arm", arm)
    claims.insert(1, "outputs", str(file.relative_to(frames.folder or folder)))
    tables.mkdir(parents=True, exist_ok=True)
    written = [tables / "figure_4_curves.csv", tables / "figure_4_claims.csv"]
    for path, table in zip(written, (curves, claims), strict=True):
        path.write_text(to_csv(table), encoding="utf-8")
    figure = figure_4(curves, claims, f"model: {arm}")
    pdf, png = save(figure, folder, FIGURE_4)
    width, height = figure.get_size_inches()
    title = "Cumulative loss, as Figure 4 of the focal loss paper"
    caption = (
        f"Cumulative normalised focal loss of {what}, sorted by their loss, at several "
        f"gamma: one trained model of {arm} (n = 1 run, seed {file.stem.rsplit('-', 1)[-1]}), "
        f"{claims['foreground'].iloc[0]:,} foreground and {claims['background'].iloc[0]:,} "
        f"background examples.{_claimed(claims)}"
    )
    return written, [Drawn(FIGURE_4, title, caption, width, height, pdf, png)]


def _task(frames: StudyFrames) -> str:
    return str(frames.study.get("dataset", {}).get("task"))


def _examples(
    frames: StudyFrames, file: Path, images: int | None
) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Logits, targets and what they are of; None where there is no foreground and background."""
    if _task(frames) == "detection":
        from losslab.analysis.anchor_scores import anchor_scores

        try:
            scores = anchor_scores(frames, file, images)
        except (LosslabError, OSError):  # the images are gone: the report is made without
            return None
        what = (
            f"the {scores.kind} in {scores.images:,} test images, each with each class one example"
        )
        if scores.share < 1:
            what += f", background drawn at random from {scores.background:,}"
        return scores.logits, scores.targets, what
    with np.load(file) as outputs:
        logits, targets = outputs["test_logits"], outputs["test_targets"]
    if logits.ndim == 2 and logits.shape[1] > 2:
        return None
    return logits, targets, "the test examples"


def _claimed(claims: pd.DataFrame) -> str:
    """The paper's claims as they come out here, at the highest gamma."""
    line = claims.loc[claims["gamma"].idxmax()]
    if np.isnan(line["background_99_fraction"]):
        return ""
    hardest = line["hardest_foreground_share"]
    return (
        f" At gamma {line['gamma']:g}, 99 % of the background's loss is that of "
        f"{line['background_99']:,} examples, {100 * line['background_99_fraction']:.2g} % of the "
        f"background"
        + ("." if np.isnan(hardest) else
           f"; the hardest 20 % of the foreground have {100 * hardest:.0f} % of its loss.")
    )  # fmt: skip


def _gammas(frames: StudyFrames) -> Iterator[tuple[str, float]]:
    yield from sweep_values(frames, "gamma").items()
    for _, row in frames.selected.iterrows():
        for column, value in row.items():
            if str(column).endswith(".gamma") and pd.notna(value):
                yield row["arm"], float(value)
