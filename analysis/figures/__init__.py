"""Figures of any study, each by itself: frames in, a matplotlib figure or None out.

`catalogue.STUDY_FIGURES` lists them with titles and captions; docs/figures.md shows them.
"""

from losslab.analysis.figures.learning import learning_curves_figure
from losslab.analysis.figures.search import (
    parallel_coordinates_figure,
    search_figure,
    slices_figure,
)
from losslab.analysis.figures.seeds import differences_figure, seeds_figure
from losslab.analysis.tables import compared_arms

__all__ = [
    "compared_arms",
    "differences_figure",
    "learning_curves_figure",
    "parallel_coordinates_figure",
    "search_figure",
    "seeds_figure",
    "slices_figure",
]
