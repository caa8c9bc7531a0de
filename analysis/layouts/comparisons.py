"""Pairs of arms and the study's power as one reads them."""

import pandas as pd

from losslab.analysis.layouts.base import (
    ARROWS,
    Cell,
    Layout,
    difference_text,
    digits_of,
    interval_text,
    legend,
    metric_words,
    note,
    p_text,
    replicates,
)


def pairwise_layout(table: pd.DataFrame, study: str) -> Layout:
    """Every pair of arms; see `tables.comparisons.pairwise_table`."""
    notes: dict[str, str] = {}
    digits = digits_of(table["half_width"])
    first = table.iloc[0]
    rows = []
    for line in table.to_dict("records"):
        renamed = {f"difference_{edge}": line[edge] for edge in ("low", "high")}
        renamed |= {"difference": line["difference"], "difference_missing": line["reason"]}
        clear = line["verdict"] in ("better", "worse")
        chance = interval_text(
            line["probability"], line["probability_low"], line["probability_high"], 2
        )
        if pd.isna(line["probability"]):
            chance = f"— ({note(notes, line['outperforms_reason'])})"
        verdict = line["outperforms"]
        if line["outperforms_reason"] and not pd.isna(line["probability"]):
            verdict += f" ({note(notes, line['outperforms_reason'])})"
        dropped = f" ({note(notes, 'incomplete pairs left out')})" if line["dropped"] else ""
        rows.append(
            [
                Cell(line["a"]),
                Cell(line["b"]),
                Cell(difference_text(renamed, digits, notes), clear),
                Cell(p_text(line["p_holm"])),
                Cell(chance),
                Cell(verdict),
                Cell(f"{line['n']}{dropped}"),
            ]
        )
    noun = replicates(first)
    metric = f"{metric_words(first['metric'])} {ARROWS[first['direction']]}"
    header = ["A", "B", "A − B [95 % CI]", "p (Holm)", "P(A better) [95 % CI]", "verdict", "n"]
    caption = (
        f"{study}: every pair of arms, selected configurations, {metric} on the test split. A − B "
        f"is the mean paired difference over {noun} with its 95 % t interval; p is of the paired "
        f"t-test, Holm-corrected over all {len(table)} pairs; bold where p is at most 0.05. "
        f"P(A better) is the share of {noun} that A wins, ties counted half, with Wilson's "
        f"interval, and the verdict is Bouthillier et al.'s (2021) at a meaningful share of 0.75."
    )
    return Layout(f"pairwise-{study}", header, rows, caption + legend(notes), (0, 1, 5))


def contrasts_layout(table: pd.DataFrame, study: str) -> Layout:
    """Claims and their answers; see `tables.comparisons.contrasts_table`."""
    notes: dict[str, str] = {}
    digits = digits_of(table["half_width"])
    levelled = bool((table["level"] != "").any())
    rows = []
    for line in table.to_dict("records"):
        renamed = {f"difference_{edge}": line[edge] for edge in ("low", "high")}
        renamed |= {"difference": line["difference"], "difference_missing": line["reason"]}
        rows.append(
            [
                Cell(line["claim"]),
                *([Cell(line["level"])] if levelled else []),
                Cell(f"{line['better']} − {line['than']}"),
                Cell(difference_text(renamed, digits, notes)),
                Cell(p_text(line["p_holm"])),
                Cell(line["answer"], line["answer"] in ("held", "reversed")),
                Cell(str(line["n"])),
            ]
        )
    first = table.iloc[0]
    noun = replicates(first)
    metric = f"{metric_words(first['metric'])} {ARROWS[first['direction']]}"
    header = ["claim", *(["level"] if levelled else []), "contrast", "difference [95 % CI]"]
    header += ["p (Holm)", "answer", "n"]
    caption = (
        f"{study}: claims put down in the study file before it ran, selected configurations, "
        f"{metric} on the test split. The difference is the mean paired one over {noun} with its "
        f"95 % t interval; p is of the paired t-test, Holm-corrected over the {len(table)} rows. "
        f"Held and reversed where p is at most 0.05, else undecided, which is no proof that there "
        f"is no difference."
    )
    texts = (0, 1, 2) if levelled else (0, 1)
    return Layout(f"contrasts-{study}", header, rows, caption + legend(notes), texts)


def power_layout(table: pd.DataFrame) -> Layout:
    """What the study could have found; see `tables.comparisons.power_table`."""
    notes: dict[str, str] = {}
    first = table.iloc[0]
    digits = digits_of(table["detectable"])
    rows = []
    for line in table.to_dict("records"):
        reason = line["reason"]
        spread = interval_text(line["sd"], line["sd_low"], line["sd_high"], digits + 1)
        needed = [_seeds(line[name], reason, notes) for name in ("needed", "needed_high")]
        found = [
            "—" if pd.isna(line[name]) else f"{line[name]:.{digits}f}"
            for name in ("detectable", "detectable_holm")
        ]
        dash = f"— ({note(notes, reason)})" if reason else "—"
        rows.append(
            [
                Cell(line["arm"]),
                Cell(dash if pd.isna(line["difference"]) else _signed(line["difference"], digits)),
                Cell(dash if pd.isna(line["sd"]) else spread),
                *(Cell(dash if text == "—" else text) for text in found),
                *(Cell(text) for text in needed),
                Cell(str(line["n"])),
            ]
        )
    noun = replicates(first)
    header = ["arm", "difference", "sd of differences [95 % CI]", "detectable"]
    header += [f"detectable (m = {len(table)})", f"{noun} needed", "needed, upper sd", "n"]
    caption = (
        f"{first['study']}: what n paired {noun} can find against {first['baseline']}, "
        f"{metric_words(first['metric'])} on the test split. Detectable: the smallest true "
        f"difference that a paired t-test finds with power 0.8 at the 5 % level, and at 5 %/m, the "
        f"first step of Holm's correction over m arms. Needed: {noun} that find a true difference "
        f"as large as the observed one with power 0.8, with the observed sd and with the upper end "
        f"of its interval. The observed difference is itself an estimate: this plans the next "
        f"study and says nothing on how sure this one is."
    )
    return Layout(f"power-{first['study']}", header, rows, caption + legend(notes))


def _signed(value: float, digits: int) -> str:
    return interval_text(value, float("nan"), float("nan"), digits, signed=True)


def _seeds(value: int | None, reason: str, notes: dict[str, str]) -> str:
    if not pd.isna(value):
        return f"{value:,}"
    return f"— ({note(notes, reason or 'no difference, or more than ten million')})"
