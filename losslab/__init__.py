"""losslab: which loss function is better for this imbalanced problem, by how much, and how surely.

The package root is light on purpose: importing it imports neither torch nor mlflow.

>>> from losslab.losses import LOSSES
>>> "focal" in LOSSES.names()
True
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "run_study"]

if TYPE_CHECKING:
    from losslab.experiments.protocol import run_study


def __getattr__(name: str) -> Any:
    if name == "run_study":
        from losslab.experiments.protocol import run_study

        return run_study
    raise AttributeError(f"module 'losslab' has no attribute {name!r}")
