"""How well generated samples meet the modes of real ones.

Following the measures of VEEGAN (Srivastava et al., NeurIPS 2017) and PacGAN (Lin et al., NeurIPS
2018), which call a sample within three standard deviations of a mode's centre one of high quality,
for modes of unequal frequency: a mode is covered by its share, not by a single sample. Centres,
spread and frequencies are those of real samples that no training saw, so that the same numbers
exist for any labelled samples.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from losslab.experiments.metrics import metric
from losslab.experiments.score_metrics import marked

#: A generated sample belongs to a mode within so many standard deviations of its centre.
STANDARD_DEVIATIONS = 3.0
#: A mode is covered from this share of the samples on that it should have got.
COVERED = 0.25


@dataclass(frozen=True)
class RealModes:
    """The modes of real samples.

    `centres` (K, d) are the mean samples of the modes, `spread` the standard deviation around
    them, pooled over modes and dimensions, and `counts` (K + 1,) how many of the real samples lie
    within three spreads of each, with those that lie near none in the last place.
    """

    centres: np.ndarray
    spread: float
    counts: np.ndarray

    @classmethod
    def of(cls, samples: np.ndarray, modes: np.ndarray) -> "RealModes":
        """The modes of real samples (n, d) whose modes (n,) are known.

        >>> found = RealModes.of(np.array([[0.0], [2.0], [9.0], [11.0]]), np.array([0, 0, 1, 1]))
        >>> found.centres.ravel().tolist(), round(found.spread, 4), found.counts.tolist()
        ([1.0, 10.0], 1.4142, [2, 2, 0])
        """
        samples = np.asarray(samples, dtype=np.float64)
        known = np.unique(modes)
        centres = np.stack([samples[modes == k].mean(axis=0) for k in known])
        away = samples - centres[np.searchsorted(known, modes)]
        degrees = max(len(samples) - len(known), 1) * samples.shape[1]
        spread = float(np.sqrt((away**2).sum() / degrees))
        found = cls(centres, spread, np.zeros(len(known) + 1, dtype=np.int64))
        return cls(centres, spread, found.count(samples))

    def count(self, samples: np.ndarray) -> np.ndarray:
        """How many samples (n, d) belong to each mode, and to none (int64, (K + 1,))."""
        samples = np.asarray(samples, dtype=np.float64)
        # Samples that are not finite are near no mode.
        away = np.stack([np.linalg.norm(samples - centre, axis=1) for centre in self.centres])
        away = np.where(np.isfinite(away), away, np.inf)
        near = away.min(axis=0) <= STANDARD_DEVIATIONS * self.spread
        mode = np.where(near, away.argmin(axis=0), len(self.centres))
        return np.bincount(mode, minlength=len(self.centres) + 1)


@marked("maximize", "generation")
def mode_coverage(real: np.ndarray, generated: np.ndarray) -> float:
    """Share of the modes that got at least a quarter of the samples that they should have got.

    Of n generated samples, a mode with the share p of the real ones should get n p. Counts (K + 1,)
    as in `RealModes.counts`.

    >>> mode_coverage(np.array([90, 10, 0]), np.array([98, 2, 0]))
    0.5
    """
    expected = real[:-1] / real.sum() * generated.sum()
    return float((generated[:-1] >= COVERED * expected).mean())


@marked("maximize", "generation")
def high_quality(real: np.ndarray, generated: np.ndarray) -> float:
    """Share of the generated samples that belong to some mode.

    Of the samples of a Gaussian mixture in the plane itself it is 1 - exp(-9/2) = 0.989.

    >>> high_quality(np.array([90, 10, 0]), np.array([40, 10, 50]))
    0.5
    """
    return float(generated[:-1].sum() / generated.sum())


@marked("minimize", "generation")
def mode_divergence(real: np.ndarray, generated: np.ndarray) -> float:
    """Kullback-Leibler divergence KL(generated || real) of the mode frequencies, in nats.

    "Near no mode" is one of the frequencies. It takes half a sample more at each place of the real
    ones, so that it is finite: a mode that is never met adds little, samples in the wrong place add
    much.

    >>> mode_divergence(np.array([50, 50, 0]), np.array([50, 50, 0])) < 0.01
    True
    """
    p = (real + 0.5) / (real + 0.5).sum()
    q = generated / generated.sum()
    met = q > 0
    return float((q[met] * np.log(q[met] / p[met])).sum())


def generation_metrics(
    real: np.ndarray, generated: np.ndarray, names: Iterable[str]
) -> dict[str, float]:
    """The named metrics of counts (K + 1,) of real and generated samples; see `RealModes.count`."""
    return {name: float(metric(name).function(real, generated)) for name in names}
