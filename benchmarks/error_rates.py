"""How often whole studies err: `python benchmarks/error_rates.py [--studies N] [--part NAME]`.

Simulated studies with the real search, selection, confirmation and statistics; see
docs/statistics.md. With 400 studies it takes about half an hour of one core.
"""

import argparse
from dataclasses import replace

import pandas as pd
from scipy import stats

from losslab.analysis.error_rates import error_rates, expected_power, simulated_differences
from losslab.experiments.responses import ANCHORS, DIGITS
from losslab.experiments.simulation import two_arms

RESPONSES = {"digits": DIGITS, "anchors": ANCHORS}
AHEAD = 0.004  # the true difference of the A/B check, in average precision
FOCAL = {"loss": {"name": "focal", "gamma": 2.0, "alpha": 0.25}}
SPENT = 200  # trainings of an arm, to be split between repeats and seeds
SINGLE, REPEATED = [(1, 5), (1, 10), (1, 30)], [(5, 2), (10, 2)]


def main() -> None:
    """Run the parts that are asked for, and print their tables."""
    parts = {"single": single, "repeats": repeated, "power": power}
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--studies", type=int, default=400, help="simulated studies a row")
    parser.add_argument("--part", choices=parts, action="append", help="default: all")
    options = parser.parse_args()
    pd.set_option("display.width", 200, "display.max_columns", 20)
    for name in options.part or parts:
        parts[name](options.studies)


def single(studies: int) -> None:
    """The same loss twice, one search for each arm."""
    print(f"\nA/A, one search per arm, {studies} studies a row")
    for (name, response), trials in each():
        found = simulated_differences(two_arms(trials, 30), response, studies, SINGLE)
        shown = ["covers_configurations", "decided", "decided_holm", "sd", "half_width"]
        show(error_rates(found)[shown], name, trials)
        lines = found[found["seeds"] == 30]
        levels, true = lines["level_error"], lines["of_configurations"]
        print(f"mean test value - truth of b: {levels.mean():+.5f} +- {levels.sem():.5f} (se)")
        print(f"true differences: sd {true.std():.4f}, excess kurtosis {stats.kurtosis(true):.1f}")


def repeated(studies: int) -> None:
    """The same loss twice, searches repeated."""
    print(f"\nA/A, search.repeats, {studies} studies a row")
    for (name, response), trials in [*each(), (("digits", DIGITS), 8)]:
        found = simulated_differences(two_arms(trials, 2, 10), response, studies, REPEATED)
        shown = ["covers_losses", "decided", "decided_holm", "error", "error_se", "half_width"]
        show(error_rates(found)[shown], name, trials)
        if response is DIGITS:
            split(found, trials)


def power(studies: int) -> None:
    """Two losses of which the second is truly better."""
    print(f"\nA/B, b better by {AHEAD}, 16 trials, response digits, {studies} studies a row")
    ahead = replace(DIGITS, advantage={"focal": AHEAD})
    for repeats, seeds, designs in ((1, 10, [(1, 10)]), (10, 4, [(5, 4), (10, 1), (10, 4)])):
        study = two_arms(16, seeds, repeats, FOCAL)
        found = simulated_differences(study, ahead, studies, designs)
        rates = error_rates(found).drop(columns=["studies", "decided_holm"])
        expected = expected_power(found, ahead) if repeats > 1 else pd.DataFrame(index=rates.index)
        show(rates.join(expected.rename(columns={"sd": "sd_replicate"})), "digits", 16)


def split(found: pd.DataFrame, trials: int) -> None:
    """What a budget buys by how it is split, from the two standard deviations behind it."""
    line = expected_power(found, DIGITS).loc[REPEATED[-1]]
    search, seeds_each = line["search_sd"] ** 2, REPEATED[-1][1]
    own = (line["sd"] ** 2 - search) * seeds_each
    print(f"sd of the difference by the search {search**0.5:.4f}, by a run seed {own**0.5:.4f}")
    told = []
    for seeds in (1, 2, 4, 8, 16, 32):
        repeats = SPENT // (trials + seeds)
        error = ((search + own / seeds) / repeats) ** 0.5
        half = stats.t.ppf(0.975, repeats - 1) * error
        told.append(f"{repeats} x {seeds}: {half:.4f}")
    print(f"half-width from {SPENT} trainings an arm, as repeats x seeds:", ", ".join(told))


def each() -> list:
    """Every response with every budget."""
    return [(item, trials) for item in RESPONSES.items() for trials in (4, 16)]


def show(table: pd.DataFrame, response: str, trials: int) -> None:
    """Print one table."""
    print(f"\nresponse {response}, {trials} trials")
    print(table.round(4).to_string(), flush=True)


if __name__ == "__main__":
    main()
