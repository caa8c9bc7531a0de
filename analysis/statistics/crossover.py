"""At which level of a factor two arms change places, with an interval over replicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats

from losslab.analysis.statistics.samples import NAN, check_confidence
from losslab.errors import BadInput

NONE = "no crossing in the range"


@dataclass(frozen=True)
class Crossover:
    """Where the mean difference of two arms changes sign along the levels.

    `position` is NaN without one crossing, and `reason` says why: none in the range, several, or
    too few replicates for an interval. `low` and `high` are the ends of its interval; `low_open`
    and `high_open` tell that it reaches the first or last level, so that the crossing may as well
    lie beyond (or, where that end's difference is undecided, not exist). `crossings` are all sign
    changes; `n` replicates are complete, `dropped` lack a level.
    """

    position: float
    low: float
    high: float
    low_open: bool
    high_open: bool
    crossings: tuple[float, ...]
    n: int
    dropped: int
    reason: str


def crossover(
    levels: Sequence[float],
    differences: pd.DataFrame,
    *,
    log: bool = True,
    confidence: float = 0.95,
) -> Crossover:
    """The level at which the mean of `differences` is zero, between the levels that were tried.

    `levels` ascend, one for each column of `differences`; a row is a replicate with the paired
    difference of the arms at every level, NaN where a run is missing (such rows are dropped). Every
    replicate's difference d_s(x) is taken as straight between neighbouring levels, over log x
    (`log`) or x; the crossing is where their mean is zero. Its interval holds every x at which the
    t interval of the d_s(x) covers zero, |mean| ≤ t_{(1+c)/2, n−1} · s(x) / √n, and that is
    connected with the crossing: Fieller's (1954) set, solved exactly as a quadratic in each piece.
    Unlike a bootstrap of the crossing it needs no 10 replicates, allows for their correlation
    between levels, and says so when the data leave an end open. That a line may not be straight
    between two levels is in no interval.

    `BadInput` where levels do not ascend, do not fit the columns, or are not positive under `log`.

    >>> d = pd.DataFrame([[-1.1, -0.1, 2.0], [-0.9, 0.1, 2.2], [-1.0, -0.3, 1.8]])
    >>> result = crossover([1, 10, 100], d)
    >>> round(result.position, 2), round(result.low, 2), round(result.high, 2), result.n
    (11.16, 4.82, 19.24, 3)
    """
    check_confidence(confidence)
    x = _checked(levels, differences, log)
    whole = differences.to_numpy(float)
    whole = whole[np.isfinite(whole).all(axis=1)]
    n, dropped = len(whole), len(differences) - len(whole)
    if n == 0:
        return Crossover(NAN, NAN, NAN, False, False, (), 0, dropped, "no complete replicate")
    back = np.exp if log else np.asarray
    found = _zeros(x, whole.mean(axis=0))
    crossings = tuple(float(back(at)) for at in found)
    if len(found) != 1:
        reason = NONE if not found else f"{len(found)} crossings"
        return Crossover(NAN, NAN, NAN, False, False, crossings, n, dropped, reason)
    if n == 1:
        reason = "one replicate: no interval"
        return Crossover(crossings[0], NAN, NAN, False, False, crossings, n, dropped, reason)
    low, high = _connected(x, whole, found[0], float(stats.t.ppf((1 + confidence) / 2, n - 1)))
    ends = bool(low <= x[0]), bool(high >= x[-1])
    return Crossover(
        crossings[0], float(back(low)), float(back(high)), *ends, crossings, n, dropped, ""
    )


def _checked(levels: Sequence[float], differences: pd.DataFrame, log: bool) -> np.ndarray:
    x = np.asarray(levels, dtype=float)
    if x.ndim != 1 or len(x) != differences.shape[1] or len(x) < 2:
        raise BadInput(f"a crossing needs two levels or more, one a column: got {list(levels)}")
    if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
        raise BadInput(f"levels must ascend: got {list(levels)}")
    if log and x[0] <= 0:
        raise BadInput(f"levels on a logarithmic axis must be positive: got {list(levels)}")
    return np.log(x) if log else x


def _zeros(x: np.ndarray, mean: np.ndarray) -> list[float]:
    """Where the broken line changes sign; a zero that it only touches is none."""
    signed = [(a, m) for a, m in zip(x, mean, strict=True) if m != 0]
    zeros = []
    for (a, m), (b, k) in pairwise(signed):
        if m * k < 0:
            between = [c for c, v in zip(x, mean, strict=True) if a < c < b and v == 0]
            straight = a + (b - a) * m / (m - k)
            zeros.append(float(np.mean(between)) if between else float(straight))
    return zeros


def _connected(x: np.ndarray, whole: np.ndarray, position: float, t: float) -> tuple[float, float]:
    """The ends of the stretch around `position` where the t interval covers zero."""
    covered = []
    for i in range(len(x) - 1):
        for low, high in _covered(whole[:, i], whole[:, i + 1] - whole[:, i], t):
            covered.append((x[i] + low * (x[i + 1] - x[i]), x[i] + high * (x[i + 1] - x[i])))
    low = high = position
    tolerance = 1e-9 * (x[-1] - x[0])
    for _ in covered:  # each pass may join one more piece to either side
        for a, b in covered:
            if a <= high + tolerance and b >= low - tolerance:
                low, high = min(low, a), max(high, b)
    return low, high


def _covered(start: np.ndarray, slope: np.ndarray, t: float) -> list[tuple[float, float]]:
    """The parts of w in [0, 1] where mean(start + w·slope)² ≤ t² · var / n: a quadratic's sign."""
    factor = t * t / len(start)
    (v, c), (_, u) = np.cov(start, slope)
    m, k = start.mean(), slope.mean()
    quadratic = np.array([k * k - factor * u, 2 * (m * k - factor * c), m * m - factor * v])
    roots = np.roots(np.trim_zeros(quadratic, "f")) if quadratic.any() else np.array([])
    real = np.sort(roots[np.isreal(roots)].real)
    edges = [0.0, *(float(root) for root in real if 0 < root < 1), 1.0]
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    parts = zip(edges, edges[1:], middles, strict=False)
    return [(a, b) for a, b, w in parts if np.polyval(quadratic, w) <= 0]
