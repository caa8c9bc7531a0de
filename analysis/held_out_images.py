"""The test images of a study, made again for being drawn."""

from collections.abc import Sequence
from typing import Any

from losslab.analysis.frames import StudyFrames
from losslab.errors import LosslabError


def rebuilt_test(frames: StudyFrames, arm: str) -> Any:
    """The test split that an arm was judged on, or None where it is gone or has changed."""
    from losslab.experiments.data import dataset_for  # it needs torch, which others do without

    options = frames.study["arms"].get(arm, {}).get("config", {}).get("dataset")
    if not options:
        return None
    seed = int(frames.study.get("resolved", {}).get("seed", 0))
    try:
        dataset = dataset_for(options, seed)
        split = dataset.test(0)
    except (LosslabError, OSError, TypeError, ValueError):  # moved, changed or not registered here
        return None
    known = frames.study.get("content_hashes", {}).get(arm)
    return split if known in (None, dataset.content_hash) else None


def image_names(frames: StudyFrames, arm: str, ids: Sequence[int]) -> list[str]:
    """What images of an arm's dataset are called: by their files, or else by number.

    The dataset is one that `rebuilt_test` has found.
    """
    from losslab.experiments.data import dataset_for

    seed = int(frames.study.get("resolved", {}).get("seed", 0))
    dataset = dataset_for(frames.study["arms"][arm]["config"]["dataset"], seed)
    files = getattr(dataset, "names", None)  # of datasets that are made of files
    return [str(files[i]) if files else f"image {i}" for i in ids]
