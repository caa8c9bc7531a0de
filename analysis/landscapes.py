"""Optimisers on surfaces whose minima are known: where they go, step by step."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from losslab.errors import BadInput

STEPS = 300
#: A trajectory that leaves this distance from the origin has diverged.
FAR = 1e3
#: A point is at a minimum from this distance on.
NEAR = 1e-2
NOWHERE = "no minimum"


@dataclass(frozen=True)
class Surface:
    """A function of two variables: `f(x, y)` of tensors, its minima, and what to show of it.

    `view` is (left, right, bottom, top); `rates` and `starts` are those of the figure; `formula`
    is written as mathtext.
    """

    name: str
    f: Callable[[Tensor, Tensor], Tensor]
    formula: str
    minima: tuple[tuple[float, float], ...]
    view: tuple[float, float, float, float]
    rates: tuple[float, ...]
    starts: tuple[tuple[float, float], ...]

    def values(self, points: np.ndarray) -> np.ndarray:
        """f at points (..., 2), in float64.

        >>> SURFACES["himmelblau"].values(np.array([3.0, 2.0]))
        array(0.)
        """
        at = torch.from_numpy(np.asarray(points, dtype=np.float64))
        return self.f(at[..., 0], at[..., 1]).numpy()


#: The curvatures of the narrow valley: a hundred times as steep across as along.
VALLEY = (1.0, 100.0)

SURFACES: dict[str, Surface] = {
    surface.name: surface
    for surface in (
        Surface(
            "himmelblau",
            lambda x, y: (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2,
            r"$(x^2 + y - 11)^2 + (x + y^2 - 7)^2$",
            ((3.0, 2.0), (-2.805118, 3.131313), (-3.779310, -3.283186), (3.584428, -1.848127)),
            (-6.0, 6.0, -6.0, 6.0),
            (0.001, 0.01, 0.1),
            ((0.0, 0.0), (-1.0, -4.5), (-5.0, 1.0), (5.0, 5.0)),
        ),
        Surface(
            "saddle",
            lambda x, y: x**2 / 2 - y**2 / 2 + y**4 / 4,
            r"$x^2 / 2 - y^2 / 2 + y^4 / 4$",
            ((0.0, -1.0), (0.0, 1.0)),
            (-2.2, 2.2, -1.8, 1.8),
            (0.01, 0.1, 1.0),
            ((2.0, 0.0), (-2.0, 1e-3), (-1.0, -1e-6), (0.5, 1.6)),
        ),
        Surface(
            "valley",
            lambda x, y: VALLEY[0] * x**2 / 2 + VALLEY[1] * y**2 / 2,
            r"$x^2 / 2 + 100\, y^2 / 2$",
            ((0.0, 0.0),),
            (-2.2, 2.2, -0.5, 0.5),
            (0.001, 0.01, 0.021),
            ((2.0, 0.3), (-1.5, -0.4)),
        ),
    )
}

OPTIMIZERS: dict[str, Callable[[Sequence[Tensor], float], torch.optim.Optimizer]] = {
    "SGD": lambda at, rate: torch.optim.SGD(at, lr=rate),
    "momentum 0.9": lambda at, rate: torch.optim.SGD(at, lr=rate, momentum=0.9),
    "Adam": lambda at, rate: torch.optim.Adam(at, lr=rate),
}


def trajectory(
    surface: Surface,
    optimizer: str,
    rate: float,
    starts: Iterable[Sequence[float]],
    steps: int = STEPS,
) -> np.ndarray:
    """The points that an optimiser of `torch.optim` visits from each start: (starts, steps + 1, 2).

    All starts go side by side as rows of one tensor, which none of `OPTIMIZERS` mixes. The exact
    gradient, in float64. From where a trajectory leaves `FAR` it is NaN. Raises `BadInput` for an
    optimiser that is not in `OPTIMIZERS`.

    >>> trajectory(SURFACES["valley"], "SGD", 0.005, [(1.0, 1.0)], steps=2)[0].round(4).tolist()
    [[1.0, 1.0], [0.995, 0.5], [0.99, 0.25]]
    """
    if optimizer not in OPTIMIZERS:
        raise BadInput(f"optimizer: there is no {optimizer!r}; choose from {', '.join(OPTIMIZERS)}")
    at = torch.from_numpy(np.array(list(starts), dtype=np.float64)).requires_grad_()
    walker = OPTIMIZERS[optimizer]([at], rate)
    visited = [at.detach().clone()]
    gone = torch.zeros(len(at), dtype=torch.bool)
    for _ in range(steps):
        walker.zero_grad()
        surface.f(at[:, 0], at[:, 1]).sum().backward()
        walker.step()
        point = at.detach().clone()
        gone |= ~(point.norm(dim=1) <= FAR)
        point[gone] = torch.nan
        visited.append(point)
    return torch.stack(visited, dim=1).numpy()


def arrivals(surfaces: Iterable[str] = tuple(SURFACES), steps: int = STEPS) -> pd.DataFrame:
    """Where every trajectory of the figures ends: one row per surface, optimiser, rate and start.

    Columns `surface, optimizer, rate, start, end` (x, y), `loss` (f at the end), `reached` (the
    minimum that the end is within `NEAR` of, or `NOWHERE`; "diverged" where it left `FAR`) and
    `steps` (the first from which on it stays there; NaN elsewhere).
    """
    rows = []
    for name in surfaces:
        surface = SURFACES[name]
        for optimizer in OPTIMIZERS:
            for rate in surface.rates:
                paths = trajectory(surface, optimizer, rate, surface.starts, steps)
                for start, path in zip(surface.starts, paths, strict=True):
                    reached, step = _arrival(surface, path)
                    rows.append({
                        "surface": name, "optimizer": optimizer, "rate": rate, "start": start,
                        "end": tuple(path[-1].tolist()), "loss": float(surface.values(path[-1])),
                        "reached": reached, "steps": step,
                    })  # fmt: skip
    return pd.DataFrame(rows)


def _arrival(surface: Surface, path: np.ndarray) -> tuple[str, float]:
    if np.isnan(path[-1]).any():
        return "diverged", np.nan
    for minimum in surface.minima:
        near = np.linalg.norm(path - minimum, axis=1) < NEAR
        if near[-1]:
            away = np.flatnonzero(~near)
            return f"({minimum[0]:.3g}, {minimum[1]:.3g})", float(away[-1] + 1 if len(away) else 0)
    return NOWHERE, np.nan
