"""The data of one training, as tensors; built once per process and shared by all its trainings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from losslab.datasets import DATASETS
from losslab.datasets.base import Dataset, Split


@dataclass(frozen=True)
class Examples:
    """A split on a device: features, targets and the examples' ids."""

    features: Tensor
    targets: Tensor
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class RunData:
    """Train and validation data of one run seed, with what is known about the training split."""

    dataset: Dataset
    train: Examples
    validation: Examples
    class_counts: np.ndarray
    pairing: dict[str, str]


def dataset_for(options: Mapping[str, Any], study_seed: int) -> Dataset:
    """The dataset of a configuration's `dataset` section; the same object for equal options."""
    return _dataset(json.dumps(options, sort_keys=True), study_seed)


def run_data(options: Mapping[str, Any], study_seed: int, run_seed: int, device: str) -> RunData:
    """Train and validation data of a run; the test split is not touched."""
    return _run_data(json.dumps(options, sort_keys=True), study_seed, run_seed, device)


def held_out(
    options: Mapping[str, Any], study_seed: int, run_seed: int, device: str
) -> tuple[Examples, str]:
    """The test split as the run's preprocessing gives it, and its digest; for confirmation only."""
    split = dataset_for(options, study_seed).test(run_seed)
    return _on_device(split, device), split.digest()


@lru_cache(maxsize=8)
def _dataset(options: str, study_seed: int) -> Dataset:
    arguments = json.loads(options)
    dataset = DATASETS.create(arguments.pop("name"), study_seed=study_seed, **arguments)
    assert isinstance(dataset, Dataset)
    return dataset


@lru_cache(maxsize=8)
def _run_data(options: str, study_seed: int, run_seed: int, device: str) -> RunData:
    dataset = _dataset(options, study_seed)
    train, validation = dataset.split(run_seed)
    return RunData(
        dataset=dataset,
        train=_on_device(train, device),
        validation=_on_device(validation, device),
        class_counts=dataset.class_counts(train),
        pairing={"train": train.digest(), "validation": validation.digest()},
    )


def _on_device(split: Split, device: str) -> Examples:
    return Examples(
        torch.from_numpy(split.features).to(device),
        torch.from_numpy(split.targets).to(device),
        split.ids,
    )
