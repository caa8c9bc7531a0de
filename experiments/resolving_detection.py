"""What can be wrong with the losses of a detector in a study file."""

from collections.abc import Mapping
from typing import Any

from losslab.errors import BadInput
from losslab.experiments.building import build_box_loss


def detection_loss_problems(given: Mapping[str, Any], link: str, where: str) -> list[str]:
    """Of a class loss: link and reduction are the detector's matter."""
    problems = []
    if link != "sigmoid":
        problems.append(f"{where}.link: detectors have a sigmoid for every class")
    if given.get("reduction", "default") != "default":
        problems.append(
            f"{where}.reduction: detector.normalizer says what a detector's loss is divided by"
        )
    return problems


def box_loss_problems(given: Any, where: str) -> list[str]:
    """Of `detector.box_loss`: whether a box loss can be made of it."""
    if given is None:
        return []
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        return [f"{where}.box_loss: give the name of a box loss, such as giou"]
    try:
        build_box_loss(given)
    except (BadInput, TypeError, ValueError) as error:
        return [f"{where}.box_loss: {error}"]
    return []
