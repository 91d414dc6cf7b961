"""How good a forecast is: errors, scaled errors, errors by horizon, and how good its bands are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from isocline.fit.bands import LEVELS, Bands
from isocline.fit.reading.table import Series

LADDER = (1, 2, 5, 10, 20, 50, 100, 200)  # rows ahead of which errors are told
ORIGINS, FEWEST = 60, 3  # forecasts that start inside the held-out part, and of how many an error is told


def rmse(predicted: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Root mean square error (d,) of (n, d); inf where a prediction is not finite or its square is not, NaN where nothing was
    observed.

    Example:
        >>> rmse(np.array([[1.0, np.nan], [3.0, 0.0]]), np.array([[0.0, 2.0], [np.nan, 2.0]])).tolist()
        [1.0, inf]
    """
    return np.sqrt(_means(_squares(_errors(predicted, seen))))


def pooled(columns: np.ndarray) -> float:
    """One root mean square of those (d,) of all columns, every column counting the same.

    Example:
        >>> pooled(np.array([3.0, 4.0, np.nan])) == math.sqrt(12.5)
        True
    """
    return math.sqrt(np.nanmean(_squares(columns)))


def mase(predicted: np.ndarray, seen: np.ndarray, record: Sequence[Series]) -> float:
    """Mean absolute scaled error: the mean of all columns' absolute error over that of predicting every row of the record
    by the one before. Below 1, a forecast of the whole held-out part is better than that of one row was.

    Args:
        predicted, seen: (n, d), in the table's units; `seen` NaN where nothing was observed.
        record: the training part, whose neighbouring rows are compared.

    Returns:
        inf where a prediction is not finite, NaN where no column changes from one row to the next.

    Source:
        Hyndman & Koehler (2006), International Journal of Forecasting 22, 679-688.

    Example:
        >>> record = [Series("", np.arange(3.0), np.array([[0.0], [2.0], [0.0]]))]
        >>> mase(np.array([[1.0], [1.0]]), np.array([[2.0], [2.0]]), record)
        0.5
    """
    steps = _means(np.concatenate([np.abs(np.diff(s.y, axis=0)) for s in record]))
    steps = np.where(steps > 0, steps, np.nan)
    ratios = _means(np.abs(_errors(predicted, seen))) / steps
    return float(np.nanmean(ratios)) if not np.isnan(ratios).all() else math.nan


def _errors(predicted: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(predicted), predicted, np.inf) - seen


def _squares(values: np.ndarray) -> np.ndarray:
    """Inf beyond the largest number: a path that ran away to 1e200 is as far as one that ran on."""
    with np.errstate(over="ignore"):
        return np.square(values)


def _means(values: np.ndarray) -> np.ndarray:
    """Of every column (d,), without its NaNs; NaN of none."""
    count = (~np.isnan(values)).sum(0)
    with np.errstate(over="ignore"):
        return np.where(count > 0, np.nansum(values, 0) / np.maximum(count, 1), np.nan)


# ---- bands ------------------------------------------------------------------------------------------------------------
def interval_scores(low: np.ndarray, high: np.ndarray, seen: np.ndarray, level: float) -> np.ndarray:
    """Interval score of every observation: the width of the band, and 2/α for each unit that an observation lies outside.

    Narrow bands win, but only where they cover; α = 1 − level.

    Source:
        Gneiting & Raftery (2007), Journal of the American Statistical Association 102, 359-378, equation 43.

    Example:
        >>> interval_scores(np.array([0.0, 0.0]), np.array([1.0, 1.0]), np.array([0.5, 1.5]), 0.8).round(9).tolist()
        [1.0, 6.0]
    """
    outside = np.maximum(low - seen, 0.0) + np.maximum(seen - high, 0.0)
    return high - low + 2 / (1 - level) * outside


def of_bands(
    bands: Bands,
    path: np.ndarray,
    spread: np.ndarray,
    seen: np.ndarray,
    record: np.ndarray,
    distance: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """How good the bands about a path are, by level ("80", "95"): the share of the observations inside, the mean width, the
    mean interval score, and that of a band that knows nothing of time: between the quantiles of the training part.

    Args:
        path, spread, seen: (n, d), scaled; `seen` NaN where nothing was observed.
        record: (m, d) rows of the training part, scaled.
        distance: (n, 1) of series that were not learned from, where they begin; None of others.
    """
    halves = {f"{100 * level:.0f}": bands.half_widths(spread, level, distance) for level in LEVELS}
    return of_bounds({level: (path - half, path + half) for level, half in halves.items()}, seen, record)


def of_bounds(
    bounds: Mapping[str, tuple[np.ndarray, np.ndarray]], seen: np.ndarray, record: np.ndarray
) -> dict[str, dict[str, float]]:
    """The same of lower and upper bounds (n, d), by level; where they are not finite, nothing is inside."""
    out = {}
    there = ~np.isnan(seen)
    record = np.where(np.isnan(record).all(0), 0.0, record)  # of hidden states nothing is scored
    for name, (low, high) in bounds.items():
        level = float(name) / 100
        lost = ~(np.isfinite(low) & np.isfinite(high))
        scores = interval_scores(low, high, seen, level)
        scores[there & lost] = np.inf
        first, last = np.nanquantile(record, [(1 - level) / 2, (1 + level) / 2], axis=0)
        out[name] = {
            "coverage": float(((low <= seen) & (seen <= high) & ~lost)[there].mean()),
            "width": float((high - low)[there].mean()),
            "score": float(scores[there].mean()),
            "score_of_quantiles": float(interval_scores(first, last, seen, level)[there].mean()),
        }
    return out


# ---- by horizon -------------------------------------------------------------------------------------------------------
def origins(lengths: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """From which rows forecasts start: (series, rows known) for the end of every training part and every held-out row but the
    last; of many, some, spread over all.

    Args:
        lengths: of the training and of the held-out part of every series.

    Example:
        >>> origins([(10, 3), (4, 0), (7, 1)])
        [(0, 10), (0, 11), (0, 12), (2, 7)]
    """
    every = [(i, known) for i, (first, held) in enumerate(lengths) for known in range(first, first + held)]
    return [every[k] for k in np.unique(np.linspace(0, len(every) - 1, ORIGINS).round().astype(int))] if every else []


def horizons(ahead: Sequence[np.ndarray]) -> list[int]:
    """Rows ahead, of `LADDER`, at which enough of some forecasts have an observation (n, d) to be compared with."""

    def there(h: int) -> int:
        return sum(len(y) >= h and bool(np.isfinite(y[h - 1]).any()) for y in ahead)

    return [h for h in LADDER if there(h) >= FEWEST]


def by_horizon(paths: Sequence[np.ndarray], ahead: Sequence[np.ndarray], rows: Sequence[int]) -> list[float]:
    """Root mean square error, all columns together, of some forecasts (n, d) exactly so many rows ahead."""
    out = []
    for h in rows:
        pairs = [(p[h - 1], y[h - 1]) for p, y in zip(paths, ahead, strict=True) if len(y) >= h]
        out.append(pooled(rmse(*(np.stack(part) for part in zip(*pairs, strict=True)))))
    return out
