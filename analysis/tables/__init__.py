"""A study's tables as tidy frames, one room per kind of table.

`results_table` and `compared_arms` answer the study's question; `catalogue` lists every table with
its layout and the runs behind each cell; docs/tables.md tells them all. `analysis.layouts` says
how a table is read, `analysis.typeset` writes it.
"""

from losslab.analysis.tables.comparisons import compared_arms
from losslab.analysis.tables.results import results_table
from losslab.analysis.tables.runs import RULES, direction, per_seed, replicate_unit

__all__ = [
    "RULES",
    "compared_arms",
    "direction",
    "per_seed",
    "replicate_unit",
    "results_table",
]
