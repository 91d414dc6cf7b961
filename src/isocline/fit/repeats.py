"""The period of a season that nobody named: how a record repeats itself, or the calendar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isocline.fit.autoregression import equal_steps
from isocline.fit.baselines import period_of, season_ago
from isocline.fit.blocks import Fold
from isocline.fit.choose import root_mean_square
from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales
from isocline.fit.season import TIMES, of_calendar, periods_of

HARMONICS, TRIED = 2, 61  # of the wave whose period is looked for between those of whole rows, and how many of them
AROUND = 0.75  # rows on either side of a whole number that are looked at
FINE, OFTEN = 8, 3  # rows that a day, week or year has at least, and how many of them a record
SAME = 0.98  # of what a wave explains, that is about as much
SEEN = 0.05  # share of the squares that its wave explains
FOUND = 2 / 3  # of the error without a clock, below which one is worth having whose period was found in the record
KNOWN = 0.9  # the same of one of the calendar
ROWS = 20_000  # of the record that waves are compared with, of longer ones drawn by lot


def period_to_try(
    series: Sequence[Series], folds: Sequence[Fold], scales: Scales, error: float, seconds: float | None
) -> float | None:
    """The period (table's unit) of a clock that may help networks, which the blocks then are to judge; None without one.

    That of a record that repeats itself: what was measured a period ago forecasts the blocks clearly better than networks did
    that know of no period. Else the day, week or year whose wave is seen best in the record, where it is seen at all.

    Args:
        series: the training part.
        folds: its blocks.
        error: of those networks on the blocks, root mean square, scaled.
        seconds: in a unit of the table's time; None where that is not known.
    """
    rows = period_of(series, scales) if equal_steps(series) else None
    if rows is not None and repeated(folds, rows, scales) < FOUND * error:
        return of_calendar(refined(series, rows, scales), seconds)
    step = float(np.median(np.concatenate([np.diff(s.t) for s in series])))
    span = max(s.t[-1] - s.t[0] for s in series)
    known = periods_of(seconds)[::TIMES]
    shares = {p: explained(series, p, scales) for p in known if step * FINE <= p <= span / OFTEN}
    best = max(shares, key=lambda p: shares[p], default=None)
    return best if best is not None and shares[best] > SEEN else None


def helps(period: float, error: float, without: float, seconds: float | None) -> bool:
    """Whether networks with a clock forecast blocks so much better that they are taken.

    A period that was found in the record must do more than the calendar's: every oscillator repeats itself, and the states of
    most tell when.

    Example:
        >>> helps(365.25, 0.4, 0.5, seconds=86400.0), helps(365.25, 0.4, 0.5, seconds=None)
        (True, False)
    """
    return error < (KNOWN if period in periods_of(seconds) else FOUND) * without


def repeated(folds: Sequence[Fold], rows: int, scales: Scales) -> float:
    """Root mean square error (scaled) on the blocks of what was measured so many rows ago, or of that and what has changed
    since: the lower one."""
    errors: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for fold in folds:
        for before, block in zip(fold.before, fold.blocks, strict=True):
            known, n = scales.scaled(before.y), len(block.t)
            path = season_ago(known, rows, n)
            changed = (1 + np.arange(n) // rows)[:, None] * _change(known, rows)
            for found, forecast in zip(errors, (path, path + changed), strict=True):
                miss = np.abs(forecast - scales.scaled(block.y))
                found.append(np.where(np.isnan(block.compared), np.nan, miss).ravel())
    return min(root_mean_square(np.concatenate(found)) for found in errors)


def _change(y: np.ndarray, rows: int) -> np.ndarray:
    """What a record (n, d) has changed by from one period to the last, in the mean; 0 where two have not been seen.

    Example:
        >>> _change(np.array([[0.0], [1.0], [0.0], [3.0], [4.0], [3.0]]), 3).tolist()
        [3.0]
    """
    last, before = y[len(y) - rows :], y[max(0, len(y) - 2 * rows) : max(0, len(y) - rows)]
    if len(before) < rows:
        return np.zeros(y.shape[1])
    seen = ~np.isnan(last - before)
    return np.nansum(last - before, 0) / np.maximum(seen.sum(0), 1)


def refined(series: Sequence[Series], rows: int, scales: Scales) -> float:
    """The period near so many rows whose wave explains most of the record, or that many rows where theirs explains about as
    much.

    Example:
        >>> from isocline.fit.scale import StateScale
        >>> scales, t = Scales((StateScale("linear", 0.0, 1.0),), 1.0), np.arange(200.0)
        >>> round(refined([Series("", t, np.cos(2 * np.pi * t / 12.3)[:, None])], 12, scales), 1)
        12.3
    """
    step = float(np.median(np.concatenate([np.diff(s.t) for s in series])))
    tried = step * np.linspace(rows - AROUND, rows + AROUND, TRIED)
    shares = [explained(series, period, scales) for period in tried]
    best = int(np.argmax(shares))
    whole = rows * step  # rows mostly have a season of rows: a wave that is off by little is noise's
    return whole if explained(series, whole, scales) >= SAME * shares[best] else float(tried[best])


def explained(series: Sequence[Series], period: float, scales: Scales) -> float:
    """The share of the squares about a trend that a wave of this period and its second harmonic take away (all columns)."""
    t, y = np.concatenate([s.t for s in series]), np.concatenate([s.y for s in series])
    if len(t) > ROWS:
        some = np.random.default_rng(0).permutation(len(t))[:ROWS]
        t, y = t[some], y[some]
    y = scales.scaled(y)
    angles = 2 * np.pi * t[:, None] / period * np.arange(1, HARMONICS + 1)
    trend = np.stack([np.ones(len(t)), (t - t[0]) / max(np.ptp(t), period)], 1)
    wave = np.concatenate([trend, np.cos(angles), np.sin(angles)], 1)
    columns = [c for c in y.T if (~np.isnan(c)).sum() > wave.shape[1]]
    whole, left = (sum(_left(design, c) for c in columns) for design in (trend, wave))
    return 1 - left / whole if whole > 0 else 0.0


def _left(design: np.ndarray, column: np.ndarray) -> float:
    """The sum of squares of a column's values that a linear combination leaves."""
    seen = ~np.isnan(column)
    solution = np.linalg.lstsq(design[seen], column[seen], rcond=None)[0]
    return float(np.square(column[seen] - design[seen] @ solution).sum())
