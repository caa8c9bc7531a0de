"""When a training cannot go on, and why: its own fault, which is a result, or the machine's."""

from collections.abc import Mapping

import numpy as np
import torch

# What a loss or a model may raise by itself ends one training; anything else is a defect.
DIVERGENCES = (
    ArithmeticError,
    AssertionError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
REASON_LIMIT = 500  # characters; a table and an MLflow tag have room for them


def of_the_machine(error: Exception) -> bool:
    """Whether the machine failed and not this configuration: no result can be read from that.

    After a GPU's assertion every further call to it fails, and with it every further training.
    """
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def reason_of(error: Exception, epoch: int) -> str:
    """An exception in one line.

    >>> reason_of(ValueError("bad  gamma"), 3)
    'ValueError in epoch 3: bad gamma'
    """
    return f"{type(error).__name__} in epoch {epoch}: {' '.join(str(error).split())}"[:REASON_LIMIT]


def not_finite(row: Mapping[str, float], objective: str) -> str:
    """Why a training cannot go on after an epoch, or nothing.

    `row` is the epoch's history; it has no validation values where a parameter is not finite.

    >>> not_finite({"epoch": 2, "train/loss": float("nan")}, "roc_auc")
    'training loss is nan in epoch 2'
    """
    epoch, name = int(row["epoch"]), f"val/{objective}"
    if not np.isfinite(row["train/loss"]):
        return f"training loss is {row['train/loss']} in epoch {epoch}"
    if name not in row:
        return f"a parameter is not finite after epoch {epoch}"
    if not np.isfinite(row[name]):
        return f"{objective} is {row[name]} in epoch {epoch}"
    return ""
