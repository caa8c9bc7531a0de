"""What a printed table shows: header, cells and caption, before any markup.

A layout is made once and typeset as Markdown, LaTeX or HTML (`typeset.py`), or shown in a terminal.
"""

from losslab.analysis.layouts.base import Cell, Layout, metric_words
from losslab.analysis.layouts.results import ledger_layout, results_layout, sweep_layout

__all__ = ["Cell", "Layout", "ledger_layout", "metric_words", "results_layout", "sweep_layout"]
