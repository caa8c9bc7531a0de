"""The ledger: what each arm of a study spent."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

_STATES = ("complete", "pruned", "diverged")


def ledger_of(
    study: Mapping[str, Any],
    arms: Sequence[str],
    trials: pd.DataFrame,
    confirmation: pd.DataFrame,
    selected: pd.DataFrame,
) -> pd.DataFrame:
    """What each arm spent, one row per arm.

    `trials, complete, pruned, diverged` (search trials by how they ended), `retrainings` (of the
    best candidates), `confirmations`, `diverged_confirmations`, `missing_confirmations` (of the
    selected configuration and, unless the study leaves them out, the defaults: on each of the
    study's seeds, after each repeat of the search), `epochs` and `seconds` (all phases together;
    wall time of the runs), `tuned` (dimensions searched), `flags` (of all repeats).
    """
    rows = []
    for arm in arms:
        own, confirmed = trials[trials["arm"] == arm], confirmation[confirmation["arm"] == arm]
        search = own[own["phase"] == "search"]
        present = zip(
            confirmed["variant"], confirmed["repeat"], confirmed["seed_index"], strict=True
        )
        flags = selected.loc[selected["arm"] == arm, "flags"]
        rows.append(
            {
                "arm": arm,
                "trials": len(search),
                **{s: int((search["state"] == s).sum()) for s in _STATES},
                "retrainings": int((own["phase"] == "select").sum()),
                "confirmations": len(confirmed),
                "diverged_confirmations": int((confirmed["state"] == "diverged").sum()),
                "missing_confirmations": len(_planned(study) - set(present)),
                "epochs": int(own["epochs"].sum() + confirmed["epochs"].sum()),
                "seconds": float(own["seconds"].sum() + confirmed["seconds"].sum()),
                "tuned": len(study.get("arms", {}).get(arm, {}).get("space", {})),
                "flags": "; ".join(dict.fromkeys(flag for flag in flags if flag)),
            }
        )
    return pd.DataFrame(rows)


def _planned(study: Mapping[str, Any]) -> set[tuple[str, int, int]]:
    """Every (variant, repeat, seed) that an arm is to be confirmed with."""
    defaults = study.get("resolved", {}).get("confirm", {}).get("defaults", True)
    variants = ("selected", "defaults") if defaults else ("selected",)
    repeats, seeds = int(study.get("repeats") or 1), int(study.get("seeds") or 0)
    return set(product(variants, range(repeats), range(seeds)))
