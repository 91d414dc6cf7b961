"""Autoregression: what a statistician tries first on a record with equal steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from isocline.fit.flow import FAR
from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales

ORDERS = 12  # at most; and no more than a sixth of the rows of the longest series
EQUAL = 0.1  # share of the usual step by which steps may differ: those of months do by 9.7 %
MAX_ROWS = 20_000  # rows of each series, the last, that are learned from


class Autoregression:
    """AR(p) with a constant for every column, p chosen by Akaike's criterion; all series share the coefficients.

    Least squares on rows whose p predecessors were all observed. With inputs ARX(p): theirs at the same row count too, and
    at the p before.

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
        >>> later = np.arange(60.0, 65.0)
        >>> model.orders, bool(np.abs(model.forecast(series[0], later) - np.cos(later)[:, None]).max() < 1e-6)
        ([2], True)
    """

    def __init__(self, series: Sequence[Series], scales: Scales) -> None:
        self.scales = scales
        records = [scales.scaled(s.y[-MAX_ROWS:]) for s in series]
        most = max(0, min(ORDERS, max(len(r) for r in records) // 6))
        inputs = [self._inputs(s, s.t[-MAX_ROWS:]) for s in series]
        self.driven = inputs[0].shape[1]
        self.coefficients = [_fitted([r[:, k] for r in records], inputs, most) for k in range(records[0].shape[1])]
        self.orders = [(len(c) - 1 - self.driven) // (1 + self.driven) for c in self.coefficients]

    def forecast(self, record: Series, later: np.ndarray) -> np.ndarray:
        """Scaled states (rows, d) at the next times after a record, NaN or inf where they run away; an empty cell before them is
        bridged by a line."""
        y, u = self.scales.scaled(record.y), self._inputs(record, np.concatenate([record.t, later]))
        with np.errstate(over="ignore", invalid="ignore"):
            ahead = np.stack([_continued(y[:, k], u, c, p) for k, (c, p) in enumerate(self._models)], 1)
        return np.where(np.abs(ahead) > FAR, np.inf, ahead)

    @property
    def _models(self) -> list[tuple[np.ndarray, int]]:
        return list(zip(self.coefficients, self.orders, strict=True))

    def _inputs(self, s: Series, t: np.ndarray) -> np.ndarray:
        """Scaled, at some times: (n, m), m = 0 without any."""
        return np.zeros((len(t), 0)) if s.u is None else self.scales.scaled_inputs(s.u.at(t))


def equal_steps(series: Sequence[Series]) -> bool:
    """Whether all steps of all series agree."""
    steps = np.concatenate([np.diff(s.t) for s in series])
    usual = np.median(steps)
    return bool((np.abs(steps - usual) <= EQUAL * usual).all())


def _fitted(columns: list[np.ndarray], inputs: list[np.ndarray], most: int) -> np.ndarray:
    """The constant, the weight of the value one step before, two steps before, …, and those (p + 1) of each input."""
    best, chosen = math.inf, np.zeros(1 + inputs[0].shape[1])
    pairs = [(c, u) for c, u in zip(columns, inputs, strict=True) if len(c) > most]
    rows = np.concatenate([_lagged(c, most) for c, _ in pairs])
    driven = [np.concatenate([_lagged(u[:, j], most) for _, u in pairs]) for j in range(inputs[0].shape[1])]
    seen = ~np.isnan(rows).any(1)  # the same rows for every order, or criteria cannot be compared
    rows, driven = rows[seen], [d[seen] for d in driven]
    for p in range(most + 1):
        width = 1 + p + (p + 1) * len(driven)
        if len(rows) < width + 3:
            break
        design = np.concatenate([np.ones((len(rows), 1)), rows[:, 1 : p + 1], *(d[:, : p + 1] for d in driven)], 1)
        solved = (
            torch.linalg.lstsq(torch.tensor(design), torch.tensor(rows[:, :1]), driver="gelsd").solution[:, 0].numpy()
        )
        variance = max(float(np.mean((rows[:, 0] - design @ solved) ** 2)), 1e-20)
        n, k = len(rows), width + 1
        criterion = n * math.log(variance) + (2 * k * n / (n - k - 1) if n > k + 1 else math.inf)
        if criterion < best:
            best, chosen = criterion, solved
    return chosen


def _lagged(y: np.ndarray, most: int) -> np.ndarray:
    """(n − most, most + 1): each value and those before it, the latest first."""
    return np.lib.stride_tricks.sliding_window_view(y, most + 1)[:, ::-1]


def _continued(y: np.ndarray, u: np.ndarray, coefficients: np.ndarray, order: int) -> np.ndarray:
    """At the rows of u (n + rows, m) that follow those of y (n,)."""
    seen = ~np.isnan(y)
    known = np.interp(np.arange(len(y)), np.flatnonzero(seen), y[seen]) if seen.any() else np.zeros(len(y))
    past = list(np.concatenate([np.full(max(0, order - len(known)), known[0]), known])[::-1][:order])
    constant, own, driven = (
        coefficients[0],
        coefficients[1 : order + 1],
        coefficients[order + 1 :].reshape(-1, order + 1),
    )
    out = []
    for row in range(len(y), len(u)):
        before = u[np.maximum(np.arange(row, row - order - 1, -1), 0)]  # (order + 1, m)
        out.append(float(constant + np.dot(own, past) + (driven.T * before).sum()))
        past = [out[-1], *past][:order]
    return np.array(out)
