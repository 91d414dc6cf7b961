"""Bands: how far members on perturbed data part, how far they leave what was learned, the noise, and factors that make all of
this cover what was held out.

The spread of networks that differ in their seed alone covers 9-15 % where it says 80: they agree, and are wrong together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEVELS = (0.8, 0.95)
WORSE = 1.5  # times the misfit (root mean square) of the best, above which a member is left out
# Of how far a forecast lies outside what was learned, the share that counts as a standard deviation: of 18 tables with a trend
# the bands of 80 and 95 % held 71 and 88 % without it, with it 77 and 95 %.
BEYOND = 1 / 3
ANGLES = 20_001  # of the rule by which a quantile of Student's t is found, to six digits

Factors = tuple[tuple[float, ...], tuple[float, ...]]  # for the levels 0.8 and 0.95, of every state


@dataclass(frozen=True)
class Bands:
    """Half-widths of the bands, in scaled coordinates: factor · √(spread² + noise²), and of a series that was not learned from
    factor · √(spread² + noise² + distance²), where the distance is how far from all that was learned it begins.

    Every state has factors of its own: one whose noise is not what it seems would else make the bands of all others wrong.

    Attributes:
        factors: for the levels 0.8 and 0.95, of every state.
        noise: (d,), of an observation.
        points: on held-out blocks that the factors were calibrated on; 0 where there were none, and they are quantiles.
        unseen: factors for series that were not learned from; None where no series could be left out to find them.
        series: that were left out for those, each in its turn.

    Example:
        >>> bands = Bands.normal([0.3, 0.4])
        >>> bands.half_widths(np.zeros((1, 2)), 0.8).round(2)
        array([[0.38, 0.51]])
    """

    factors: Factors
    noise: tuple[float, ...]
    points: int = 0
    unseen: Factors | None = None
    series: int = 0

    @staticmethod
    def normal(noise: Sequence[float]) -> Bands:
        """Without calibration."""
        return Bands(_same(normal, len(noise)), tuple(noise))

    @staticmethod
    def of_few(noise: Sequence[float], members: int) -> Bands:
        """Without calibration, where nothing could be held out: the spread is a standard deviation of few members, so what is
        measured is within so many of it as Student's t says, with one degree of freedom less than there are members."""
        return Bands(_same(lambda level: student(level, members - 1), len(noise)), tuple(noise))

    @staticmethod
    def calibrated(ratios: np.ndarray, noise: Sequence[float], unseen: Sequence[np.ndarray] = ()) -> Bands:
        """From what was held out.

        Of blocks of known series the factors are the split-conformal quantiles, never below normal ones; the points of a block
        depend on each other, so this is a correction and no guarantee. Of series that were left out it is the series that are
        exchangeable with a new one: each counts the same, however long, and as they are few their quantile is taken times that
        of Student's t, with as many degrees of freedom as there are series, over the normal one.

        Args:
            ratios: (n, d) |error| / √(spread² + noise²) on the blocks, NaN where nothing was observed. A state that was not
                observed there has the quantile of all others.
            noise: (d,), the one in the ratios.
            unseen: of every series that was left out (n, d) |error| / √(spread² + noise² + distance²).

        Source:
            Vovk, Gammerman & Shafer (2005), Algorithmic Learning in a Random World; Lei et al. (2018), JASA 113, eq. 5. Distances
            in the score: Papadopoulos, Vovk & Gammerman (2011), JAIR 40, section 4.
        """
        points = int(np.isfinite(ratios).sum())
        bands = Bands.normal(noise)
        if points:
            bands = Bands(_by_state([ratios], _of_points), tuple(noise), points)
        known = [r for r in unseen if np.isfinite(r).any()]
        if len(known) < 2:
            return bands
        return replace(bands, unseen=_by_state(known, _of_series), series=len(known))

    @staticmethod
    def from_dict(kept: Mapping[str, Any]) -> Bands:
        """From what `dataclasses.asdict` made, also by way of JSON."""
        factors, unseen = (
            None if pair is None else (tuple(pair[0]), tuple(pair[1])) for pair in (kept["factors"], kept["unseen"])
        )
        assert factors is not None
        return Bands(factors, tuple(kept["noise"]), kept["points"], unseen, kept["series"])

    def half_widths(self, spread: np.ndarray, level: float, distance: np.ndarray | float | None = None) -> np.ndarray:
        """(…, d) from the spread (…, d) of the members; of a series that was not learned from with its distance (…, 1)."""
        at, squares = LEVELS.index(level), spread**2 + np.array(self.noise) ** 2
        if distance is None or self.unseen is None:
            return np.array(self.factors[at]) * np.sqrt(squares)
        return np.array(self.unseen[at]) * np.sqrt(squares + np.square(distance))


