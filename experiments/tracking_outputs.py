"""Per-example outputs among MLflow's artifacts, so that a store's address is enough to draw them.

The local store gets hard links, which take no space. Any other place gets copies, and these only
up to a limit; a tag of the study run says what was left out.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from losslab.errors import BadInput
from losslab.experiments.run_labels import OUTPUTS_FILE
from losslab.experiments.run_ledger import RunLedger
from losslab.experiments.tracking_client import ClientStore

# Megabytes of a study's outputs that are copied to a store, unless LOSSLAB_OUTPUTS_LIMIT says else.
LIMIT = 50.0
OUTPUTS_TAG = "losslab.outputs"


def outputs_limit() -> float:
    """How many megabytes of outputs may be copied; `BadInput` if the environment says nonsense."""
    given = os.environ.get("LOSSLAB_OUTPUTS_LIMIT")
    try:
        limit = LIMIT if given is None else float(given)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise BadInput(f"LOSSLAB_OUTPUTS_LIMIT: must be a number of megabytes, got {given!r}")
    return limit


def attach_outputs(
    store: ClientStore, ledger: RunLedger, study_run: str, files: Mapping[str, Path], limit: float
) -> None:
    """Attach files to the runs with these keys, the first ones first, and say what was left out.

    What is attached already is left alone, so this may fail anywhere and be called again.
    """
    here = {key: file for key, file in files.items() if key in ledger.ids and file.is_file()}
    linked = bool(here) and store.can_link(next(iter(here.values())))
    spent, attached, left = 0.0, 0, []
    for key, file in here.items():
        spent += file.stat().st_size / 1e6
        if not linked and spent > limit:
            left.append(key)
            continue
        # The ledger's other keys end in a number, so this is none of them.
        mark, run_id = f"{key} outputs", ledger.ids[key]
        if ledger.ids.get(mark) != run_id:
            store.add_file(run_id, file, OUTPUTS_FILE)
            ledger.note(mark, run_id, done=True)
        attached += 1
    told = f"attached to {attached} of {len(here)} runs"
    if left:
        told += (
            f"; left out from {left[0]} on, since all together are {spent:.1f} MB and the limit is "
            f"{limit:g} MB (LOSSLAB_OUTPUTS_LIMIT)"
        )
    if here:
        store.set_tag(study_run, OUTPUTS_TAG, told)
