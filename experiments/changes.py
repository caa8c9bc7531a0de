"""What was changed in the file of a study that has begun, and whether it can follow."""

from collections.abc import Mapping, Sequence
from typing import Any

from losslab.experiments.spaces import leaves

# What may grow: more of the same, laid upon what is there.
GROWING = ("search.trials", "search.repeats", "confirm.seeds")
# Options of datasets that say where data are, and not what they are.
MOVABLE = (
    *("path", "images", "validation_images", "test_images"),
    *("annotations", "validation_annotations", "test_annotations", "cache"),
)
# Keys that older studies do not have, with what they did.
SINCE = {"search.repeats": 1}


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What a study file changes that a started study cannot follow, one line a key.

    Adding arms, trials, repeats or confirmation seeds continues a study, and so does rewording its
    question; everything else would mix runs that do not belong together.

    >>> changed_keys({"seed": 0, "search": {"trials": 8}}, {"seed": 1, "search": {"trials": 16}})
    ['seed: 0 -> 1']
    """
    old_arms, new_arms = old.get("arms", {}), new.get("arms", {})
    lines = [f"arms.{arm}: was removed" for arm in old_arms if arm not in new_arms]
    both = [arm for arm in old_arms if arm in new_arms]
    before, after = _flat(old, both), _flat(new, both)
    for path in dict.fromkeys([*before, *after]):
        was, now = before.get(path, SINCE.get(path)), after.get(path)
        grown = path in GROWING and now is not None and now >= was
        # Data may lie elsewhere than when the study began: their content hash is compared.
        moved = path.rpartition("dataset.")[2] in MOVABLE
        # How much memory a stack may take changes what is stacked from now on, and no result.
        if was != now and not (grown or moved or path in ("question", "memory")):
            lines.append(f"{path}: {_shown(was)} -> {_shown(now)}")
    return lines


def _flat(resolved: Mapping[str, Any], arms: Sequence[str]) -> dict[str, Any]:
    flat = dict(leaves({key: value for key, value in resolved.items() if key != "arms"}))
    for arm in arms:
        flat |= leaves(resolved["arms"][arm], f"arms.{arm}.")
    return flat


def _shown(value: Any) -> str:
    return "(absent)" if value is None else str(value)