def _same(factor: Callable[[float], float], states: int) -> Factors:
    """For all states."""
    first, second = map(factor, LEVELS)
    return (first,) * states, (second,) * states


def _by_state(units: Sequence[np.ndarray], quantile: Callable[[list[np.ndarray], float], float]) -> Factors:
    """Of the ratios (n, d) of some units, state by state; of one that none of them has seen, that of all states."""
    first, second = (
        tuple(quantile(_seen([u[:, i] for u in units]) or _seen(units), level) for i in range(units[0].shape[1]))
        for level in LEVELS
    )
    return first, second


def _seen(units: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What is a number in each, of those that have one."""
    return [u[np.isfinite(u)] for u in units if np.isfinite(u).any()]


def _of_points(units: list[np.ndarray], level: float) -> float:
    """The split-conformal quantile of all points, at least the normal one."""
    values = np.sort(np.concatenate(units))
    found = values[min(len(values), math.ceil((len(values) + 1) * level)) - 1]
    return max(float(found), normal(level))


def _of_series(units: list[np.ndarray], level: float) -> float:
    """The quantile of points of which all of a series weigh what all of another do, for as few series as there are."""
    values = np.concatenate(units)
    weights = np.concatenate([np.full(len(u), 1 / len(u)) for u in units])
    order = np.argsort(values)
    at = int(np.searchsorted(np.cumsum(weights[order]), (level - 1e-9) * len(units)))
    return float(values[order[min(at, len(values) - 1)]]) * student(level, len(units)) / normal(level)


def normal(level: float) -> float:
    """Half-width of the interval about 0 that holds a share of the standard normal distribution."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def student(level: float, degrees: int) -> float:
    """Half-width of the interval about 0 that holds a share of Student's t.

    t = √ν tan φ, and φ has the density cos^(ν − 1) φ.

    Example:
        >>> round(student(0.95, 2), 3), round(student(0.8, 12), 3)
        (4.303, 1.356)
    """
    angle = np.linspace(0.0, math.pi / 2, ANGLES)
    density = np.cos(angle) ** (degrees - 1)
    share = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees) * math.tan(float(np.interp(level * share[-1], share, angle)))


def spread_of(paths: np.ndarray, learned: np.ndarray | None = None) -> np.ndarray:
    """How far (n, d) the paths (M, n, d) of members part: their standard deviation, 0 of fewer than two; and, as what lies outside
    of all that was learned is a guess of all of them, with `BEYOND` of how far outside their mean lies. Paths that are lost do
    not count.

    Args:
        learned: (R, d) states that were learned from, NaN where they were not measured; None: nothing lies outside.

    Example:
        >>> spread_of(np.array([[[4.0]], [[6.0]]])).round(2), spread_of(np.full((2, 1, 1), 5.0), np.array([[0.0], [2.0]]))
        (array([[1.41]]), array([[1.]]))
    """
    finite = np.where(np.isfinite(paths), paths, np.nan)
    count = np.isfinite(paths).sum(0)
    mean = np.nansum(finite, 0) / np.maximum(count, 1)
    squares = np.nansum((finite - mean) ** 2, 0)
    apart = np.where(count > 1, squares / np.maximum(count - 1, 1), 0.0)
    return np.sqrt(apart + np.square(BEYOND * _outside(mean, learned)))


def _outside(path: np.ndarray, learned: np.ndarray | None) -> np.ndarray | float:
    """How far (n, d) a path lies outside the least and the greatest of what was learned."""
    if learned is None or not len(learned):
        return 0.0
    measured = np.isfinite(learned)
    low, high = np.where(measured, learned, np.inf).min(0), np.where(measured, learned, -np.inf).max(0)
    return np.where(measured.any(0), np.maximum(0.0, np.maximum(path - high, low - path)), 0.0)


def kept(misfit: Tensor) -> Tensor:
    """Which members (M,) are good enough: a mean square of at most 1.5² times the best."""
    best = misfit.nan_to_num(torch.inf).min()
    return (misfit <= WORSE**2 * best) | (misfit == best)
