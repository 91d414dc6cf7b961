"""Times of a table as numbers, and back: plain numbers stay what they are, dates and times of day count from an origin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from isocline.fit.errors import UserError
from isocline.fit.reading.cells import Cells
from isocline.fit.reading.column import Column
from isocline.fit.reading.dates import ambiguous, compact, dates, offsets, seconds_of, times_of_day

UNITS = {"y": 31_557_600.0, "w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "min": 60.0, "s": 1.0}
_WORDS = {"y": "years of 365.25 days", "w": "weeks", "d": "days", "h": "hours", "min": "minutes", "s": "seconds"}
MIDNIGHT = "00:00"  # the origin of times of day
_DATE = "a date such as 2024-05-31 or 2024-05-31T12:30 in every row"
_COMPACT = ("date", "ds", "datetime", "timestamp", "day", "month", "yearmonth", "time")  # what may hold 20240531


@dataclass(frozen=True)
class Clock:
    """How the time column of a run is written.

    Args:
        origin: the date that counts as 0, ISO 8601; "00:00" for times of day; None where the table has numbers.
        unit: of one: "y", "w", "d", "h", "min" or "s"; "" for numbers of which only their header says it.
        zone: the offset from UTC that dates are written with: "+02:00", "Z"; "" without one.

    Example:
        >>> clock = Clock("2020-02-28", "d")
        >>> clock.number("2020-03-01"), clock.text(1.5), Clock().text(1845.0)
        (2.0, '2020-02-29T12:00:00', '1845')
    """

    origin: str | None = None
    unit: str = ""
    zone: str = ""

    @staticmethod
    def of(cells: Cells, column: str, unit: str | None = None) -> tuple[Clock, list[str]]:
        """That of a column, and notes: dates in `unit`, or the largest (to days) that is not longer than their usual step.

        Raises:
            UserError: for a column that holds no times.
        """
        text = cells.text(column)
        if cells.numeric(column):
            days = compact(text) if Column.of(column).key in _COMPACT else None
            if days is None:
                return Clock(), []
            text = days
            cells.put(column, days)
        stamps = dates(text)
        notes = []
        if stamps.notna().mean() > 0.5:
            zone, notes = _zone(cells, column, text, stamps)
            first = stamps.min()
            clock = Clock(_written(first, zone), unit or _unit(stamps), zone)
        else:
            seconds = times_of_day(text)
            if seconds.notna().mean() <= 0.5:
                raise _no_times(cells, column, text)
            clock = Clock(MIDNIGHT, unit or _unit(pd.to_timedelta(seconds, unit="s")))
        return clock, [
            f"{column!r} holds {'times of day' if clock.daytime else 'dates'}, counted in {clock.label}",
            *notes,
        ]

    @property
    def daytime(self) -> bool:
        """Whether times are times of day, or elapsed hours and minutes."""
        return self.origin == MIDNIGHT

    @property
    def label(self) -> str:
        """The unit for an axis."""
        unit = _WORDS.get(self.unit, "")
        return f"{unit} since {self.origin}" if self.origin else unit

    def numbers(self, cells: Cells, column: str) -> np.ndarray:
        """Times (n,) of a column; UserError, naming the line, for a cell that is not one."""
        if self.origin is None:
            values, bad = cells.numbers(column)
            cells.refuse_bad(column, bad | np.isnan(values), "a time, as a finite number, in every row")
            return values
        text = cells.text(column)
        if self.daytime:
            seconds = times_of_day(text)
            cells.refuse_bad(column, seconds.isna().to_numpy(), "a time of day such as 08:30 in every row")
        else:
            days = compact(text)
            stamps = dates(text if days is None else days, self.zone)
            cells.refuse_bad(column, stamps.isna().to_numpy(), _DATE)
            seconds = (stamps - self._start) / pd.Timedelta(seconds=1)
        return seconds.to_numpy(dtype=np.float64) / UNITS[self.unit]

    @property
    def _start(self) -> pd.Timestamp:
        return dates(pd.Series([self.origin]), self.zone).iloc[0]

    def number(self, text: str) -> float:
        """A single time as typed; UserError if it is none."""
        if self.origin is None:
            try:
                value = float(text)
            except ValueError:
                value = np.nan
            if not np.isfinite(value):
                raise UserError(f"time {text!r}: expected a finite number")
            return value
        if self.daytime:
            seconds = times_of_day(pd.Series([text], dtype="str")).iloc[0]
            if np.isnan(seconds):
                raise UserError(f"time {text!r}: expected a time of day such as 08:30, as in the table")
            return float(seconds) / UNITS[self.unit]
        stamp = dates(pd.Series([text], dtype="str"), self.zone).iloc[0]
        if pd.isna(stamp):
            raise UserError(f"time {text!r}: expected a date such as 2024-05-31, as in the table")
        return float((stamp - self._start) / pd.Timedelta(seconds=1)) / UNITS[self.unit]

    def text(self, t: float) -> str:
        """A time as the table writes it: a number, an ISO 8601 date, hours:minutes:seconds."""
        if self.origin is None:
            return f"{t:.12g}"
        milliseconds = round(t * UNITS[self.unit] * 1000)
        if self.daytime:
            minutes, rest = divmod(milliseconds, 60_000)
            fraction = f"{rest / 1000:06.3f}" if rest % 1000 else f"{rest // 1000:02d}"
            return f"{minutes // 60:02d}:{minutes % 60:02d}:{fraction}"
        return _written(self._start + pd.Timedelta(milliseconds=milliseconds), self.zone)


def _unit(times: pd.Series) -> str:
    """The largest unit, to days, that is not longer than the usual step."""
    gaps = np.abs(np.diff(times.dropna().to_numpy())) / np.timedelta64(1, "s")
    step = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else UNITS["d"]
    return next((u for u in ("d", "h", "min", "s") if step >= UNITS[u]), "s")


def _zone(cells: Cells, column: str, text: pd.Series, stamps: pd.Series) -> tuple[str, list[str]]:
    """The offset dates are written with; where it varies, that of UTC itself."""
    offset = offsets(text)
    if offset.isna().all():
        return "", []
    without = (offset.isna() & stamps.notna()).to_numpy()
    cells.refuse_bad(column, without, "an offset from UTC (such as Z or +02:00) in every row, as in others, or in none")
    if len({seconds_of(z) for z in offset.dropna().unique()}) == 1:
        zone = offset.dropna().iloc[0].upper()
        return zone, []
    return "Z", ["offsets from UTC differ between rows: times are counted, and forecasts written, in UTC"]


def _no_times(cells: Cells, column: str, text: pd.Series) -> UserError:
    shown = text[text != ""].iloc[0] if (text != "").any() else "empty"
    why = " (day and month cannot be told apart)" if ambiguous(text) else ""
    return UserError(
        f"{cells.path}: column {column!r}, the time, holds {shown[:40]!r}{why}; "
        f"expected numbers, or dates as 2024-05-31 or 2024-05-31T12:30"
    )


def _written(stamp: pd.Timestamp, zone: str) -> str:
    offset = seconds_of(zone) if zone else 0
    plain = stamp.tz_convert(None) + pd.Timedelta(seconds=offset)
    if plain == plain.normalize() and not zone:
        return plain.date().isoformat()
    return plain.isoformat(timespec="milliseconds" if plain.microsecond else "seconds") + zone
