"""The data of one training, as tensors; kept per process and shared by all its trainings.

Splits are built from the dataset, or taken from where somebody has laid them out (`take_from`):
files that all workers of a machine map, or a cluster's object store. The bits are the same.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from losslab.datasets import DATASETS
from losslab.datasets.base import Split, SplitDataset, TaskKind
from losslab.datasets.detection.base import DetectionSplit


@dataclass(frozen=True)
class Examples:
    """A split on a device: features, targets and the examples' ids."""

    features: Tensor
    targets: Tensor
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Images(Examples):
    """A split of a detection dataset: `features` are pixels, `split` has boxes and all else.

    `features` uint8 (n, 3, H, W), `targets` int64 (n,): how many boxes each image has.
    """

    split: DetectionSplit


@dataclass(frozen=True)
class Facts:
    """What a training must know about its dataset besides the examples."""

    task: TaskKind
    class_names: list[str]

    @property
    def num_classes(self) -> int:
        """How many classes there are, background included."""
        return len(self.class_names)


@dataclass(frozen=True)
class RunData:
    """Train and validation data of one run seed, with what is known about the training split."""

    dataset: Facts
    train: Examples
    validation: Examples
    class_counts: np.ndarray
    pairing: dict[str, str]


class Need(NamedTuple):
    """Splits that a training needs: for fitting (train and validation), or the test split."""

    options: str
    study_seed: int
    run_seed: int
    part: Literal["fit", "test"]


@dataclass(frozen=True)
class Laid:
    """The splits of a need as plain arrays, each with its digest, and the training class counts."""

    facts: Facts
    splits: Mapping[str, Split | DetectionSplit]
    digests: dict[str, str]
    class_counts: np.ndarray | None = None


def dataset_for(options: Mapping[str, Any], study_seed: int) -> SplitDataset[Any]:
    """The dataset of a configuration's `dataset` section; the same object for equal options."""
    return _dataset(_text(options), study_seed)


def run_data(options: Mapping[str, Any], study_seed: int, run_seed: int, device: str) -> RunData:
    """Train and validation data of a run; the test split is not touched."""
    return _run_data(Need(_text(options), study_seed, run_seed, "fit"), device)


def held_out(
    options: Mapping[str, Any], study_seed: int, run_seed: int, device: str
) -> tuple[Examples, str]:
    """The test split as the run's preprocessing gives it, and its digest; for confirmation only."""
    laid = _laid(Need(_text(options), study_seed, run_seed, "test"))
    return _on_device(laid.splits["test"], device), laid.digests["test"]


def needs_of(
    options: Mapping[str, Any], study_seed: int, run_seed: int, judged: bool
) -> list[Need]:
    """What a training needs; the test split only if it is judged."""
    fit = Need(_text(options), study_seed, run_seed, "fit")
    return [fit, fit._replace(part="test")] if judged else [fit]


def lay_out(need: Need) -> Laid:
    """Build the splits of a need from their dataset."""
    dataset = _dataset(need.options, need.study_seed)
    splits: dict[str, Any]
    if need.part == "test":
        splits = {"test": dataset.test(need.run_seed)}
        counts = None
    else:
        train, validation = dataset.split(need.run_seed)
        splits = {"train": train, "validation": validation}
        counts = dataset.class_counts(train)
    return Laid(
        Facts(dataset.task, list(dataset.class_names)),
        splits,
        {name: split.digest() for name, split in splits.items()},
        counts,
    )


def take_from(source: Callable[[Need], Laid | None] | None) -> None:
    """Let this process take splits from `source` first; what it does not have is built here."""
    global _source
    _source = source


_source: Callable[[Need], Laid | None] | None = None


def _laid(need: Need) -> Laid:
    found = _source(need) if _source is not None else None
    return lay_out(need) if found is None else found


def _text(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)


@lru_cache(maxsize=8)
def _dataset(options: str, study_seed: int) -> SplitDataset[Any]:
    arguments = json.loads(options)
    dataset = DATASETS.create(arguments.pop("name"), study_seed=study_seed, **arguments)
    assert isinstance(dataset, SplitDataset)
    return dataset


@lru_cache(maxsize=8)
def _run_data(need: Need, device: str) -> RunData:
    laid = _laid(need)
    assert laid.class_counts is not None
    return RunData(
        dataset=laid.facts,
        train=_on_device(laid.splits["train"], device),
        validation=_on_device(laid.splits["validation"], device),
        class_counts=laid.class_counts,
        pairing=dict(laid.digests),
    )


def _on_device(split: Split | DetectionSplit, device: str) -> Examples:
    if isinstance(split, DetectionSplit):
        boxes = torch.from_numpy(split.annotations.counts)
        return Images(_tensor(split.images).to(device), boxes, split.ids, split)
    return Examples(
        _tensor(split.features).to(device), _tensor(split.targets).to(device), split.ids
    )


def _tensor(array: np.ndarray) -> Tensor:
    """The array as a contiguous tensor, aligned alike wherever it came from.

    Kernels may add in another order where memory is aligned otherwise; a mapped file is aligned as
    torch's own memory is, and numpy's is not.
    """
    if isinstance(array, np.memmap):
        return torch.from_numpy(array)
    tensor = torch.empty(array.shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype)
    tensor.numpy()[...] = array
    return tensor
