"""Intervals, tests and budgets, in words that say what was left out and why.

Functions take plain arrays or tidy frames and give small dataclasses or tidy frames; none draws,
prints, or knows of a study. `docs/statistics.md` says which question takes which.
"""

from losslab.analysis.statistics.budgets import expected_best, shrinkage
from losslab.analysis.statistics.columnwise import mean_intervals, paired_differences
from losslab.analysis.statistics.crossover import Crossover, crossover
from losslab.analysis.statistics.exact_tests import (
    PairedTest,
    paired_permutation,
    smallest_p,
    wilcoxon,
)
from losslab.analysis.statistics.examples import (
    SeedsAndExamples,
    seeds_and_examples_interval,
    seeds_and_examples_of_arms,
)
from losslab.analysis.statistics.intervals import (
    Estimate,
    bootstrap_interval,
    iqm,
    mean_interval,
    summarise,
)
from losslab.analysis.statistics.outperforming import (
    Outperforming,
    pairs_needed,
    probability_of_outperforming,
)
from losslab.analysis.statistics.paired import (
    PairedDifference,
    compare_to_baseline,
    corrected_resampled_t,
    holm,
    paired_bootstrap,
    paired_difference,
)
from losslab.analysis.statistics.power import (
    detectable_difference,
    power_of_paired_t,
    sd_interval,
    seeds_needed,
)
from losslab.analysis.statistics.profiles import performance_profile
from losslab.analysis.statistics.several_datasets import (
    Friedman,
    RankComparison,
    average_ranks,
    friedman,
    nemenyi,
    pairwise_wilcoxon,
    ranks_against_control,
)

__all__ = [
    "Crossover",
    "Estimate",
    "Friedman",
    "Outperforming",
    "PairedDifference",
    "PairedTest",
    "RankComparison",
    "SeedsAndExamples",
    "average_ranks",
    "bootstrap_interval",
    "compare_to_baseline",
    "corrected_resampled_t",
    "crossover",
    "detectable_difference",
    "expected_best",
    "friedman",
    "holm",
    "iqm",
    "mean_interval",
    "mean_intervals",
    "nemenyi",
    "paired_bootstrap",
    "paired_difference",
    "paired_differences",
    "paired_permutation",
    "pairs_needed",
    "pairwise_wilcoxon",
    "performance_profile",
    "power_of_paired_t",
    "probability_of_outperforming",
    "ranks_against_control",
    "sd_interval",
    "seeds_and_examples_interval",
    "seeds_and_examples_of_arms",
    "seeds_needed",
    "shrinkage",
    "smallest_p",
    "summarise",
    "wilcoxon",
]
