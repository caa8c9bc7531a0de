"""Every figure of a study, and of several: its file name, title, how it is drawn, its caption."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from matplotlib.figure import Figure

from losslab.analysis.figures import (
    batch_norm,
    budgets,
    calibration,
    classes,
    detections,
    detectors,
    gains,
    generated,
    gradients,
    grids,
    learning,
    levels,
    masks,
    parallel,
    ranking,
    recorded,
    response,
    search,
    seeds,
    several,
    task_gradients,
    thresholds,
)
from losslab.analysis.frames import StudyFrames


class StudyFigure(NamedTuple):
    """A figure of one study.

    `name` is its file's name, `draw` gives None where the study has no data for it, `caption` says
    what is shown, what band or bar means, and n.
    """

    name: str
    title: str
    draw: Callable[[StudyFrames], Figure | None]
    caption: Callable[[StudyFrames], str]


class SeveralFigure(NamedTuple):
    """A figure of several studies, datasets or levels, by their names; as `StudyFigure`."""

    name: str
    title: str
    draw: Callable[[Mapping[str, StudyFrames]], Figure | None]
    caption: Callable[[Mapping[str, StudyFrames]], str]


STUDY_FIGURES: tuple[StudyFigure, ...] = (
    StudyFigure("seeds", "Every confirmation run", seeds.seeds_figure, seeds.seeds_caption),
    StudyFigure(
        "differences",
        "Paired differences to the baseline",
        seeds.differences_figure,
        seeds.differences_caption,
    ),
    StudyFigure(
        "learning_curves",
        "Learning curves",
        learning.learning_curves_figure,
        learning.learning_curves_caption,
    ),
    StudyFigure("search", "Trials of the search", search.search_figure, search.search_caption),
    StudyFigure("slices", "Slices of the search", search.slices_figure, search.slices_caption),
    StudyFigure(
        "response",
        "Response to the two most important hyper-parameters",
        response.response_figure,
        response.response_caption,
    ),
    StudyFigure(
        "importances",
        "Importance of hyper-parameters",
        response.importances_figure,
        response.importances_caption,
    ),
    StudyFigure(
        "best_of_k",
        "What a tuning budget buys",
        budgets.best_of_k_figure,
        budgets.best_of_k_caption,
    ),
    StudyFigure(
        "parallel_coordinates",
        "Parallel coordinates of the search",
        parallel.parallel_coordinates_figure,
        parallel.parallel_coordinates_caption,
    ),
    StudyFigure(
        "precision_recall",
        "Precision and recall",
        ranking.precision_recall_figure,
        ranking.precision_recall_caption,
    ),
    StudyFigure("roc", "ROC curves", ranking.roc_figure, ranking.roc_caption),
    StudyFigure(
        "detection_curves",
        "Precision and recall of detections",
        detectors.detection_curves_figure,
        detectors.detection_curves_caption,
    ),
    StudyFigure(
        "speed",
        "Speed against AP",
        detectors.speed_figure,
        detectors.speed_caption,
    ),
    StudyFigure(
        "detections",
        "Detections in test images",
        detections.detections_figure,
        detections.detections_caption,
    ),
    StudyFigure(
        "samples",
        "Generated samples",
        generated.samples_figure,
        generated.samples_caption,
    ),
    StudyFigure(
        "mode_shares",
        "What rare modes get",
        generated.mode_shares_figure,
        generated.mode_shares_caption,
    ),
    StudyFigure("masks", "Predicted masks", masks.masks_figure, masks.masks_caption),
    StudyFigure("gains", "Gains, ours and published", gains.gains_figure, gains.gains_caption),
    StudyFigure(
        "class_recall",
        "Recall by class frequency",
        classes.class_recall_figure,
        classes.class_recall_caption,
    ),
    StudyFigure(
        "thresholds",
        "Choice of the threshold",
        thresholds.threshold_figure,
        thresholds.threshold_caption,
    ),
    StudyFigure(
        "reliability",
        "Reliability before and after temperature scaling",
        calibration.reliability_figure,
        calibration.reliability_caption,
    ),
    StudyFigure(
        "temperature",
        "Calibration before and after temperature scaling",
        calibration.temperature_figure,
        calibration.temperature_caption,
    ),
    StudyFigure("margins", "Margins", classes.margins_figure, classes.margins_caption),
    StudyFigure(
        "gradient_norms",
        "Gradient norms",
        classes.gradient_norms_figure,
        classes.gradient_norms_caption,
    ),
    StudyFigure(
        "gradient_difficulty",
        "Where the gradient comes from",
        gradients.gradient_difficulty_figure,
        gradients.gradient_difficulty_caption,
    ),
    StudyFigure(
        "gradient_flow",
        "Gradient norms by layer",
        recorded.gradient_flow_figure,
        recorded.gradient_flow_caption,
    ),
    StudyFigure(
        "dead_units",
        "Dead units",
        recorded.dead_units_figure,
        recorded.dead_units_caption,
    ),
    StudyFigure(
        "weights",
        "Sizes of the weights",
        recorded.weights_figure,
        recorded.weights_caption,
    ),
    StudyFigure(
        "task_gradients",
        "Shares of the gradient by task",
        task_gradients.task_gradients_figure,
        task_gradients.task_gradients_caption,
    ),
    StudyFigure(
        "batch_norm_drift",
        "Drift of batch norms",
        batch_norm.batch_norm_drift_figure,
        batch_norm.batch_norm_drift_caption,
    ),
    StudyFigure(
        "variance_shift",
        "Variance shift of batch norms",
        recorded.variance_shift_figure,
        recorded.variance_shift_caption,
    ),
)

SEVERAL_FIGURES: tuple[SeveralFigure, ...] = (
    SeveralFigure("levels", "The metric by level", levels.levels_figure, levels.levels_caption),
    SeveralFigure(
        "crossover",
        "Differences to the baseline by level",
        levels.crossover_figure,
        levels.crossover_caption,
    ),
    SeveralFigure(
        "datasets", "Arms by datasets", several.datasets_figure, several.datasets_caption
    ),
    SeveralFigure(
        "class_balanced_grid",
        "Errors by loss, beta and imbalance",
        grids.grid_of_runs_figure,
        grids.grid_of_runs_caption,
    ),
    SeveralFigure(
        "critical_difference_nemenyi",
        "Critical differences, Nemenyi",
        several.nemenyi_figure,
        several.nemenyi_caption,
    ),
    SeveralFigure(
        "critical_difference_wilcoxon",
        "Critical differences, pairwise Wilcoxon",
        several.wilcoxon_figure,
        several.wilcoxon_caption,
    ),
)
