"""Bands: how far members on perturbed data part, the noise, and a factor that makes them cover held-out blocks.

The spread of networks that differ in their seed alone covers 9-15 % where it says 80: they agree, and are wrong together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

LEVELS = (0.8, 0.95)
WORSE = 1.5  # times the misfit (root mean square) of the best, above which a member is left out


@dataclass(frozen=True)
class Bands:
    """Half-widths of the bands: factor · √(spread² + noise²), in scaled coordinates.

    Attributes:
        factors: for the levels 0.8 and 0.95.
        noise: (d,), of an observation.
        points: on held-out blocks that the factors were calibrated on; 0 where they are those of a normal distribution.

    Example:
        >>> bands = Bands.normal([0.3, 0.4])
        >>> bands.half_widths(np.zeros((1, 2)), 0.8).round(2)
        array([[0.38, 0.51]])
    """

    factors: tuple[float, float]
    noise: tuple[float, ...]
    points: int = 0

    @staticmethod
    def normal(noise: list[float]) -> Bands:
        """Without calibration."""
        return Bands(_normal(), tuple(noise))

    @staticmethod
    def calibrated(ratios: np.ndarray, noise: list[float]) -> Bands:
        """From |error| / √(spread² + noise²) of held-out points (n,): the split-conformal quantiles, never below normal ones.

        The points of a block depend on each other, so this is a correction and no guarantee.

        Source:
            Vovk, Gammerman & Shafer (2005), Algorithmic Learning in a Random World; Lei et al. (2018), JASA 113, eq. 5.
        """
        ratios = np.sort(ratios[np.isfinite(ratios)])
        n = len(ratios)
        if not n:
            return Bands.normal(noise)
        at = [min(n, math.ceil((n + 1) * level)) - 1 for level in LEVELS]
        first, second = (max(float(ratios[i]), z) for i, z in zip(at, _normal(), strict=True))
        return Bands((first, second), tuple(noise), n)

    def half_widths(self, spread: np.ndarray, level: float) -> np.ndarray:
        """(…, d) from the spread (…, d) of the members."""
        return self.factors[LEVELS.index(level)] * np.sqrt(spread**2 + np.array(self.noise) ** 2)


def _normal() -> tuple[float, float]:
    first, second = (NormalDist().inv_cdf(0.5 + level / 2) for level in LEVELS)
    return first, second


def spread_of(paths: np.ndarray) -> np.ndarray:
    """Standard deviation (n, d) of the paths (M, n, d) of members; 0 of fewer than two; paths that are lost do not count."""
    finite = np.where(np.isfinite(paths), paths, np.nan)
    count = np.isfinite(paths).sum(0)
    mean = np.nansum(finite, 0) / np.maximum(count, 1)
    squares = np.nansum((finite - mean) ** 2, 0)
    return np.sqrt(np.where(count > 1, squares / np.maximum(count - 1, 1), 0.0))


def kept(misfit: Tensor) -> Tensor:
    """Which members (M,) are good enough: a mean square of at most 1.5² times the best."""
    best = misfit.nan_to_num(torch.inf).min()
    return (misfit <= WORSE**2 * best) | (misfit == best)
