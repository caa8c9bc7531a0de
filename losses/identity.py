"""Identities between losses: what `losslab check` proves and `losslab show loss` prints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Identity:
    """With these `values` the loss is `factor` times another registered loss.

    `values` and `other_values` are constructor arguments, hyper-parameters and structural options
    alike; both losses get the same class counts. `links`: where it holds (None: under every link
    that the loss has). `two_class`: this loss under softmax with two classes is the other under
    sigmoid at the difference of the two logits.

    >>> Identity("gamma 0 is cross-entropy", {"gamma": 0}, "ce", links=("softmax",)).factor
    1.0
    """

    text: str
    values: Mapping[str, Any]
    other: str
    other_values: Mapping[str, Any] = field(default_factory=dict)
    links: tuple[str, ...] | None = None
    factor: float = 1.0
    two_class: bool = False
