"""What a model must beat: the last value, the mean, the value a period ago, and the best linear ODE."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isocline.fit.drive import Drive
from isocline.fit.flow import Flow
from isocline.fit.hidden import followed, standardized, unexplained
from isocline.fit.objective import MAX_STEP
from isocline.fit.reading.table import Series
from isocline.fit.rows import LBFGS
from isocline.fit.scale import Scales
from isocline.fit.windows import Record, choose
from isocline.solve import solve

ITERATIONS, ENOUGH = 200, 1e-9  # at most, of L-BFGS on the linear ODE; a fall of the mean square that is none
CHUNK = 64  # times whose matrix exponentials are held at once
PERIODIC, CHANCE = 0.2, 0.05  # autocorrelation that a period has at least; and the chance of finding one in noise
NEARLY = 0.85  # share of the highest autocorrelation at which a shorter lag is the period: it repeats at its multiples


class LinearODE:
    """dy/dt = A y + b in scaled coordinates, solved by the matrix exponential, so that irregular times are no matter.

    With inputs dy/dt = A y + B u + b, by a solver.

    Fitted in least squares: first to the slopes of the smoothed record, then to the observations on windows as long as
    the neural ODE's longest, with free starting states (L-BFGS).

    Attributes:
        rows: (d, d + m + 1): A, B and b, acting on (y, u, 1).
    """

    def __init__(self, record: Record) -> None:
        record = unexplained(record)
        values = np.concatenate([v for v, _ in record.smooth])
        slopes = np.concatenate([s for _, s in record.smooth])
        driven = [u for name, u in record.given().items() if name == "u"]
        design = np.concatenate([values, *driven, np.ones((len(values), 1))], 1)
        self.rows = torch.linalg.lstsq(torch.tensor(design), torch.tensor(slopes), driver="gelsd").solution.T
        self._polish(record)

    def _polish(self, record: Record) -> None:
        windows = choose(record.windows(record.levels - 1), torch.Generator().manual_seed(0))
        starts = record.starts()[windows.start]
        seen, size = ~windows.y.isnan(), self.rows.numel()

        def value(theta: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            theta = theta.detach().requires_grad_()
            rows, starts_ = theta[0, :size].view_as(self.rows), theta[0, size:].view_as(starts)
            ys = _paths(rows, starts_, windows.ts, windows.drive)
            loss = (ys - windows.y)[seen].square().mean() + 1e-6 * rows.square().sum()
            loss.backward()
            assert theta.grad is not None
            return loss.detach()[None], theta.grad

        optimizer = LBFGS(torch.cat([self.rows.flatten(), starts.flatten()])[None], value, enough=ENOUGH)
        for _ in range(ITERATIONS):
            optimizer.step()
        self.rows = optimizer.theta[0, :size].view_as(self.rows).clone()

    def followed(self, record: Record) -> Record:
        """A record with hidden states as this ODE has them."""

        def rates(values: np.ndarray, given: dict[str, np.ndarray]) -> np.ndarray:
            driven = [given["u"]] if "u" in given else []
            return np.concatenate([values, *driven, np.ones((len(values), 1))], 1) @ self.rows.numpy().T

        return standardized(followed(unexplained(record), self.flow, rates))

    @property
    def flow(self) -> Flow:
        """Its paths."""

        def flow(states: Tensor, ts: Tensor, drive: Drive | None = None) -> Tensor:
            with torch.no_grad():
                return _paths(self.rows, states, ts, drive)

        return flow


def _paths(rows: Tensor, states: Tensor, ts: Tensor, drive: Drive | None = None) -> Tensor:
    """(B, d) and (B, T) -> (T, B, d)."""
    if drive is not None and drive.knots is not None:
        options = {"solver": "rk4", "max_step": MAX_STEP, "engine": "auto", "batching": "per_sample", "throw": False}
        field, driven = drive.into(DRIVEN if "u" in drive.signals else FREE)
        return solve(field, states, ts, args=(rows,), **driven, **options).ys
    generator = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
    full = torch.cat([states, torch.ones(len(states), 1, dtype=states.dtype)], 1)
    out = []
    for times in (ts - ts[:, :1]).split(CHUNK, 1):
        # Regular records share their times: each exponential is taken once.
        unique, which = times.nan_to_num(0.0).round(decimals=9).unique(return_inverse=True)
        exponentials = torch.linalg.matrix_exp(generator * unique[:, None, None])
        out.append(torch.einsum("btij,bj->tbi", exponentials[which], full)[..., :-1])
    return torch.cat(out)


class _Rates:
    """dy/dt = A y + b, or A y + B u + b, of samples with the rows (A, B, b)."""

    def __init__(self, takes: tuple[str, ...]) -> None:
        self.takes = takes

    def __call__(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        *given, rows = args
        x = torch.cat([y, given[0]["u"]], -1) if given else y
        return x @ rows[:, :-1].mT + rows[:, -1]


FREE, DRIVEN = _Rates(()), _Rates(("u",))


def last_values(y: np.ndarray) -> np.ndarray:
    """The last observed value of every column, 0 (the mean, in scaled coordinates) where there is none."""
    return np.array([c[~np.isnan(c)][-1] if (~np.isnan(c)).any() else 0.0 for c in y.T])


# ---- seasons ----------------------------------------------------------------------------------------------------------
def period_of(series: Sequence[Series], scales: Scales) -> int | None:
    """Rows after which a record with equal steps repeats itself, from its autocorrelation; None where it does not.

    The first lag with nearly the highest autocorrelation (the mean of all columns) once it has been negative: before that,
    neighbouring rows are merely alike. Two whole periods must have been seen. Where there is none, a trend may hide it: then of
    the changes from row to row about a parabola, which of a random walk are noise.

    Args:
        series: the training part, with equal steps.
        scales: of the states.

    Example:
        >>> from isocline.fit.scale import StateScale
        >>> scales, t = Scales((StateScale("linear", 0.0, 1.0),), 1.0), np.arange(60.0)
        >>> period_of([Series("", t, np.cos(2 * np.pi * t / 12)[:, None])], scales)
        12
        >>> period_of([Series("", t, (t**2 + np.cos(2 * np.pi * t / 12))[:, None])], scales)
        12
        >>> period_of([Series("", t, t[:, None])], scales) is None
        True
    """
    seen = ~np.all([s.hidden for s in series], 0)
    records = [scales.scaled(s.y)[:, seen] for s in series]
    found = _repeating(records)
    return _repeating([_changes(r) for r in records]) if found is None else found


def _changes(y: np.ndarray) -> np.ndarray:
    """(n − 1, d) from row to row, about the parabola that is nearest to them."""
    found = np.diff(y, axis=0)
    powers = np.vander(np.linspace(-1.0, 1.0, len(found)), 3)
    for column in found.T:
        seen = ~np.isnan(column)
        if seen.sum() > powers.shape[1]:
            column[seen] -= powers[seen] @ np.linalg.lstsq(powers[seen], column[seen], rcond=None)[0]
    return found


def _repeating(records: Sequence[np.ndarray]) -> int | None:
    """`period_of` records (n, d) as they are."""
    most = max(len(r) for r in records) // 2
    values = autocorrelations(records, most).mean(1)
    below = np.flatnonzero(values < 0)
    if not len(below):
        return None
    first = int(below[0])
    peaks = [k for k in range(first, most) if values[k] >= max(values[k - 1], values[k + 1])]
    count = sum(int((~np.isnan(r)).any(1).sum()) for r in records)
    chance = NormalDist().inv_cdf(1 - CHANCE / most) / np.sqrt(count)
    highest = max((values[k] for k in peaks), default=0.0)
    if highest <= max(PERIODIC, chance):
        return None
    return next(k for k in peaks if values[k] >= NEARLY * highest)


def autocorrelations(records: Sequence[np.ndarray], most: int) -> np.ndarray:
    """(most + 1, d) autocorrelation of every column of records (n, d) at lags 0, 1, …; NaN plays no role.

    Source:
        Brockwell & Davis (2016), Introduction to Time Series and Forecasting, definition 1.4.4.
    """
    stacked = np.concatenate(records)
    mean = np.nansum(stacked, 0) / np.maximum((~np.isnan(stacked)).sum(0), 1)  # 0 of a hidden state
    filled = [np.nan_to_num(r - mean) for r in records]
    seen = [(~np.isnan(r)).astype(float) for r in records]
    # Products over all pairs by the Fourier transform; divided by the pairs there are, times their share of the rows, as the
    # usual estimate without gaps is: it falls to 0 at long lags, where a few pairs would else decide.
    products = sum(_correlated(r, most) for r in filled)
    pairs = sum(_correlated(m, most) for m in seen)
    whole = sum(_correlated(np.ones_like(m), most) for m in seen)
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = np.where(pairs > 0.5, products / pairs * whole, 0.0)
        values = covariance / covariance[0]
    return np.nan_to_num(values)


def _correlated(x: np.ndarray, most: int) -> np.ndarray:
    """(most + 1, d): sums of products of every column with itself, so many rows later; 0 beyond its length."""
    size = 1 << int(np.ceil(np.log2(2 * len(x))))
    sums = np.fft.irfft(np.abs(np.fft.rfft(x, size, axis=0)) ** 2, size, axis=0)[: min(len(x), most + 1)]
    return np.concatenate([sums, np.zeros((most + 1 - len(sums), x.shape[1]))])


def season_ago(y: np.ndarray, period: int, rows: int) -> np.ndarray:
    """(rows, d) after a record (n, d): each the value one period before, or where that is missing more periods; else the last.

    Example:
        >>> season_ago(np.array([[1.0], [2.0], [3.0], [np.nan]]), 2, 3).ravel().tolist()
        [3.0, 2.0, 3.0]
    """
    known = y.copy()
    last = last_values(y)
    for i in range(max(0, len(y) - period), len(y)):
        earlier = known[i::-period]
        for k in np.flatnonzero(np.isnan(known[i])):
            there = earlier[~np.isnan(earlier[:, k]), k]
            known[i, k] = there[0] if len(there) else last[k]
    if len(known) < period:
        return np.tile(last, (rows, 1))
    return known[len(known) - period + np.arange(rows) % period]
