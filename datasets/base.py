"""What every dataset shares: a fixed test split, seeded train/validation splits, class counts.

A dataset is built by a function `build(study_seed, **options) -> Dataset`. Its test split depends
on the study seed alone; `split(run_seed)` draws train and validation from the rest. Anything that
is fitted (scaling, imputation) is fitted on that run's training split, which is why `test` takes
the run seed too: the same examples every time, transformed as the run's training split says.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

TaskKind = Literal["classification", "dense", "detection", "segmentation", "adversarial"]
IGNORE = -1  # the target of elements that neither train nor count, in dense tasks


@dataclass(frozen=True)
class Split:
    """Examples of one split.

    `features` is float32 of shape (n, ...): (n, d) for rows, (n, channels, height, width) for
    images, (n, anchors, d) for dense detection. `targets` is int64 of shape (n,) with class
    indices, or (n, anchors) with 0 for background, 1 for foreground, -1 for ignored, or
    (n, height, width) with the class of every pixel, -1 for ignored. `ids` is
    int64 of shape (n,): the examples' rows in their source, stable over splits and seeds.
    """

    features: np.ndarray
    targets: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self) -> str:
        """A hash of ids, targets and features, for stating what two runs have in common."""
        return content_hash(self.ids, self.targets, self.features)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name; `from_arrays` makes the split again."""
        return {"features": self.features, "targets": self.targets, "ids": self.ids}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Split":
        """The split of what `arrays` gave."""
        return cls(**arrays)


class AnySplit(Protocol):
    """What splits of every task have."""

    def __len__(self) -> int: ...

    def digest(self) -> str:
        """A hash of what is in the split."""

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""


S = TypeVar("S", bound=AnySplit)


class SplitDataset(ABC, Generic[S]):
    """What datasets of every task share; see the module's text for the contract.

    `content_hash` is a hash of everything the options and the study seed determine: two datasets
    with the same hash give the same splits. `options` are the options it was built with.
    """

    name: str
    task: TaskKind
    class_names: list[str]
    content_hash: str
    options: dict[str, Any]

    @abstractmethod
    def split(self, run_seed: int) -> tuple[S, S]:
        """Train and validation split of one run; the same for equal `run_seed` (>= 0)."""

    @abstractmethod
    def test(self, run_seed: int) -> S:
        """The fixed test examples, transformed as fitted on the training split of `run_seed`."""

    @abstractmethod
    def class_counts(self, split: S) -> np.ndarray:
        """How many elements, or objects, of `split` each class has (int64, (K,))."""

    @property
    def num_classes(self) -> int:
        """How many classes `class_names` has."""
        return len(self.class_names)

    def describe(self, run_seed: int = 0) -> dict[str, Any]:
        """The dataset record that is stored with every study: sizes, counts and prior per split.

        The test split is counted, never looked at otherwise.
        """
        train, validation = self.split(run_seed)
        splits = {"train": train, "validation": validation, "test": self.test(run_seed)}
        return {
            "name": self.name,
            "task": self.task,
            "options": self.options,
            "content_hash": self.content_hash,
            "class_names": self.class_names,
            **self._describe_examples(train),
            "splits": {name: self._describe_split(split) for name, split in splits.items()},
        }

    @abstractmethod
    def _describe_examples(self, train: S) -> dict[str, Any]:
        """What the record says of one example."""

    @abstractmethod
    def _describe_split(self, split: S) -> dict[str, Any]:
        """What the record says of one split."""


class Dataset(SplitDataset[Split]):
    """A dataset whose examples, or anchors, have one class each; background is one of them."""

    def class_counts(self, split: Split) -> np.ndarray:
        """How many elements of `split` each class has (int64); ignored elements do not count."""
        targets = split.targets[split.targets != IGNORE]
        return np.bincount(targets.ravel(), minlength=self.num_classes).astype(np.int64)

    def prior(self, split: Split) -> np.ndarray:
        """The class distribution of `split`: counts divided by their sum (float64)."""
        counts = self.class_counts(split)
        return counts / counts.sum()

    def _describe_examples(self, train: Split) -> dict[str, Any]:
        return {"feature_shape": list(train.features.shape[1:])}

    def _describe_split(self, split: Split) -> dict[str, Any]:
        return {
            "examples": len(split),
            "class_counts": self.class_counts(split).tolist(),
            "prior": self.prior(split).tolist(),
            "ignored": int((split.targets == IGNORE).sum()),
        }


def content_hash(*parts: np.ndarray | str | bytes) -> str:
    """A short SHA-256 over arrays (type, shape and bytes) and texts.

    >>> content_hash(np.arange(3), "a") == content_hash(np.arange(3), "a")
    True
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]
