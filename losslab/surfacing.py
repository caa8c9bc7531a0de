"""The surface command: the loss around a study's trained networks, measured, drawn and written."""

from collections.abc import Callable, Sequence
from pathlib import Path

from losslab.errors import BadInput
from losslab.inspecting import frames_of, study_folder, writing


def surface(
    study: str,
    home: str | None,
    arms: Sequence[str],
    out: str | None,
    *,
    points: int,
    span: float,
    workers: int | None,
    tell: Callable[[int, int], None],
) -> list[Path]:
    """Write the loss surface of a study's runs: figures (PDF, PNG) and numbers (CSV); their paths.

    Into `out`, or `surface` in the study's folder. `tell(done, total)` is called as points are
    measured. Raises `BadInput` as `surface_tasks` does, and where the folder cannot be written.
    """
    from losslab.analysis.style import save
    from losslab.analysis.surface_figures import profile_figure, surface_figure
    from losslab.analysis.surfaces import measure_surfaces, surface_tasks

    if workers is not None and workers < 1:
        raise BadInput(f"--workers: must be at least 1, got {workers}")
    folder = Path(out) if out else study_folder(study, home).path / "surface"
    tasks = surface_tasks(frames_of(study, home, None), arms, points=points, span=span)
    with writing("--out", folder):  # before the minutes that measuring takes
        folder.mkdir(parents=True, exist_ok=True)
    found = measure_surfaces(tasks, workers, tell)
    written = []
    with writing("--out", folder):
        for name, draw, table in (
            ("surface", surface_figure, found.plane),
            ("surface_profile", profile_figure, found.profile),
        ):
            file = folder / f"{name}.csv"
            table.to_csv(file, index=False)
            written += [*save(draw(found), folder, name), file]
    return written
