"""The report of a study, or of several: a page, tables, figures and a fragment for a paper."""

from losslab.analysis.report.files import begin_report, write_comparison, write_report_files
from losslab.analysis.report.paper_figures import cumulative_source, write_paper_figures

__all__ = [
    "begin_report",
    "cumulative_source",
    "write_comparison",
    "write_paper_figures",
    "write_report_files",
]
