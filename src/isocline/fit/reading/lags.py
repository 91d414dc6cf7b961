"""Delay coordinates: earlier values of every state as further states, for systems that are not measured in full.

By the theorem of Takens enough earlier values of one state of a deterministic system tell as much as all of its
states; the field of a neural ODE may then be a function of (y(t), y(t − d), …, y(t − K d)). The earlier values are columns of
the table, moved down: nothing else of a fit has to know what they are, but where forecasts are compared with measurements, and
where a record is cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from isocline.fit.errors import UserError
from isocline.fit.reading.column import Column
from isocline.fit.reading.table import Series, Table

NEAR = 0.25  # of a step by which a row may lie off the time an earlier value is wanted of: months are not equally long
FOUND = 0.9  # share of the rows that have their earlier values, below which the steps are not equal
EXPECTED = "expected K or K:SPACING, such as 2, 2:4 (rows) or 2:0.08 (with a point: in the unit of time)"


@dataclass(frozen=True)
class Lags:
    """How many earlier values, and how far apart: in rows, in the table's unit of time, or to be chosen.

    Example:
        >>> Lags.of("2:4"), Lags.of("2:0.08"), Lags.of("3")
        (Lags(count=2, rows=4, time=None), Lags(count=2, rows=None, time=0.08), Lags(count=3, rows=None, time=None))
    """

    count: int
    rows: int | None = None
    time: float | None = None

    @staticmethod
    def of(text: str) -> Lags:
        """As `--lags` takes it.

        Raises:
            ValueError: for what is none of these.
        """
        count, _, spacing = text.partition(":")
        if not re.fullmatch(r"[1-9]\d?", count) or (":" in text and not spacing):
            raise ValueError(EXPECTED)
        if re.fullmatch(r"[1-9]\d*", spacing):
            return Lags(int(count), rows=int(spacing))
        if not spacing:
            return Lags(int(count))
        try:
            time = float(spacing)
        except ValueError:
            raise ValueError(EXPECTED) from None
        if not 0 < time < np.inf or re.fullmatch(r"\d+", spacing):
            raise ValueError(EXPECTED)
        return Lags(int(count), time=time)

    @property
    def text(self) -> str:
        """As `of` reads it."""
        spacing = self.rows if self.time is None else self.time
        return f"{self.count}" if spacing is None else f"{self.count}:{spacing!r}"

    @property
    def chosen(self) -> bool:
        """Whether the spacing is known."""
        return self.rows is not None or self.time is not None

    def times(self, step: float) -> tuple[float, ...]:
        """Of all of them how long before, for rows that are `step` apart."""
        spacing = self.time if self.time is not None else float(f"{(self.rows or 1) * step:.12g}")
        return tuple(k * spacing for k in range(1, self.count + 1))


def usual_step(series: Sequence[Series]) -> float:
    """The median distance of neighbouring rows."""
    return float(np.median(np.concatenate([np.diff(s.t) for s in series])))


def earlier(header: str, delay: float) -> str:
    """What a column with the values of another some time before is called."""
    return f"{header} (t - {delay:.6g})"


def delayed(table: Table, lags: Lags) -> Table:
    """A table with earlier values of all states behind them.

    Args:
        table: with no hidden states.
        lags: with a spacing.

    Raises:
        UserError: where the rows are not equally spaced, or no series is long enough.

    Source:
        Takens (1981), Detecting strange attractors in turbulence, Lecture Notes in Mathematics 898, 366-381.
    """
    step = usual_step(table.series)
    delays = lags.times(step)
    unit = table.clock.unit or table.time.unit
    of_time = f" {unit}" if unit else ""
    if delays[0] < (1 - NEAR) * step:
        raise UserError(
            f"--lags {lags.count}:{delays[0]:g}: shorter than the usual step of {step:g}{of_time}; expected one step or more, "
            f"for example --lags {lags.count}:1"
        )
    longest = max(float(s.t[-1] - s.t[0]) for s in table.series)
    if longest < delays[-1] + step:
        raise UserError(
            f"{table.path}: its longest series spans {longest:g}{of_time}, too short for values {delays[-1]:g} before; "
            f"try fewer --lags, or closer ones"
        )
    new = [past(s, delays, step) for s in table.series]
    wanted = [s.t - s.t[0] >= delays[-1] - NEAR * step for s in new]
    found = [_there(s, delays, step) for s in table.series]
    share = sum(int((f & w).sum()) for f, w in zip(found, wanted, strict=True)) / sum(int(w.sum()) for w in wanted)
    if share < FOUND:
        steps = np.concatenate([np.diff(s.t) for s in table.series])
        raise UserError(
            f"{table.path}: {share:.0%} of the rows have rows {', '.join(f'{d:g}' for d in delays)}{of_time} before them; --lags "
            f"expects equally spaced rows, and here steps go from {steps.min():g} to {steps.max():g}: resample the table to "
            f"equal steps, or try --hidden-states 1 instead"
        )
    notes, kept = list(table.notes), [s for s in new if s.complete and len(s.t) > s.first + 1]
    if not kept:
        raise UserError(
            f"{table.path}: no two rows have all of their earlier values, as cells are empty; --lags expects states that are measured "
            f"at the same times: choose some with --state, or try --hidden-states 1 instead"
        )
    if len(kept) < len(new):
        notes.append(f"left out: {len(new) - len(kept)} series too short for values {delays[-1]:g}{of_time} before")
    notes.append(
        f"delay coordinates: every state also {' and '.join(f'{d:g}' for d in delays)}{of_time} before, as further states; "
        f"scored and drawn are the states themselves"
    )
    columns = [Column(earlier(c.header, d), earlier(c.name, d), c.unit) for d in delays for c in table.states]
    return replace(table, states=[*table.states, *columns], series=kept, notes=notes, lags=delays)


def past(s: Series, delays: Sequence[float], step: float) -> Series:
    """A series with earlier values behind its states, empty where there is no row so long before."""
    parts = [s.y]
    for delay in delays:
        at, there = _rows(s, delay, step)
        parts.append(np.where(there[:, None], s.y[at], np.nan))
    return replace(s, y=np.concatenate(parts, 1), lags=tuple(delays))


def _there(s: Series, delays: Sequence[float], step: float) -> np.ndarray:
    """(n,) whether a row has all rows before it that are wanted."""
    return np.all([_rows(s, delay, step)[1] for delay in delays], 0)


def _rows(s: Series, delay: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the row nearest to so long before every row, and whether it is near enough."""
    wanted = s.t - delay
    after = np.clip(np.searchsorted(s.t, wanted), 1, len(s.t) - 1)
    at = np.where(wanted - s.t[after - 1] <= s.t[after] - wanted, after - 1, after)
    return at, np.abs(s.t[at] - wanted) <= NEAR * step
