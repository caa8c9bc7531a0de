"""Figures of any study, each by itself: frames in, a matplotlib figure or None out.

`catalogue` lists them with titles and captions; docs/figures.md says what each one shows.
"""

from losslab.analysis.figures import catalogue, levels, several
from losslab.analysis.figures.batch_norm import batch_norm_drift_figure
from losslab.analysis.figures.budgets import best_of_k_figure
from losslab.analysis.figures.calibration import reliability_figure, temperature_figure
from losslab.analysis.figures.classes import (
    class_recall_figure,
    gradient_norms_figure,
    margins_figure,
)
from losslab.analysis.figures.detections import detections_figure
from losslab.analysis.figures.detectors import detection_curves_figure, speed_figure
from losslab.analysis.figures.generated import mode_shares_figure, samples_figure
from losslab.analysis.figures.learning import learning_curves_figure
from losslab.analysis.figures.parallel import parallel_coordinates_figure
from losslab.analysis.figures.ranking import precision_recall_figure, roc_figure
from losslab.analysis.figures.recorded import (
    dead_units_figure,
    gradient_flow_figure,
    variance_shift_figure,
    weights_figure,
)
from losslab.analysis.figures.response import importances_figure, response_figure
from losslab.analysis.figures.search import search_figure, slices_figure
from losslab.analysis.figures.seeds import differences_figure, seeds_figure
from losslab.analysis.figures.thresholds import threshold_figure

__all__ = [
    "batch_norm_drift_figure",
    "best_of_k_figure",
    "catalogue",
    "class_recall_figure",
    "dead_units_figure",
    "detection_curves_figure",
    "detections_figure",
    "differences_figure",
    "gradient_flow_figure",
    "gradient_norms_figure",
    "importances_figure",
    "learning_curves_figure",
    "levels",
    "margins_figure",
    "mode_shares_figure",
    "parallel_coordinates_figure",
    "precision_recall_figure",
    "reliability_figure",
    "response_figure",
    "roc_figure",
    "samples_figure",
    "search_figure",
    "seeds_figure",
    "several",
    "slices_figure",
    "speed_figure",
    "temperature_figure",
    "threshold_figure",
    "variance_shift_figure",
    "weights_figure",
]
