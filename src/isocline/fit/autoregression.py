"""Autoregression: what a statistician tries first on a record with equal steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from isocline.fit.scale import Scales
from isocline.fit.table import Series

ORDERS = 12  # at most; and no more than a sixth of the rows of the longest series
EQUAL = 0.1  # share of the usual step by which steps may differ: those of months do by 9.7 %
MAX_ROWS = 20_000  # rows of each series, the last, that are learned from


class Autoregression:
    """AR(p) with a constant for every column, p chosen by Akaike's criterion; all series share the coefficients.

    Least squares on rows whose p predecessors were all observed.

    Args:
        series: what is learned from, with equal steps.
        scales: of the states.

    Attributes:
        orders: p of every column; 0 is the mean.

    Source:
        Brockwell & Davis (2016), Introduction to Time Series and Forecasting, sections 5.5.2 (AICC) and 3.3 (forecasts).

    Example:
        >>> t = np.arange(60.0)
        >>> series = [Series("", t, np.cos(t)[:, None])]
        >>> from isocline.fit.scale import StateScale
        >>> model = Autoregression(series, Scales((StateScale("linear", 0.0, 1.0),), 1.0))
        >>> model.orders, bool(np.abs(model.forecast(series[0], 5) - np.cos(t[-1] + np.arange(1, 6))[:, None]).max() < 1e-6)
        ([2], True)
    """

    def __init__(self, series: Sequence[Series], scales: Scales) -> None:
        self.scales = scales
        records = [scales.scaled(s.y[-MAX_ROWS:]) for s in series]
        most = max(0, min(ORDERS, max(len(r) for r in records) // 6))
        self.coefficients = [_fitted([r[:, k] for r in records], most) for k in range(records[0].shape[1])]
        self.orders = [len(c) - 1 for c in self.coefficients]

    def forecast(self, record: Series, rows: int) -> np.ndarray:
        """Scaled states (rows, d) at the next times after a record; an empty cell before them is bridged by a line."""
        y = self.scales.scaled(record.y)
        return np.stack([_continued(y[:, k], c, rows) for k, c in enumerate(self.coefficients)], 1)


def equal_steps(series: Sequence[Series]) -> bool:
    """Whether all steps of all series agree."""
    steps = np.concatenate([np.diff(s.t) for s in series])
    usual = np.median(steps)
    return bool((np.abs(steps - usual) <= EQUAL * usual).all())


def _fitted(columns: list[np.ndarray], most: int) -> np.ndarray:
    """(p + 1,): the constant, then the weight of the value one step before, two steps before, …"""
    best, chosen = math.inf, np.zeros(1)
    rows = np.concatenate([_lagged(c, most) for c in columns if len(c) > most])
    rows = rows[~np.isnan(rows).any(1)]  # the same rows for every order, or criteria cannot be compared
    for p in range(most + 1):
        if len(rows) < p + 4:
            break
        design = np.concatenate([np.ones((len(rows), 1)), rows[:, 1 : p + 1]], 1)
        solved = (
            torch.linalg.lstsq(torch.tensor(design), torch.tensor(rows[:, :1]), driver="gelsd").solution[:, 0].numpy()
        )
        variance = max(float(np.mean((rows[:, 0] - design @ solved) ** 2)), 1e-20)
        n, k = len(rows), p + 2
        criterion = n * math.log(variance) + (2 * k * n / (n - k - 1) if n > k + 1 else math.inf)
        if criterion < best:
            best, chosen = criterion, solved
    return chosen


def _lagged(y: np.ndarray, most: int) -> np.ndarray:
    """(n − most, most + 1): each value and those before it, the latest first."""
    return np.lib.stride_tricks.sliding_window_view(y, most + 1)[:, ::-1]


def _continued(y: np.ndarray, coefficients: np.ndarray, rows: int) -> np.ndarray:
    order, seen = len(coefficients) - 1, ~np.isnan(y)
    known = np.interp(np.arange(len(y)), np.flatnonzero(seen), y[seen]) if seen.any() else np.zeros(len(y))
    past = list(np.concatenate([np.full(max(0, order - len(known)), known[0]), known])[::-1][:order])
    out = []
    for _ in range(rows):
        out.append(float(coefficients[0] + np.dot(coefficients[1:], past)))
        past = [out[-1], *past][:order]
    return np.array(out)
