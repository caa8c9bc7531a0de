"""The ledger: what each arm of a study spent."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

_STATES = ("complete", "pruned", "diverged")


def ledger_of(
    study: Mapping[str, Any],
    arms: Sequence[str],
    trials: pd.DataFrame,
    confirmation: pd.DataFrame,
    selected: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """What each arm spent, one row per arm.

    `trials, complete, pruned, diverged` (search trials by how they ended), `retrainings` (of the
    best candidates), `confirmations`, `diverged_confirmations`, `missing_confirmations` (of the
    selected configuration and the defaults, on each of the study's seeds), `epochs` and `seconds`
    (all phases together; wall time of the runs), `tuned` (dimensions searched), `flags`.
    """
    rows = []
    seeds = int(study.get("seeds") or 0)
    for arm in arms:
        own, confirmed = trials[trials["arm"] == arm], confirmation[confirmation["arm"] == arm]
        search = own[own["phase"] == "search"]
        wanted = {(variant, seed) for variant in ("selected", "defaults") for seed in range(seeds)}
        present = set(zip(confirmed["variant"], confirmed["seed_index"], strict=True))
        rows.append(
            {
                "arm": arm,
                "trials": len(search),
                **{s: int((search["state"] == s).sum()) for s in _STATES},
                "retrainings": int((own["phase"] == "select").sum()),
                "confirmations": len(confirmed),
                "diverged_confirmations": int((confirmed["state"] == "diverged").sum()),
                "missing_confirmations": len(wanted - present),
                "epochs": int(own["epochs"].sum() + confirmed["epochs"].sum()),
                "seconds": float(own["seconds"].sum() + confirmed["seconds"].sum()),
                "tuned": len(study["arms"].get(arm, {}).get("space", {})),
                "flags": "; ".join(selected.get(arm, {}).get("flags", [])),
            }
        )
    return pd.DataFrame(rows)
