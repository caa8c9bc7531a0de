"""How small a difference so many seeds can find, and how many seeds a difference needs."""

from math import sqrt

from scipy import optimize, stats

from losslab.analysis.statistics.samples import Values, check_confidence, check_level, finite
from losslab.errors import BadInput

_MOST = 10_000_000  # pairs; a study of more is not a study


def power_of_paired_t(difference: float, sd: float, n: int, *, level: float = 0.05) -> float:
    """Power of the two-sided paired t-test for a true mean difference, n pairs (Cohen 1988, ch. 2).

    P(|T| > t_{1−α/2, n−1}), T noncentral t with n − 1 degrees of freedom and noncentrality
    √n · difference / sd; `sd` is of the paired differences, not of either arm. For m arms against
    one baseline, `level` = 0.05/m is what Holm's first step asks. `BadInput` where sd is not
    positive or n < 2.

    >>> round(power_of_paired_t(0.01, 0.02, 34), 3)
    0.808
    """
    _check(sd, n, level)
    return _power(abs(difference) / sd, n, level)


def detectable_difference(sd: float, n: int, *, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest true mean difference that n pairs find with the given power.

    Solves `power_of_paired_t` for the difference. A study in which nothing was significant says of
    larger differences only that they are unlikely, and of smaller ones nothing. `BadInput` as
    there, and where power ≤ level.

    >>> round(detectable_difference(sd=0.01, n=10), 4)
    0.01
    """
    _check(sd, n, level)
    _check_power(power, level)

    def lacking(effect: float) -> float:
        return _power(effect, n, level) - power

    upper = 1.0
    while lacking(upper) < 0:
        upper *= 2
    return sd * float(optimize.brentq(lacking, 0.0, upper, xtol=1e-12))


def seeds_needed(difference: float, sd: float, *, power: float = 0.8, level: float = 0.05) -> int:
    """The fewest paired seeds whose t-test finds a true mean difference with the given power.

    The smallest n ≥ 2 with `power_of_paired_t` ≥ power. A pilot's `sd` is itself uncertain: ask
    again with the upper end of `sd_interval`. `BadInput` where the difference is zero, sd is not
    positive, or more than ten million seeds would be needed.

    >>> seeds_needed(0.01, sd=0.02), seeds_needed(0.01, sd=0.01)
    (34, 10)
    """
    _check(sd, 2, level)
    _check_power(power, level)
    if not abs(difference) > 0:
        raise BadInput(
            "no number of seeds finds a difference of zero; give the smallest that counts"
        )
    enough = 2
    while power_of_paired_t(difference, sd, enough, level=level) < power:
        enough *= 2
        if enough > _MOST:
            raise BadInput(f"more than {_MOST:,} seeds: the difference is too small beside sd {sd}")
    few = enough // 2
    while enough - few > 1:
        middle = (few + enough) // 2
        if power_of_paired_t(difference, sd, middle, level=level) < power:
            few = middle
        else:
            enough = middle
    return enough


def sd_interval(values: Values, confidence: float = 0.95) -> tuple[float, float, float]:
    """Sample standard deviation with its interval for normal values: s, low, high.

    s √((n − 1) / χ²_{(1±c)/2, n−1}). From 5 seeds the upper end is almost three times s. Values
    that are not finite are left out; fewer than two are `BadInput`.

    >>> [round(x, 2) for x in sd_interval([1.0, 2.0, 3.0, 4.0, 5.0])]
    [1.58, 0.95, 4.54]
    """
    check_confidence(confidence)
    kept, _ = finite(values)
    n = len(kept)
    if n < 2:
        raise BadInput(f"a standard deviation needs two values, got {n}")
    s = float(kept.std(ddof=1))
    tails = stats.chi2.ppf([(1 + confidence) / 2, (1 - confidence) / 2], n - 1)
    return s, s * sqrt((n - 1) / tails[0]), s * sqrt((n - 1) / tails[1])


def _power(effect: float, n: int, level: float) -> float:
    # T² is noncentral F. Not statsmodels' TTestPower: it adds the noncentral t's far tail, which
    # scipy gives as NaN for large effects; and scipy's F is wrong where nothing is noncentral.
    noncentrality = n * effect**2
    if noncentrality < 1e-9:
        return level
    critical = stats.t.isf(level / 2, n - 1) ** 2
    return float(stats.ncf.sf(critical, 1, n - 1, noncentrality))


def _check(sd: float, n: int, level: float) -> None:
    check_level(level)
    if not 0 < sd < float("inf"):
        raise BadInput(f"the standard deviation of the differences must be positive, got {sd}")
    if n < 2:
        raise BadInput(f"a paired t-test needs two pairs, got {n}")


def _check_power(power: float, level: float) -> None:
    if not level < power < 1:
        raise BadInput(f"power lies between the level {level} and 1, got {power}")
