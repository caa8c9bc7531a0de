"""Writes the figures that need no study: of losses, of the papers they come from, of what is near.

Near are optimisers on known surfaces, models by what they cost, and the gradients of pooling.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from losslab.analysis import class_balanced_figures, cost_figures, ghm_figures, pooling_figures
from losslab.analysis.landscapes import SURFACES
from losslab.analysis.loss_figures import loss_figure
from losslab.analysis.loss_pages import Page, file_stem, page_of
from losslab.analysis.report import write_paper_figures
from losslab.analysis.style import save
from losslab.analysis.sweeps import published
from losslab.analysis.trajectory_figures import trajectory_figure
from losslab.errors import BadInput, LosslabError
from losslab.losses import LOSSES


class Written(NamedTuple):
    """Files that were written, and what of `subject` was not drawn, and why."""

    subject: str
    paths: list[Path]
    trouble: str = ""


def write_gallery(folder: str | Path, losses: Sequence[str] = ()) -> Iterator[Written]:
    """Draw the papers' figures and the like into `folder`, every loss into `folder`/losses.

    With `losses`, names or paths, those alone. One result after the other, as they are written; a
    loss that cannot be drawn is told of, and the others go on. Raises `BadInput` for names that do
    not exist before anything is written.
    """
    folder = Path(folder)
    chosen = list(dict.fromkeys(losses)) or LOSSES.names()
    if losses:
        _check_names(chosen)
    else:
        yield Written("the focal loss paper", write_paper_figures(folder))
        yield Written("the GHM paper", write_ghm_figures(folder))
        yield Written("the class-balanced paper", write_class_balanced_figure(folder))
        yield Written("optimisers on known surfaces", write_trajectories(folder))
        yield Written("what models cost", write_costs(folder))
        yield Written("gradients of pooling", write_pooling(folder))
    ours = {entry.name for entry in LOSSES.entries() if entry.origin == "losslab"}
    for name in chosen:
        try:
            page = page_of(name)
        except LosslabError as error:
            yield Written(name, [], _in_a_line(str(error)))
        except Exception as error:  # a stranger's loss must not end the gallery
            if name in ours:
                raise
            yield Written(name, [], f"{type(error).__name__}: {error}")
        else:
            yield Written(name, write_page(page, folder / "losses"), _in_a_line(page.trouble))


def write_page(page: Page, folder: str | Path) -> list[Path]:
    """Write a loss's page (.md) and the figure of each of its links (.pdf and .png); the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{file_stem(page.name)}.md"
    file.write_text(page.markdown(), encoding="utf-8")
    paths = [file]
    for stem, curves in page.figures.items():
        paths += save(loss_figure(curves), folder, stem)
    return paths


def write_ghm_figures(folder: str | Path) -> list[Path]:
    """Write the GHM paper's gradient norms, of classification and of regression."""
    norms = ghm_figures.classification_norms()
    classification = ghm_figures.classification_figure(norms, "20,000 examples at told margins")
    norms = ghm_figures.regression_norms()
    regression = ghm_figures.regression_figure(norms, "20,000 told errors")
    return [
        *save(classification, folder, "ghm_gradient_norms"),
        *save(regression, folder, "ghm_regression_norms"),
    ]


def write_class_balanced_figure(folder: str | Path) -> list[Path]:
    """Write the class-balanced paper's weights and effective numbers, and its grids of errors."""
    figure = class_balanced_figures.class_balanced_figure()
    written = save(figure, folder, "class_balanced_weights")
    for dataset, name in class_balanced_figures.GRIDS.items():
        title = f"on long-tailed {dataset}, as published (Cui et al. 2019)"
        figure = class_balanced_figures.grid_figure(published(name), title)
        written += save(figure, folder, f"class_balanced_errors_{dataset.lower()}")
    return written


def write_trajectories(folder: str | Path) -> list[Path]:
    """Write where optimisers go on each known surface."""
    return [
        path
        for name, surface in SURFACES.items()
        for path in save(trajectory_figure(surface), folder, f"trajectories_{name}")
    ]


def write_costs(folder: str | Path) -> list[Path]:
    """Write registered models by parameters and FLOPs, as a figure and as a table."""
    sizes = cost_figures.model_sizes()
    written = save(cost_figures.cost_figure(sizes), folder, "model_costs")
    table = Path(folder) / "model_costs.csv"
    sizes.to_csv(table, index=False)
    return [*written, table]


def write_pooling(folder: str | Path) -> list[Path]:
    """Write how average and max pooling route gradients."""
    return save(pooling_figures.pooling_figure(), folder, "pooling_gradients")


def _in_a_line(trouble: str) -> str:
    """The first two lines, which hold the first of several reasons."""
    return " ".join(line.strip() for line in trouble.splitlines()[:2])


def _check_names(names: Sequence[str]) -> None:
    problems = []
    for name in names:
        try:
            LOSSES.get(name)
        except BadInput as error:
            problems += error.problems
    if problems:
        raise BadInput(problems)
